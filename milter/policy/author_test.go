package policy

import (
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

var authorFieldRows = []struct {
	what, field, value, want string // want empty: names no domain
	reason                   string // part of the error
}{
	{"an identifier alone", "List-Id", " <dev.lists.example.org>", "lists.example.org", ""},
	{"an identifier without a blank before it", "List-Id", "<dev.lists.example.org>", "lists.example.org", ""},
	{"a phrase", "List-Id", " Development of things <dev.lists.example.org>", "lists.example.org", ""},
	{"a quoted phrase", "List-Id", ` "Dev: a <list>" <dev.lists.example.org>`, "lists.example.org", ""},
	{"an encoded phrase", "List-Id", " =?utf-8?q?dev=40example=2Enet?= <dev.lists.example.org>", "lists.example.org", ""},
	{"a folded field", "List-Id", " Development\r\n\t<dev.lists.example.org>", "lists.example.org", ""},
	{"a comment behind", "List-Id", " <dev.lists.example.org> (moderated)", "lists.example.org", ""},
	{"upper case", "List-Id", " <Dev.Lists.Example.ORG>", "lists.example.org", ""},
	{"a label of special characters", "List-Id", " <dev+x_y.lists.example.org>", "lists.example.org", ""},
	{"a list of a whole domain", "List-Id", " <dev.example.org>", "example.org", ""},
	{"an unmanaged list", "List-Id", " <da39a3ee.localhost>", "", "a single label"},
	{"an identifier of one label", "List-Id", " <dev>", "", `domain name "": empty`},
	{"an underscore behind the label", "List-Id", " <dev.li_sts.example.org>", "", "underscore"},
	{"no brackets", "List-Id", " dev.lists.example.org", "", "List-Id field: nothing in < >"},
	{"empty brackets", "List-Id", " <>", "", "empty"},
	{"an open bracket", "List-Id", " <dev.lists.example.org", "", "no list identifier between < and >"},
	{"an address", "List-Id", " <dev@lists.example.org>", "", "no list identifier between < and >"},
	{"a blank inside", "List-Id", " < dev.lists.example.org>", "", "no list identifier between < and >"},
	{"two identifiers", "List-Id", " <dev.lists.example.org> <x.example.net>", "", "text behind the list identifier"},
	{"text behind", "List-Id", " <dev.lists.example.org> dev", "", "text behind the list identifier"},
	{"an address in a comment", "List-Id", " (<x.example.net>) <dev.lists.example.org>", "", "List-Id field: an address in a comment"},
	{"a quotation mark without its half", "List-Id", ` "dev <dev.lists.example.org>`, "", "quotation mark"},
	{"an open comment behind", "List-Id", " <dev.lists.example.org> (moderated", "", "parenthesis"},
	{"a colon", "List-Id", " dev: <dev.lists.example.org>", "", "character ':' before <"},
	{"nothing", "List-Id", "", "", "nothing in < >"},
	{"a NUL", "List-Id", " <dev.lists\x00.example.org>", "", "List-Id field: a NUL"},

	{"one URL", "List-Post", " <mailto:dev@lists.example.org>", "lists.example.org", ""},
	{"a subject", "List-Post", " <mailto:dev@lists.example.org?subject=post%20to>", "lists.example.org", ""},
	{"other URLs beside it", "List-Post", " <https://www.example.net/a,b>, <mailto:dev@lists.example.org>", "lists.example.org", ""},
	{"two of one domain", "List-Owner", " <mailto:a@lists.example.org>,\r\n\t<mailto:b@LISTS.example.org>", "lists.example.org", ""},
	{"comments", "List-Post", " (see) <mailto:dev@lists.example.org> (below)", "lists.example.org", ""},
	{"two domains", "List-Post", " <mailto:a@lists.example.org>, <mailto:b@example.net>", "", "List-Post field: addresses of two domains"},
	{"a closed list", "List-Post", " NO (closed)", "", "no < where a URL is due"},
	{"no mailto", "List-Post", " <https://www.example.net/>", "", "no mailto address"},
	{"no brackets", "List-Post", " mailto:dev@lists.example.org", "", "no < where a URL is due"},
	{"an open bracket", "List-Post", " <mailto:dev@lists.example.org", "", "a < without >"},
	{"a comma with nothing behind it", "List-Post", " <mailto:dev@lists.example.org>,", "", "no < where a URL is due"},
	{"an address in a comment before", "List-Post", " (<mailto:x@example.net>) <mailto:dev@lists.example.org>", "", "List-Post field: an address in a comment"},
	{"an address in a comment behind", "List-Post", " <mailto:dev@lists.example.org> (<mailto:x@example.net>)", "", "List-Post field: an address in a comment"},
	{"text behind", "List-Post", " <mailto:dev@lists.example.org> x", "", "text behind a URL"},
	{"an encoded @", "List-Post", " <mailto:dev%40lists.example.org>", "", "not plain"},
	{"an encoded character", "List-Post", " <mailto:d%65v@lists.example.org>", "", "not plain"},
	{"two addresses in a URL", "List-Post", " <mailto:a@lists.example.org,b@example.net>", "", "not plain"},
	{"two @", "List-Post", " <mailto:a@b@lists.example.org>", "", "an address; want what stands after its @"},
	{"no local part", "List-Post", " <mailto:@lists.example.org>", "", "an empty local part"},
	{"no domain", "List-Post", " <mailto:dev@>, <mailto:dev@lists.example.org>", "", "not plain"},
	{"a blank in the address", "List-Post", " <mailto:dev @lists.example.org>", "", "character ' '"},
	{"a trailing dot", "List-Post", " <mailto:dev@lists.example.org.>", "", "a label is empty"},

	{"an address", "Sender", " Dev <dev@lists.example.org>", "lists.example.org", ""},
	{"two domains", "Sender", " a@lists.example.org, b@example.net", "", "Sender field: addresses of two domains"},
	{"a group", "Sender", " Devs: a@lists.example.org;", "", "Sender field: a group"},
	{"an address as name", "Resent-From", " a@lists.example.org <b@example.net>", "", "Resent-From field: text before <"},
	{"no domain name", "Resent-Sender", " a@localhost", "", "Resent-Sender field: domain name"},
}

func TestAuthorFields(t *testing.T) {
	for _, row := range authorFieldRows {
		a, err := readAuthorField(row.field, []string{row.value}, false)
		switch {
		case row.want != "" && (err != nil || a.domain != row.want || a.field != row.field):
			t.Errorf("%s: %s:%q: got %+v, %v, want %s", row.what, row.field, row.value, a, err, row.want)
		case row.want == "" && (err == nil || !strings.Contains(err.Error(), row.reason) || !strings.HasPrefix(err.Error(), row.field+" field: ")):
			t.Errorf("%s: %s:%q: got %+v, error %v, want %q", row.what, row.field, row.value, a, err, row.reason)
		}
	}
}

func TestLocalPartsAreCollected(t *testing.T) {
	for _, row := range []struct {
		field, value string
		want         []string
	}{
		{"Sender", ` Ann <Ann@a.example>, "b c"@a.example (B), "d.e"@a.example`, []string{"Ann", `"b c"`, `"d.e"`}},
		{"List-Post", " <mailto:a@a.example>, <https://www.example.net/>, <mailto:b@a.example>", []string{"a", "b"}},
		{"List-Id", " <dev.a.example>", nil},
	} {
		a, err := readAuthorField(row.field, []string{row.value}, true)
		if err != nil || !reflect.DeepEqual(a.locals, row.want) {
			t.Errorf("%s:%q: got %q, %v, want %q", row.field, row.value, a.locals, err, row.want)
		}
		if a, _ := readAuthorField(row.field, []string{row.value}, false); a.locals != nil {
			t.Errorf("%s:%q: %q collected although nobody asks", row.field, row.value, a.locals)
		}
	}
}

func TestFieldsAreNamedInTheirUsualSpelling(t *testing.T) {
	r := mustOptions(t, Options{AuthorFields: []string{"list-id", "SENDER", "from"}})
	if got, want := r.Fields(), []string{"List-Id", "Sender"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := mustOptions(t, Options{}).Fields(); got != nil {
		t.Errorf("got %q by default", got)
	}
}

// bracketed is how a program reads a list identifier that looks for it with an
// expression, as many do.
var bracketed = regexp.MustCompile(`<([^<>]*)>[^<>]*$`)

// FuzzListID: no field makes the parser panic, and when it names a domain, then
// that is what stands behind the first dot in the last pair of brackets.
func FuzzListID(f *testing.F) {
	for _, row := range authorFieldRows {
		f.Add(row.value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		a, err := readAuthorField("List-Id", []string{value}, true)
		if err != nil {
			return
		}
		if again, err := Domain(a.domain); err != nil || again != a.domain {
			t.Errorf("List-Id:%q names %q, which Domain makes %q, %v", value, a.domain, again, err)
		}
		id := bracketed.FindStringSubmatch(value)
		if id == nil {
			t.Fatalf("List-Id:%q names %q, where another sees nothing", value, a.domain)
		}
		_, owner, _ := strings.Cut(id[1], ".")
		if other, err := Domain(owner); err != nil || other != a.domain {
			t.Errorf("List-Id:%q names %q, another sees %q, %v", value, a.domain, other, err)
		}
	})
}

// FuzzMailto: no field makes the parser panic, and when it names a domain, then
// net/url sees that domain in every mailto URL between brackets.
func FuzzMailto(f *testing.F) {
	for _, row := range authorFieldRows {
		f.Add(row.value)
	}
	brackets := regexp.MustCompile(`<([^>]*)>`)
	comments := regexp.MustCompile(`\([^()]*\)`)
	f.Fuzz(func(t *testing.T, value string) {
		a, err := readAuthorField("List-Post", []string{value}, true)
		if err != nil {
			return
		}
		if again, err := Domain(a.domain); err != nil || again != a.domain {
			t.Errorf("List-Post:%q names %q, which Domain makes %q, %v", value, a.domain, again, err)
		}
		if strings.Contains(value, `\`) || comments.MatchString(value) {
			return // brackets in comments are refused, but an expression cannot see where comments end
		}
		seen := 0
		for _, m := range brackets.FindAllStringSubmatch(value, -1) {
			u, err := url.Parse(m[1])
			if err != nil || u.Scheme != "mailto" {
				continue
			}
			seen++
			if other, err := Domain(u.Opaque[strings.LastIndexByte(u.Opaque, '@')+1:]); err != nil || other != a.domain {
				t.Errorf("List-Post:%q names %q, net/url sees %q, %v", value, a.domain, other, err)
			}
		}
		if seen > len(a.locals) {
			t.Errorf("List-Post:%q: net/url sees %d addresses, we %q", value, seen, a.locals)
		}
	})
}
