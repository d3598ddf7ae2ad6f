package opendkim

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"waxseal/cmd/waxseal/internal/source"
)

// files is a file system in memory.
type files map[string]string

func (f files) read(path string) ([]byte, error) {
	text, ok := f[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return []byte(text), nil
}

func config(t testing.TB, f files) *Config {
	t.Helper()
	c, err := Read("conf", f.read)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSettingsAreReadAsOpenDKIMDoes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // name=value
		bad        string   // part of an error
	}{
		{"a value is the rest of the line, trimmed", "Socket \t local:/run/s  \n", []string{"Socket=local:/run/s"}, ""},
		{"a comment begins anywhere", "# all\nDomain a.example#b\n", []string{"Domain=a.example"}, ""},
		{"a carriage return ends the line", "Domain a.example\r\n", []string{"Domain=a.example"}, ""},
		{"names have no case", "dOMAIN a.example\n", []string{"Domain=a.example"}, ""},
		{"the last one counts", "Domain a.example\nMode s\nDomain b.example\n", []string{"Mode=s", "Domain=b.example"}, ""},
		{"quotation marks are nothing", "Domain \"a.example\"\n", []string{`Domain="a.example"`}, ""},
		{"an unknown name", "Domian a.example\n", nil, `conf:1: OpenDKIM does not know the setting "Domian"`},
		{"an obsolete name", "BodyLengths yes\n", nil, "conf:1"},
		{"a name without a value", "Domain\n", nil, "conf:1: Domain has no value"},
		{"neither yes nor no", "SubDomains on\n", nil, "conf:1: SubDomains on: neither"},
		{"yes by its first letter", "SubDomains Totally\n", []string{"SubDomains=Totally"}, ""},
		{"no number", "UMask abc\n", nil, "conf:1: UMask abc: no number"},
		{"a file that includes another", "Mode s\nInclude more\n", []string{"Mode=s", "Domain=c.example"}, ""},
		{"a file that includes itself", "Include conf\n", nil, "nested more than 5 deep"},
		{"a file that is not there", "Include none\n", nil, "conf:1: Include: none"},
		{"a line that is too long", "Domain " + strings.Repeat("a", maxLine) + "\n", nil, "conf:1: line of more than 1023"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := config(t, files{"conf": c.text, "more": "Domain c.example"})
			var settings []string
			for _, s := range got.Settings {
				settings = append(settings, s.Name+"="+s.Value)
			}
			if !slices.Equal(settings, c.want) {
				t.Errorf("got %q, want %q", settings, c.want)
			}
			if bad := fmt.Sprint(got.Errors); c.bad == "" && len(got.Errors) > 0 || !strings.Contains(bad, c.bad) {
				t.Errorf("errors %s, want %q", bad, c.bad)
			}
		})
	}
	c := config(t, files{"conf": "UMask 010\nSignatureTTL 0x10\nDomain a\nDomain b\nDomain c\n"})
	if n, ok := c.Int("UMask"); n != 8 || !ok {
		t.Errorf("UMask is %d", n)
	}
	if n, ok := c.Int("SignatureTTL"); n != 16 || !ok {
		t.Errorf("SignatureTTL is %d", n)
	}
	if len(c.Lost) != 2 || c.Lost[0].By.Value != "c" || c.Lost[1].By.Value != "c" {
		t.Errorf("lost settings are %+v", c.Lost)
	}
}

func TestTheCommandLineBeatsTheFile(t *testing.T) {
	for _, c := range []struct {
		name, arguments, defaults string
		want                      string // of Socket and UserID
		bad                       string
	}{
		{"nothing", "", "", "inet:1@localhost user", ""},
		{"a socket", "-p local:/run/s", "", "local:/run/s user", ""},
		{"as systemd has it", "/usr/sbin/opendkim -P /run/o.pid -plocal:/run/s -u 'a:b'", "", "local:/run/s a:b", ""},
		{"options in one", "-lfp local:/run/s", "", "local:/run/s user", ""},
		{"an option that is none", "-z", "", "inet:1@localhost user", "no option -z"},
		{"an option without its argument", "-p", "", "inet:1@localhost user", "-p lacks its argument"},
		{"Debian's file", "", "# x\nRUNDIR=/run/x\nSOCKET=local:$RUNDIR/${NAME}.sock\nUSER=opendkim\nGROUP=mail\nPIDFILE=$RUNDIR/$NAME.pid\nEXTRAAFTER=\n", "local:/run/x/opendkim.sock opendkim:mail", ""},
		{"Red Hat's file", "", "OPTIONS=\"-x /etc/opendkim.conf -P /run/o.pid -p 'inet:2@localhost'\"\n", "inet:2@localhost user", ""},
		{"a command in the file", "", "SOCKET=local:$(pwd)/s\n", "inet:1@localhost user", "a command"},
		{"a script for a file", "", "if true; then\n", "inet:1@localhost user", "more than a variable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := config(t, files{"conf": "Socket inet:1@localhost\nUserID user\n"})
			got.Defaults("defaults", []byte(c.defaults))
			got.Arguments("--arguments", c.arguments)
			socket, _ := got.Get("Socket")
			id, _ := got.Get("UserID")
			if s := socket.Value + " " + id.Value; s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
			if bad := fmt.Sprint(got.Errors); c.bad == "" && len(got.Errors) > 0 || !strings.Contains(bad, c.bad) {
				t.Errorf("errors %s, want %q", bad, c.bad)
			}
		})
	}
}

func TestDataSetsAreSpelledAsOpenDKIMReadsThem(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"a, b ,c", "csl a b c"},
		{"csl:a=x:y,b", "csl a=x:y b"},
		{"one", "csl one"},
		{"/t", "file k=v w"},
		{"file:/t", "file k=v w"},
		{"refile:/t", "refile k=v w"},
		{"127.0.0.1,::1", "csl 127.0.0.1 ::1"},
		{"csl:::1,127.0.0.1", "csl ::1 127.0.0.1"},
		{"::1,127.0.0.1", `error conf:1: Domain ::1,127.0.0.1: OpenDKIM takes "" for the kind`},
		{"[::1],127.0.0.1", `error conf:1: Domain [::1],127.0.0.1: OpenDKIM takes "[" for the kind`},
		{"2001:db8::/32", `error conf:1: Domain 2001:db8::/32: OpenDKIM takes "2001"`},
		{"db:/t.db", "error conf:1: Domain db:/t.db: kept in a database"},
		{"/t.db", "error conf:1: Domain /t.db: kept in a database"},
		{"dsn:mysql://x", "error conf:1: Domain dsn:mysql://x: kept in a database"},
		{"file:/none", "error conf:1: Domain: /none: file does not exist"},
	} {
		d, err := config(t, files{"conf": "Domain " + c.value + "\n", "/t": "k  v w # x\n"}).DataSet("Domain")
		got := ""
		if err != nil {
			got = "error " + err.Error()
			var e *source.Error
			if !errors.As(err, &e) || e.Remedy == "" {
				t.Errorf("%s: the error has no remedy", c.value)
			}
		} else {
			got = string(d.Kind)
			for _, r := range d.Rows {
				got += " " + r.Key
				if r.Value != "" {
					got += "=" + r.Value
				}
			}
		}
		if c.want != got && !(err != nil && strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: got %q, want %q", c.value, got, c.want)
		}
	}
	long := config(t, files{"conf": "KeyTable file:/t\nSigningTable csl:a=k\n", "/t": "k a:s:" + strings.Repeat("M", 1500) + "\nl a:s:/x\n"})
	tables, err := long.Tables()
	if err != nil || len(tables.Keys) != 3 || !strings.Contains(tables.Keys[0].Bad, "1023") || tables.Keys[2].Bad != "" || tables.Keys[2].Place.Line != 2 {
		t.Errorf("a long line is %+v, %v", tables, err)
	}
}

func TestTablesNeedEachOther(t *testing.T) {
	for text, want := range map[string]string{
		"KeyTable csl:a=b:c:/d":     "KeyTable without SigningTable",
		"SigningTable csl:a=b":      "SigningTable without KeyTable",
		"Domain a.example":          "Domain without Selector and KeyFile",
		"Domain a.example\nMode sv": "Domain without Selector and KeyFile",
	} {
		if _, err := config(t, files{"conf": text}).Tables(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestRowsSayWhomTheyAreAbout(t *testing.T) {
	for _, c := range []struct {
		pattern, plain, refile string
	}{
		{"example.com", "domain example.com", "nobody: write *@example.com"},
		{"*@example.com", "nobody: write example.com, or", "domain example.com"},
		{".example.com", "below example.com", "nobody: write *@*.example.com"},
		{"*@*.example.com", "nobody: write .example.com, or", "below example.com"},
		{"*.example.com", "nobody: write .example.com, or", "below example.com"},
		{"*", "all other mail", "all other mail"},
		{"*@*", "nobody: write *", "all other mail"},
		{"Ann@Example.com", "ann@example.com", "ann@example.com"},
		{"ann+x@example.com", "ann+x@example.com", "ann+x@example.com"},
		{"ann@*", "other", "other"},
		{"ann@.example.com", "other", "ann@.example.com"},
		{"a|b@example.com", "a|b@example.com", "other"},
		{"[ab]@example.com", "[ab]@example.com", "other"},
		{"*example.com", "nobody", "other"},
		{"news*@example.com", "nobody", "other"},
		{"@example.com", "nobody: write example.com", "nobody"},
	} {
		for kind, want := range map[Kind]string{File: c.plain, List: c.plain, Refile: c.refile} {
			s := scope(kind, c.pattern)
			got := s.String()
			if s.Kind == Other {
				got = "other"
			}
			if s.Meant != "" && strings.Contains(want, ": ") {
				got += ": " + s.Meant
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s in %s: got %q, want %q", c.pattern, kind, got, want)
			}
			if (s.Kind == Other || s.Kind == Nobody) && s.Why == "" {
				t.Errorf("%s in %s: no reason", c.pattern, kind)
			}
		}
	}
}

func TestKeysAreReadAsOpenDKIMDoes(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"example.com:mail:/etc/k", "example.com mail file /etc/k"},
		{"example.com:mail:/etc/k:rsa-sha256", "example.com mail file /etc/k"},
		{"%:mail:/etc/%/k", "% mail file /etc/d.example/k"},
		{"%:mail:./%/k", "% mail file /base/%/k"},
		{"example.com:mail:../k", "example.com mail file /k"},
		{"example.com:mail:MIICXA", "example.com mail data MIICXA"},
		{"example.com:mail:keys/k", "bad keys/k begins neither"},
		{"example.com mail /etc/k", "bad DOMAIN:SELECTOR:KEY"},
		{"example.com:mail", "bad DOMAIN:SELECTOR:KEY"},
	} {
		k := config(t, files{"conf": "BaseDirectory /base\n"}).key(File, Row{Key: "k", Value: c.value})
		got := k.Domain + " " + k.Selector + " data " + k.Data
		switch {
		case k.Bad != "":
			got = "bad " + k.Bad
			c.want = strings.TrimPrefix(c.want, "bad ")
		case k.Path != "":
			got = k.Domain + " " + k.Selector + " file " + k.File("d.example")
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.value, got, c.want)
		}
	}
}

func TestHostsAreReadAsOpenDKIMDoes(t *testing.T) {
	for _, c := range []struct {
		text, file, refile string
	}{
		{"127.0.0.1", "127.0.0.1/32", "127.0.0.1/32"},
		{"!10.0.0.0/8", "! 10.0.0.0/8", "! 10.0.0.0/8"},
		{"192.168.1.5/24", "never: write 192.168.1.0/24", "never"},
		{"127.0.0.1/8", "never: write 127.0.0.0/8", "never"},
		{"192.0.2/24", "never", "never"},
		{"192.0.2.0/255.255.255.0", "never", "never"},
		{"2001:DB8::/32", "2001:db8::/32", "2001:db8::/32"},
		{"2001:db8:0::/48", "never: write 2001:db8::/48", "never"},
		{"[::1]", "::1/128", "never"},
		{"[192.0.2.0]/24", "192.0.2.0/24", "never"},
		{"mail.example.com", "name", "name"},
		{".example.com", "name", "name"},
		{"*.example.com", "never", "never"},
		{"*", "never", "odd"},
		{"192.168.*", "never", "odd"},
	} {
		for kind, want := range map[Kind]string{File: c.file, Refile: c.refile} {
			d := &DataSet{Kind: kind, Rows: []Row{{Key: c.text}}}
			h := d.Hosts()[0]
			got := map[HostKind]string{Name: "name", Never: "never", Odd: "odd", Network: h.Network.String()}[h.Kind]
			if h.Not {
				got = "! " + got
			}
			if strings.Contains(want, ":") && h.Kind == Never {
				got += ": " + h.Meant
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s in %s: got %q, want %q", c.text, kind, got, want)
			}
		}
	}
}

func TestExcludedNetworksAreTakenOut(t *testing.T) {
	d := &DataSet{Kind: List}
	d.list("10.0.0.0/8, !10.0.0.0/10, 10.1.0.0/16, !10.255.255.254, 192.0.2.1, !192.0.2.1, !203.0.113.0/24, 203.0.113.0/25, 2001:db8::/126, !2001:db8::2")
	held := Networks(d.Hosts())
	for _, text := range []string{"10.0.0.1", "10.1.0.1", "10.63.255.255", "10.64.0.0", "10.255.255.253", "10.255.255.254", "10.255.255.255", "11.0.0.0", "192.0.2.1",
		"203.0.113.1", "203.0.113.128", "2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::4"} {
		a := netip.MustParseAddr(text)
		got := slices.ContainsFunc(held, func(p netip.Prefix) bool { return p.Contains(a) })
		if want := d.address(a); got != want {
			t.Errorf("%s: held is %v, want %v, as OpenDKIM has it", text, got, want)
		}
	}
}

// FuzzPattern compares what a row is said to be about with what matches it.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"*", "*@example.com", "*@*.example.com", ".example.com", "ann@example.com", "a|b@c.d", "*@*", "ann@*", "x*y", "(", "a{1,2}", `\`, "[[:alpha:]]@c.d"} {
		f.Add(p, "ann", "sub.example.com")
	}
	f.Fuzz(func(t *testing.T, pattern, local, domain string) {
		local, domain = strings.ToLower(local), strings.ToLower(domain)
		if local == "" || domain == "" || strings.ContainsAny(local+domain+pattern, " \t\n\r\v\f#,@*") && strings.Count(pattern, "@") > 1 ||
			strings.ContainsAny(local+domain, " \t\n\r\v\f#@*:") || strings.HasPrefix(domain, ".") || strings.ContainsAny(pattern, " \t\n\r\v\f#:") || pattern == "" || !ascii(pattern+local+domain) {
			return
		}
		for _, kind := range []Kind{File, Refile} {
			tables := &Tables{Kind: kind, signing: &DataSet{Kind: kind}}
			r := Row{Key: pattern, Value: "k"}
			tables.signing.Rows = []Row{r}
			tables.Rules = []Rule{rule(kind, r)}
			s := tables.Rules[0].Scope
			if s.Kind == Other {
				continue
			}
			tables.index()
			matches := len(tables.matches(local, domain)) > 0
			if kind == Refile { // where the scope is what is asked
				matches = tables.signing.matches(r, local+"@"+domain, true)
			}
			if holds := s.Holds(Scope{Kind: Address, Local: local, Domain: domain}); holds != matches {
				t.Errorf("%s row %q (%v) and %s@%s: said to match %v, matches %v", kind, pattern, s, local, domain, holds, matches)
			}
		}
	})
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' })
}

// FuzzConfig reads any files, and decides with them.
func FuzzConfig(f *testing.F) {
	f.Add("Domain example.com\nSelector s\nKeyFile /k\nSubDomains yes\n", "", "ann@example.com")
	f.Add("KeyTable /t\nSigningTable refile:/t\nMultipleSignatures 1\n", "k example.com:s:/k\n*@example.com k:@%\n(|x k\n", "ann@example.com")
	f.Add("KeyTable csl:k=%:s:/%/k\nSigningTable csl:*=k\nInternalHosts /t\nPeerList refile:/t\nMacroList a=b|c,d\nMTA x\n", "!10.0.0.0/8\n[::1]/0\n.x\n*", "x@")
	f.Add("Include /t\nInclude conf\nBaseDirectory x\nInternalHosts ::1\n", "SOCKET=\"a $b ${c}\"\n-p", "@")
	f.Fuzz(func(t *testing.T, conf, table, sender string) {
		fs := files{"conf": conf, "/t": table}
		c, err := Read("conf", fs.read)
		if err != nil {
			t.Fatal(err)
		}
		c.Defaults("/t", []byte(table))
		c.Arguments("--arguments", table)
		m, _ := c.Model()
		for _, a := range []netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")} {
			m.Decide(Client{Name: "host.example.com", Address: a, Macros: map[string]string{"a": "b"}}, sender)
			for _, d := range []*DataSet{m.Peers, m.Internal} {
				if hosts := d.Hosts(); a.IsValid() && d != nil && d.Kind != Refile {
					held := slices.ContainsFunc(Networks(hosts), func(p netip.Prefix) bool { return p.Contains(a) })
					if held != d.address(a) {
						t.Errorf("%q: %v held is %v, and OpenDKIM has it otherwise", table, a, held)
					}
				}
			}
		}
	})
}
