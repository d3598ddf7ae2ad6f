package milter

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	gomilter "github.com/d--j/go-milter"

	"waxseal/milter/policy"
	"waxseal/signer"
)

// protocolBits are what we ask for when the MTA offers it: no replies but at
// MAIL, end of header and end of message, and header values as they are.
const protocolBits = gomilter.OptNoReplies&^gomilter.OptNoMailReply&^gomilter.OptNoEOHReply | gomilter.OptHeaderLeadingSpace

// session turns the callbacks of one milter connection into transactions. Its
// methods run on the goroutine of the connection, one after the other; only
// stop is called from elsewhere.
type session struct {
	server   *Server
	listener string
	guard    *guard

	leadingSpace bool
	relaxed      bool              // it was said that simple headers are signed relaxed
	client       policy.Connection // facts of the SMTP connection; an abort keeps them
	tls          map[string]string // macros that come with HELO, which go-milter forgets at an abort

	// What belongs to one message; reset clears it.
	tx      *Transaction
	message *signer.Message
	login   string
	began   time.Time
	ended   time.Time // zero before the end of the message

	answered bool // the final reply to the message is on its way

	mu      sync.Mutex
	busy    bool // guarded by mu: a message is under way, up to its reply
	stopped bool // guarded by mu: no message may begin
}

var _ gomilter.Milter = (*session)(nil)

var errStopping = errors.New("stopping")

// serve speaks with one MTA until it quits.
func (s *session) serve() {
	server := gomilter.NewServer(
		gomilter.WithMilter(func() gomilter.Milter { return s }),
		gomilter.WithActions(gomilter.OptAddHeader),
		gomilter.WithProtocols(protocolBits),
		gomilter.WithNegotiationCallback(s.negotiate),
	)
	s.guard.panicked = s.panicked
	s.guard.flushed = func() {
		if s.answered {
			s.answered = false
			s.idle()
		}
	}
	done := make(chan struct{})
	// Serve ends with the error of the second Accept, when the connection is
	// closed; go-milter has no other way to serve one connection.
	_ = server.Serve(&oneConn{conn: &closeNotifier{guard: s.guard, closed: done}, closed: done})
	s.reset()
	s.idle()
	if bad := s.guard.bad; bad != nil {
		s.server.stats.Malformed.Add(1)
		s.server.log.Warn("milter connection cut", "listener", s.listener, "peer", s.guard.RemoteAddr().String(), "err", bad)
	}
}

// negotiate takes what the MTA offers instead of refusing it: version 2 to 6,
// of our wishes those it knows. Only the right to add a field is needed.
func (s *session) negotiate(version, _ uint32, actions, _ gomilter.OptAction, protocol, _ gomilter.OptProtocol, _ gomilter.DataSize) (uint32, gomilter.OptAction, gomilter.OptProtocol, gomilter.DataSize, error) {
	if version < 2 || actions&gomilter.OptAddHeader == 0 {
		err := fmt.Errorf("the MTA offers milter protocol version %d and actions %q, want version 2 or later and the right to add header fields", version, actions)
		s.server.log.Error("milter connection refused", "listener", s.listener, "err", err)
		return 0, 0, 0, 0, err
	}
	protocol &= protocolBits
	s.leadingSpace = protocol&gomilter.OptHeaderLeadingSpace != 0
	s.relaxed = false
	if !s.leadingSpace && s.server.settings.Load().simple() {
		s.relaxed = true
		s.server.log.Warn("the mail server hides the blanks of header fields, so the header is signed relaxed instead of simple", "listener", s.listener)
	}
	if protocol&gomilter.OptNoHeaderReply != 0 {
		s.guard.field = s.takeField
	}
	if protocol&gomilter.OptNoBodyReply != 0 {
		s.guard.body = s.takeBody
	}
	return min(version, gomilter.MaxServerProtocolVersion), gomilter.OptAddHeader, protocol, gomilter.DataSize64K, nil
}

// NewConnection begins an SMTP connection, also one that follows another on
// the same milter connection (SMFIC_QUIT_NC).
func (s *session) NewConnection(gomilter.Modifier) (err error) {
	defer s.recovered(&err)
	s.reset()
	s.idle()
	s.client, s.tls = policy.Connection{Listener: s.listener}, nil
	return nil
}

func (s *session) Connect(host, family string, port uint16, address string, m gomilter.Modifier) (_ *gomilter.Response, err error) {
	defer s.recovered(&err)
	s.client, s.tls = policy.Connection{Listener: s.listener}, nil
	if family == "unknown" || family == "unix" {
		// Postfix says so too of a client whose address it was not told, and
		// then calls the host unknown.
		s.client.Local = host != "unknown"
		return gomilter.RespContinue, nil
	}
	if ip, err := netip.ParseAddr(address); err == nil && !ip.IsUnspecified() {
		s.client.Client = ip.Unmap()
	}
	// Postfix makes up a client for mail that came by the sendmail command.
	s.client.Local = host == "localhost" && port == 0 && s.client.Client.IsLoopback()
	return gomilter.RespContinue, nil
}

// Helo keeps what the MTA tells of the client's certificate. It comes again
// after STARTTLS, and then counts anew.
func (s *session) Helo(_ string, m gomilter.Modifier) (_ *gomilter.Response, err error) {
	defer s.recovered(&err)
	s.tls = nil
	for _, name := range []gomilter.MacroName{"{verify}", gomilter.MacroCertSubject, gomilter.MacroCertIssuer} {
		if value, ok := m.GetEx(name); ok {
			if s.tls == nil {
				s.tls = make(map[string]string)
			}
			s.tls[string(name)] = value
		}
	}
	return gomilter.RespContinue, nil
}

// MailFrom begins a message. Mail that is certainly not ours is accepted here,
// and the MTA sends nothing more of it.
func (s *session) MailFrom(from, _ string, m gomilter.Modifier) (_ *gomilter.Response, err error) {
	defer s.recovered(&err)
	s.reset()
	if !s.begin() {
		return nil, errStopping
	}
	s.client.DaemonName = m.Get(gomilter.MacroDaemonName)
	s.client.MTA = m.Get(gomilter.MacroMTAVersion)
	s.client.Host = m.Get(gomilter.MacroMTAFQDN)
	settings := s.server.settings.Load()
	s.client.Macros = s.macros(settings.Rules.Macros(), m)
	s.login = m.Get(gomilter.MacroAuthAuthen)
	if !s.relaxed && settings.simple() && settings.Peers[s.listener].profile(s.client.MTA) == signer.Sendmail {
		s.relaxed = true
		s.server.log.Warn("Sendmail folds header fields anew after its milters, so the header is signed relaxed instead of simple", "listener", s.listener)
	}
	s.began = s.server.now()
	s.message = s.server.messages.Get().(*signer.Message)
	var r *Result
	if s.tx, r = settings.Begin(s.client, s.login, from, s.leadingSpace, s.message); r != nil {
		return s.finish(r, m)
	}
	return gomilter.RespContinue, nil
}

// macros returns the values of those macros that the MTA has sent.
func (s *session) macros(names []string, m gomilter.Modifier) map[string]string {
	if len(names) == 0 {
		return nil
	}
	values := make(map[string]string)
	for _, name := range names {
		value, ok := m.GetEx(gomilter.MacroName(name))
		if !ok {
			value, ok = s.tls[name]
		}
		if ok {
			values[name] = value
		}
	}
	return values
}

func (s *session) RcptTo(string, string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) Data(gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

// Header is called for MTAs that want a reply to each field; for all others the
// guard calls takeField.
func (s *session) Header(name, value string, _ gomilter.Modifier) (_ *gomilter.Response, err error) {
	return gomilter.RespContinue, s.takeField(name, value)
}

func (s *session) takeField(name, value string) (err error) {
	defer s.recovered(&err)
	if s.tx == nil {
		return nil
	}
	if s.tx.decided {
		return s.late('L')
	}
	if !s.leadingSpace && (value == "" || value[0] != '\t' && value[0] != '\n') {
		// An MTA without this bit has eaten the blank after the colon.
		value = " " + value
	}
	s.tx.Field(name, value)
	return nil
}

func (s *session) Headers(m gomilter.Modifier) (_ *gomilter.Response, err error) {
	defer s.recovered(&err)
	if s.tx == nil {
		return gomilter.RespContinue, nil
	}
	if s.tx.decided {
		return nil, s.late('N')
	}
	if r := s.tx.EndOfHeader(s.server.ctx); r != nil {
		return s.finish(r, m)
	}
	return gomilter.RespContinue, nil
}

// late cuts off a peer that goes on with a header that has ended: keys are being
// looked for by what it had.
func (s *session) late(command byte) error {
	s.guard.bad = malformed(fmt.Sprintf("%c packet behind the end of the header", command))
	return s.guard.bad
}

// BodyChunk is called for MTAs that want a reply to each piece of the body; for
// all others the guard calls takeBody.
func (s *session) BodyChunk(chunk []byte, _ gomilter.Modifier) (_ *gomilter.Response, err error) {
	return gomilter.RespContinue, s.takeBody(chunk)
}

func (s *session) takeBody(chunk []byte) (err error) {
	defer s.recovered(&err)
	if s.tx == nil {
		return nil
	}
	_, err = s.tx.Write(chunk)
	return err
}

// EndOfMessage answers with the signatures. They are inserted at index 0, the
// very top, so the last one to be sent ends topmost.
func (s *session) EndOfMessage(m gomilter.Modifier) (_ *gomilter.Response, err error) {
	defer s.recovered(&err)
	if s.tx == nil {
		return gomilter.RespAccept, nil
	}
	s.ended = s.server.now()
	r := s.tx.End(s.server.ctx, s.ended)
	for i := len(r.Fields) - 1; i >= 0; i-- {
		f := r.Fields[i]
		if !s.leadingSpace {
			f.Value = f.Value[1:] // the MTA puts the blank
		}
		s.guard.insertField(f.Name, f.Value)
	}
	return s.finish(r, m)
}

func (s *session) Abort(gomilter.Modifier) (err error) {
	defer s.recovered(&err)
	s.reset()
	s.idle()
	return nil
}

func (s *session) Unknown(string, gomilter.Modifier) (*gomilter.Response, error) {
	return gomilter.RespContinue, nil
}

func (s *session) Cleanup(gomilter.Modifier) {
	var err error
	defer s.recovered(&err)
	s.reset()
}

// begin marks a message as under way. It returns false when the server stops.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = !s.stopped
	return s.busy
}

// reset forgets the message.
func (s *session) reset() {
	if s.tx != nil {
		s.tx.Abort()
		s.tx = nil
	}
	if s.message != nil {
		s.server.messages.Put(s.message)
		s.message = nil
	}
	s.login = ""
	s.ended = time.Time{}
}

// idle ends the time in which the connection may not be closed, and closes it
// when the server waits for that.
func (s *session) idle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	if s.stopped {
		s.guard.Close()
	}
}

// stop lets no further message begin, and closes the connection if none is
// under way.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if !s.busy {
		s.guard.Close()
	}
}

// finish logs and counts the result, and turns it into a reply.
func (s *session) finish(r *Result, m gomilter.Modifier) (*gomilter.Response, error) {
	s.server.stats.count(r)
	if c := s.server.options.Collector; c != nil {
		c.observe(r, s.began, s.ended, s.server.now())
	}
	s.log(r, m)
	response, err := r.response()
	s.reset()
	s.answered = true
	return response, err
}

// log writes the one line that a message gets. Foreign mail is of interest
// only when looking for something.
func (s *session) log(r *Result, m gomilter.Modifier) {
	level, text := slog.LevelInfo, "signed"
	switch {
	case r.Signed && (len(r.Broken) > 0 || r.certain()):
		level = slog.LevelWarn
	case r.Signed:
	case r.Cause == NotOurs:
		level, text = slog.LevelDebug, "not ours"
	case r.Cause == Excluded || r.Cause == AlreadySigned:
		text = "left as it is"
	case r.Action == Accept:
		level, text = slog.LevelWarn, "unsigned"
	case r.Action == Tempfail:
		level, text = slog.LevelWarn, "tempfailed"
	default:
		level, text = slog.LevelWarn, "rejected"
	}
	if !s.server.log.Enabled(s.server.ctx, level) {
		return
	}
	var attributes []slog.Attr
	add := func(key, value string) {
		if value != "" {
			attributes = append(attributes, slog.String(key, value))
		}
	}
	add("queue_id", m.Get(gomilter.MacroQueueId))
	if !r.Signed {
		add("cause", string(r.Cause))
		add("action", string(r.Action))
		add("reason", r.Reason)
	}
	add("author", r.Author)
	domains := r.Domain
	for _, beside := range r.Beside {
		domains += "," + beside
	}
	add("domain", domains)
	add("selectors", strings.Join(r.Selectors, ","))
	if len(r.Risks) > 0 {
		names, words := make([]string, len(r.Risks)), make([]string, len(r.Risks))
		for i, risk := range r.Risks {
			names[i], words[i] = string(risk.Name), risk.String()
		}
		add("risks", strings.Join(names, ","))
		add("at_risk", strings.Join(words, "; "))
	}
	if r.Unaligned {
		add("dmarc", "d= is not the author's domain, so DMARC does not count the signature")
	}
	add("rule", r.Rule)
	add("row", r.Row)
	add("sender_row", r.SenderRow)
	add("login", s.login)
	if s.client.Client.IsValid() {
		add("client", s.client.Client.String())
	}
	add("listener", s.listener)
	if !s.ended.IsZero() { // else the body has not been seen
		attributes = append(attributes, slog.Int64("bytes", r.Bytes))
	}
	attributes = append(attributes, slog.Float64("ms", float64(s.server.now().Sub(s.began).Microseconds())/1000))
	if len(r.Broken) > 0 {
		attributes = append(attributes, slog.Any("err", errors.Join(r.Broken...)))
	}
	s.server.log.LogAttrs(s.server.ctx, level, text, attributes...)
}

// recovered turns a panic into the end of this connection. The MTA's policy
// for a lost milter decides about the message, which should be to try again.
func (s *session) recovered(err *error) {
	if p := recover(); p != nil {
		*err = s.panicked(p)
	}
}

func (s *session) panicked(p any) error {
	s.server.stats.Panics.Add(1)
	s.server.log.Error("panic in a session, connection closed", "listener", s.listener, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return fmt.Errorf("panic: %v", p)
}
