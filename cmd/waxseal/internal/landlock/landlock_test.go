package landlock

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestCovers(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a", "ab", "b", "b/c"} {
		if err := os.Mkdir(at(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(at("b"), at("link")); err != nil {
		t.Fatal(err)
	}
	r := &Rules{Paths: []Path{{Path: at("a"), Access: Read}, {Path: at("link"), Access: Write}, {Path: at("b/c"), Access: Execute}}}
	for _, test := range []struct {
		name   string
		path   string
		access Access
		want   bool
	}{
		{"the directory itself", "a", Read, true},
		{"a file below", "a/x", Read, true},
		{"a file that is deep below, and nowhere yet", "a/x/y/z", Read, true},
		{"another access", "a/x", Write, false},
		{"a name that begins alike", "ab", Read, false},
		{"nothing about it", ".", Read, false},
		{"what a link of the rule leads to", "b/x", Write, true},
		{"who may write may read", "b/x", Read, true},
		{"a link on the way", "link/x", Write, true},
		{"two rules together", "b/c/x", Read | Write | Execute, true},
		{"only one of them", "b/x", Read | Execute, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := r.Covers(Path{Path: at(test.path), Access: test.access}); got != test.want {
				t.Errorf("%s to %s: %t, want %t", test.access, test.path, got, test.want)
			}
		})
	}
	if all := (&Rules{Paths: []Path{{Path: "/", Access: Read}}}); !all.Covers(Path{Path: dir, Access: Read}) {
		t.Error("a rule for / does not cover what is below")
	}
}

func TestAccessAsText(t *testing.T) {
	for a := Access(0); a < 1<<len(accessWords); a++ {
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var back Access
		if err := json.Unmarshal(text, &back); err != nil || back != a {
			t.Errorf("%s is read as %s: %v", text, back, err)
		}
	}
	var a Access
	if err := a.UnmarshalText([]byte("read fly")); err == nil {
		t.Error("an access that is none was taken")
	}
}
