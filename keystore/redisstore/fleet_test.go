package redisstore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"waxseal/keystore"
	"waxseal/keystore/storetest"
)

// sentinel starts a Sentinel that looks after the primary, which is at that port
// for all, by the name "mail".
func sentinel(t *testing.T, primary *server, at string) (address string) {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	config := filepath.Join(dir, "sentinel.conf")
	text := fmt.Sprintf("port %s\nbind 127.0.0.1\ndir %s\nsentinel monitor mail 127.0.0.1 %s 1\n"+
		"sentinel down-after-milliseconds mail 500\nsentinel failover-timeout mail 3000\n", port, dir, at)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(require(t, "redis-server"), config, "--sentinel")
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
	address = "127.0.0.1:" + port
	primary.await("Sentinel", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

func TestSentinelConformsAndFailsOver(t *testing.T) {
	t.Parallel()
	primary := start(t)
	replica := start(t, "--replicaof", "127.0.0.1 "+primary.port, "--repl-diskless-sync-delay", "0")
	address := sentinel(t, primary, primary.port)
	url := "redis+sentinel://" + address + "/mail/1?replicas=1"
	primary.await("replica", func() bool {
		info, _ := primary.do("INFO", "replication").ToString()
		return strings.Contains(info, "state=online")
	})
	t.Run("conforms", func(t *testing.T) { storetest.Run(t, fresh(url, Options{})) })

	store := open(t, url, Options{Timeout: 10 * time.Second})
	d := storetest.Create(t, store, "example.com", "a")
	cache := keystore.NewCache(store, keystore.CacheOptions{Refresh: time.Hour})
	defer cache.Close()
	if _, err := cache.Signing(t.Context(), "example.com"); err != nil {
		t.Fatal(err)
	}
	other := open(t, "redis+sentinel://"+address+"/mail/1", Options{Timeout: 20 * time.Second})
	// Sentinel has to know the replica before it can take over.
	primary.await("replica known to Sentinel", func() bool {
		s := &server{t: t, port: strings.TrimPrefix(address, "127.0.0.1:")}
		info, _ := s.do("INFO", "sentinel").ToString()
		return strings.Contains(info, "slaves=1")
	})
	primary.kill()

	d.Keys[0].Note = "after"
	var err error
	replica.await("failover", func() bool {
		d.Keys = append(d.Keys[:1:1], storetest.Active(t, "b"))
		err = other.Update(t.Context(), d)
		return err == nil
	})
	got, err := other.Domain(t.Context(), "example.com")
	if err != nil || got.Version != d.Version || got.Keys[0].Note != "after" {
		t.Fatalf("after the failover: %+v, %v", got, err)
	}
	replica.await("word of the change after the failover", func() bool {
		signing, err := cache.Signing(t.Context(), "example.com")
		return err == nil && len(signing.Keys) == 2
	})
	// There is no replica now to confirm a change.
	got.Keys[0].Note = "alone"
	version := got.Version
	store = open(t, url, Options{})
	if err := store.Update(t.Context(), got); err == nil || !strings.Contains(err.Error(), "0 of 1 replicas") || got.Version != version+1 {
		t.Errorf("without a replica: %v, version %d after %d", err, got.Version, version)
	}
}

func TestClusterConforms(t *testing.T) {
	t.Parallel()
	var servers []*server
	for range 3 {
		servers = append(servers, start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"))
	}
	bounds := []string{"0", "5461", "10923", "16384"}
	for i, s := range servers {
		var to int
		fmt.Sscan(bounds[i+1], &to)
		s.must("CLUSTER", "ADDSLOTSRANGE", bounds[i], fmt.Sprint(to-1))
		if i > 0 {
			s.must("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
		}
	}
	for _, s := range servers {
		s.await("whole cluster", func() bool {
			info, _ := s.do("CLUSTER", "INFO").ToString()
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
		})
	}
	url := "redis+cluster://" + servers[0].address() + "," + servers[1].address()
	t.Run("conforms", func(t *testing.T) { storetest.Run(t, fresh(url, Options{})) })
	sharedByMany(t, url+"?prefix=many:", Options{}, "Redis Cluster")

	// The watch hears of changes on every server.
	store := open(t, url, Options{})
	cache := keystore.NewCache(store, keystore.CacheOptions{Refresh: time.Hour})
	defer cache.Close()
	for i := range 12 {
		d := storetest.Create(t, store, fmt.Sprintf("d%d.example", i), "a")
		if _, err := cache.Signing(t.Context(), d.Name); err != nil {
			t.Fatal(err)
		}
		d.Keys = append(d.Keys, storetest.Active(t, "b"))
		if err := store.Update(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		servers[0].await("word of the change", func() bool {
			signing, err := cache.Signing(t.Context(), d.Name)
			return err == nil && len(signing.Keys) == 2
		})
	}
	// One server less leaves the domains of the others.
	servers[2].must("CONFIG", "SET", "cluster-require-full-coverage", "no")
	servers[0].must("CONFIG", "SET", "cluster-require-full-coverage", "no")
	servers[1].kill()
	works := 0
	for i := range 12 {
		if d, err := open(t, url, Options{Timeout: 3 * time.Second}).Domain(t.Context(), fmt.Sprintf("d%d.example", i)); err == nil && len(d.Keys) == 2 {
			works++
			break
		}
	}
	if works == 0 {
		t.Error("with one server of three gone no domain can be read")
	}
}

// Behind a proxy that cuts connections: a primary that Sentinel names, and a
// Cluster of one server, whose address is that of the proxy for all. Both are
// restarted in the end.
func TestFleetsWithCutConnections(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		serve func(t *testing.T, s *server, p *storetest.Proxy) (url string)
	}{
		{"Sentinel", func(t *testing.T, s *server, p *storetest.Proxy) string {
			_, port, _ := net.SplitHostPort(p.Address)
			return "redis+sentinel://" + sentinel(t, s, port) + "/mail"
		}},
		{"Cluster", func(t *testing.T, s *server, p *storetest.Proxy) string {
			_, port, _ := net.SplitHostPort(p.Address)
			s.kill()
			s.args = append(s.args, "--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1", "--cluster-announce-port", port)
			s.run()
			s.must("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
			s.await("whole cluster", func() bool {
				info, _ := s.do("CLUSTER", "INFO").ToString()
				return strings.Contains(info, "cluster_state:ok")
			})
			return "redis+cluster://" + p.Address
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			p := storetest.NewProxy(t, "tcp", s.address())
			url := test.serve(t, s, p)
			store := open(t, url, Options{})
			storetest.RunCuts(t, store, p)
			before, err := store.Domain(t.Context(), "example.com")
			if err != nil {
				t.Fatal(err)
			}
			s.kill()
			if _, err := store.Domain(t.Context(), "example.com"); err == nil || errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("with the server gone: %v", err)
			}
			s.run()
			s.await("the domain after the restart", func() bool {
				after, err := store.Domain(t.Context(), "example.com")
				return err == nil && after.Version == before.Version
			})
			storetest.RunSlow(t, open(t, url+"?prefix=slow:", Options{}), p)
		})
	}
}

// certificate makes an authority that is its own server.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestTLS(t *testing.T) {
	cert, key := certificate(t)
	port := freePort(t)
	start(t, "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	url := "rediss://127.0.0.1:" + port
	store := open(t, url+"?ca="+cert+"&cert="+cert+"&key="+key, Options{})
	storetest.Create(t, store, "example.com", "a")
	if _, err := store.Domain(t.Context(), "example.com"); err != nil {
		t.Error(err)
	}
	if _, err := open(t, url, Options{}).Domain(t.Context(), "example.com"); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	if _, err := open(t, url+"?ca="+cert, Options{}).Domain(t.Context(), "example.com"); err == nil {
		t.Error("a client without a certificate was let in")
	}
}
