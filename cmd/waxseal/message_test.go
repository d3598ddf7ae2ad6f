package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func TestParseMessage(t *testing.T) {
	for _, c := range []struct {
		name, in string
		fields   []rawField
		body     string
		err      string
	}{
		{"fields, fold and body", "From: a\r\nTo:b,\r\n\tc\r\n\r\nbody\r\n", []rawField{{"From", " a"}, {"To", "b,\r\n\tc"}}, "body\r\n", ""},
		{"no blank line: no body", "From: a\r\n", []rawField{{"From", " a"}}, "", ""},
		{"no line end", "From: a", []rawField{{"From", " a"}}, "", ""},
		{"no header", "\r\nbody", nil, "body", ""},
		{"blank before the colon", "Subject : x\r\n\r\n", []rawField{{"Subject", " x"}}, "", ""},
		{"fold first", " x\r\n", nil, "", "line 1: begins with a blank"},
		{"no colon", "From: a\r\nwhat\r\n", nil, "", "line 2: no header field"},
		{"no name", ": a\r\n", nil, "", "line 1: no header field"},
		{"mbox", "From a@b Sat Nov 21\r\n", nil, "", "line 1: no header field"},
	} {
		m, err := parseMessage([]byte(c.in))
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(m.fields, c.fields) || string(m.body) != c.body {
			t.Errorf("%s: got %q, %q, %v", c.name, m.fields, m.body, err)
		}
	}
}

func TestLinesOfFilesGetCRLF(t *testing.T) {
	for in, want := range map[string]string{"": "", "a\nb\r\nc": "a\r\nb\r\nc", "\n\n": "\r\n\r\n", "a\rb\r\n": "a\rb\r\n", "\r\r\n\n": "\r\r\n\r\n"} {
		if got := string(toCRLF([]byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("From: a\r\nTo: b,\r\n c\r\n\r\nbody\r\n"))
	f.Add([]byte("\n"))
	f.Add([]byte("a:\n \n\t\nb:"))
	f.Fuzz(func(t *testing.T, in []byte) {
		text := toCRLF(in)
		if strings.Contains(strings.ReplaceAll(string(text), "\r\n", ""), "\n") {
			t.Fatalf("a bare LF is left in %q", text)
		}
		m, err := parseMessage(text)
		if err != nil {
			return
		}
		var back bytes.Buffer
		for _, field := range m.fields {
			if field.name == "" || strings.ContainsAny(field.name, ":\n") {
				t.Fatalf("field name %q", field.name)
			}
			back.WriteString(field.name + ":" + field.value + "\r\n")
		}
		back.WriteString("\r\n")
		back.Write(m.body)
		again, err := parseMessage(back.Bytes())
		if err != nil || !reflect.DeepEqual(again.fields, m.fields) || !bytes.Equal(again.body, m.body) {
			t.Fatalf("%q is written as %q and read back as %v, %v", in, back.Bytes(), again, err)
		}
	})
}
