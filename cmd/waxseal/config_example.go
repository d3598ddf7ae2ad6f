package main

import (
	"embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"reflect"
	"strconv"
	"strings"
)

// configSources are the texts whose comments are the manual of the settings.
//
//go:embed config.go config_rules.go config_keys.go config_confine.go
var configSources embed.FS

// setting is one line of the configuration file, or one table.
type setting struct {
	key     string // dotted, with NAME for a name of the reader's choice
	comment string
	value   string // the default as TOML; empty for a table
	table   bool
}

// settings returns every setting in the order of the file.
func settings() []setting {
	comments := fieldComments()
	var all []setting
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		t := v.Type()
		for i := range t.NumField() {
			key := prefix + t.Field(i).Tag.Get("toml")
			comment := comments[t.Name()+"."+t.Field(i).Name]
			field := v.Field(i)
			if value, ok := tomlValue(field); ok {
				all = append(all, setting{key: key, comment: comment, value: value})
				continue
			}
			switch field.Kind() {
			case reflect.Map:
				key += ".NAME"
				element := defaultElement(field.Type().Elem())
				if listen, ok := element.Interface().(ListenConfig); ok {
					if err := listen.Address.set(defaultSocket); err != nil {
						panic(err) // a constant of ours
					}
					element = reflect.ValueOf(listen)
				}
				all = append(all, setting{key: key, comment: comment, table: true})
				walk(key+".", element)
			case reflect.Pointer: // a table that is described elsewhere
				all = append(all, setting{key: key, comment: comment, table: true})
			default:
				all = append(all, setting{key: key, comment: comment, table: true})
				walk(key+".", field)
			}
		}
	}
	walk("", reflect.ValueOf(defaultConfig()))
	return all
}

// tomlValue writes a value as TOML; ok is false for tables.
func tomlValue(v reflect.Value) (string, bool) {
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return strconv.Quote(s.String()), true
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.FormatBool(v.Bool()), true
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10), true
	case reflect.String:
		return strconv.Quote(v.String()), true
	case reflect.Slice:
		var b strings.Builder
		width := 0
		for i := range v.Len() {
			item := strconv.Quote(v.Index(i).String())
			if i > 0 {
				b.WriteString(",")
				if width += len(item) + 2; width > 70 {
					width = 0
					b.WriteString("\n ")
				} else {
					b.WriteString(" ")
				}
			}
			b.WriteString(item)
		}
		return "[" + b.String() + "]", true
	}
	return "", false
}

// fieldComments returns the comments of struct fields by "Type.Field".
func fieldComments() map[string]string {
	comments := map[string]string{}
	err := fs.WalkDir(configSources, ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		source, err := configSources.ReadFile(path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if structure, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range structure.Fields.List {
					for _, name := range field.Names {
						comments[spec.Name.Name+"."+name.Name] = strings.TrimSpace(field.Doc.Text())
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		panic(err) // the text this program was compiled from
	}
	return comments
}

// writeExample writes the annotated example configuration: every setting with
// its meaning and its default, commented out.
func writeExample(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# All settings of waxseal and their defaults. A setting that is left out, or\n" +
		"# starts with #, has its default; an empty file is a good one.\n")
	for _, s := range settings() {
		b.WriteString("\n")
		for line := range strings.Lines(s.comment + "\n") {
			b.WriteString("# " + line)
		}
		_, name, _ := cutLast(s.key, ".")
		if s.table {
			// A named table would be there as soon as it is named.
			if strings.Contains(s.key, ".NAME") {
				b.WriteString("#")
			}
			key := strings.ReplaceAll(s.key, "keeper.domain.NAME", `keeper.domain."example.com"`)
			b.WriteString("[" + strings.ReplaceAll(key, ".NAME", ".example") + "]\n")
			continue
		}
		for line := range strings.Lines(name + " = " + s.value + "\n") {
			b.WriteString("#" + line)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", s, false
}
