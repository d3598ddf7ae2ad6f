package main

import (
	"flag"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var updateTexts = flag.Bool("update", false, "write the texts on URLs that the packages have")

// What the program tells of a keystore's URL is what its package says.
func TestTextsOnURLs(t *testing.T) {
	for _, kind := range urlKinds {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("../../keystore", kind.name, kind.name+".go"), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		_, text, ok := strings.Cut(file.Doc.Text(), "\nThe URL is")
		if !ok {
			t.Fatalf("the comment of %s does not say what its URL is", kind.name)
		}
		text = "The URL is" + text
		path := filepath.Join("url", kind.name+".txt")
		if *updateTexts {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if have, _ := urlTexts.ReadFile("url/" + kind.name + ".txt"); string(have) != text && !*updateTexts {
			t.Errorf("%s is not what the comment of package %s says; run: go test ./cmd/waxseal -run TextsOnURLs -update", path, kind.name)
		}
	}
}
