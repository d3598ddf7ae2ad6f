package milter

import (
	"fmt"
	"strings"
	"testing"

	"waxseal/milter/policy"
)

// What a server allows to whom is nobody's business but the administrator's,
// who has it in the log.
func TestADenialTellsTheSenderNothingOfTheRules(t *testing.T) {
	for _, action := range []Action{Reject, Tempfail} {
		s := startServer(t, Options{}, func(s *Settings) {
			var err error
			s.Rules, err = policy.New(policy.Options{Permission: policy.PermissionOptions{LoginDomains: []string{"secret.example"}}})
			if err != nil {
				t.Fatal(err)
			}
			s.Outcomes = Outcomes{Denied: action}
		})
		msg := ordinary()
		msg.login = "ann"
		r := s.postfixClient(t).mail(msg)
		want := "550 5.7.1 You may not send mail with a From address of example.com"
		if action == Tempfail {
			want = "451 4.7.1 You may not send mail with a From address of example.com; try again later"
		}
		if got := strings.TrimSuffix(string(r.final.data), "\x00"); got != want {
			t.Errorf("%s: the sender reads %q, want %q", action, got, want)
		}
		if log := s.log.String(); !strings.Contains(log, "secret.example") {
			t.Errorf("the log does not say what the login may:\n%s", log)
		}
	}
}

// A size is logged when it is known: a message that is answered before its end
// has not been seen, and is not of 0 bytes.
func TestTheLogHasNoSizeOfABodyThatWasNotSeen(t *testing.T) {
	s := startServer(t, Options{}, nil)
	m := s.postfixClient(t)
	elsewhere := ordinary()
	elsewhere.header[0] = "From: ann@example.net"
	m.mail(elsewhere)
	if log := s.log.String(); !strings.Contains(log, "cause=no_key") || strings.Contains(log, "bytes=") {
		t.Errorf("a message answered at the end of its header:\n%s", log)
	}
	m.mail(ordinary())
	if log := s.log.String(); !strings.Contains(log, fmt.Sprintf("bytes=%d ", len(ordinary().body))) {
		t.Errorf("a message that was read to its end:\n%s", log)
	}
}

func TestTheRowOfALoginCountsForAMessageWithoutAnAuthor(t *testing.T) {
	s := startServer(t, Options{}, func(s *Settings) {
		var err error
		s.Rules, err = policy.New(policy.Options{Table: []policy.Row{{Login: "ann"}}})
		if err != nil {
			t.Fatal(err)
		}
		s.Rows = []Row{{Outcomes: Strict()}}
	})
	m := s.postfixClient(t)
	msg := ordinary()
	msg.header = append(msg.header, "From: bob@example.com")
	if r := m.mail(msg); r.final.command != 'a' {
		t.Errorf("without the login: %v, want accept", r.final)
	}
	msg.login = "ann"
	if r := m.mail(msg); r.final.command != 'y' || !strings.HasPrefix(string(r.final.data), "451 4.6.0") {
		t.Errorf("a strict login: %v, want 451 4.6.0", r.final)
	}
}

// rate() loses the first event of a series that begins with it, and strict
// makes everything a tempfail.
func TestEverySeriesThatCanComeIsThereFromTheStart(t *testing.T) {
	scraped := scrape(t, NewCollector(CollectorOptions{}))
	for _, o := range []Outcomes{nil, Strict(), {NoKey: Reject, KeyUnusable: Accept, StoreDown: Accept, Denied: Reject, NotSignable: Reject, OverLimit: Accept}} {
		for cause := range causes {
			var r Result
			o.settle(&r, cause, "")
			if want := `waxseal_messages_total{cause="` + string(cause) + `",outcome="` + r.outcome() + `"} 0`; !strings.Contains(scraped, want) {
				t.Errorf("no %s", want)
			}
		}
	}
}
