package storetest

import (
	"slices"
	"strings"
	"testing"

	"waxseal/keystore"
)

var (
	label63   = strings.Repeat("a1-_", 15) + "xyz"
	longNames = []string{
		label63 + ".example",
		strings.Repeat("a.", 126) + "b",
		label63 + "." + label63 + "." + label63 + "." + label63[:61],
	}
)

func oddNames(t *testing.T, s keystore.Store) {
	domains := append([]string{
		"localhost", "a", "0", "1.2.3.4", "0x0.example", "xn--bcher-kva.example", "xn--fa-hia.de", "a--b.example", "a-b.c-d.example",
		"_dmarc.example", "__.example", "_", "a_b.example", "sub.sub.sub.example.com", "con", "nul.txt", "domain.toml", "key.pem", "a.lock",
	}, longNames...)
	for _, name := range domains {
		k := newKey(t, "s")
		if len(name) > 240 { // no room for a record's name
			k.Selector = "s"
			d := &keystore.Domain{Name: name, Keys: []keystore.Key{k}}
			if err := s.Update(t.Context(), d); err == nil {
				t.Errorf("%s: a key whose record's name is too long was taken", name)
			}
			create(t, s, name)
			continue
		}
		create(t, s, name, k)
	}
	for _, name := range domains {
		if d := read(t, s, name); d.Name != name {
			t.Errorf("reading %q gives %q", name, d.Name)
		}
	}
	slices.Sort(domains)
	if names, err := s.List(t.Context(), "", 0); err != nil || !slices.Equal(names, domains) {
		t.Errorf("List = %q, %v; want %q", names, err, domains)
	}

	selectors := []string{
		"1", "_", "_x", "a-b", "a--b", "a.b", "a.b.c.d", "2026a", "2026a.mail", "domain", "domain.toml", "lock", "con", "pem", "x.pem", "x.txt",
		"xn--bcher-kva", label63,
	}
	d := &keystore.Domain{Name: "example.com"}
	for _, selector := range selectors {
		d.Keys = append(d.Keys, newKey(t, selector))
	}
	if err := s.Update(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	got := read(t, s, "example.com")
	same(t, got, d)
	for i := range got.Keys {
		usable(t, &got.Keys[i])
	}
}

func illegalNames(t *testing.T, s keystore.Store) {
	bad := []string{"", ".", "..", "a..b", ".a", "a.", "A", "a b", "a/b", "../a", `a\b`, "a;b", "a\nb", "a\x00", "ü", "-a", "a-", "a-.b",
		"*", "a:b", "a@b", "[1]", strings.Repeat("a", 64), strings.Repeat("a.", 127)}
	for _, name := range bad {
		if err := s.Update(t.Context(), &keystore.Domain{Name: name, Keys: []keystore.Key{newKey(t, "s")}}); err == nil {
			t.Errorf("domain %q was taken", name)
		}
		if err := s.Update(t.Context(), &keystore.Domain{Name: "example.com", Keys: []keystore.Key{newKey(t, name)}}); err == nil {
			t.Errorf("selector %q was taken", name)
		}
	}
	if names, err := s.List(t.Context(), "", 0); err != nil || len(names) != 0 {
		t.Errorf("List = %q, %v; want none", names, err)
	}
}
