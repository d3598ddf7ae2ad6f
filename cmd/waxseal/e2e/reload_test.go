package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// reloadedMessage is what became of one message while the rules changed.
type reloadedMessage struct {
	asked, answered time.Time // MAIL, and its answer
	ended           time.Time
	trusted         bool // ours by an origin rule that comes and goes
	more            bool // the milter wanted to see it
	text            *message
	fate            fate
}

// ruleChange is one reload: the new rules are in force at some time between.
type ruleChange struct{ from, to time.Time }

// TestReloadChangesRulesBetweenMessages switches the selector of a row and an
// origin rule, again and again, while mail flows: every message is signed by the
// rules that were in force when it began, though others are when it ends.
func TestReloadChangesRulesBetweenMessages(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	keys := newKeystore(t, dir, "example.com") // 2026a and 2026b
	address := "unix:" + filepath.Join(dir, "run", "milter.sock")
	config := filepath.Join(dir, "waxseal.toml")
	selectors := []string{"2026a", "2026b"}
	networks := []string{``, `, "192.0.2.0/24"`}
	change := func(epoch int) {
		configure(t, config, fmt.Sprintf(`
[keystore]
url = "dir:%s"
[listen.milter]
address = %q
[origin]
networks = ["127.0.0.0/8"%s]
[row.example]
domain = "example.com"
selectors = [%q]
`, keys.dir, address, networks[epoch%2], selectors[epoch%2]))
	}
	change(0)
	d := serve(t, daemonOptions{}, "--config", config)

	const senders, reloads, pause = 6, 24, 30 * time.Millisecond
	stop := make(chan struct{})
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	var done atomic.Int32 // reloads
	sent := make([][]reloadedMessage, senders)
	var running sync.WaitGroup
	for sender := range senders {
		running.Go(func() {
			f := facts{id: fmt.Sprintf("s%d", sender), client: "127.0.0.1"}
			if sender%2 == 1 {
				f.client = "192.0.2.7"
			}
			c := dialMilter(t, address)
			defer c.Close()
			c.announce(f)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				m := reloadedMessage{trusted: sender%2 == 1, asked: time.Now()}
				m.more = c.mailFrom(t, f)
				m.answered = time.Now()
				if m.more {
					// Some are under way for longer than rules are.
					for began := done.Load(); n%3 == 0 && done.Load() <= began && !stopped(); {
						time.Sleep(time.Millisecond)
					}
					m.fate = c.content(t, header, "Hello.\r\n")
					m.ended = time.Now()
					m.text = m.fate.signed(t, header, "Hello.\r\n")
				}
				sent[sender] = append(sent[sender], m)
			}
		})
	}
	var changes []ruleChange
	for epoch := range reloads {
		// The watch of the file may be quicker than the signal, or tell of the
		// change before: only the reload by this signal ends the change.
		began := time.Now()
		change(epoch + 1)
		bySignal := func() int { return strings.Count(d.log.String(), "cause=SIGHUP") }
		before := bySignal()
		d.signal(t, syscall.SIGHUP)
		eventually(t, "the daemon says that it has reloaded", func() bool { return bySignal() > before })
		changes = append(changes, ruleChange{began, time.Now()})
		done.Add(1)
		time.Sleep(pause)
	}
	close(stop)
	running.Wait()

	// The epochs in which a message may have begun.
	epochs := func(m *reloadedMessage) (first, last int) {
		for _, c := range changes {
			if c.to.Before(m.asked) {
				first++
			}
			if c.from.Before(m.answered) {
				last++
			}
		}
		return first, last
	}
	total, ended, foreign := 0, 0, 0
	for _, messages := range sent {
		for i := range messages {
			m := &messages[i]
			first, last := epochs(m)
			total++
			if m.fate.reply != "" {
				t.Fatalf("refused: %s", m.fate.reply)
			}
			if !m.more {
				foreign++
				if !m.trusted || first == last && first%2 == 1 {
					t.Fatalf("epoch %d: a message that is ours was left unsigned (trusted network: %t)", first, m.trusted)
				}
				continue
			}
			s := m.text.signatures()
			if len(s) != 1 {
				t.Fatalf("epoch %d: signatures %+v, want one", first, s)
			}
			if first != last {
				continue // it began while the rules changed
			}
			if m.trusted && first%2 == 0 {
				t.Fatalf("epoch %d: a message of a foreign client was signed", first)
			}
			if s[0].selector != selectors[first%2] {
				t.Fatalf("epoch %d: signed with %s, want the key of when it began, %s", first, s[0].selector, selectors[first%2])
			}
			if first < len(changes) && m.ended.After(changes[first].to) {
				ended++
			}
			verdicts, err := msgauth(m.text, keys)
			if err != nil || len(verdicts) != 1 || verdicts[0] != "" {
				t.Fatalf("go-msgauth: %v %q", err, verdicts)
			}
		}
	}
	t.Logf("%d messages, %d of them foreign, %d ended under later rules", total, foreign, ended)
	if total < 100 || foreign == 0 || ended == 0 {
		t.Error("too little mail flowed to prove anything")
	}
}
