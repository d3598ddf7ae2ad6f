package keystore

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The settings that rows of domain.toml may have, and what is a value of each.

// fields are the settings of a row. Each takes a decoded value and says what it
// wants instead if that is no good.
type fields[Row any] map[string]func(r *Row, value any) (want string)

var keyFields = fields[Key]{
	"selector":  textField(func(k *Key) *string { return &k.Selector }),
	"algorithm": textField(func(k *Key) *string { return (*string)(&k.Algorithm) }),
	"state":     wordField(states, func(k *Key) *State { return &k.State }),
	"public": func(k *Key, value any) string {
		s, ok := value.(string)
		public, err := base64.StdEncoding.Strict().DecodeString(s)
		if !ok || err != nil || strings.ContainsAny(s, "\r\n") {
			return "the public key in base64"
		}
		if len(public) > 0 {
			k.Public = public
		}
		return ""
	},
	"created":   timeField(func(k *Key) *time.Time { return &k.Created }),
	"activated": timeField(func(k *Key) *time.Time { return &k.Activated }),
	"retired":   timeField(func(k *Key) *time.Time { return &k.Retired }),
	"revoked":   timeField(func(k *Key) *time.Time { return &k.Revoked }),
	"removed":   timeField(func(k *Key) *time.Time { return &k.Removed }),
	"published": timeField(func(k *Key) *time.Time { return &k.Published }),
	"seen":      timeField(func(k *Key) *time.Time { return &k.Seen }),
	"ready":     timeField(func(k *Key) *time.Time { return &k.Ready }),
	"withdrawn": timeField(func(k *Key) *time.Time { return &k.Withdrawn }),
	"urgent":    boolField(func(k *Key) *bool { return &k.Urgent }),
	"note":      textField(func(k *Key) *string { return &k.Note }),
	"reason":    textField(func(k *Key) *string { return &k.Reason }),
}

var slotFields = fields[Slot]{
	"selector": textField(func(s *Slot) *string { return &s.Selector }),
	"target":   textField(func(s *Slot) *string { return &s.Target }),
}

var eventFields = fields[Event]{
	"time":     timeField(func(e *Event) *time.Time { return &e.Time }),
	"selector": textField(func(e *Event) *string { return &e.Selector }),
	"what":     wordField(whats, func(e *Event) *What { return &e.What }),
	"by":       textField(func(e *Event) *string { return &e.By }),
	"reason":   textField(func(e *Event) *string { return &e.Reason }),
	"forced":   boolField(func(e *Event) *bool { return &e.Forced }),
}

func textField[Row any](field func(*Row) *string) func(*Row, any) string {
	return func(r *Row, value any) string {
		s, ok := value.(string)
		if !ok {
			return "a string in quotes"
		}
		*field(r) = s
		return ""
	}
}

func wordField[Row any, Word ~string](words []Word, field func(*Row) *Word) func(*Row, any) string {
	return func(r *Row, value any) string {
		s, _ := value.(string)
		if !slices.Contains(words, Word(s)) {
			return fmt.Sprintf("one of %q", words)
		}
		*field(r) = Word(s)
		return ""
	}
}

func boolField[Row any](field func(*Row) *bool) func(*Row, any) string {
	return func(r *Row, value any) string {
		b, ok := value.(bool)
		if !ok {
			return "true or false"
		}
		*field(r) = b
		return ""
	}
}

func timeField[Row any](field func(*Row) *time.Time) func(*Row, any) string {
	return func(r *Row, value any) string {
		t, ok := value.(time.Time)
		// The library gives times without an offset locations of such names.
		if !ok || strings.HasSuffix(t.Location().String(), "-local") {
			return "a time such as 2026-01-31T12:00:00Z, without quotes"
		}
		*field(r) = t.UTC()
		return ""
	}
}

// names are the settings of the row, sorted.
func (f fields[Row]) names() []string { return slices.Sorted(maps.Keys(f)) }

// setter returns the function that sets a field of the row, or nil.
func (f fields[Row]) setter(name string, r *Row) func(value any) string {
	set := f[name]
	if set == nil {
		return nil
	}
	return func(value any) string { return set(r, value) }
}
