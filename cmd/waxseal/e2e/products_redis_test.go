package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	waxkeys "waxseal/keystore"
)

// productKey is an RSA key as PHP's openssl_pkey_export has it since OpenSSL 1.0
// (PKCS#8), as "openssl genrsa -traditional" has it (PKCS#1), and the public half
// in base64.
type productKey struct{ pkcs8, pkcs1, public string }

func newProductKey(t *testing.T, algorithm waxkeys.Algorithm) productKey {
	t.Helper()
	signer, err := waxkeys.Generate(algorithm)
	if err != nil {
		t.Fatal(err)
	}
	private := signer.(*rsa.PrivateKey)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return productKey{
		pkcs8:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		pkcs1:  string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})),
		public: base64.StdEncoding.EncodeToString(public),
	}
}

// productRedis is a Redis with a password, and a user who may do what a recipe says.
type productRedis struct {
	t       *testing.T
	address string
	client  rueidis.Client
}

func startProductRedis(t *testing.T, user string) *productRedis {
	t.Helper()
	user = strings.ReplaceAll(strings.TrimSpace(user), "PASSWORD", "password")
	address := startRedis(t, shortDir(t), append([]string{"--enable-debug-command", "yes", "--requirepass", "root-password"}, strings.Fields("--"+user)...)...).address
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{address}, Password: "root-password", ForceSingleClient: true, DisableCache: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &productRedis{t, address, client}
}

// do sends a command as the product does.
func (r *productRedis) do(command ...string) string {
	r.t.Helper()
	answer, err := r.client.Do(r.t.Context(), r.client.B().Arbitrary(command...).Build()).ToAny()
	if err != nil {
		r.t.Fatalf("%s: %v", strings.Join(command, " "), err)
	}
	return fmt.Sprint(answer)
}

// unchangedSince fails if a key has changed since digest was taken, or if somebody
// tried what the ACL does not let them.
func (r *productRedis) unchangedSince(digest string) {
	r.t.Helper()
	if now := r.do("DEBUG", "DIGEST"); now != digest {
		r.t.Errorf("the digest of Redis was %s and is %s", digest, now)
	}
	if denied := r.do("ACL", "LOG"); denied != "[]" {
		r.t.Errorf("Redis denied: %s", denied)
	}
}

// As mailcow's data/web/inc/functions.dkim.inc.php adds, duplicates, imports and
// deletes keys.
func TestMailcow(t *testing.T) {
	require(t, installed("redis-server", "redis-server"), dkimpyInstalled)
	t.Parallel()
	r := startProductRedis(t, productRecipe(t, "mailcow", "conf"))
	password := writeFile(t, filepath.Join(t.TempDir(), "password"), "password\n", 0o600)
	p := servesProduct(t, "1h", productRecipe(t, "mailcow", "toml"), "redis://127.0.0.1:7654", "redis://waxseal@"+r.address, "/etc/waxseal/mailcow-redis", password)
	// add: the public key and the selector, and after a while of openssl the
	// private key without its last line end.
	add := func(domain, selector string, key productKey, private string) {
		p.tells(t, selector, domain, "v=DKIM1;k=rsa;t=s;s=email;p="+key.public)
		r.do("HSET", "DKIM_PUB_KEYS", domain, key.public)
		r.do("HSET", "DKIM_SELECTORS", domain, selector)
		r.do("HSET", "DKIM_PRIV_KEYS", selector+"."+domain, strings.TrimSpace(private))
	}
	remove := func(domain, selector string) {
		r.do("HDEL", "DKIM_PUB_KEYS", domain)
		r.do("HDEL", "DKIM_PRIV_KEYS", selector+"."+domain)
		r.do("HDEL", "DKIM_SELECTORS", domain)
	}
	small, usual, large := newProductKey(t, waxkeys.RSA1024), newProductKey(t, waxkeys.RSA2048), newProductKey(t, waxkeys.RSA4096)
	add("example.com", "dkim", usual, usual.pkcs8)
	add("xn--bcher-kva.example", "Mail_2", small, small.pkcs8)
	add("imported.example", "s1.sub", large, large.pkcs1)
	add("alias.example", "dkim", usual, usual.pkcs8) // duplicate: the alias domain's own fields
	r.do("SET", "QW_ann@example.com", "95")          // the store is mailcow's for much else
	r.do("LPUSH", "DKIM_LOG", "x")
	before := r.do("DEBUG", "DIGEST")
	p.signs(t, "example.com", "dkim")
	p.signs(t, "xn--bcher-kva.example", "mail_2")
	p.signs(t, "imported.example", "s1.sub")
	p.signs(t, "alias.example", "dkim")
	p.signs(t, "stranger.example")
	p.commandsKnow(t, "dkim.alias.example", "dkim.example.com", "mail_2.xn--bcher-kva.example", "s1.sub.imported.example")
	r.unchangedSince(before)

	// Deleted and made anew, with another selector, as a new domain, and with a
	// key of the same name: each is known at once, by being told.
	remove("alias.example", "dkim")
	p.signs(t, "alias.example")
	remove("example.com", "dkim")
	other := newProductKey(t, waxkeys.RSA2048)
	add("example.com", "dkim2", other, other.pkcs8)
	p.signs(t, "example.com", "dkim2")
	add("stranger.example", "dkim", small, small.pkcs8)
	p.signs(t, "stranger.example", "dkim")
	remove("stranger.example", "dkim")
	add("stranger.example", "dkim", other, other.pkcs8)
	p.signs(t, "stranger.example", "dkim")
	r.unchangedSince(r.do("DEBUG", "DIGEST"))
}

// Keys that "rspamadm dkim_keygen" made and an administrator put into Redis.
func TestRspamdKeysInRedis(t *testing.T) {
	require(t, installed("redis-server", "redis-server"), installed("rspamadm", "rspamd"), dkimpyInstalled)
	t.Parallel()
	r := startProductRedis(t, strings.Replace(productRecipe(t, "rspamd", "conf"), "~DKIM_KEYS", "~DKIM_KEYS ~dkim_keys ~DKIM_SELECTORS", 1))
	password := writeFile(t, filepath.Join(t.TempDir(), "password"), "password\n", 0o600)
	generate := func(p *product, hash, selector, domain string, args ...string) {
		file := filepath.Join(t.TempDir(), "key")
		out, err := exec.Command("rspamadm", append([]string{"dkim_keygen", "-s", selector, "-d", domain, "-k", file}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("rspamadm dkim_keygen: %v\n%s", err, out)
		}
		private, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p.tells(t, selector, domain, textOf(string(out)))
		r.do("HSET", hash, selector+"."+domain, string(private))
	}
	recipe := []string{"127.0.0.1:6379", r.address, "/etc/waxseal/redis", password}
	p := servesProduct(t, "1h", productRecipe(t, "rspamd", "toml"), append(recipe, "selector=dkim", "selector=dkim,ed")...)
	generate(p, "DKIM_KEYS", "dkim", "example.com", "-b", "2048")
	generate(p, "DKIM_KEYS", "ed", "example.com", "-t", "ed25519")
	generate(p, "DKIM_KEYS", "dkim", "example.net", "-b", "1024")
	before := r.do("DEBUG", "DIGEST")
	p.signs(t, "example.com", "dkim", "ed")
	p.signs(t, "example.net", "dkim")
	p.commandsKnow(t, "dkim.example.com", "dkim.example.net", "ed.example.com")
	r.unchangedSince(before)

	p = servesProduct(t, "1h", productRecipe(t, "rspamd", "toml"), append(recipe, "selector=dkim", "keys=dkim_keys&selectors=DKIM_SELECTORS")...)
	generate(p, "dkim_keys", "a", "example.org", "-b", "2048")
	r.do("HSET", "DKIM_SELECTORS", "example.org", "a")
	p.signs(t, "example.org", "a")
	p.commandsKnow(t, "a.example.org")
	generate(p, "dkim_keys", "b", "example.org", "-t", "ed25519")
	r.do("HSET", "DKIM_SELECTORS", "example.org", "b")
	p.signs(t, "example.org", "b")
	r.unchangedSince(r.do("DEBUG", "DIGEST"))
}

// textOf returns the text of a TXT record in a zone file.
func textOf(zone string) (text string) {
	for _, m := range regexp.MustCompile(`"([^"]*)"`).FindAllStringSubmatch(zone, -1) {
		text += m[1]
	}
	return text
}
