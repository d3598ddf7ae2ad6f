package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"waxseal/keystore"
)

const (
	// longWait is how long a host may take for an error: one that takes longer is
	// silent, and for silentHost it is asked after all others.
	longWait   = time.Second
	silentHost = 30 * time.Second
)

// failover connects to one of several hosts: to the first one that answers and is
// of the kind wanted, else to the first one that answers.
type failover struct {
	hosts   []driver.Connector
	timeout time.Duration // for each host
	now     func() time.Time

	// readOnlyQuery says whether a server takes changes; "" if it does not
	// matter. readOnly is what is wanted.
	readOnlyQuery string
	readOnly      bool

	mu     sync.Mutex
	silent []time.Time // guarded by mu; when each host last did not answer
}

func newFailover(hosts []driver.Connector, timeout time.Duration) *failover {
	return &failover{hosts: hosts, timeout: timeout, now: time.Now, silent: make([]time.Time, len(hosts))}
}

// Connect implements driver.Connector.
func (f *failover) Connect(ctx context.Context) (driver.Conn, error) {
	var second driver.Conn
	var errs []error
	for _, i := range f.order() {
		if second != nil && f.isSilent(i) { // it is not waited for where there is another
			continue
		}
		c, wanted, err := f.connect(ctx, i)
		switch {
		case err == nil && (wanted || second == nil):
			if wanted && second != nil {
				second.Close()
			}
			if second = c; wanted {
				return c, nil
			}
		case err == nil:
			c.Close()
		default:
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if second != nil {
		return second, nil
	}
	return nil, errors.Join(errs...)
}

// connect connects to one host, and says whether it is of the kind wanted.
func (f *failover) connect(ctx context.Context, i int) (c driver.Conn, wanted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	began := f.now()
	c, err = f.hosts[i].Connect(ctx)
	var refused *pgconn.ConnectError
	switch {
	case errors.As(err, &refused): // the same in fewer words
		err = fmt.Errorf("user %s, database %s: %w", refused.Config.User, refused.Config.Database, refused.Unwrap())
	case err != nil && ctx.Err() != nil:
		err = keystore.WithRemedy(fmt.Errorf("connecting: no answer within %v: %w", f.timeout, err), keystore.SilentRemedy)
	}
	wanted = true
	if err == nil && f.readOnlyQuery != "" {
		var readOnly bool
		if readOnly, err = takesNoChanges(ctx, c, f.readOnlyQuery); err != nil {
			c.Close()
		}
		wanted = readOnly == f.readOnly
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent[i] = time.Time{}
	if now := f.now(); err != nil && now.Sub(began) >= longWait {
		f.silent[i] = now
	}
	return c, wanted, err
}

// order returns the hosts as they are to be asked.
func (f *failover) order() []int {
	var silent, others []int
	for i := range f.hosts {
		if f.isSilent(i) {
			silent = append(silent, i)
		} else {
			others = append(others, i)
		}
	}
	return slices.Concat(others, silent)
}

func (f *failover) isSilent(i int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.silent[i].IsZero() && f.now().Sub(f.silent[i]) < silentHost
}

// Driver implements driver.Connector.
func (f *failover) Driver() driver.Driver { return f.hosts[0].Driver() }

// takesNoChanges asks a server whether it is a standby, or otherwise read only.
func takesNoChanges(ctx context.Context, c driver.Conn, query string) (bool, error) {
	q, ok := c.(driver.QueryerContext)
	if !ok {
		return false, fmt.Errorf("%T takes no queries", c)
	}
	rows, err := q.QueryContext(ctx, query, nil)
	if err != nil {
		return false, err
	}
	defer rows.Close()
	value := make([]driver.Value, 1)
	if err := rows.Next(value); err != nil {
		return false, err
	}
	switch strings.ToLower(fmt.Sprintf("%s", value[0])) {
	case "off", "0":
		return false, nil
	}
	return true, nil
}
