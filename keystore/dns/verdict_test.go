package dns

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"waxseal/keystore"
)

// wanted returns the record of a new key.
func wanted(t testing.TB, alg keystore.Algorithm, o RecordOptions) *Record {
	t.Helper()
	r, err := NewRecord(newKey(t, alg), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestJudge(t *testing.T) {
	want := wanted(t, keystore.RSA2048, RecordOptions{})
	ed := wanted(t, keystore.Ed25519, RecordOptions{})
	value, p := want.String(), base64.StdEncoding.EncodeToString(want.Public)
	edP := base64.StdEncoding.EncodeToString(ed.Public)
	other := wanted(t, keystore.RSA1024, RecordOptions{}).String()
	public, err := x509.ParsePKIXPublicKey(want.Public)
	if err != nil {
		t.Fatal(err)
	}
	bare := base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(public.(*rsa.PublicKey)))
	revoked := *want
	revoked.Public = nil
	strict := wanted(t, keystore.RSA2048, RecordOptions{Testing: true})
	limited := wanted(t, keystore.RSA2048, RecordOptions{Hash: []string{"sha256"}, Note: "x"})

	for _, test := range []struct {
		name    string
		values  []string
		want    *Record
		verdict Verdict
		detail  string // part of it; "-" for none
	}{
		{"the record itself", []string{value}, want, Matches, "-"},
		{"an Ed25519 record itself", []string{ed.String()}, ed, Matches, "-"},
		{"another order", []string{"k=rsa; v=DKIM1; p=" + p}, want, Malformed, "v= is not the first tag"},
		{"another order of the rest", []string{"v=DKIM1; p=" + p + "; k=rsa"}, want, Matches, "written in another way"},
		{"blanks between the tags, and an end", []string{"v=DKIM1;k=rsa ;\tp= " + p + " ;"}, want, Matches, "written in another way"},
		{"no v=", []string{"k=rsa; p=" + p}, want, Matches, "v=DKIM1 is missing"},
		{"no k= for RSA", []string{"v=DKIM1; p=" + p}, want, Matches, "written in another way"},
		{"h= and s= that allow us", []string{"v=DKIM1; h=sha1:sha256; s=email; p=" + p}, want, Matches, "h= is there, s= is there"},
		{"s=*", []string{"v=DKIM1; s=*; p=" + p}, want, Matches, "s= is there"},
		{"a note and the historic g=", []string{"v=DKIM1; g=*; n=it is \"ours\"; p=" + p}, want, Matches, "g= is there, n= is there"},
		{"a note that ends with a backslash", []string{"v=DKIM1; n=\\; p=" + p}, want, Matches, "n= is there"},
		{"without the tags that were wanted", []string{value}, limited, Matches, "h= is missing, n= is missing"},
		{"with another note", []string{strings.Replace(limited.String(), "n=x", "n=y", 1)}, limited, Matches, "n= has another value"},
		{"the bare form of the key", []string{"v=DKIM1; k=rsa; p=" + bare}, want, Matches, "in another form"},
		{"t=y", []string{"v=DKIM1; k=rsa; t=y; p=" + p}, want, Testing, "t=y"},
		{"t=y and t=s", []string{"v=DKIM1; k=rsa; t=s:y; p=" + p}, want, Testing, "t=y"},
		{"t=y that is wanted", []string{strict.String()}, strict, Matches, "-"},
		{"t=y that is wanted, written in another way", []string{strict.String() + ";"}, strict, Matches, "another way"},
		{"t=s", []string{"v=DKIM1; k=rsa; t=s; p=" + p}, want, Matches, "t= is there"},
		{"blanks in the key", []string{"v=DKIM1; k=rsa; p=" + p[:20] + " " + p[20:]}, want, Blanks, "first at octet 39 of"},
		{"nothing", nil, want, Missing, "no TXT record"},
		{"an empty p=", []string{"v=DKIM1; k=rsa; p="}, want, Revoked, "p= is empty"},
		{"an empty p= that is wanted", []string{"v=DKIM1; k=rsa; p="}, &revoked, Matches, "-"},
		{"an empty p= that is wanted, shorter", []string{"v=DKIM1; p="}, &revoked, Matches, "harmless"},
		{"our key where none should be", []string{value}, &revoked, OtherKey, "p= should be empty, but there is an RSA key of 2048 bits"},
		{"another key", []string{other}, want, OtherKey, "an RSA key of 1024 bits, which is not ours"},
		{"a key of another kind", []string{ed.String()}, want, OtherKey, "an Ed25519 key"},
		{"the wrong k=", []string{"v=DKIM1; k=ed25519; p=" + p}, want, WrongType, `k="ed25519", but the key is rsa`},
		{"k=rsa for Ed25519", []string{"v=DKIM1; k=rsa; p=" + edP}, ed, WrongType, `k="rsa", but the key is ed25519`},
		{"no k= for Ed25519", []string{"v=DKIM1; p=" + edP}, ed, WrongType, "k= is missing"},
		{"an unknown k=", []string{"v=DKIM1; k=RSA; p=" + p}, want, WrongType, `k="RSA"`},
		{"h= without sha256", []string{"v=DKIM1; h=sha1; p=" + p}, want, Forbids, "h=sha1"},
		{"s= without email", []string{"v=DKIM1; s=tlsrpt; p=" + p}, want, Forbids, "s=tlsrpt"},
		{"two records, one ours", []string{"v=spf1 -all", value}, want, Several, "2 TXT records, ours among them"},
		{"two records, none ours", []string{"v=spf1 -all", other}, want, Several, "none of them ours"},
		{"cut at 255", []string{value[:255]}, want, Truncated, "was cut at octet 255, as by a panel"},
		{"cut elsewhere", []string{value[:100]}, want, Truncated, "was cut at octet 100"},
		{"cut, and in another way", []string{"k=rsa;p=" + p[:300]}, want, Truncated, "the first 300 of 392"},
		{"only the second string", []string{value[255:]}, want, Truncated, "first string is lost"},
		{"escaped semicolons", []string{strings.ReplaceAll(value, ";", `\;`)}, want, Malformed, "backslash at octet 8 "},
		{"quotes around", []string{`"` + value + `"`}, want, Malformed, "quotation mark at octet 1 "},
		{"quotes inside", []string{value[:255] + `" "` + value[255:]}, want, Malformed, "quotation mark at octet 256 "},
		{"v= in lower case", []string{strings.Replace(value, "DKIM1", "dkim1", 1)}, want, Malformed, "v=dkim1 at octet 1 "},
		{"V= in upper case", []string{strings.Replace(value, "v=", "V=", 1)}, want, Malformed, "the tag V= at octet 1 "},
		{"P= in upper case", []string{strings.Replace(value, "p=", "P=", 1)}, want, Malformed, "the tag P= at octet 17 "},
		{"another version", []string{strings.Replace(value, "DKIM1", "DKIM2", 1)}, want, Malformed, "want DKIM1"},
		{"a wrong character in the key", []string{value[:50] + "_" + value[51:]}, want, Malformed, "not base64: the first wrong character is at octet 51 "},
		{"the key alone", []string{p}, want, Truncated, "first string is lost"},
		{"something else", []string{"v=spf1 -all"}, want, Malformed, "v="},
		{"an empty value", []string{""}, want, Malformed, "empty tag"},
		{"no p=", []string{"v=DKIM1; k=rsa"}, want, Malformed, "p= is missing"},
		{"twice the same tag", []string{value + "; k=rsa"}, want, Malformed, "twice"},
		{"not ASCII", []string{"v=DKIM1; n=\xfc; p=" + p}, want, Malformed, "0xfc at 11"},
	} {
		verdict, detail := judge(test.values, test.want)
		if verdict != test.verdict || (test.detail == "-") != (detail == "") || test.detail != "-" && !strings.Contains(detail, test.detail) {
			t.Errorf("%s: %q\ngot  %s, %q\nwant %s, %q", test.name, test.values, verdict, detail, test.verdict, test.detail)
		}
	}
}

func TestCutRecordsAreToldAtEveryLength(t *testing.T) {
	for _, alg := range []keystore.Algorithm{keystore.RSA1024, keystore.RSA2048, keystore.Ed25519} {
		want := wanted(t, alg, RecordOptions{})
		value := want.String()
		for n := strings.Index(value, "p=") + 3; n < len(value); n++ {
			if v, detail := judge([]string{value[:n]}, want); v != Truncated {
				t.Fatalf("%s: the first %d octets: %s, %s", alg, n, v, detail)
			}
		}
	}
}

// FuzzAnswer holds what is made of an answer, whatever its octets, to this: a
// server shows our key only by one TXT record that parses to our key, and every
// other verdict is explained in printable words.
func FuzzAnswer(f *testing.F) {
	key := &keystore.Key{Selector: "a", Algorithm: keystore.Ed25519, State: keystore.Active, Public: make([]byte, 32)}
	want, err := NewRecord(key, RecordOptions{})
	if err != nil {
		f.Fatal(err)
	}
	const owner = "a._domainkey.example.com."
	seed := func(text string) {
		m := new(mdns.Msg)
		m.SetQuestion(owner, mdns.TypeTXT)
		m.Response, m.Authoritative = true, true
		for line := range strings.Lines(text) {
			rr, err := mdns.NewRR(line)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		data, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, "")
	}
	value := want.String()
	seed(owner + ` 60 IN TXT "` + value + `"`)
	seed(owner + ` 60 IN TXT "` + value[:30] + `"`)
	seed(owner + ` 60 IN TXT "v=DKIM1" "\; k=rsa; p=\255\"\\"`)
	seed(owner + ` 60 IN CNAME b.example.net.`)
	seed(owner + " 60 IN TXT a\n" + owner + " 4294967295 IN TXT b")
	for _, s := range []string{value, "v=DKIM1;k=ed25519;p=" + value[len(value)-44:], "p=", `v=DKIM1\; p="`, "V=DKIM1;P=x", ";", "n=\"; p"} {
		f.Add([]byte{}, s)
	}
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		check := func(v Verdict, detail string, values []string) {
			if v.Shown() {
				if len(values) != 1 {
					t.Fatalf("%s with %q", v, values)
				}
				r, err := ParseRecord(values[0])
				if err != nil || string(r.Public) != string(want.Public) || r.KeyType != want.KeyType {
					t.Fatalf("%q: %s, but it parses to %+v, %v", values[0], v, r, err)
				}
			}
			if detail == "" && (v != Matches || values[0] != want.String()) {
				t.Fatalf("%q: %s without a word", values, v)
			}
			for _, c := range detail {
				if c < ' ' || c == 0x7f || len(detail) > 1500 {
					t.Fatalf("%q: the detail %q", values, detail)
				}
			}
		}
		v, detail := judge([]string{value}, want)
		check(v, detail, []string{value})
		m := new(mdns.Msg)
		if m.Unpack(data) != nil {
			return
		}
		a := readAnswer(m, "example.com.", owner)
		v, detail = a.verdict(owner, false, want)
		check(v, detail, a.values)
		if a.ttl < 0 || a.negative < 0 {
			t.Fatalf("TTL %v, negative %v", a.ttl, a.negative)
		}
	})
}

func TestOctetsUndoesEveryEscape(t *testing.T) {
	var all []byte
	for i := range 255 {
		all = append(all, byte(i+1))
	}
	all[254] = 0
	rdata := append([]byte{byte(len(all))}, all...)
	// The record as it comes over the wire.
	wire := append([]byte{0, 0, 16, 0, 1, 0, 0, 0, 0, 1, 0}, rdata...)
	rr, _, err := mdns.UnpackRR(wire, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := octets(strings.Join(rr.(*mdns.TXT).Txt, "")); got != string(all) {
		t.Errorf("got  %q\nwant %q", got, all)
	}
}
