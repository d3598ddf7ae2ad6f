package dns

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	mdns "github.com/miekg/dns"

	"waxseal/keystore"
	"waxseal/keystore/dns/dnstest"
)

var algorithms = []keystore.Algorithm{keystore.RSA1024, keystore.RSA2048, keystore.RSA3072, keystore.RSA4096, keystore.Ed25519}

// entriesWith makes an entry for each algorithm, with the options.
func entriesWith(t testing.TB, o RecordOptions, ttl time.Duration) []Entry {
	t.Helper()
	var entries []Entry
	for _, alg := range algorithms {
		k := newKey(t, alg)
		k.Selector = strings.ReplaceAll(string(alg), "-", "_") + ".x"
		r, err := NewRecord(k, o)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, Entry{Domain: "mail.example.com", Key: k, Record: r, TTL: ttl})
	}
	return entries
}

func format(t testing.TB, format string, entries []Entry) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, format, entries); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var nastyNotes = []string{"", `quotes " and '`, "semi;colon (and brackets)", `back\slash \" \\ \065`, "@ $ORIGIN % *", strings.Repeat("long; ", 42), "grüße"}

// zone reads a zone file by another implementation, whatever the origin.
func zone(t *testing.T, text string) (records []*mdns.TXT) {
	t.Helper()
	p := mdns.NewZoneParser(strings.NewReader(text), "elsewhere.test.", "zone")
	p.SetDefaultTTL(300)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		txt, ok := rr.(*mdns.TXT)
		if !ok {
			t.Fatalf("read a %T", rr)
		}
		records = append(records, txt)
	}
	if err := p.Err(); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return records
}

func TestZoneFormIsReadBackExactly(t *testing.T) {
	for _, note := range nastyNotes {
		for _, ttl := range []time.Duration{0, time.Hour} {
			entries := entriesWith(t, RecordOptions{Note: note, Testing: true, Service: []string{"email"}, Hash: []string{"sha256"}}, ttl)
			text := format(t, "zone", entries)
			records := zone(t, text)
			if len(records) != len(entries) {
				t.Fatalf("%d records, want %d", len(records), len(entries))
			}
			for i, rr := range records {
				e := entries[i]
				if want := Name(e.Key.Selector, e.Domain) + "."; rr.Hdr.Name != want {
					t.Errorf("name %s, want %s", rr.Hdr.Name, want)
				}
				wantTTL := uint32(300)
				if ttl > 0 {
					wantTTL = 3600
				}
				if rr.Hdr.Ttl != wantTTL || rr.Hdr.Class != mdns.ClassINET {
					t.Errorf("TTL %d, class %d; want %d and IN", rr.Hdr.Ttl, rr.Hdr.Class, wantTTL)
				}
				value := dnstest.Value(t, rr)
				if want := e.Record.String(); value != want {
					t.Errorf("note %q: read\n%q, want\n%q", note, value, want)
				}
				if back, err := ParseRecord(value); err != nil || !reflect.DeepEqual(back, e.Record) {
					t.Errorf("note %q: record %+v, %v", note, back, err)
				}
			}
		}
	}
}

// readZone prints name, TTL and value of each TXT record of the zone file on
// its standard input, by dnspython.
const readZone = `
import sys, dns.zone, dns.rdatatype
z = dns.zone.from_text(sys.stdin.read(), origin="example.com.", relativize=False, check_origin=False)
for name, ttl, rdata in z.iterate_rdatas(dns.rdatatype.TXT):
    assert all(len(s) <= 255 for s in rdata.strings)
    print(name, ttl, b"".join(rdata.strings).hex())
`

// python returns the interpreter that has dnspython: the one in the path, or
// the system's.
func python(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(name, "-c", "import dns.zone").Run() == nil {
			return name
		}
	}
	if os.Getenv("WAXSEAL_E2E") == "required" {
		t.Fatal("python3-dnspython is not installed")
	}
	t.Skip("python3-dnspython is not installed")
	return ""
}

func TestZoneFormIsReadByAnotherParser(t *testing.T) {
	python := python(t)
	for _, note := range nastyNotes {
		entries := entriesWith(t, RecordOptions{Note: note}, time.Hour)
		cmd := exec.Command(python, "-c", readZone)
		cmd.Stdin = strings.NewReader("$TTL 300\n" + format(t, "zone", entries))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("note %q: %v\n%s", note, err, out)
		}
		var want []string
		for _, e := range entries {
			want = append(want, fmt.Sprintf("%s. 3600 %x", Name(e.Key.Selector, e.Domain), e.Record.String()))
		}
		got := strings.Split(strings.TrimSpace(string(out)), "\n")
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("note %q: read\n%s\nwant\n%s", note, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestStringsAreCutAt255(t *testing.T) {
	for n, want := range map[int][]int{0: {0}, 1: {1}, 255: {255}, 256: {255, 1}, 510: {255, 255}, 511: {255, 255, 1}} {
		var got []int
		value := strings.Repeat("x", n)
		for _, s := range Strings(value) {
			got = append(got, len(s))
		}
		if !slices.Equal(got, want) || strings.Join(Strings(value), "") != value {
			t.Errorf("%d octets: strings of %d, want %d", n, got, want)
		}
	}
}

func TestWriteFormats(t *testing.T) {
	k := newKey(t, keystore.Ed25519)
	k.Selector = "2026a"
	r := &Record{KeyType: "ed25519", Note: `a"b`, Public: k.Public}
	entries := []Entry{{Domain: "example.com", Key: k, Record: r}, {Domain: "example.net", Key: k, Record: r, TTL: 90 * time.Minute}}
	value := r.String()
	quote := `"` + strings.ReplaceAll(value, `"`, `\"`) + `"`
	for form, want := range map[string]string{
		"zone": "2026a._domainkey.example.com. IN TXT ( " + quote + " )\n" +
			"2026a._domainkey.example.net. 5400 IN TXT ( " + quote + " )\n",
		"line":    "2026a._domainkey.example.com " + value + "\n2026a._domainkey.example.net " + value + "\n",
		"strings": "2026a._domainkey.example.com " + quote + "\n2026a._domainkey.example.net " + quote + "\n",
		"tsv":     "2026a._domainkey.example.com\t" + value + "\n2026a._domainkey.example.net\t" + value + "\n",
	} {
		if got := format(t, form, entries); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", form, got, want)
		}
		if got := format(t, form, nil); got != "" {
			t.Errorf("%s of nothing: %q", form, got)
		}
	}
	if err := Write(&bytes.Buffer{}, "xml", entries); err == nil || !strings.Contains(err.Error(), "zone") {
		t.Errorf("xml: %v, want an error that names the formats", err)
	}
	full := errors.New("disk full")
	for _, form := range Formats {
		if err := Write(writerFunc(func([]byte) (int, error) { return 0, full }), form, entries); !errors.Is(err, full) {
			t.Errorf("%s on a full disk: %v", form, err)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestWriteJSON(t *testing.T) {
	entries := entriesWith(t, RecordOptions{Note: "<&>"}, time.Hour)
	revoked := *newKey(t, keystore.RSA2048)
	revoked.Selector, revoked.State = "old", keystore.Revoked
	r, err := NewRecord(&revoked, RecordOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, Entry{Domain: "example.com", Key: &revoked, Record: r})
	var got []map[string]any
	text := format(t, "json", entries)
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, `\u003c`) {
		t.Error("escaped as for HTML")
	}
	for i, e := range entries {
		all := ""
		for _, s := range got[i]["strings"].([]any) {
			if len(s.(string)) > 255 {
				t.Errorf("a string of %d octets", len(s.(string)))
			}
			all += s.(string)
		}
		want := map[string]any{
			"domain": e.Domain, "selector": e.Key.Selector, "name": Name(e.Key.Selector, e.Domain), "type": "TXT", "ttl": 3600.0,
			"value": e.Record.String(), "strings": got[i]["strings"], "algorithm": string(e.Key.Algorithm),
			"bits": []any{1024.0, 2048.0, 3072.0, 4096.0, 256.0, 2048.0}[i], "state": string(e.Key.State),
		}
		if e.TTL == 0 {
			delete(want, "ttl")
		}
		if !reflect.DeepEqual(got[i], want) || all != e.Record.String() {
			t.Errorf("got %v, want %v", got[i], want)
		}
	}
	if got := format(t, "json", nil); got != "[]\n" {
		t.Errorf("of nothing: %q", got)
	}
}

// Another implementation signs with our keys and verifies with our records.
func TestRecordsSatisfyAVerifier(t *testing.T) {
	for _, o := range []RecordOptions{
		{},
		{StrictIdentity: true, Service: []string{"email"}, Hash: []string{"sha256"}, Note: `a; "b" \c`},
		{Service: []string{"*"}, Testing: true},
	} {
		for _, e := range entriesWith(t, o, 0) {
			signer, err := e.Key.Load(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var mail bytes.Buffer
			err = dkim.Sign(&mail, strings.NewReader("From: a@mail.example.com\r\n\r\nhello\r\n"),
				&dkim.SignOptions{Domain: e.Domain, Selector: e.Key.Selector, Signer: signer})
			if err != nil {
				t.Fatal(err)
			}
			results, err := dkim.VerifyWithOptions(&mail, &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
				if want := Name(e.Key.Selector, e.Domain); name != want {
					t.Errorf("looked up %s, want %s", name, want)
				}
				return []string{e.Record.String()}, nil
			}})
			if err != nil || len(results) != 1 || results[0].Err != nil {
				t.Errorf("%s with %+v: %+v, %v", e.Key.Algorithm, o, results, err)
			}
		}
	}
}

func TestDescribe(t *testing.T) {
	for state, want := range map[keystore.State]string{
		keystore.Pending: "waxseal dns check example.com --watch",
		keystore.Active:  "waxseal rotate example.com\n",
		keystore.Retired: "7 days after 2026-11-22 12:00 UTC",
		keystore.Revoked: "empty p=",
	} {
		for _, alg := range algorithms {
			k := *newKey(t, alg)
			k.Selector, k.State, k.Retired = "2026a", state, time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
			text := string(Describe(&keystore.Domain{Name: "example.com"}, &k))
			r, err := NewRecord(&k, RecordOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, want) || !strings.Contains(text, "\n2026a._domainkey.example.com\n") || !strings.Contains(text, "\n"+r.String()+"\n") {
				t.Errorf("%s %s:\n%s\nwant %q", alg, state, text, want)
			}
			// The line for a zone file is one.
			for line := range strings.Lines(text) {
				if strings.Contains(line, " IN TXT ") {
					if got := zone(t, line); len(got) != 1 || dnstest.Value(t, got[0]) != r.String() {
						t.Errorf("%s: zone line reads %v", alg, got)
					}
				}
			}
			if tcp := strings.Contains(text, "TCP"); tcp != (alg == keystore.RSA4096 && state != keystore.Revoked) {
				t.Errorf("%s %s: speaks of TCP: %v", alg, state, tcp)
			}
		}
	}
	k := *newKey(t, keystore.Ed25519)
	k.State = keystore.Removed
	if text := Describe(&keystore.Domain{Name: "example.com"}, &k); text != nil {
		t.Errorf("a removed key: %q", text)
	}
}

func BenchmarkParseRecord(b *testing.B) {
	r, err := NewRecord(newKey(b, keystore.RSA2048), RecordOptions{})
	if err != nil {
		b.Fatal(err)
	}
	text := r.String()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRecord(text); err != nil {
			b.Fatal(err)
		}
	}
}
