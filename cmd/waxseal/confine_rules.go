package main

import (
	"debug/elf"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"waxseal/cmd/waxseal/internal/landlock"
	"waxseal/keystore/dns"
	"waxseal/keystore/sqlstore"
)

// This file lists what the daemon needs of the machine.

// What rights are for, where it is no setting.
const (
	forConfigFile = "the configuration file"
	forLibraries  = "libraries"
	forLibcrypto  = "libcrypto's own configuration"
	forSystem     = "the system's names and time"
	forRuntime    = "its own processes and limits"
	forCommands   = "commands"
	forItself     = "waxseal itself"
	forDNS        = "DNS"
)

const (
	resolvConf = "/etc/resolv.conf"
	nullDevice = "/dev/null"
)

// What every program here needs. Of these, what is there counts.
var (
	libraryDirs = []string{
		"/lib", "/lib32", "/lib64", "/libx32", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/local/lib", "/usr/local/lib64",
		"/nix/store", "/gnu/store",
	}
	loaderFiles  = []string{"/etc/ld.so.cache", "/etc/ld.so.preload"}
	opensslFiles = []string{
		"/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/pki/tls/openssl.d", "/etc/crypto-policies", "/usr/share/crypto-policies",
	}

	// One file each, as the rest of /etc is none of our business.
	systemFiles = []string{
		"/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/protocols",
		"/etc/passwd", "/etc/group", "/etc/localtime", "/usr/share/zoneinfo",
	}

	// The number of processors that is granted to us, our open files (as a
	// metric), and what other kernel tables the runtime looks into. Landlock
	// keeps other processes' memory closed, and their environment unless the
	// daemon has capabilities. A rule about /proc/self would not last: the kernel
	// makes such directories anew.
	runtimeDirs = []string{"/proc", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage", "/sys/devices/system/cpu"}

	randomDevices = []string{"/dev/urandom", "/dev/random", "/dev/zero"}

	// What the interpreters and clients that hooks are made of are at home in.
	commandDirs  = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store"}
	commandFiles = []string{"/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates", "/etc/perl", "/etc/python3"}
)

// confineRules is what the daemon is left with when it confines itself with
// this configuration. The program is our own file.
func confineRules(d *decoded, program string) landlock.Rules {
	r := rulesBuilder{d: d}
	r.add(landlock.Read|landlock.Execute, forItself, program)
	if loader := interpreter(program); loader != "" {
		r.add(landlock.Read|landlock.Execute, forLibraries, loader)
	}
	r.add(landlock.Read, forLibraries, libraryDirs...)
	r.add(landlock.Read, forLibraries, loaderFiles...)
	r.add(landlock.Read, forLibraries, filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))...)
	r.add(landlock.Read, forLibcrypto, opensslFiles...)
	r.add(landlock.Read, forLibcrypto, os.Getenv("OPENSSL_CONF"), os.Getenv("OPENSSL_MODULES"))
	r.add(landlock.Read, forSystem, systemFiles...)
	r.replaceable(landlock.Read, forSystem, resolvConf) // in /run, when systemd-resolved writes it
	r.add(landlock.Read, forRuntime, runtimeDirs...)
	r.add(landlock.Read, forRuntime, randomDevices...)
	r.add(landlock.Read|landlock.Device, forRuntime, nullDevice)

	r.configFile()
	if path, ok := keystoreDir(d.Keystore.URL); ok {
		access := landlock.Read
		if d.Keeper.Enabled {
			access |= landlock.Write
		}
		r.add(access, "keystore.url", path)
	}
	r.database()
	r.server()
	if path, err := dns.CredentialPath(d.Keystore.KeyEncryptionKey); err == nil {
		r.add(landlock.Read, "keystore.key_encryption_key", path)
	}
	r.listeners()
	for _, name := range sortedKeys(d.Publish) {
		if path, err := dns.CredentialPath(d.Publish[name].TSIGKey); err == nil && path != "" {
			r.replaceable(landlock.Read, "publish."+name+".tsig_key", path)
		}
	}
	if d.Keeper.Enabled { // nobody else asks DNS, or runs a command
		r.keeper()
	}
	more := landlock.Read
	if r.commands {
		more |= landlock.Execute
	}
	r.add(more, "confine.read", d.Confine.Read...)
	r.add(more|landlock.Write, "confine.write", d.Confine.Write...)

	// A service manager may listen for us there.
	r.rules.Abstract = strings.HasPrefix(os.Getenv("NOTIFY_SOCKET"), "@")
	return r.rules
}

// rulesBuilder collects rules.
type rulesBuilder struct {
	d        *decoded
	rules    landlock.Rules
	commands bool // there are some
}

func (r *rulesBuilder) add(a landlock.Access, why string, paths ...string) {
	for _, path := range paths {
		if path == "" {
			continue
		}
		if abs, err := filepath.Abs(path); err == nil {
			r.rules.Paths = append(r.rules.Paths, landlock.Path{Path: abs, Access: a, For: why})
		}
	}
}

// replaceable adds a file that somebody may replace by another: its directory,
// since a rule about a file is about that one alone. Where the directory is one
// of many things, it is the file all the same.
func (r *rulesBuilder) replaceable(a landlock.Access, why, path string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return
	}
	at := path
	if found, err := filepath.EvalSymlinks(path); err == nil {
		at = found
	}
	if dir := filepath.Dir(at); !ofManyThings(dir) {
		at = dir
	}
	r.add(a, why, at)
}

// ofManyThings says whether a directory is one that the system, or a person, has
// for more than one purpose: /etc, /home/ann, /usr/local.
func ofManyThings(dir string) bool {
	parent := filepath.Dir(dir)
	return filepath.Dir(parent) == parent || slices.Contains([]string{"/home", "/usr", "/var"}, parent)
}

// configFile is where the configuration is, and where it may be tomorrow: links
// on the way may change.
func (r *rulesBuilder) configFile() {
	path, err := filepath.Abs(r.d.file)
	if err != nil {
		return
	}
	r.replaceable(landlock.Read, forConfigFile, path)
	for _, dir := range directoriesOf(path) {
		if !ofManyThings(dir) {
			r.add(landlock.Read, forConfigFile, dir)
		}
	}
}

// authorityFiles are where the system keeps the authorities of certificates.
var authorityFiles = []string{"/etc/ssl/certs", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/etc/pki/tls/certs", "/etc/pki/ca-trust", "/etc/ca-certificates"}

// kubernetesToken is where a pod finds the token of its service account.
const kubernetesToken = "/var/run/secrets/kubernetes.io/serviceaccount/token"

// server is what a keystore in Redis, Vault or LDAP takes. Where it is may be told
// by a Sentinel or another node, so connections are free.
func (r *rulesBuilder) server() {
	const key = "keystore.url"
	if serverKind(r.d.Keystore.URL) == "" {
		return
	}
	r.rules.AnyConnect = true
	r.add(landlock.Read, key, authorityFiles...)
	_, options, _ := strings.Cut(r.d.Keystore.URL, "?")
	values, err := url.ParseQuery(options)
	if err != nil {
		return // which is told elsewhere
	}
	if values.Get("auth") == "kubernetes" {
		r.replaceable(landlock.Read, key, kubernetesToken)
	}
	for _, all := range values {
		for _, value := range all {
			if path, err := dns.CredentialPath(value); err == nil && filepath.IsAbs(path) {
				r.replaceable(landlock.Read, key, path)
			}
		}
	}
}

// database is what a keystore in a database takes. A local socket takes nothing.
func (r *rulesBuilder) database() {
	const key = "keystore.url"
	needs, err := sqlstore.NeedsOf(r.d.Keystore.URL, dns.CredentialPath)
	if err != nil {
		return // it is no database, or a wrong one, which is told elsewhere
	}
	if needs.File != "" {
		// SQLite keeps its journal beside the file, also for those who only read.
		r.add(landlock.Read|landlock.Write, key, filepath.Dir(needs.File))
	}
	for _, path := range needs.Read {
		r.replaceable(landlock.Read, key, path)
	}
	if needs.Authorities {
		r.add(landlock.Read, key, authorityFiles...)
	}
	for _, port := range needs.Ports {
		r.connect(key, port)
	}
	if needs.Names {
		r.connect(forDNS, 53)
	}
}

func (r *rulesBuilder) listeners() {
	listeners := toOpen(r.d)
	for _, name := range sortedKeys(listeners) {
		key, address := "listen."+name+".address", listeners[name].Address
		if address.Network == "unix" {
			r.add(landlock.Sockets, key, filepath.Dir(address.Address.Address))
			continue
		}
		r.bind(key, address)
	}
	r.bind("metrics.address", r.d.Metrics.Address)

	// Go's net package binds port 0, one of the kernel's choice, to find out
	// whether there is IPv6. Whoever calls listen(2) without bind(2) gets such a
	// port all the same, which Landlock does not see.
	r.rules.Bind = append(r.rules.Bind, landlock.Port{Port: 0, For: forRuntime})
}

// toOpen are the listeners that the daemon opens by itself. Which of them systemd
// hands over is seen later.
func toOpen(d *decoded) map[string]ListenConfig {
	if len(d.Listen) > 0 || os.Getenv("LISTEN_FDS") != "" {
		return d.Listen
	}
	return listenersByDefault()
}

func (r *rulesBuilder) bind(why string, a Address) {
	if port, ok := portOf(a.Address.Address); ok {
		r.rules.Bind = append(r.rules.Bind, landlock.Port{Port: port, For: why})
	}
}

func (r *rulesBuilder) connect(why string, port uint16) {
	r.rules.Connect = append(r.rules.Connect, landlock.Port{Port: port, For: why})
}

// keeper is what looking after keys takes.
func (r *rulesBuilder) keeper() {
	d := r.d
	r.connect(forDNS, 53)
	for _, resolver := range d.DNS.Resolvers {
		if a, err := netip.ParseAddrPort(resolver); err == nil && a.Port() != 53 {
			r.connect("dns.resolvers", a.Port())
		}
	}
	for _, name := range sortedKeys(d.Publish) {
		c := d.Publish[name]
		if port, ok := portOf(c.Server); ok && port != 53 {
			r.connect("publish."+name+".server", port)
		}
		r.command("publish."+name+".command", c.Command)
	}
	r.command("keeper.notify", d.Keeper.Notify)
	r.add(landlock.Write, "keeper.publish_retired_keys", d.Keeper.PublishRetiredKeys)
}

// command is what a program of somebody else's may need: nobody knows to which
// servers it speaks.
func (r *rulesBuilder) command(key string, command []string) {
	if len(command) == 0 {
		return
	}
	if !r.commands {
		r.commands, r.rules.AnyConnect = true, true
		r.add(landlock.Read|landlock.Execute, forCommands, commandDirs...)
		r.add(landlock.Read, forCommands, commandFiles...)
	}
	if program, err := exec.LookPath(command[0]); err == nil {
		r.replaceable(landlock.Read|landlock.Execute, key, program)
	}
	for _, argument := range command[1:] { // such as the script after "sh"
		if _, err := os.Stat(argument); err == nil && filepath.IsAbs(argument) {
			r.replaceable(landlock.Read|landlock.Execute, key, argument)
		}
	}
}

// portOf returns the port of HOST:PORT.
func portOf(address string) (uint16, bool) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return uint16(n), err == nil
}

// interpreter is the loader that a dynamic program names, "" if it names none.
func interpreter(program string) string {
	f, err := elf.Open(program)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}

// confineProblems finds what is wrong with the [confine] table.
func confineProblems(d *decoded) problems {
	var found problems
	for _, list := range []struct {
		key   string
		paths []string
	}{{"confine.read", d.Confine.Read}, {"confine.write", d.Confine.Write}} {
		for _, path := range list.paths {
			if !filepath.IsAbs(path) {
				found = append(found, d.problem(list.key, fmt.Errorf("%q is no absolute path", path), ""))
			} else if _, err := os.Stat(path); err != nil {
				found = append(found, d.problem(list.key, err, "make it, or leave it out"))
			}
		}
	}
	return found
}

// beyond finds the settings of a reloaded configuration that need more than the
// daemon has kept for itself. Those that need a restart anyway are not among
// them.
func beyond(have *landlock.Rules, d *decoded, program string) problems {
	var keys []string
	lacking := func(key string, covered bool) {
		table, _, _ := strings.Cut(key, ".")
		if !covered && strings.Contains(key, ".") && !slices.Contains([]string{"keystore", "listen", "metrics", "confine"}, table) && !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	want := confineRules(d, program)
	lacking("keeper.enabled", !d.Keeper.Enabled || have.Connects(53)) // as all keepers may
	for _, p := range want.Paths {
		lacking(p.For, have.Covers(p))
	}
	for _, p := range want.Connect {
		lacking(p.For, have.Connects(p.Port))
	}
	if want.AnyConnect && !have.AnyConnect {
		// There was no command before.
		for _, name := range sortedKeys(d.Publish) {
			lacking("publish."+name+".command", len(d.Publish[name].Command) == 0)
		}
		lacking("keeper.notify", len(d.Keeper.Notify) == 0)
	}
	var found problems
	for _, key := range keys {
		found = append(found, d.problem(key, errNotKept, "restart the daemon"))
	}
	return found
}
