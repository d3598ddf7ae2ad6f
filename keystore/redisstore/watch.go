package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const (
	// checkNodes is how often Watch looks which servers there are, and watchDial
	// how long it waits for one of them.
	checkNodes = 2 * time.Second
	watchDial  = 2 * time.Second
)

// Watch implements keystore.Store. On every server it has a connection of its
// own that asks to be told, as for client-side caching, which of our keys
// change (CLIENT TRACKING in broadcasting mode), by whomever.
func (s *Store) Watch(ctx context.Context, changed func(domain string)) error {
	w := &watch{store: s, nodes: make(map[string]*node), signal: make(chan struct{}, 1), pending: make(map[string]bool)}
	defer w.close()
	tick := time.NewTicker(checkNodes)
	defer tick.Stop()
	for {
		fresh, err := w.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if len(w.nodes) == 0 {
			return fmt.Errorf("watching the keystore: %w", s.explain(err))
		}
		if fresh {
			changed("") // what happened before now
		}
		for wait := true; wait; {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
				wait = false
			case <-w.signal:
				domains, lost := w.take()
				for domain := range domains {
					changed(domain)
				}
				wait = !lost
			}
		}
	}
}

// watch is one Watch at work.
type watch struct {
	store  *Store
	nodes  map[string]*node
	tasks  sync.WaitGroup
	signal chan struct{} // something is pending, or a connection was lost

	mu      sync.Mutex
	pending map[string]bool // guarded by mu
	lost    []*node         // guarded by mu
}

// node is the connection to one server.
type node struct {
	address string
	client  rueidis.DedicatedClient
	release func()
}

// connect brings the connections up to date with the servers there are. fresh
// means that there is a new one. The error is that of the last server that could
// not be reached.
func (w *watch) connect(ctx context.Context) (fresh bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.store.opts.Timeout)
	defer cancel()
	client, err := w.store.connect(ctx)
	if err != nil {
		return false, err
	}
	there := client.Nodes()
	for address, n := range w.nodes {
		if there[address] == nil {
			w.drop(n)
		}
	}
	err = errors.New("no server")
	for address, c := range there {
		if w.nodes[address] != nil {
			continue
		}
		var n *node
		if n, err = w.open(ctx, address, c); err == nil {
			w.nodes[address], fresh = n, true
		}
	}
	return fresh, err
}

// open asks one server to tell of changes.
func (w *watch) open(ctx context.Context, address string, c rueidis.Client) (*node, error) {
	ctx, cancel := context.WithTimeout(ctx, watchDial)
	defer cancel()
	n := &node{address: address}
	n.client, n.release = c.Dedicate()
	lost := n.client.SetOnInvalidations(w.invalidated)
	command := n.client.B().Arbitrary("CLIENT", "TRACKING", "ON", "BCAST")
	for _, prefix := range w.store.layout.tracked() {
		command = command.Args("PREFIX", prefix)
	}
	if err := n.client.Do(ctx, command.Build()).Error(); err != nil {
		n.client.Close()
		n.release()
		return nil, err
	}
	w.tasks.Go(func() {
		for range lost {
		} // it is closed when the connection is
		w.mu.Lock()
		w.lost = append(w.lost, n)
		w.mu.Unlock()
		w.wake()
	})
	return n, nil
}

// invalidated is told the keys that changed; nil means all.
func (w *watch) invalidated(keys []rueidis.RedisMessage) {
	w.mu.Lock()
	if keys == nil {
		w.pending[""] = true
	}
	for _, m := range keys {
		key, err := m.ToString()
		if err != nil {
			key = ""
		}
		w.pending[w.store.layout.changed(key)] = true
	}
	w.mu.Unlock()
	w.wake()
}

func (w *watch) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// take returns what is pending, and drops the connections that were lost.
func (w *watch) take() (domains map[string]bool, lost bool) {
	w.mu.Lock()
	domains, gone := w.pending, w.lost
	w.pending, w.lost = make(map[string]bool), nil
	w.mu.Unlock()
	for _, n := range gone {
		if w.nodes[n.address] == n {
			w.drop(n)
			lost = true
		}
	}
	return domains, lost
}

func (w *watch) drop(n *node) {
	delete(w.nodes, n.address)
	n.client.Close()
	n.release()
}

func (w *watch) close() {
	for _, n := range w.nodes {
		w.drop(n)
	}
	w.tasks.Wait()
}
