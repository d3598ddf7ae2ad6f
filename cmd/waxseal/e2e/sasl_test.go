package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// password is that of every account.
const password = "correct horse"

// accounts gives a Postfix a SASL password file of its own with these accounts,
// each a name, or a name, @ and a realm. It returns the lines of main.cf that
// use it. A name without a realm is in the given one, as Postfix's
// smtpd_sasl_local_domain.
func (p *postfix) accounts(t *testing.T, realm string, names ...string) string {
	t.Helper()
	// Debian's Postfix looks for smtpd.conf below its configuration directory,
	// others where cyrus_sasl_config_path says.
	sasl := p.path("conf/sasl")
	mkdir(t, sasl, "root", "root", 0o755)
	database := filepath.Join(sasl, "sasldb2")
	writeFile(t, filepath.Join(sasl, "smtpd.conf"), fmt.Sprintf(
		"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: %s\nmech_list: PLAIN\n", database), 0o644)
	for _, name := range names {
		user, domain, ok := strings.Cut(name, "@")
		if !ok {
			domain = realm
		}
		add := exec.Command("saslpasswd2", "-p", "-c", "-f", database, "-u", domain, user)
		add.Stdin = strings.NewReader(password)
		if out, err := add.CombinedOutput(); err != nil {
			t.Fatalf("saslpasswd2: %v\n%s", err, out)
		}
	}
	chown(t, database, "postfix", "root")
	return fmt.Sprintf(`
smtpd_sasl_auth_enable = yes
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = %s
smtpd_sasl_local_domain = %s
smtpd_sasl_security_options = noanonymous
`, sasl, realm)
}

// saslModules needs the plug-ins of Cyrus SASL for PLAIN and password files.
func saslModules() error {
	for _, plugin := range []string{"libplain.so*", "libsasldb.so*"} {
		found := false
		for _, dir := range []string{"/usr/lib/*/sasl2", "/usr/lib/sasl2", "/usr/lib64/sasl2"} {
			files, _ := filepath.Glob(filepath.Join(dir, plugin))
			found = found || len(files) > 0
		}
		if !found {
			return fmt.Errorf("no %s of Cyrus SASL, which is in Debian's libsasl2-modules", plugin)
		}
	}
	out, err := exec.Command("postconf", "-a").Output()
	if err != nil || !strings.Contains(string(out), "cyrus") {
		return fmt.Errorf("this Postfix has no Cyrus SASL: %s", out)
	}
	return nil
}
