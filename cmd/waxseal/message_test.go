package main

import (
	"bufio"
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
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
		m, err := parseMessage(bufio.NewReader(strings.NewReader(c.in)))
		if c.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		body := bodyOf(t, m)
		if err != nil || !reflect.DeepEqual(m.fields, c.fields) || body != c.body {
			t.Errorf("%s: got %q, %q, %v", c.name, m.fields, body, err)
		}
	}
}

func bodyOf(t *testing.T, m *rawMessage) string {
	t.Helper()
	body, err := io.ReadAll(m.body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestLinesOfFilesGetCRLF(t *testing.T) {
	for in, want := range map[string]string{"": "", "a\nb\r\nc": "a\r\nb\r\nc", "\n\n": "\r\n\r\n", "a\rb\r\n": "a\rb\r\n", "\r\r\n\n": "\r\r\n\r\n"} {
		for _, size := range []int{1, 2, 3, 100} {
			if got := toCRLF(t, strings.NewReader(in), size); got != want {
				t.Errorf("%q, by pieces of %d: got %q, want %q", in, size, got, want)
			}
		}
		if got := toCRLF(t, iotest.OneByteReader(strings.NewReader(in)), 3); got != want {
			t.Errorf("%q, octet by octet: got %q, want %q", in, got, want)
		}
	}
}

// toCRLF reads lines with CRLF into pieces of a size.
func toCRLF(t *testing.T, from io.Reader, size int) string {
	t.Helper()
	var out []byte
	for c, p := (&crlfReader{from: from}), make([]byte, size); ; {
		n, err := c.Read(p)
		out = append(out, p[:n]...)
		if err == io.EOF {
			return string(out)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte("From: a\r\nTo: b,\r\n c\r\n\r\nbody\r\n"))
	f.Add([]byte("\n"))
	f.Add([]byte("a:\n \n\t\nb:"))
	f.Fuzz(func(t *testing.T, in []byte) {
		text := toCRLF(t, bytes.NewReader(in), 1+len(in)%7)
		if strings.Contains(strings.ReplaceAll(text, "\r\n", ""), "\n") {
			t.Fatalf("a bare LF is left in %q", text)
		}
		if strings.ReplaceAll(text, "\r\n", "\n") != strings.ReplaceAll(string(in), "\r\n", "\n") {
			t.Fatalf("%q is read as %q", in, text)
		}
		m, err := parseMessage(bufio.NewReaderSize(strings.NewReader(text), 16))
		if err != nil {
			return
		}
		body := bodyOf(t, m)
		var back bytes.Buffer
		for _, field := range m.fields {
			if field.name == "" || strings.ContainsAny(field.name, ":\n") {
				t.Fatalf("field name %q", field.name)
			}
			back.WriteString(field.name + ":" + field.value + "\r\n")
		}
		back.WriteString("\r\n")
		back.WriteString(body)
		again, err := parseMessage(bufio.NewReader(bytes.NewReader(back.Bytes())))
		if err != nil || !reflect.DeepEqual(again.fields, m.fields) || bodyOf(t, again) != body {
			t.Fatalf("%q is written as %q and read back as %v, %v", in, back.Bytes(), again, err)
		}
	})
}

func TestAMessageIsBounded(t *testing.T) {
	over := &stdinReader{from: strings.NewReader("the end\n"), n: maxMessage}
	for range 2 {
		if n, err := io.Copy(io.Discard, over); err == nil || n > 8 || !strings.Contains(err.Error(), "over 4096 MiB") {
			t.Errorf("a body of over 4 GiB: %d, %v", n, err)
		}
	}
	if _, err := readMessage(strings.NewReader("Subject: " + strings.Repeat("x", maxHeader))); err == nil || !strings.Contains(err.Error(), "header over 4 MiB") {
		t.Errorf("a header of over 4 MiB: %v", err)
	}
}
