package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-msgauth/dkim"
	"github.com/spf13/cobra"

	"waxseal/keystore/dns"
)

// Limits of verify. The verifier starts a goroutine for each signature, and its
// time grows with the square of the number of fields.
const (
	maxSignatures   = 20
	maxVerifyFields = 2000
	maxVerifyHeader = 1 << 20
	dnsTimeout      = 10 * time.Second
)

// verdict is what verify says about one signature.
type verdict struct {
	Pass      bool   `json:"pass"`
	Domain    string `json:"domain"`
	Selector  string `json:"selector"`
	Algorithm string `json:"algorithm"`
	Bits      int    `json:"bits,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

func (v verdict) String() string {
	word := "fail"
	if v.Pass {
		word = "pass"
	}
	s := fmt.Sprintf("%s d=%s s=%s a=%s", word, v.Domain, v.Selector, v.Algorithm)
	if v.Bits > 0 {
		s += fmt.Sprintf(" bits=%d", v.Bits)
	}
	if v.Reason != "" {
		s += ": " + v.Reason
	}
	return s
}

func (a *app) verifyCommand() *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use:   "verify",
		Short: "Verify the DKIM signatures of a message",
		Long: fmt.Sprintf(`Verify the message on standard input, and print one line for each of its
signatures. The exit status is 0 when there is one and all pass. Only the first
%d signatures are looked at; any more count as failed.

Keys come from DNS, or with --keys from a file of lines "name<TAB>record", as
"waxseal dns show --format tsv" prints them.`, maxSignatures),
		Example: `  waxseal verify < signed.eml
  waxseal dns show example.com --format tsv > keys.tsv
  waxseal verify --keys keys.tsv < signed.eml`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			lookup := lookupDNS(c.Context())
			if keys != "" {
				var err error
				if lookup, err = lookupFile(keys); err != nil {
					return err
				}
			}
			message, err := readMessage(a.stdin)
			if err != nil {
				return err
			}
			verdicts, err := verify(message, lookup)
			if err != nil {
				return err
			}
			return a.printVerdicts(verdicts)
		},
	}
	c.Flags().StringVar(&keys, "keys", "", "`file` of name<TAB>record lines to use instead of DNS")
	a.jsonFlag(c)
	return c
}

func (a *app) printVerdicts(verdicts []verdict) error {
	failed := len(verdicts) == 0
	for _, v := range verdicts {
		failed = failed || !v.Pass
	}
	switch {
	case a.json:
		if verdicts == nil {
			verdicts = []verdict{}
		}
		if err := a.printJSON(verdicts); err != nil {
			return err
		}
	case len(verdicts) == 0:
		fmt.Fprintln(a.stdout, "none: the message has no DKIM signature")
	default:
		for _, v := range verdicts {
			fmt.Fprintln(a.stdout, v)
		}
	}
	if failed {
		return errFindings
	}
	return nil
}

type lookupTXT func(name string) ([]string, error)

// verify checks all signatures of a message, top to bottom.
func verify(m *rawMessage, lookup lookupTXT) ([]verdict, error) {
	lookup = once(lookup)
	var text bytes.Buffer
	var verdicts []verdict
	for _, f := range m.fields {
		if strings.EqualFold(f.name, "DKIM-Signature") {
			verdicts = append(verdicts, parseTags(f.value))
		}
		text.WriteString(f.name + ":" + f.value + "\r\n")
	}
	if len(m.fields) > maxVerifyFields || text.Len() > maxVerifyHeader {
		return nil, fmt.Errorf("message with %d header fields of %d bytes, want at most %d and %d", len(m.fields), text.Len(), maxVerifyFields, maxVerifyHeader)
	}
	text.WriteString("\r\n")

	body := &quietReader{from: m.body}
	results, err := dkim.VerifyWithOptions(io.MultiReader(&text, body), &dkim.VerifyOptions{
		LookupTXT:        lookup,
		MaxVerifications: maxSignatures,
	})
	if body.err != nil {
		return nil, body.err
	}
	if err != nil && !errors.Is(err, dkim.ErrTooManySignatures) {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	for i := range verdicts {
		if i >= len(results) {
			verdicts[i].Reason = fmt.Sprintf("not looked at: only the first %d signatures are", maxSignatures)
			continue
		}
		verdicts[i].judge(results[i], lookup)
		verdicts[i].Reason = printable(verdicts[i].Reason)
	}
	return verdicts, nil
}

// quietReader ends where reading fails, and keeps the error: one would leave
// goroutines of the verifier behind.
type quietReader struct {
	from io.Reader
	err  error
}

func (q *quietReader) Read(p []byte) (int, error) {
	n, err := q.from.Read(p)
	if err != nil && err != io.EOF {
		q.err, err = err, io.EOF
	}
	return n, err
}

// judge fills in what the verifier and the key record say.
func (v *verdict) judge(r *dkim.Verification, lookup lookupTXT) {
	v.Pass = r.Err == nil
	if r.Err != nil {
		v.Reason = strings.TrimPrefix(r.Err.Error(), "dkim: ")
	}
	if v.Domain == "" || v.Selector == "" {
		return
	}
	records, err := lookup(dns.Name(v.Selector, v.Domain))
	if err != nil || len(records) == 0 {
		return
	}
	record, err := dns.ParseRecord(records[0])
	if err != nil {
		return
	}
	_, v.Bits = record.Key()
	for _, flag := range record.Flags {
		switch flag {
		case "y":
			v.note("the record says the domain is testing (t=y), so receivers may ignore the signature")
		case "s":
			// The verifier reads this flag but does not heed it
			// (RFC 6376, section 3.6.1).
			_, domain, ok := cutLast(r.Identifier, "@")
			if ok && v.Pass && !strings.EqualFold(domain, v.Domain) {
				v.Pass = false
				v.note("i= is of a subdomain, which the record forbids (t=s)")
			}
		}
	}
}

func (v *verdict) note(s string) {
	if v.Reason != "" {
		s = v.Reason + "; " + s
	}
	v.Reason = s
}

// parseTags reads the tags of a signature that the verifier does not return
// (RFC 6376, section 3.2).
func parseTags(value string) verdict {
	var v verdict
	for tag := range strings.SplitSeq(value, ";") {
		name, content, _ := strings.Cut(tag, "=")
		content = strings.Join(strings.Fields(content), "")
		switch strings.TrimSpace(name) {
		case "d":
			v.Domain = printable(content)
		case "s":
			v.Selector = printable(content)
		case "a":
			v.Algorithm = printable(content)
		}
	}
	return v
}

// printable keeps what a message, a record or another user's process says from
// speaking to a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// once asks for each name only once; the verifier and judge ask for the same.
func once(lookup lookupTXT) lookupTXT {
	type answer struct {
		records []string
		err     error
	}
	var mu sync.Mutex
	known := map[string]answer{}
	return func(name string) ([]string, error) {
		mu.Lock()
		defer mu.Unlock()
		got, ok := known[name]
		if !ok {
			got.records, got.err = lookup(name)
			known[name] = got
		}
		return got.records, got.err
	}
}

func lookupDNS(ctx context.Context) lookupTXT {
	return func(name string) ([]string, error) {
		ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
		defer cancel()
		return net.DefaultResolver.LookupTXT(ctx, name)
	}
}

// lookupFile answers from a file of name<TAB>record lines.
func lookupFile(path string) (lookupTXT, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	records := map[string][]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<16)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimRight(lines.Text(), "\r")
		if line == "" || line[0] == '#' {
			continue
		}
		name, record, ok := strings.Cut(line, "\t")
		if !ok {
			return nil, withHint(fmt.Errorf("%s:%d: no tab between name and record", path, number),
				"write it with \"waxseal dns show DOMAIN --format tsv\"")
		}
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		records[name] = append(records[name], record)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return func(name string) ([]string, error) {
		found, ok := records[strings.ToLower(strings.TrimSuffix(name, "."))]
		if !ok {
			return nil, &net.DNSError{Err: "no such record in " + path, Name: name, IsNotFound: true}
		}
		return found, nil
	}, nil
}
