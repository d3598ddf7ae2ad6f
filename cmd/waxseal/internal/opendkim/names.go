package opendkim

// kind is how OpenDKIM reads a value.
type kind uint8

const (
	text kind = iota
	integer
	boolean
	include
)

// Use is what a setting is about.
type Use uint8

const (
	// Signing settings have a part in whether and how mail is signed, or where
	// OpenDKIM is reached.
	Signing Use = iota
	// Verifying settings are about mail that is not signed.
	Verifying
	// Running settings are about the process and its log.
	Running
)

// names are the settings that Debian's OpenDKIM knows, by name in lower case.
// With any other it does not start.
var names = map[string]struct {
	name string
	kind kind
	use  Use
}{
	"allowsha1only":                {"AllowSHA1Only", boolean, Signing},
	"alwaysaddarheader":            {"AlwaysAddARHeader", boolean, Verifying},
	"atpsdomains":                  {"ATPSDomains", text, Verifying},
	"atpshashalgorithm":            {"ATPSHashAlgorithm", text, Verifying},
	"authservid":                   {"AuthservID", text, Verifying},
	"authservidwithjobid":          {"AuthservIDWithJobID", boolean, Verifying},
	"autorestart":                  {"AutoRestart", boolean, Running},
	"autorestartcount":             {"AutoRestartCount", integer, Running},
	"autorestartrate":              {"AutoRestartRate", text, Running},
	"background":                   {"Background", boolean, Running},
	"basedirectory":                {"BaseDirectory", text, Signing},
	"bodylengthdb":                 {"BodyLengthDB", text, Signing},
	"boguskey":                     {"BogusKey", text, Verifying},
	"canonicalization":             {"Canonicalization", text, Signing},
	"captureunknownerrors":         {"CaptureUnknownErrors", boolean, Signing},
	"changerootdirectory":          {"ChangeRootDirectory", text, Signing},
	"clockdrift":                   {"ClockDrift", integer, Verifying},
	"diagnostics":                  {"Diagnostics", boolean, Signing},
	"diagnosticdirectory":          {"DiagnosticDirectory", text, Running},
	"disablecryptoinit":            {"DisableCryptoInit", boolean, Running},
	"dnsconnect":                   {"DNSConnect", boolean, Verifying},
	"dnstimeout":                   {"DNSTimeout", integer, Verifying},
	"domain":                       {"Domain", text, Signing},
	"domainkeyscompat":             {"DomainKeysCompat", boolean, Verifying},
	"dontsignmailto":               {"DontSignMailTo", text, Signing},
	"enablecoredumps":              {"EnableCoredumps", boolean, Running},
	"exemptdomains":                {"ExemptDomains", text, Signing},
	"externalignorelist":           {"ExternalIgnoreList", text, Signing},
	"finalpolicyscript":            {"FinalPolicyScript", text, Signing},
	"fixcrlf":                      {"FixCRLF", boolean, Signing},
	"ignoremalformedmail":          {"IgnoreMalformedMail", boolean, Verifying},
	"include":                      {"Include", include, Running},
	"internalhosts":                {"InternalHosts", text, Signing},
	"keepauthresults":              {"KeepAuthResults", boolean, Verifying},
	"keeptemporaryfiles":           {"KeepTemporaryFiles", boolean, Running},
	"keyfile":                      {"KeyFile", text, Signing},
	"keytable":                     {"KeyTable", text, Signing},
	"ldapauthmechanism":            {"LDAPAuthMechanism", text, Running},
	"ldapauthname":                 {"LDAPAuthName", text, Running},
	"ldapauthrealm":                {"LDAPAuthRealm", text, Running},
	"ldapauthuser":                 {"LDAPAuthUser", text, Running},
	"ldapbindpassword":             {"LDAPBindPassword", text, Running},
	"ldapbinduser":                 {"LDAPBindUser", text, Running},
	"ldapdisablecache":             {"LDAPDisableCache", boolean, Running},
	"ldapkeepaliveidle":            {"LDAPKeepaliveIdle", text, Running},
	"ldapkeepaliveinterval":        {"LDAPKeepaliveInterval", text, Running},
	"ldapkeepaliveprobes":          {"LDAPKeepaliveProbes", text, Running},
	"ldaptimeout":                  {"LDAPTimeout", text, Running},
	"ldapusetls":                   {"LDAPUseTLS", boolean, Running},
	"logresults":                   {"LogResults", boolean, Running},
	"logwhy":                       {"LogWhy", boolean, Running},
	"maximumheaders":               {"MaximumHeaders", integer, Signing},
	"maximumsignedbytes":           {"MaximumSignedBytes", integer, Signing},
	"maximumsignaturestoverify":    {"MaximumSignaturesToVerify", integer, Verifying},
	"macrolist":                    {"MacroList", text, Signing},
	"milterdebug":                  {"MilterDebug", integer, Running},
	"minimum":                      {"Minimum", text, Verifying},
	"minimumkeybits":               {"MinimumKeyBits", integer, Signing},
	"multiplesignatures":           {"MultipleSignatures", boolean, Signing},
	"mode":                         {"Mode", text, Signing},
	"mta":                          {"MTA", text, Signing},
	"mtacommand":                   {"MTACommand", text, Verifying},
	"mustbesigned":                 {"MustBeSigned", text, Verifying},
	"nameservers":                  {"Nameservers", text, Verifying},
	"noheaderb":                    {"NoHeaderB", boolean, Verifying},
	"omitheaders":                  {"OmitHeaders", text, Signing},
	"on-badsignature":              {"On-BadSignature", text, Verifying},
	"on-default":                   {"On-Default", text, Signing},
	"on-dnserror":                  {"On-DNSError", text, Verifying},
	"on-internalerror":             {"On-InternalError", text, Signing},
	"on-keynotfound":               {"On-KeyNotFound", text, Verifying},
	"on-nosignature":               {"On-NoSignature", text, Verifying},
	"on-security":                  {"On-Security", text, Verifying},
	"on-signatureerror":            {"On-SignatureError", text, Signing},
	"oversignheaders":              {"OversignHeaders", text, Signing},
	"peerlist":                     {"PeerList", text, Signing},
	"pidfile":                      {"PidFile", text, Running},
	"quarantine":                   {"Quarantine", boolean, Verifying},
	"querycache":                   {"QueryCache", boolean, Running},
	"redirectfailuresto":           {"RedirectFailuresTo", text, Verifying},
	"removearall":                  {"RemoveARAll", boolean, Verifying},
	"removearfrom":                 {"RemoveARFrom", text, Verifying},
	"removeoldsignatures":          {"RemoveOldSignatures", boolean, Signing},
	"replaceheaders":               {"ReplaceHeaders", text, Signing},
	"replacerules":                 {"ReplaceRules", text, Signing},
	"reportaddress":                {"ReportAddress", text, Verifying},
	"reportbccaddress":             {"ReportBccAddress", text, Verifying},
	"requestreports":               {"RequestReports", boolean, Signing},
	"requiredheaders":              {"RequiredHeaders", boolean, Signing},
	"requiresafekeys":              {"RequireSafeKeys", boolean, Signing},
	"resolverconfiguration":        {"ResolverConfiguration", text, Verifying},
	"resolvertracing":              {"ResolverTracing", boolean, Verifying},
	"screenpolicyscript":           {"ScreenPolicyScript", text, Signing},
	"selector":                     {"Selector", text, Signing},
	"selectcanonicalizationheader": {"SelectCanonicalizationHeader", text, Signing},
	"senderheaders":                {"SenderHeaders", text, Signing},
	"sendermacro":                  {"SenderMacro", text, Signing},
	"sendreports":                  {"SendReports", boolean, Verifying},
	"setuppolicyscript":            {"SetupPolicyScript", text, Signing},
	"signaturealgorithm":           {"SignatureAlgorithm", text, Signing},
	"signaturettl":                 {"SignatureTTL", integer, Signing},
	"signheaders":                  {"SignHeaders", text, Signing},
	"signingtable":                 {"SigningTable", text, Signing},
	"socket":                       {"Socket", text, Signing},
	"softwareheader":               {"SoftwareHeader", boolean, Signing},
	"softstart":                    {"SoftStart", boolean, Running},
	"statistics":                   {"Statistics", text, Running},
	"statisticsname":               {"StatisticsName", text, Running},
	"statisticsprefix":             {"StatisticsPrefix", text, Running},
	"strictheaders":                {"StrictHeaders", boolean, Signing},
	"stricttestmode":               {"StrictTestMode", boolean, Verifying},
	"subdomains":                   {"SubDomains", boolean, Signing},
	"syslog":                       {"Syslog", boolean, Running},
	"syslogfacility":               {"SyslogFacility", text, Running},
	"syslogname":                   {"SyslogName", text, Running},
	"syslogsuccess":                {"SyslogSuccess", boolean, Running},
	"temporarydirectory":           {"TemporaryDirectory", text, Running},
	"testdnsdata":                  {"TestDNSData", text, Verifying},
	"testpublickeys":               {"TestPublicKeys", text, Verifying},
	"trustanchorfile":              {"TrustAnchorFile", text, Verifying},
	"trustsignaturesfrom":          {"TrustSignaturesFrom", text, Verifying},
	"umask":                        {"UMask", integer, Signing},
	"unprotectedkey":               {"UnprotectedKey", text, Verifying},
	"userid":                       {"UserID", text, Signing},
	"vbr-certifiers":               {"VBR-Certifiers", text, Signing},
	"vbr-purgefields":              {"VBR-PurgeFields", boolean, Signing},
	"vbr-trustedcertifiers":        {"VBR-TrustedCertifiers", text, Verifying},
	"vbr-trustedcertifiersonly":    {"VBR-TrustedCertifiersOnly", boolean, Verifying},
	"vbr-type":                     {"VBR-Type", text, Signing},
	"weaksyntaxchecks":             {"WeakSyntaxChecks", boolean, Signing},
	"x-header":                     {"X-Header", boolean, Signing},
}

// SigningSettings returns the names of the settings of use Signing.
func SigningSettings() []string {
	var list []string
	for _, s := range names {
		if s.use == Signing {
			list = append(list, s.name)
		}
	}
	return list
}
