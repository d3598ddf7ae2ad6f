package keystore

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// maxSecret bounds a file with a password or a token.
const maxSecret = 16 << 10

// ReadSecret reads the password or token of a store's client, which is all that
// its file has; a line end behind it does not count. An empty one is an error: to
// some servers it is no login at all, and succeeds (RFC 4513, section 5.1.2).
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch secret := strings.TrimRight(string(data), "\r\n"); {
	case err != nil:
		return "", err
	case len(data) > maxSecret:
		return "", fmt.Errorf("%s: more than %d bytes, want a password or token and nothing else", path, maxSecret)
	case secret == "":
		return "", fmt.Errorf("%s: empty, want a password or token", path)
	default:
		return secret, nil
	}
}
