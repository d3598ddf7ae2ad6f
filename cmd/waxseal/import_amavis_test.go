package main

import (
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/amavis"
)

func TestAmavisOfGuidesIsTakenOver(t *testing.T) {
	for _, c := range []struct {
		name     string
		files    map[string]string
		keys     []string
		settings []string
	}{
		{"Debian's directory, as guides have it", map[string]string{
			"conf.d/20-debian_defaults": "use strict;\n$enable_dkim_verification = 0; #disabled to prevent warning\n@mynetworks = qw( 127.0.0.0/8 [::1] [FE80::]/10 10/8 );\n1;\n",
			"conf.d/50-user": `use strict;

#
# Place your configuration directives here.
#
$enable_dkim_verification = 1;
$enable_dkim_signing = 1;
dkim_key('example.com', 'mail', 'DIR/a.pem');
dkim_key("example.net", "2024",  "DIR/b.pem", k=>'rsa', h=>'sha256');
@dkim_signature_options_bysender_maps = (
    { '.' => { ttl => 21*24*3600, c => 'relaxed/simple' } } );
#------------ Do not modify anything below this line -------------
1;  # ensure a defined return
`, "conf.d/50-user.bak": "dkim_key(1);\n",
		}, []string{"2024.example.net rsa-1024", "mail.example.com rsa-2048"}, []string{`expiry = "21d"`, `networks = ["127.0.0.0/8", "::1", "fe80::/10", "10.0.0.0/8"]`, `canonicalization = "relaxed/simple"`}},
		{"one domain signs for others", map[string]string{"conf.d/50-user": `
$enable_dkim_signing = 1;
dkim_key('example.com', 'mail', 'DIR/a.pem');
dkim_key('example.com', 'news', 'DIR/b.pem');
@mynetworks = qw(127.0.0.0/8);
@dkim_signature_options_bysender_maps = ( {
  # some comment with 'quotes
  'news@example.com' => { d => 'example.com', s => 'news', ttl => 10*24*3600 },
  'example.net'      => { d => 'example.com' },
  '.'                => { a => 'rsa-sha256', c => 'relaxed/relaxed', ttl => 30*24*3600 },
} );
`}, []string{"mail.example.com rsa-2048", "news.example.com rsa-1024"}, []string{
			"[row.\"news@example.com\"]\naddress = \"news@example.com\"\nselectors = [\"news\"]\nexpiry = \"10d\"",
			"[row.\"example.net\"]\ndomain = \"example.net\"\nsign_as = \"example.com\"\nselectors = [\"mail\"]",
			"[row.\"example.com\"]\ndomain = \"example.com\"\nselectors = [\"mail\"]",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.files["a.pem"], c.files["b.pem"] = "RSA", "OTHER"
			dir := writeKeyTree(t, c.files)
			r := runImport(t, dir, "amavis", dir+"/conf.d")
			r.checkWritten(t, c.keys, c.settings...)
			if strings.Contains(r.stdout, "\ndifferent") || !strings.Contains(r.stderr, "$enable_dkim_signing = 0") {
				t.Errorf("%s%s", r.stdout, r.stderr)
			}
		})
	}
}

func TestLinesOfAmavisAreTold(t *testing.T) {
	const usual = "$enable_dkim_signing = 1;\ndkim_key('example.com', 'mail', 'DIR/a.pem');\n@mynetworks = qw(127.0.0.0/8);\n"
	for _, c := range []struct{ name, config, result, say string }{
		{"a loop", "foreach my $d (@domains) {\n  dkim_key($d, 'mail', \"/x/$d.pem\");\n}", lineOpen, "Perl is not run"},
		{"a block", "if ($x) {\n  $y = 1;\n  dkim_key('example.net', 'mail', 'DIR/b.pem');\n}", lineOpen, "Perl is not run"},
		{"a block without indentation", "if ($x) {\ndkim_key('example.net', 'mail', 'DIR/b.pem');\n}", lineOpen, "Perl is not run"},
		{"a condition", "dkim_key('example.net', 'mail', 'DIR/b.pem') if -e '/x';", lineOpen, "Perl is not run"},
		{"a variable", "dkim_key('example.net', 'mail', \"$dir/b.pem\");", lineOpen, "Perl is not run"},
		{"another file", "include_config_files('/etc/amavis/dkim.conf');", lineOpen, "Perl is not run"},
		{"a policy bank", "$policy_bank{'X'} = { enable_dkim_signing => 0 };", lineOpen, "Perl is not run"},
		{"a signing service", "$dkim_signing_service = 'inet:1';", lineOpen, "Perl is not run"},
		{"fields", "$signed_header_fields{'received'} = 0;", lineOpen, "Perl is not run"},
		{"a key for all", "dkim_key('*', 'mail', 'DIR/b.pem');", lineOpen, "keeps keys by domain"},
		{"a key that is not there", "dkim_key('example.net', 'mail', '/none.pem');", lineOpen, "no such file"},
		{"a key that never signs", "dkim_key('example.com', 'old', 'DIR/b.pem');", lineNotNeeded, "comes first"},
		{"a network excluded", "@mynetworks = qw(10.0.0.0/8 !10.1.0.0/16);", lineRefused, "no exclusions"},
		{"a sender without a key", "@dkim_signature_options_bysender_maps = ({ 'example.net' => { d => 'example.org' } });", lineOpen, "no key for it"},
		{"an option", "@dkim_signature_options_bysender_maps = ({ 'example.com' => { l => 100 } });", lineOpen, "no such option"},
		{"a name in all domains", "@dkim_signature_options_bysender_maps = ({ 'ann@' => { d => 'example.com' } });", lineOpen, "in all domains"},
		{"two hashes", "@dkim_signature_options_bysender_maps = ({}, {});", lineOpen, "one hash"},
		{"switched off", "$enable_dkim_signing = 0;", lineRefused, "does not sign"},
		{"all from below a domain", "@dkim_signature_options_bysender_maps = ({ '.example.com' => { d => 'example.com' } });", lineTaken, "row .example.com"},
		{"all mail", "@dkim_signature_options_bysender_maps = ({ '.' => { d => 'example.com' } });", lineTaken, "row *"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := writeKeyTree(t, map[string]string{"amavisd.conf": usual + c.config + "\n1;\n", "a.pem": "RSA", "b.pem": "OTHER"})
			r := runImport(t, dir, "amavis", dir+"/amavisd.conf", "--dry-run")
			told := reported(r.stdout, c.result)
			if !strings.Contains(told, c.say) {
				t.Errorf("exit status %d, no %s line says %q:\n%s%s", r.code, c.result, c.say, r.stdout, r.stderr)
			}
			if strings.Contains(r.stdout, "\nwider ") {
				t.Errorf("it signs what amavis does not:\n%s", r.stdout)
			}
			r = runImport(t, dir, "amavis", dir+"/amavisd.conf", "--drop", "all")
			if written := r.config != ""; c.result == lineOpen && !written || c.result == lineRefused && written {
				t.Errorf("with --drop all: written is %v\n%s%s", written, r.stdout, r.stderr)
			}
		})
	}
}

// FuzzAmavis reads any configuration, and decides with constants in it.
func FuzzAmavis(f *testing.F) {
	f.Add("dkim_key('example.com', \"a\", '/x', k => 'rsa');\n@mynetworks = qw( 127/8 );\n")
	f.Add("=pod\nx\n=cut\n@dkim_signature_options_bysender_maps = ( { '.' => { ttl => 2*3, c=>'a' } } );\n__END__\n")
	f.Fuzz(func(t *testing.T, text string) {
		last := 0
		for _, s := range amavis.Parse("c", text) {
			if s.Place.Line < last || s.Place.Line > strings.Count(text, "\n")+1 {
				t.Fatalf("%q: line %d after %d", text, s.Place.Line, last)
			}
			last = s.Place.Line
			_, _, _ = s.Value.Pairs()
			for _, v := range s.Value.Items {
				_, _ = amavisNetwork(v.Text)
			}
		}
		m := amavis.Model{Keys: []amavis.Key{{Domain: "example.com"}}, Senders: []amavis.Sender{{Key: text, Options: map[string]string{"d": text, "i": text}}}}
		m.Decide(text)
	})
}
