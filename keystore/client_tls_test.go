package keystore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClientTLS(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, ca, cert, key, want string }{
		{"the system's authorities", "", "", "", ""},
		{"a file of authorities that is not there", "/does/not/exist", "", "", "ca: open /does/not/exist"},
		{"one without certificates", empty, "", "", "has no certificate in PEM"},
		{"a certificate without its key", "", empty, "", "one is missing"},
		{"a certificate that is none", "", empty, empty, "cert: "},
	} {
		c, err := ClientTLS(test.ca, test.cert, test.key)
		if test.want == "" && (err != nil || c.MinVersion == 0) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}
