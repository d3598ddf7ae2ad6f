package policy

import (
	"strings"
	"testing"
)

// Whether a sender may sign for a domain does not depend on the keystore: with an
// answer that says what holds without one, the decision is the same.
func TestAnAnswerIsNoPermission(t *testing.T) {
	compare := func(r *Rules, c Connection, m Message) {
		t.Helper()
		want := r.Decide(c, m)
		asked := r.Decide(c, m.asking())
		if asked.Verdict != want.Verdict && want.Verdict != Denied {
			t.Errorf("%+v: before the answer %s, without a question %s", m, asked.Verdict, want.Verdict)
		}
		if asked.Sender == "" {
			if got := summary(asked); got != summary(want) {
				t.Errorf("%+v: without a question %s, want %s", m, got, summary(want))
			}
			return
		}
		_, domain, _ := strings.Cut(asked.Sender, "@")
		got := r.Decide(c, m.asking(&Sender{Row: domain, Keys: []SenderKey{{Domain: domain, Selector: "s"}}}))
		if got.Verdict != want.Verdict || got.Code != want.Code || got.Row != want.Row || got.Rule != want.Rule {
			t.Errorf("%+v: with an answer %+v, want %+v", m, got, want)
		}
		for i, c := range want.Candidates {
			if i >= len(got.Candidates) || got.Candidates[i].Domain != c.Domain || got.Candidates[i].Unaligned != c.Unaligned {
				t.Errorf("%+v: candidates %+v, want %+v", m, got.Candidates, want.Candidates)
			}
		}
	}
	if d := mustOptions(t, Options{}).Decide(client("127.0.0.1"), from("ann@example.org").asking(&Sender{Row: "*", Keys: []SenderKey{{Domain: "localhost", Selector: "s"}}})); len(d.Candidates) != 1 || !d.Candidates[0].Unaligned {
		t.Errorf("a key of a domain of one label: %+v", d)
	}
	for _, row := range sentenceRows {
		if r, err := New(row.options); err == nil && !row.message.AskSender {
			compare(r, row.conn, row.message)
		}
	}
	for _, options := range hoster() {
		r := mustOptions(t, options)
		for _, b := range borrowings {
			for _, login := range []string{"", "ann@a.example", "bob@b.example"} {
				for _, c := range []Connection{{}, client("127.0.0.1"), client("192.0.2.1"), client("203.0.113.9")} {
					compare(r, c, b.message.by(login))
				}
			}
		}
	}
}
