package dns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// credentialPrefix marks the name of a systemd credential in the place of a
// path.
const credentialPrefix = "credential:"

// CredentialPath returns the file that a setting for a secret means:
// "credential:NAME" is the credential that systemd hands over by
// LoadCredential=NAME:… or its like (systemd.exec(5)); everything else is a
// path and stays as it is.
func CredentialPath(path string) (string, error) {
	name, ok := strings.CutPrefix(path, credentialPrefix)
	if !ok {
		return path, nil
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("credential %.80q: want the name that stands behind LoadCredential= in the unit, without a slash", name)
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("credential %s: %w", name,
			errors.New("systemd has handed over none (CREDENTIALS_DIRECTORY is not set); add LoadCredential="+name+":PATH to the unit, or give a path"))
	}
	return filepath.Join(dir, name), nil
}
