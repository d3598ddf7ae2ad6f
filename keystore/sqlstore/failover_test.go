package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fakeHost is a server that answers, refuses, or is silent.
type fakeHost struct {
	name     string
	refuses  bool
	silent   bool
	readOnly string // what it says to the question
	asked    int
	open     int
}

func (h *fakeHost) Connect(ctx context.Context) (driver.Conn, error) {
	h.asked++
	switch {
	case h.refuses:
		return nil, errors.New(h.name + " refuses")
	case h.silent:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	h.open++
	return &fakeConn{host: h}, nil
}

func (h *fakeHost) Driver() driver.Driver { return nil }

type fakeConn struct {
	driver.Conn
	host *fakeHost
}

func (c *fakeConn) Close() error {
	c.host.open--
	return nil
}

func (c *fakeConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	if c.host.readOnly == "" {
		return nil, errors.New(c.host.name + " is not ready")
	}
	return &fakeRows{answer: c.host.readOnly}, nil
}

type fakeRows struct{ answer string }

func (r *fakeRows) Columns() []string { return []string{"read_only"} }
func (r *fakeRows) Close() error      { return nil }
func (r *fakeRows) Next(to []driver.Value) error {
	if r.answer == "" {
		return io.EOF
	}
	to[0], r.answer = []byte(r.answer), ""
	return nil
}

func TestChoiceOfHosts(t *testing.T) {
	for _, test := range []struct {
		what    string
		hosts   string // what each is
		standby bool   // wanted, where it matters
		want    string // name of the host
	}{
		{"the first that answers", "ok ok", false, "a"},
		{"the next, where one refuses", "refuses ok", false, "b"},
		{"the next, where one is silent", "silent ok", false, "b"},
		{"a primary before a standby", "standby primary", false, "b"},
		{"a standby before none", "refuses standby standby", false, "b"},
		{"a primary after a silent standby", "silent standby primary", false, "c"},
		{"a standby where it is wanted", "primary standby", true, "b"},
		{"a primary where there is no standby", "primary refuses", true, "a"},
		{"none that takes no questions", "unready standby", false, "b"},
		{"none", "refuses silent", false, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, hosts := fakeFailover(test.hosts)
			f.readOnly = test.standby
			c, err := f.Connect(t.Context())
			if test.want == "" {
				if err == nil || !strings.Contains(err.Error(), "a refuses") {
					t.Errorf("%s: %v", test.what, err)
				}
				return
			}
			if err != nil || c.(*fakeConn).host.name != test.want {
				t.Fatalf("%s: %+v, %v; want %s", test.what, c, err, test.want)
			}
			c.Close()
			for _, h := range hosts {
				if h.open != 0 {
					t.Errorf("%s: %d connections to %s are left open", test.what, h.open, h.name)
				}
			}
		})
	}
}

// fakeFailover makes hosts a, b, c … of the given kinds.
func fakeFailover(kinds string) (*failover, []*fakeHost) {
	var hosts []*fakeHost
	var connectors []driver.Connector
	query := ""
	for i, kind := range strings.Fields(kinds) {
		h := &fakeHost{name: string(rune('a' + i)), refuses: kind == "refuses", silent: kind == "silent"}
		switch kind {
		case "primary":
			h.readOnly = "off"
		case "standby":
			h.readOnly = "on"
		}
		if kind != "ok" && kind != "refuses" && kind != "silent" {
			query = "read only?"
		}
		hosts = append(hosts, h)
		connectors = append(connectors, h)
	}
	f := newFailover(connectors, 3*time.Second)
	f.readOnlyQuery = query
	return f, hosts
}

// A silent host costs one connection its time, and the next ones none, until half
// a minute later.
func TestSilentHostIsAskedLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, hosts := fakeFailover("silent standby")
		connect := func(want time.Duration) {
			t.Helper()
			began := time.Now()
			if _, err := f.Connect(t.Context()); err != nil || time.Since(began) != want {
				t.Errorf("after %v: %v, want %v", time.Since(began), err, want)
			}
		}
		connect(3 * time.Second)
		for range 3 {
			connect(0)
		}
		if hosts[0].asked != 1 {
			t.Errorf("asked %d times", hosts[0].asked)
		}
		time.Sleep(silentHost)
		hosts[0].silent, hosts[0].readOnly = false, "off"
		connect(0)
		if hosts[0].open != 1 {
			t.Error("the first host is not gone back to")
		}

		// With no other host it is asked all the same.
		hosts[0].silent, hosts[1].refuses = true, true
		for range 2 {
			if _, err := f.Connect(t.Context()); err == nil {
				t.Error("no error")
			}
		}
		if hosts[0].asked != 4 {
			t.Errorf("asked %d times", hosts[0].asked)
		}

		// A caller in a hurry proves nothing.
		f, _ = fakeFailover("silent ok")
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		f.Connect(ctx)
		if f.isSilent(0) {
			t.Error("a host was given 100 ms, and is silent")
		}
	})
}
