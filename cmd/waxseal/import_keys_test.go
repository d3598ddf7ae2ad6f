package main

import (
	"encoding/base64"
	"strings"
	"testing"

	"waxseal/keystore"
)

func TestBareKeysAreRead(t *testing.T) {
	const seed = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=" // RFC 8032, section 7.1
	public := "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	long := func(public string) string {
		var both []byte
		for _, s := range []string{seed, public} {
			b, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				t.Fatal(err)
			}
			both = append(both, b...)
		}
		return base64.StdEncoding.EncodeToString(both)
	}
	for _, text := range []string{seed + "\n", long(public)} {
		var k importedKey
		if err := k.parse([]byte(text)); err != nil || k.Algorithm != keystore.Ed25519 || base64.StdEncoding.EncodeToString(k.public) != public {
			t.Errorf("%q: %+v, %v", text, k, err)
		}
	}
	for text, say := range map[string]string{long(seed): "does not belong", "no key": "base64", "": ""} {
		var k importedKey
		if err := k.parse([]byte(text)); err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
