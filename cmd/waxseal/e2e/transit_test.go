package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore/vaultstore/vaulttest"
)

// Keys are made in Vault and stay there: the daemon signs by asking Vault, with
// libcrypto at hand for other keys, and when Vault is slow or gone, mail waits at
// its sender. The daemon is among the nodes that the keystore knows.
func TestDaemonSignsInTransit(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	vault := vaulttest.New(t)
	url := vault.StoreURL(t, "secret/waxseal", "transit=transit", "sign_timeout=500ms", "requests=2")
	keys := &keystore{dir: url, records: filepath.Join(dir, "records.tsv"), txt: map[string]string{}}
	for _, algorithm := range []string{"rsa-2048", "ed25519"} {
		keys.activate(t, "example.com", keys.newKey(t, "example.com", algorithm))
	}
	keys.publish(t)
	socket := "unix:" + filepath.Join(dir, "milter.sock")
	d := serve(t, daemonOptions{}, "--keystore", url, "--listen", socket)

	const header, body = "From: ann@example.com\r\nSubject: hello\r\n", "Hello.\r\n"
	send := func() fate {
		t.Helper()
		return judge(t, socket, facts{id: "4ABC", client: "127.0.0.1"}, header, body)
	}
	signed := func() {
		t.Helper()
		m := send().signed(t, header, body)
		verdicts, err := msgauth(m, keys)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.signatures()) != 2 || strings.Join(verdicts, "") != "" {
			t.Fatalf("%d signatures, want two that verify: %q", len(m.signatures()), verdicts)
		}
	}
	signed()
	vault.Mu.Lock()
	for name, s := range vault.KV2 {
		for _, v := range s.Versions {
			if strings.Contains(string(v.Data), "PRIVATE") {
				t.Errorf("%s has a private half", name)
			}
		}
	}
	most := vault.Most
	vault.Mu.Unlock()
	if most > 2 {
		t.Errorf("%d signatures were under way at a time, want at most 2", most)
	}
	eventually(t, "the daemon is among the nodes", func() bool {
		return strings.Contains(command(t, "store", "status", "--keystore", url), "/"+socket+", waxseal ")
	})

	slow := func(d time.Duration) {
		vault.Mu.Lock()
		defer vault.Mu.Unlock()
		vault.SlowSign = d
	}
	slow(4 * time.Second)
	began := time.Now()
	if f := send(); !strings.HasPrefix(f.reply, "451 ") {
		t.Errorf("with a slow Vault: %+v", f)
	}
	if took := time.Since(began); took > 3500*time.Millisecond {
		t.Errorf("mail waited for %s", took)
	}
	slow(0)
	signed()
	vault.Restart(t, func() {
		if f := send(); !strings.HasPrefix(f.reply, "451 ") {
			t.Errorf("without Vault: %+v", f)
		}
	})
	signed()
	if !strings.Contains(d.log.String(), "none ended within") && !strings.Contains(d.log.String(), "transit key") {
		t.Errorf("the log does not say why:\n%s", tail(d.log.String()))
	}
}
