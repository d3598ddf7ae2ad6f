package milter

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"waxseal/milter/policy"
	"waxseal/signer"
)

// through takes a message of local origin through a transaction.
func through(t *testing.T, s *Settings, listener, v string, msg mail) *Result {
	t.Helper()
	tx, r := s.Begin(policy.Connection{Local: true, Listener: listener, MTA: v, Host: "mx.example.com"}, "", msg.from, true, signer.New(signer.Options{}))
	if r != nil {
		t.Fatalf("not ours: %s", r.Reason)
	}
	defer tx.Abort()
	for _, h := range msg.header {
		name, value, _ := strings.Cut(h, ":")
		tx.Field(name, value)
	}
	if r := tx.EndOfHeader(context.Background()); r != nil {
		return r
	}
	tx.Write([]byte(msg.body))
	return tx.End(context.Background(), time.Unix(1_800_000_000, 0))
}

func riskNames(r *Result) []signer.Risk {
	var names []signer.Risk
	for _, risk := range r.Risks {
		names = append(names, risk.Name)
	}
	return names
}

const postfixVersion = "Postfix 3.7.11"

func TestRisksHaveTheOutcomeThatIsSet(t *testing.T) {
	long := strings.Repeat("x", 1200) + "\r\n"
	bare := "a\nb\r\n"
	for _, tt := range []struct {
		name     string
		risks    RiskActions
		outcomes Outcomes
		from     string
		body     string
		signed   bool
		action   Action
		reply    string
		want     []signer.Risk
	}{
		{name: "none", body: "hello\r\n", signed: true},
		{name: "signed by default", body: long, signed: true, want: []signer.Risk{signer.LongBodyLine}},
		{name: "left unsigned", risks: RiskActions{signer.LongBodyLine: RiskUnsigned}, body: long, action: Accept, want: []signer.Risk{signer.LongBodyLine}},
		{name: "unsigned where that is refused", risks: RiskActions{signer.LongBodyLine: RiskUnsigned}, outcomes: Outcomes{NotSignable: Reject}, body: long,
			action: Reject, reply: "550 5.6.0 The message cannot be signed: a line of the body has more than 998 octets", want: []signer.Risk{signer.LongBodyLine}},
		{name: "unsigned where nothing leaves unsigned", risks: RiskActions{signer.LongBodyLine: RiskUnsigned}, outcomes: Strict(), body: long,
			action: Tempfail, reply: "451 4.6.0", want: []signer.Risk{signer.LongBodyLine}},
		{name: "refused", risks: RiskActions{signer.LongBodyLine: RiskReject}, body: long,
			action: Reject, reply: "550 5.6.0 The message is refused: a line of the body has more than 998 octets, and Postfix breaks it", want: []signer.Risk{signer.LongBodyLine}},
		{name: "bare LF is not signed by default", body: bare, action: Accept, want: []signer.Risk{signer.BareCRLF}},
		{name: "bare LF signed as it is", risks: RiskActions{signer.BareCRLF: RiskSign}, body: bare, signed: true, want: []signer.Risk{signer.BareCRLF}},
		{name: "a refusal comes before all else", risks: RiskActions{signer.NUL: RiskReject}, body: "\x00" + bare + long,
			action: Reject, reply: "550 5.6.0 The message is refused: a NUL", want: []signer.Risk{signer.LongBodyLine, signer.BareCRLF, signer.NUL}},
		{name: "the first of several reasons is told", risks: RiskActions{signer.NUL: RiskUnsigned}, outcomes: Outcomes{NotSignable: Reject}, body: "\x00" + bare,
			action: Reject, reply: "550 5.6.0 The message cannot be signed: bare CR or LF", want: []signer.Risk{signer.BareCRLF, signer.NUL}},
		{name: "a bad From is not signed", from: " ann@example.com, bob@example.org", action: Accept, want: []signer.Risk{BadFrom}},
		{name: "a bad From is refused", from: " ann@example.com, bob@example.org", risks: RiskActions{BadFrom: RiskReject},
			action: Reject, reply: "550 5.6.0 The message is refused: From", want: []signer.Risk{BadFrom}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testSettings(t, func(s *Settings) { s.Risks, s.Outcomes = tt.risks, tt.outcomes })
			msg := ordinary()
			msg.body = tt.body
			if tt.from != "" {
				msg.header[0] = "From:" + tt.from
			}
			r := through(t, s, "", postfixVersion, msg)
			if r.Signed != tt.signed || r.Action != tt.action {
				t.Errorf("signed: %v, action %q (%s), want %v, %q", r.Signed, r.Action, r.Reason, tt.signed, tt.action)
			}
			if got := riskNames(r); !slices.Equal(got, tt.want) {
				t.Errorf("risks %v, want %v", got, tt.want)
			}
			reply := ""
			if r.Code > 0 {
				reply = fmt.Sprint(r.Code, " ", r.Text)
			}
			if !strings.HasPrefix(reply, tt.reply) || (reply == "") != (tt.reply == "") {
				t.Errorf("reply %q, want %q", reply, tt.reply)
			}
		})
	}
}

// TestTheMailServerDecidesWhatIsSigned: macro v tells, unless the listener does.
func TestTheMailServerDecidesWhatIsSigned(t *testing.T) {
	s := testSettings(t, func(s *Settings) {
		s.Header = signer.Simple
		s.Peers = map[string]Peer{
			"postfix":    {MTA: MTAPostfix},
			"sendmail":   {MTA: MTASendmail},
			"auto":       {MTA: MTAAuto},
			"masquerade": {Masquerade: &signer.Masquerade{Domains: []string{"example.com"}}},
		}
	})
	for _, tt := range []struct {
		listener, v string
		postfix     bool
	}{
		{"", postfixVersion, true},
		{"", "8.17.1", false},
		{"", "", false},
		{"auto", postfixVersion, true},
		{"auto", "", false},
		{"postfix", "", true},
		{"sendmail", postfixVersion, false},
	} {
		msg := ordinary()
		msg.header[1] = "To: a@example.net,b@example.net"
		r := through(t, s, tt.listener, tt.v, msg)
		if !r.Signed {
			t.Fatalf("listener %q, v=%q: not signed: %s", tt.listener, tt.v, r.Reason)
		}
		value := r.Fields[0].Value
		if got := strings.Contains(value, "c=simple/"); got != tt.postfix {
			t.Errorf("listener %q, v=%q: simple header: %v, want %v", tt.listener, tt.v, got, tt.postfix)
		}
		if got := slices.Contains(riskNames(r), signer.RewrittenField); got == tt.postfix {
			t.Errorf("listener %q, v=%q: risks %v", tt.listener, tt.v, riskNames(r))
		}
	}
	msg := ordinary()
	if r := through(t, s, "masquerade", "", msg); r.Signed || r.Cause != NotSignable || !strings.Contains(r.Reason, "masquerades example.com") {
		t.Errorf("a From that is masqueraded: signed: %v, %s: %s", r.Signed, r.Cause, r.Reason)
	}
	if r := through(t, s, "masquerade", postfixVersion, msg); !r.Signed {
		t.Errorf("Postfix masquerades before: %s", r.Reason)
	}
}

// TestNoKeyComesBeforeABadFrom: what Sendmail will do to the From field of a
// domain that is not ours to sign is no risk.
func TestNoKeyComesBeforeABadFrom(t *testing.T) {
	msg := ordinary()
	msg.header[0] = "From: John Q. Public <john@elsewhere.example>"
	if r := through(t, testSettings(t, nil), "", "", msg); r.Cause != NoKey || len(r.Risks) > 0 {
		t.Errorf("cause %s, risks %v", r.Cause, r.Risks)
	}
	msg.header[0] = "From: John Q. Public <john@example.com>"
	if r := through(t, testSettings(t, nil), "", "", msg); r.Cause != NotSignable || !slices.Equal(riskNames(r), []signer.Risk{BadFrom}) || !strings.Contains(r.Reason, "quotation marks") {
		t.Errorf("cause %s, risks %v: %s", r.Cause, r.Risks, r.Reason)
	}
}

// TestRisksAreInTheLogLine with their names, and with what to do at this server.
func TestRisksAreInTheLogLine(t *testing.T) {
	for version, want := range map[string]string{postfixVersion: "disable_mime_output_conversion", "": "F=8"} {
		s := startServer(t, Options{}, nil)
		m := dialMTA(t, s.address, postfix)
		m.connect("localhost", "127.0.0.1", 0, "", version)
		msg := ordinary()
		msg.header = append(msg.header, "Content-Transfer-Encoding: 8bit")
		msg.body = "hall\xc3\xb6chen\r\n" + strings.Repeat("x", 1200) + "\r\n"
		m.mail(msg)
		log := s.log.String()
		for _, w := range []string{"level=WARN msg=signed", "risks=long_body_line,eight_bit", want} {
			if !strings.Contains(log, w) {
				t.Errorf("v=%q: the log has no %s:\n%s", version, w, log)
			}
		}
	}
}

// TestSendmailAndSimpleHeaders: a simple signature would break, so there is none,
// and the log says so once for each connection.
func TestSendmailAndSimpleHeaders(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) { s.Header = signer.Simple })
	m := dialMTA(t, s.address, postfix)
	m.connect("localhost", "127.0.0.1", 0, "", "8.17.1")
	for range 2 {
		if r := m.mail(ordinary()); len(r.inserts) == 0 || !strings.Contains(string(r.inserts[0].data), "c=relaxed/") {
			t.Errorf("got %v", r)
		}
	}
	if n := strings.Count(s.log.String(), "Sendmail folds header fields anew"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
}

func TestEveryRiskHasARemedyAndADefaultThatIsAllowed(t *testing.T) {
	for _, name := range RiskNames() {
		if err := (RiskActions{name: DefaultRiskAction(name)}).Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, p := range []signer.Profile{signer.Postfix, signer.Sendmail} {
			if Remedy(name, p) == "" {
				t.Errorf("%s: no remedy for %s", name, p)
			}
		}
		if risks[name].status == "" {
			t.Errorf("%s: no status", name)
		}
	}
	for _, bad := range []RiskActions{{BadFrom: RiskSign}, {signer.NUL: "drop"}, {"no_such": RiskSign}} {
		if bad.Check() == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
}
