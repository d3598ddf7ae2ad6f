package main

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// writeConfig returns a configuration file with what differs from the defaults.
// Comments, by dotted key, stand above the setting or table they are about.
func writeConfig(c Config, comments map[string]string) string {
	var b strings.Builder
	writeTable(&b, "", "", reflect.ValueOf(c), reflect.ValueOf(defaultConfig()), comments)
	return b.String()
}

// writeTable writes the settings of a table, and then the tables in it. Path is
// its name as TOML, key the dotted one without quotation marks.
func writeTable(b *strings.Builder, path, key string, v, usual reflect.Value, comments map[string]string) {
	var own, below strings.Builder
	join := func(above, name string) string {
		if above == "" {
			return name
		}
		return above + "." + name
	}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("toml")
		path, key := join(path, name), join(key, name)
		field, usual := v.Field(i), usual.Field(i)
		if text, ok := tomlValue(field); ok {
			if !reflect.DeepEqual(field.Interface(), usual.Interface()) {
				writeComment(&own, comments[key])
				fmt.Fprintf(&own, "%s = %s\n", name, text)
			}
			continue
		}
		switch field.Kind() {
		case reflect.Map:
			for _, name := range sortedMapKeys(field) {
				at := path + "." + strconv.Quote(name)
				if bare(name) {
					at = path + "." + name
				}
				var inner strings.Builder
				element := field.MapIndex(reflect.ValueOf(name))
				writeTable(&inner, at, key+"."+name, element, defaultElement(element.Type()), comments)
				below.WriteString("\n")
				writeComment(&below, comments[key+"."+name])
				if !strings.HasPrefix(inner.String(), "["+at+"]\n") {
					fmt.Fprintf(&below, "[%s]\n", at)
				}
				below.WriteString(inner.String())
			}
		case reflect.Pointer:
			if !field.IsNil() {
				var inner strings.Builder
				writeTable(&inner, path, key, field.Elem(), reflect.Zero(field.Type().Elem()), comments)
				below.WriteString("\n" + inner.String())
			}
		default:
			var inner strings.Builder
			writeTable(&inner, path, key, field, usual, comments)
			if inner.Len() > 0 {
				below.WriteString("\n" + inner.String())
			}
		}
	}
	if own.Len() > 0 && path != "" {
		fmt.Fprintf(b, "[%s]\n", path)
	}
	b.WriteString(own.String())
	b.WriteString(below.String())
}

func writeComment(b *strings.Builder, comment string) {
	for line := range strings.Lines(comment) {
		fmt.Fprintf(b, "# %s\n", strings.TrimRight(line, "\n"))
	}
}

// bare says whether a name may stand in TOML without quotation marks.
func bare(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(c rune) bool {
		return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
	})
}

func sortedMapKeys(m reflect.Value) []string {
	names := map[string]bool{}
	for _, k := range m.MapKeys() {
		names[k.String()] = true
	}
	return sortedKeys(names)
}
