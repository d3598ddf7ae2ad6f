package milter

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dkim"

	"waxseal/keystore"
	"waxseal/milter/policy"
	"waxseal/signer"
)

// keys is a Keys with one domain.
type keys struct {
	domain  string
	signing []keystore.SigningKey
	broken  []error
	err     error         // of any other domain; nil means ErrNotFound
	delay   time.Duration // of Signing; 0 answers from Cached
}

func (k *keys) Cached(domain string) (*keystore.Signing, error, bool) {
	if k.delay > 0 {
		return nil, nil, false
	}
	s, err := k.answer(domain)
	return s, err, true
}

func (k *keys) Signing(ctx context.Context, domain string) (*keystore.Signing, error) {
	select {
	case <-time.After(k.delay):
		return k.answer(domain)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (k *keys) answer(domain string) (*keystore.Signing, error) {
	switch {
	case domain == k.domain:
		return &keystore.Signing{Domain: domain, Keys: k.signing, Broken: k.broken}, nil
	case k.err != nil:
		return nil, k.err
	}
	return nil, keystore.ErrNotFound
}

var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

var edKey = sync.OnceValue(func() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
})

func signingKeys() []keystore.SigningKey {
	return []keystore.SigningKey{
		{Selector: "rsa", Algorithm: keystore.RSA2048, Signer: rsaKey()},
		{Selector: "ed", Algorithm: keystore.Ed25519, Signer: edKey()},
	}
}

// lookup is the DNS of the tests.
func lookup(name string) ([]string, error) {
	switch name {
	case "rsa._domainkey.example.com":
		der, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
		return []string{"v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)}, err
	case "ed._domainkey.example.com":
		return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(edKey().Public().(ed25519.PublicKey))}, nil
	}
	return nil, errors.New("no record " + name)
}

// verified returns the number of valid signatures, and fails for any other.
func verified(t testing.TB, message []byte) int {
	t.Helper()
	results, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{LookupTXT: lookup})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Errorf("signature of %s: %v\n%.2000s", r.Domain, r.Err, message)
		}
	}
	return len(results)
}

// running is a server under test.
type running struct {
	*Server
	address net.Addr
	log     *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func testSettings(t testing.TB, change func(*Settings)) *Settings {
	t.Helper()
	rules, err := policy.New(policy.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &Settings{Rules: rules, Keys: &keys{domain: "example.com", signing: signingKeys()}}
	if change != nil {
		change(s)
	}
	return s
}

func startServer(t testing.TB, o Options, change func(*Settings)) *running {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	s := New(testSettings(t, change), o)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve("test", l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Shutdown(ctx)
		if err := <-ended; !errors.Is(err, ErrStopped) {
			t.Errorf("Serve ended with %v, want ErrStopped", err)
		}
	})
	return &running{s, l.Addr(), log}
}

// postfixClient connects as Postfix does for a client on loopback.
func (r *running) postfixClient(t testing.TB) *mta {
	t.Helper()
	m := dialMTA(t, r.address, postfix)
	m.connect("localhost", "127.0.0.1", 40000, "mx.example.com", "Postfix 3.7.11")
	return m
}

func ordinary() mail {
	return mail{
		from: "ann@example.com",
		header: []string{
			"From: Ann <ann@example.com>", "To: bob@example.net,\n\tcarol@example.net", "Subject:   three blanks,\n  folded ",
			"Date: Sat, 21 Nov 2026 23:00:00 +0000", "Message-ID: <m1@example.com>", "X-Empty:", "X-No-Blank:value", "X-Tab:\ttabbed",
		},
		body: "Hello  there \r\n\r\n.dot line\r\ntrailing blanks   \r\n\r\n\r\n",
	}
}

func TestEveryMTAGetsValidSignatures(t *testing.T) {
	for name, o := range map[string]offer{
		"Postfix":                           postfix,
		"version 2":                         {2, 0x1f, 0x7f},
		"Sendmail 8.14 with 1 MiB chunks":   {6, 0x1ff, 0x1fffff | 1<<29},
		"no reply may be left out":          {6, 0x1ff, 0x7f | leadSpace},
		"no leading blanks":                 {6, 0x1ff, 0x0fffff},
		"a version we do not know yet":      {7, 0xfff, 0xffffffff},
		"nothing but the right to add":      {6, 0x1, 0},
		"replies to body chunks are wanted": {6, 0x1ff, 0x1fffff &^ noBodyReply},
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, Options{}, nil)
			m := dialMTA(t, s.address, o)
			if m.version > 6 || m.version > o.version {
				t.Errorf("agreed on version %d", m.version)
			}
			m.connect("localhost", "127.0.0.1", 40000, "", "Postfix 3.7.11")
			for range 2 {
				msg := ordinary()
				r := m.mail(msg)
				if r.final.command != 'a' || len(r.inserts) != 2 {
					t.Fatalf("answered %v with %d fields, want accept with 2", r.final, len(r.inserts))
				}
				if n := verified(t, m.delivered(msg, r)); n != 2 {
					t.Errorf("%d signatures, want 2", n)
				}
				if !strings.Contains(string(r.inserts[1].data), "a=rsa-sha256") {
					t.Errorf("the RSA signature is not topmost")
				}
				m.abort()
			}
		})
	}
}

func TestAnMTAThatGrantsNothingIsRefused(t *testing.T) {
	s := startServer(t, Options{}, nil)
	conn, err := net.Dial("tcp", s.address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write(appendPacket(nil, 'O', []byte{0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0}))
	if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
		t.Errorf("got %q, %v, want a closed connection", b, err)
	}
	if !strings.Contains(s.log.String(), "right to add header fields") {
		t.Errorf("the log does not say why:\n%s", s.log)
	}
}

func TestForeignMailIsAcceptedAtMAIL(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := dialMTA(t, s.address, postfix)
	m.connect("mail.example.org", "192.0.2.7", 40000, "mx.example.com", "Postfix 3.7.11")
	if r := m.mail(ordinary()); r.final.command != 'a' || r.stage != 'M' {
		t.Errorf("answered %v at %c, want accept at M", r.final, r.stage)
	}
	// The next message of the same client may have a login.
	msg := ordinary()
	msg.login = "ann"
	if r := m.mail(msg); r.final.command != 'a' || len(r.inserts) != 2 {
		t.Errorf("with a login: %v with %d fields, want 2", r.final, len(r.inserts))
	}
	// And what that login was is forgotten after it.
	if r := m.mail(ordinary()); r.stage != 'M' {
		t.Errorf("after it: answered at %c, want M", r.stage)
	}
	if got := s.Stats().NotOurs.Load(); got != 2 {
		t.Errorf("%d counted as not ours, want 2", got)
	}
}

func TestAnAbortedMessageLeavesNothingBehind(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	// A message of another author is given up in the middle of its body.
	m.macros('M', "{auth_authen}", "mallory")
	m.ask('M', cstrings("<mallory@example.com>"), noMailReply)
	m.ask('L', cstrings("From", " mallory@example.com"), noHdrReply)
	m.ask('L', cstrings("Subject", " secret"), noHdrReply)
	m.ask('N', nil, noEOHReply)
	m.ask('B', []byte("half a body\r\n"), noBodyReply)
	m.abort()
	msg := ordinary()
	r := m.mail(msg)
	if n := verified(t, m.delivered(msg, r)); n != 2 {
		t.Errorf("%d signatures, want 2", n)
	}
	if log := s.log.String(); strings.Contains(log, "mallory") {
		t.Errorf("the log of the second message knows the first:\n%s", log)
	}
	// Sendmail leaves the abort out after an early answer.
	m.macros('M')
	m.ask('M', cstrings("<>"), noMailReply)
	m.ask('L', cstrings("X-Left", " over"), noHdrReply)
	r = m.mail(msg)
	if n := verified(t, m.delivered(msg, r)); n != 2 {
		t.Errorf("without abort: %d signatures, want 2", n)
	}
}

func TestAConnectionCanServeAnotherClient(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	if r := m.mail(ordinary()); len(r.inserts) != 2 {
		t.Fatalf("%d fields, want 2", len(r.inserts))
	}
	m.queue('K', nil) // SMFIC_QUIT_NC
	m.connect("mail.example.org", "192.0.2.7", 40000, "mx.example.com", "Postfix 3.7.11")
	if r := m.mail(ordinary()); r.stage != 'M' {
		t.Errorf("the second client was taken for the first")
	}
}

func TestLocalSubmissionHasNoClient(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) {
		var err error
		s.Rules, err = policy.New(policy.Options{Origin: policy.OriginOptions{Networks: []string{}}})
		if err != nil {
			t.Fatal(err)
		}
	})
	for _, c := range []struct {
		name, host, address string
		port                uint16
		want                byte
	}{
		{"Postfix's made-up client", "localhost", "127.0.0.1", 0, 'E'},
		{"a real client on loopback", "localhost", "127.0.0.1", 4711, 'M'},
		{"a client elsewhere with port 0", "localhost", "192.0.2.1", 0, 'M'},
		{"an address that is none", "localhost", "what?", 0, 'M'},
	} {
		m := dialMTA(t, s.address, postfix)
		m.connect(c.host, c.address, c.port, "", "Postfix 3.7.11")
		if r := m.mail(ordinary()); r.stage != c.want {
			t.Errorf("%s: answered at %c, want %c", c.name, r.stage, c.want)
		}
	}
	for host, want := range map[string]byte{"localhost": 'E', "unknown": 'M'} {
		m := dialMTA(t, s.address, postfix)
		m.ask('C', append(cstrings(host), 'U'), noConnReply)
		if r := m.mail(ordinary()); r.stage != want {
			t.Errorf("a client of unknown family called %s: answered at %c, want %c", host, r.stage, want)
		}
	}
}

// failing is a key whose signature never comes.
type failing struct{ crypto.Signer }

func (failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the key is on strike")
}

func TestOutcomes(t *testing.T) {
	long := ordinary()
	long.header = append(long.header, "X-Long: "+strings.Repeat("x", 2000))
	many := ordinary()
	for range 20 {
		many.header = append(many.header, "X-Many: y")
	}
	elsewhere := ordinary()
	elsewhere.header[0] = "From: ann@example.net"
	noFrom := ordinary()
	noFrom.header = noFrom.header[1:]
	twoFrom := ordinary()
	twoFrom.header = append(twoFrom.header, "From: ann@example.com")
	stray := ordinary()
	stray.body = "bare\nline feed\r\n"

	for _, c := range []struct {
		name    string
		mail    mail
		change  func(*Settings)
		cause   Cause
		action  Action
		want    byte
		say     string
		unusual bool // the action is not the default
	}{
		{name: "a domain without a key goes unsigned", mail: elsewhere, cause: NoKey, want: 'a'},
		{name: "a domain without a key is tempfailed", mail: elsewhere, cause: NoKey, action: Tempfail, want: 'y', say: "451 4.7.5"},
		{name: "a domain without a key is rejected", mail: elsewhere, cause: NoKey, action: Reject, want: 'y', say: "550 5.7.5"},
		{name: "a key that fails is tempfailed", mail: ordinary(), cause: KeyUnusable, want: 'y', say: "451 4.7.5", change: onStrike},
		{name: "a key that fails goes unsigned", mail: ordinary(), cause: KeyUnusable, action: Accept, want: 'a', change: onStrike},
		{name: "a key that fails is rejected", mail: ordinary(), cause: KeyUnusable, action: Reject, want: 'y', say: "550 5.7.5", change: onStrike},
		{name: "a key that cannot be read is tempfailed", mail: ordinary(), cause: KeyUnusable, want: 'y', say: "451 4.7.5", change: unreadable},
		{name: "a store that is down is tempfailed", mail: elsewhere, cause: StoreDown, want: 'y', say: "451 4.3.0", change: down},
		{name: "a store that is down goes unsigned", mail: elsewhere, cause: StoreDown, action: Accept, want: 'a', change: down},
		{name: "no From goes unsigned", mail: noFrom, cause: NotSignable, want: 'a'},
		{name: "no From is rejected", mail: noFrom, cause: NotSignable, action: Reject, want: 'y', say: "550 5.6.0"},
		{name: "two From go unsigned", mail: twoFrom, cause: NotSignable, want: 'a'},
		{name: "a bare LF goes unsigned", mail: stray, cause: NotSignable, want: 'a'},
		{name: "a bare LF is rejected", mail: stray, cause: NotSignable, action: Reject, want: 'y', say: "550 5.6.0"},
		{name: "a header too long is rejected", mail: long, cause: OverLimit, want: 'y', say: "552 5.3.4", change: tight},
		{name: "too many fields are rejected", mail: many, cause: OverLimit, want: 'y', say: "552 5.3.4", change: tight},
		{name: "too many fields go unsigned", mail: many, cause: OverLimit, action: Accept, want: 'a', change: tight},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, Options{}, func(s *Settings) {
				if c.change != nil {
					c.change(s)
				}
				if c.action != "" {
					s.Outcomes = Outcomes{c.cause: c.action}
				}
			})
			m := s.postfixClient(t)
			r := m.mail(c.mail)
			if r.final.command != c.want || !strings.HasPrefix(string(r.final.data), c.say) || len(r.inserts) > 0 {
				t.Errorf("answered %v with %d fields, want %c %q without", r.final, len(r.inserts), c.want, c.say)
			}
			if log := s.log.String(); !strings.Contains(log, "cause="+string(c.cause)) {
				t.Errorf("the log does not name the cause %s:\n%s", c.cause, log)
			}
			// The next message of the connection is not affected.
			if c.change == nil {
				if r := m.mail(ordinary()); len(r.inserts) != 2 {
					t.Errorf("the message after it: %v with %d fields, want 2", r.final, len(r.inserts))
				}
			}
		})
	}
}

func onStrike(s *Settings) {
	k := signingKeys()
	k[0].Signer = failing{k[0].Signer}
	s.Keys = &keys{domain: "example.com", signing: k}
}

func unreadable(s *Settings) {
	s.Keys = &keys{domain: "example.com", signing: signingKeys()[1:], broken: []error{errors.New("no RSA key today")}}
}

func down(s *Settings) {
	s.Keys = &keys{domain: "example.com", signing: signingKeys(), err: errors.New("connection refused")}
}

func tight(s *Settings) { s.HeaderBytes, s.HeaderFields = 1000, 20 }

func TestABrokenKeyIsMadeUpForByAnRSAKey(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) {
		s.Keys = &keys{domain: "example.com", signing: signingKeys()[:1], broken: []error{errors.New("no Ed25519 key today")}}
	})
	m := s.postfixClient(t)
	if r := m.mail(ordinary()); len(r.inserts) != 1 {
		t.Errorf("%v with %d fields, want 1", r.final, len(r.inserts))
	}
	if !strings.Contains(s.log.String(), "no Ed25519 key today") {
		t.Errorf("the log does not tell of the broken key:\n%s", s.log)
	}
}

// A row that names selectors has nothing to do with the other keys of its domain.
func TestABrokenKeyThatTheRowDoesNotNameIsOfNoConcern(t *testing.T) {
	keyError := func(selector string) error {
		return &keystore.KeyError{Domain: "example.com", Selector: selector, Err: errors.New("no key today")}
	}
	for _, c := range []struct {
		name      string
		selectors []string
		broken    error
		fields    int
		cause     Cause
	}{
		{"another key is broken", []string{"ed"}, keyError("other"), 1, ""},
		{"the key is broken, and Ed25519 alone is left", []string{"ed", "main"}, keyError("main"), 0, KeyUnusable},
		{"the only key is broken", []string{"main"}, keyError("main"), 0, KeyUnusable},
		{"another key is broken, and the row's does not exist", []string{"main"}, keyError("other"), 0, NoKey},
		{"it is not known which key is broken", []string{"main"}, keyError(""), 0, KeyUnusable},
		{"every key may sign", nil, keyError("other"), 0, KeyUnusable},
	} {
		s := startServer(t, Options{}, func(s *Settings) {
			var err error
			s.Rules, err = policy.New(policy.Options{Table: []policy.Row{{Domain: "example.com", Selectors: c.selectors}}})
			if err != nil {
				t.Fatal(err)
			}
			s.Keys = &keys{domain: "example.com", signing: signingKeys()[1:], broken: []error{c.broken}}
		})
		r := s.postfixClient(t).mail(ordinary())
		log := s.log.String()
		if len(r.inserts) != c.fields || c.cause != "" && !strings.Contains(log, "cause="+string(c.cause)) || c.cause == "" && strings.Contains(log, "no key today") {
			t.Errorf("%s: %v with %d fields, want %d\n%s", c.name, r.final, len(r.inserts), c.fields, log)
		}
	}
}

func TestKeysAreLoadedBesideTheBody(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) {
		s.Keys = &keys{domain: "example.com", signing: signingKeys(), delay: 50 * time.Millisecond}
	})
	m := s.postfixClient(t)
	msg := ordinary()
	if r := m.mail(msg); verified(t, m.delivered(msg, r)) != 2 {
		t.Error("not signed with keys that were loaded late")
	}
	// A wait that is too long ends by the clock, with the store's outcome.
	s.Use(testSettings(t, func(s *Settings) {
		s.Keys = &keys{domain: "example.com", signing: signingKeys(), delay: time.Hour}
		s.KeyTimeout = 20 * time.Millisecond
	}))
	if r := m.mail(msg); !strings.HasPrefix(string(r.final.data), "451 4.3.0") {
		t.Errorf("answered %v, want 451 4.3.0", r.final)
	}
	// An abort does not wait for them.
	s.Use(testSettings(t, func(s *Settings) {
		s.Keys = &keys{domain: "example.com", signing: signingKeys(), delay: time.Hour}
		s.KeyTimeout = time.Hour
	}))
	m.ask('M', cstrings("<>"), noMailReply)
	m.ask('L', cstrings("From", " ann@example.com"), noHdrReply)
	m.ask('N', nil, noEOHReply)
	m.abort()
	s.Use(testSettings(t, nil))
	if r := m.mail(msg); len(r.inserts) != 2 {
		t.Errorf("after the abort: %v with %d fields, want 2", r.final, len(r.inserts))
	}
}

func TestAMessageKeepsTheSettingsItBeganWith(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	m.ask('M', cstrings("<>"), noMailReply)
	m.ask('L', cstrings("From", " ann@example.com"), noHdrReply)
	s.Use(testSettings(t, func(s *Settings) { s.Keys = &keys{} }))
	m.ask('N', nil, noEOHReply)
	m.send('E', nil)
	if p := m.read(); p.command != 'i' {
		t.Errorf("got %v, want a signature by the settings of before", p)
	}
	m.read()
	m.read()
	if r := m.mail(ordinary()); len(r.inserts) != 0 {
		t.Error("the next message was signed by the settings of before")
	}
}

// panicking is a Keys that panics when it has to look.
type panicking struct{ Keys }

func (panicking) Cached(string) (*keystore.Signing, error, bool) { return nil, nil, false }
func (panicking) Signing(context.Context, string) (*keystore.Signing, error) {
	panic("no keys today")
}

func TestAPanicOfTheKeystoreIsAnOutcome(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) { s.Keys = panicking{} })
	if r := s.postfixClient(t).mail(ordinary()); !strings.HasPrefix(string(r.final.data), "451 4.3.0") {
		t.Errorf("answered %v, want 451 4.3.0", r.final)
	}
}

func TestAPanicCostsOneConnection(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) { s.Keys = nil })
	m := s.postfixClient(t)
	m.ask('M', cstrings("<>"), noMailReply)
	m.ask('L', cstrings("From", " ann@example.com"), noHdrReply)
	m.send('N', nil)
	if p, err := m.tryRead(); err == nil {
		t.Errorf("got %v, want a closed connection", p)
	}
	s.Use(testSettings(t, nil))
	if r := s.postfixClient(t).mail(ordinary()); len(r.inserts) != 2 {
		t.Errorf("another connection: %v with %d fields, want 2", r.final, len(r.inserts))
	}
	if got := s.Stats().Panics.Load(); got != 1 {
		t.Errorf("%d panics counted, want 1", got)
	}
}

func TestShutdownFinishesMessagesUnderWay(t *testing.T) {
	s := startServer(t, Options{}, nil)
	idle, busy := s.postfixClient(t), s.postfixClient(t)
	if r := idle.mail(ordinary()); len(r.inserts) != 2 {
		t.Fatal("not signed")
	}
	msg := ordinary()
	busy.ask('M', cstrings("<>"), noMailReply)
	for _, h := range msg.header {
		name, value, _ := strings.Cut(h, ":")
		busy.ask('L', cstrings(name, value), noHdrReply)
	}
	busy.ask('N', nil, noEOHReply)

	stopped := make(chan error)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	if _, err := idle.tryRead(); err == nil {
		t.Error("a connection between messages was not closed")
	}
	if _, err := net.Dial("tcp", s.address.String()); err == nil {
		t.Error("a connection was taken after the stop")
	}
	busy.queue('B', []byte(msg.body))
	busy.send('E', nil)
	r := reply{}
	for {
		p := busy.read()
		if p.command != 'i' {
			r.final = p
			break
		}
		r.inserts = append(r.inserts, p)
	}
	if r.final.command != 'a' || verified(t, busy.delivered(msg, r)) != 2 {
		t.Errorf("the message under way got %v", r.final)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := s.Stats().Open.Load(); got != 0 {
		t.Errorf("%d connections open after the stop", got)
	}
}

func TestShutdownEndsInTime(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	m.ask('M', cstrings("<>"), noMailReply)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v, want the context's error", err)
	}
	if p, err := m.tryRead(); err == nil {
		t.Errorf("got %v, want a closed connection", p)
	}
}

func TestConnectionsOverTheLimitWait(t *testing.T) {
	s := startServer(t, Options{Connections: 2}, nil)
	first, second := s.postfixClient(t), s.postfixClient(t)
	third := make(chan reply)
	go func() { third <- s.postfixClient(t).mail(ordinary()) }()
	if r := first.mail(ordinary()); len(r.inserts) != 2 {
		t.Error("not signed")
	}
	select {
	case <-third:
		t.Error("the third connection was served beside two others")
	case <-time.After(50 * time.Millisecond):
	}
	second.send('Q', nil)
	if r := <-third; len(r.inserts) != 2 {
		t.Error("the third connection was not served after another ended")
	}
}

func TestListenersDoNotStarveEachOther(t *testing.T) {
	s := startServer(t, Options{Connections: 1}, nil)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve("second", l)
	for _, address := range []net.Addr{l.Addr(), s.address, l.Addr()} {
		m := dialMTA(t, address, postfix)
		m.connect("localhost", "127.0.0.1", 40000, "", "Postfix 3.7.11")
		if r := m.mail(ordinary()); len(r.inserts) != 2 {
			t.Error("not signed")
		}
		m.send('Q', nil)
	}
}

func TestHeadersAreSignedRelaxedWhereBlanksAreHidden(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) { s.Header, s.Body = signer.Simple, signer.Simple })
	m := dialMTA(t, s.address, offer{6, 0x1ff, 0x0fffff})
	m.connect("localhost", "127.0.0.1", 40000, "", "Postfix 3.7.11")
	msg := ordinary()
	msg.header[1] = "To:bob@example.net"
	r := m.mail(msg)
	if n := verified(t, m.delivered(msg, r)); n != 2 || !strings.Contains(string(r.inserts[0].data), "c=relaxed/simple") {
		t.Errorf("%d signatures: %v", n, r.inserts)
	}
	if !strings.Contains(s.log.String(), "signed relaxed") {
		t.Errorf("the log does not say so:\n%s", s.log)
	}
}

func TestSimpleCanonicalizationNeedsTheBlanksAsTheyAre(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) { s.Header, s.Body = signer.Simple, signer.Simple })
	m := s.postfixClient(t)
	msg := ordinary()
	if r := m.mail(msg); verified(t, m.delivered(msg, r)) != 2 {
		t.Error("not signed")
	}
}

func TestPipelinedMessagesOfManySizes(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	for _, size := range []int{0, 1, 100, 4096, 16380, 65534, 65535, 65536, 300_000} {
		for _, chunk := range []int{0, 1000} {
			msg := ordinary()
			msg.body = strings.Repeat("a line of text  with blanks\t\r\n", size/30+1)[:size]
			msg.body = strings.TrimRight(msg.body, "\r") // no stray CR at the cut
			msg.chunk = chunk
			if r := m.mail(msg); verified(t, m.delivered(msg, r)) != 2 {
				t.Errorf("body of %d bytes in chunks of %d: not signed", size, chunk)
			}
			m.abort()
		}
	}
}

// What an MTA has told of a client's certificate says nothing of the next one,
// though that has not said HELO yet.
func TestACertificateIsForgottenWithItsClient(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) {
		var err error
		s.Rules, err = policy.New(policy.Options{Origin: policy.OriginOptions{AnyCertificate: true}})
		if err != nil {
			t.Fatal(err)
		}
	})
	m := dialMTA(t, s.address, postfix)
	m.connect("mail.example.org", "192.0.2.7", 40000, "mx.example.com", "Postfix 3.7.11")
	m.macros('H', "{cert_subject}", "relay", "{cert_issuer}", "our CA")
	m.ask('H', cstrings("mail.example.org"), noHeloReply)
	if r := m.mail(ordinary()); len(r.inserts) != 2 {
		t.Fatalf("with a certificate: %v with %d fields, want 2", r.final, len(r.inserts))
	}
	m.macros('C', "v", "Postfix 3.7.11")
	m.ask('C', append(append(cstrings("other.example.org"), '4', 0, 25), cstrings("192.0.2.8")...), noConnReply)
	if r := m.mail(ordinary()); r.stage != 'M' {
		t.Errorf("the next client has the certificate of the one before: answered at %c with %d fields", r.stage, len(r.inserts))
	}
}
