package dns

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"waxseal/keystore/dns/dnstest"
)

// loadNotes put what zone files treat specially at every place of a string,
// so also at both ends of each.
var loadNotes = append(slices.Clone(nastyNotes),
	strings.Repeat(`"`, maxNote),
	strings.Repeat(`\`, maxNote),
	strings.Repeat(`\"`, maxNote/2),
	strings.Repeat(`"; `, maxNote/3),
	strings.Repeat("密钥", maxNote/6),
	`"Schlüssel; für \"Müller & Söhne\"; \059 ключ"`,
)

// loadEntries makes an entry of the domain for each algorithm and note.
func loadEntries(t *testing.T, domain string) []Entry {
	t.Helper()
	var entries []Entry
	for i, note := range loadNotes {
		for _, e := range entriesWith(t, RecordOptions{Note: note}, time.Hour) {
			k := *e.Key
			k.Selector = fmt.Sprintf("note%d-%s", i, k.Algorithm)
			entries = append(entries, Entry{Domain: domain, Key: &k, Record: e.Record, TTL: e.TTL})
		}
	}
	return entries
}

// numbered writes strings for a zone file with every octet as a number, which
// leaves nothing to quoting.
func numbered(all []string) string {
	var b strings.Builder
	for _, s := range all {
		b.WriteString(` "`)
		for _, c := range []byte(s) {
			fmt.Fprintf(&b, `\%03d`, c)
		}
		b.WriteByte('"')
	}
	return b.String()
}

// loaders turn what Write wrote into lines of a zone file, as the user of each
// format would: who has the bare value cuts it somewhere, not where we would.
var loaders = map[string]func(t *testing.T, text string) string{
	"zone": func(t *testing.T, text string) string { return text },
	"strings": func(t *testing.T, text string) (lines string) {
		for line := range strings.Lines(text) {
			name, quoted, _ := strings.Cut(line, " ")
			lines += name + ". 3600 TXT " + quoted
		}
		return lines
	},
	"line": func(t *testing.T, text string) string { return bareValues(text, " ") },
	"tsv":  func(t *testing.T, text string) string { return bareValues(text, "\t") },
	"json": func(t *testing.T, text string) (lines string) {
		var all []struct {
			Name, Type string
			TTL        int
			Strings    []string
		}
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			lines += fmt.Sprintf("%s. %d %s %s\n", e.Name, e.TTL, e.Type, numbered(e.Strings))
		}
		return lines
	},
}

func bareValues(text, separator string) (lines string) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), separator)
		var cut []string
		for part := range slices.Chunk([]byte(value), 100) {
			cut = append(cut, string(part))
		}
		lines += name + ". 3600 TXT" + numbered(cut) + "\n"
	}
	return lines
}

// expectLoaded compares what came back of a record with what was written.
func expectLoaded(t *testing.T, e *Entry, value string) {
	t.Helper()
	if value != e.Record.String() {
		t.Errorf("%s, note %q: got\n%q, want\n%q", e.Key.Selector, e.Record.Note, value, e.Record)
		return
	}
	if back, err := ParseRecord(value); err != nil || !reflect.DeepEqual(back, e.Record) {
		t.Errorf("%s: record %+v, %v; want %+v", e.Key.Selector, back, err, e.Record)
	}
}

// What Write writes gives back the exact value over the wire, from BIND that
// loaded it and from one that got it by zone transfer.
func TestFormsLoadInBIND(t *testing.T) {
	var zones []dnstest.Zone
	for form, load := range loaders {
		domain := form + ".example"
		zones = append(zones, dnstest.Zone{Name: domain, Text: load(t, format(t, form, loadEntries(t, domain)))})
	}
	b := dnstest.StartBIND(t, dnstest.BINDOptions{Zones: zones})
	for form := range loaders {
		t.Run(form, func(t *testing.T) {
			for _, e := range loadEntries(t, form+".example") {
				name := Name(e.Key.Selector, e.Domain)
				for _, server := range []*dnstest.Named{b.Primary, b.Secondary} {
					answer := dnstest.Query(t, server.Addr, name, mdns.TypeTXT).Answer
					if len(answer) != 1 || answer[0].Header().Ttl != 3600 {
						t.Fatalf("%s: answer %v, want one record for an hour", name, answer)
					}
					expectLoaded(t, &e, dnstest.Value(t, answer[0].(*mdns.TXT)))
				}
			}
		})
	}
}

// zoneReaders read a zone file with implementations other than BIND's.
var zoneReaders = map[string]func(t *testing.T, text string) []*mdns.TXT{
	"miekg/dns": zone,
	"ldns": func(t *testing.T, text string) []*mdns.TXT {
		if _, err := exec.LookPath("ldns-read-zone"); err != nil {
			if os.Getenv("WAXSEAL_E2E") == "required" {
				t.Fatal("no ldns-read-zone, which is in Debian's ldnsutils")
			}
			t.Skip("no ldns-read-zone, which is in Debian's ldnsutils")
		}
		file := filepath.Join(t.TempDir(), "zone")
		if err := os.WriteFile(file, []byte("$TTL 60\n@ IN SOA ns. h. 1 1 1 1 1\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		// It writes the zone anew, without the SOA.
		out, err := exec.Command("ldns-read-zone", "-n", file).Output()
		if err != nil {
			t.Fatalf("ldns-read-zone: %v\n%s", err, out)
		}
		return zone(t, string(out))
	},
}

func TestFormsLoadInOtherParsers(t *testing.T) {
	for reader, read := range zoneReaders {
		for form, load := range loaders {
			t.Run(reader+" "+form, func(t *testing.T) {
				entries := loadEntries(t, form+".example")
				got := map[string]string{}
				for _, rr := range read(t, load(t, format(t, form, entries))) {
					got[strings.TrimSuffix(rr.Hdr.Name, ".")] += dnstest.Value(t, rr)
				}
				if len(got) != len(entries) {
					t.Fatalf("%d names, want %d", len(got), len(entries))
				}
				for _, e := range entries {
					expectLoaded(t, &e, got[Name(e.Key.Selector, e.Domain)])
				}
			})
		}
	}
}
