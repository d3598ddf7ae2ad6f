package keystore

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func documentDomain(t testing.TB) *Domain {
	t.Helper()
	d := &Domain{Name: "example.com", Slots: []Slot{{"s1", "s1.dkim.example.net"}}}
	for _, selector := range []string{"a", "b"} {
		key, err := Generate(Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		public, algorithm, _ := PublicBytes(key.Public())
		at := time.Date(2026, 11, 22, 10, 20, 30, 0, time.FixedZone("", 3600))
		d.Keys = append(d.Keys, Key{Selector: selector, Algorithm: algorithm, State: Active, Public: public, Created: at, Activated: at, Urgent: true, Note: `"ü"`})
		d.History = append(d.History, Event{Time: at.UTC(), Selector: selector, What: WasCreated, By: "ann@mx1", Forced: true})
	}
	return d
}

func TestDocumentReadsBackWhatWasWritten(t *testing.T) {
	want := documentDomain(t)
	data, err := EncodeDocument(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDocument(want.Name, data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Keys {
		want.Keys[i].Created, want.Keys[i].Activated = want.Keys[i].Created.UTC(), want.Keys[i].Activated.UTC()
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	want.Keys[0].Note = strings.Repeat("x", MaxDocument)
	if _, err := EncodeDocument(want); err == nil {
		t.Error("a document that is too large was written")
	}
}

func TestBadRowOfADocumentLeavesTheOthers(t *testing.T) {
	data, err := EncodeDocument(documentDomain(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, old, new string
		keys           int
		selector       string // of the bad row
		active         bool
	}{
		{"unknown state", `"selector":"a","algorithm":"ed25519","state":"active"`, `"selector":"a","algorithm":"ed25519","state":"asleep"`, 1, "a", true},
		{"unknown field", `"selector":"a",`, `"selector":"a","colour":"red",`, 1, "a", true},
		{"pending and wrong", `"selector":"a","algorithm":"ed25519","state":"active"`, `"selector":"a","algorithm":"rsa-2048","state":"pending"`, 1, "a", false},
		{"selector that is none", `"selector":"a",`, `"selector":"A",`, 1, "", true},
		{"selector of another row", `"selector":"a",`, `"selector":"b",`, 0, "b", true},
		{"slot without a target", `"s1.dkim.example.net"`, `""`, 2, "s1", false},
		{"event that is none", `"what":"created"`, `"what":"baked"`, 2, "a", false},
		{"row that is no object", `"keys":[`, `"keys":[7,`, 2, "", true},
	} {
		text := strings.Replace(string(data), test.old, test.new, 1)
		if text == string(data) {
			t.Fatalf("%s: nothing to replace in %s", test.name, data)
		}
		d, err := DecodeDocument("example.com", []byte(text))
		if err != nil || len(d.Keys) != test.keys || len(d.Unreadable) == 0 || d.Unreadable[0].Selector != test.selector || d.Unreadable[0].Active != test.active {
			t.Errorf("%s: %+v, %v", test.name, d, err)
			continue
		}
		if !strings.Contains(d.Unreadable[0].Err.Error(), "of example.com: ") {
			t.Errorf("%s: %v", test.name, d.Unreadable[0].Err)
		}
	}
	for _, text := range []string{"", "x", "[]", `{"keys":7}`, `{"rows":[]}`, string(data) + "{}", strings.Repeat(" ", MaxDocument+1)} {
		if d, err := DecodeDocument("example.com", []byte(text)); !errors.Is(err, ErrBroken) {
			t.Errorf("%.20q: %+v, %v", text, d, err)
		}
	}
}

func FuzzDecodeDocument(f *testing.F) {
	data, err := EncodeDocument(documentDomain(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"keys":[{"selector":"a","state":"active"}],"slots":[{}],"history":[null]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := DecodeDocument("example.com", data)
		if err != nil || d.Whole() != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Fatalf("read, but not valid: %v", err)
		}
		text, err := EncodeDocument(d)
		if err != nil {
			return // too large, once written in full
		}
		again, err := DecodeDocument("example.com", text)
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("got %+v, %v\nwant %+v", again, err, d)
		}
	})
}
