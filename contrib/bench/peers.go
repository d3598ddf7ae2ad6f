//go:build linux

package main

import (
	"context"
	"fmt"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
)

// The settings of the peers. All sign with relaxed canonicalization for header
// and body, the same fields, without DNS and without a log; README.md has the
// table.

func setUpOpenDKIM(_ context.Context, path string, s *site) ([]string, error) {
	algorithm := "rsa-sha256"
	if s.has(edwards) {
		algorithm = "ed25519-sha256"
	}
	var keyTable, signingTable strings.Builder
	for _, a := range s.algorithms {
		fmt.Fprintf(&keyTable, "%s %s:%s:%s\n", a, domain, a, s.keys.pem[a])
		fmt.Fprintf(&signingTable, "*@%s %s\n", domain, a)
	}
	keyFile, err := s.write("KeyTable", keyTable.String())
	if err != nil {
		return nil, err
	}
	signingFile, err := s.write("SigningTable", signingTable.String())
	if err != nil {
		return nil, err
	}
	config, err := s.write("opendkim.conf", fmt.Sprintf(`Mode                s
Canonicalization    relaxed/relaxed
SignatureAlgorithm  %s
KeyTable            file:%s
SigningTable        refile:%s
SignHeaders         %s
OversignHeaders     From
InternalHosts       127.0.0.1
RequireSafeKeys     no
Syslog              no
UMask               000
`, algorithm, keyFile, signingFile, strings.Join(signedFields, ",")))
	if err != nil {
		return nil, err
	}
	return []string{path, "-f", "-x", config, "-p", s.at.sendmail()}, nil
}

// rspamd signs in the worker that talks the milter protocol, and every module
// but the one that signs is off. There are as many workers as processors; by
// default there is one.
func setUpRspamd(_ context.Context, path string, s *site) ([]string, error) {
	socket := s.at.name
	if s.at.network == "unix" {
		socket += " mode=0666"
	}
	files := map[algorithm]string{rsa2048: s.keys.pem[rsa2048], edwards: s.keys.seed}
	var selectors []string
	for _, a := range s.algorithms {
		selectors = append(selectors, fmt.Sprintf("{ path = %q; selector = %q; }", files[a], a))
	}
	// "(o)" is for over-signing.
	fields := "(o)" + strings.ToLower(strings.Join(signedFields, ":"))
	if _, err := s.write("tld", "com\nnet\norg\n"); err != nil {
		return nil, err
	}
	config, err := s.write("rspamd.conf", fmt.Sprintf(`
options {
  filters = "dkim";
  local_addrs = ["127.0.0.0/8"];
  dns { nameserver = ["127.0.0.1:9"]; }
  pidfile = "%[1]s/pid";
  control_socket = "%[1]s/control mode=0600";
  tempdir = "%[1]s";
  cache_file = "%[1]s/cache";
  dynamic_conf = "%[1]s/dynamic";
  history_file = "";
  url_tld = "%[1]s/tld";
  disable_monitoring = true;
  explicit_modules = [];
  max_message = 100Mb;
  task_timeout = 60s;
}
logging { type = "console"; level = "error"; }
actions { reject = 15000; }
worker "rspamd_proxy" {
  bind_socket = "%[2]s";
  milter = yes;
  timeout = 120s;
  count = %[3]d;
  upstream "local" { default = yes; self_scan = yes; }
}
modules { path = "/usr/share/rspamd/plugins/dkim_signing.lua"; }
dkim { sign_headers = "%[4]s"; }
dkim_signing {
  sign_local = true;
  sign_networks = ["127.0.0.0/8"];
  allow_hdrfrom_mismatch = true;
  use_domain = "header";
  use_esld = false;
  use_redis = false;
  try_fallback = false;
  check_pubkey = false;
  domain { %[5]s { selectors [ %[6]s ] } }
}
`, s.dir, socket, runtime.NumCPU(), fields, domain, strings.Join(selectors, ", ")))
	if err != nil {
		return nil, err
	}
	return []string{path, "-f", "-i", "-c", config, "--var=DBDIR=" + s.dir, "--var=RUNDIR=" + s.dir, "--var=LOGDIR=" + s.dir}, nil
}

// dkimpy-milter's own list of fields comes to the same h= with our messages.
func setUpDkimpy(_ context.Context, path string, s *site) ([]string, error) {
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		return nil, err
	}
	var files strings.Builder
	if s.has(rsa2048) {
		fmt.Fprintf(&files, "Selector %s\nKeyFile %s\n", rsa2048, s.keys.rsaPEM)
	}
	if s.has(edwards) {
		fmt.Fprintf(&files, "SelectorEd25519 %s\nKeyFileEd25519 %s\n", edwards, s.keys.seed)
	}
	config, err := s.write("dkimpy-milter.conf", fmt.Sprintf(`Mode s
Domain %s
%sCanonicalization relaxed/relaxed
InternalHosts 127.0.0.1
Socket %s
PidFile %s
UserID %s:%s
UMask 000
Syslog no
`, domain, files.String(), s.at.sendmail(), filepath.Join(s.dir, "pid"), me.Username, group.Name))
	if err != nil {
		return nil, err
	}
	return []string{path, config}, nil
}
