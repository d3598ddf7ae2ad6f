package milter

import (
	"testing"
	"time"
)

func TestCheckWaitsForWhatMessagesNeed(t *testing.T) {
	s := New(nil, Options{})
	if err := s.Check(); err == nil {
		t.Error("a server without settings is well")
	}
	s.Use(&Settings{})
	if err := s.Check(); err != nil {
		t.Errorf("a server with settings is not well: %v", err)
	}
	s.mu.Lock()
	done := make(chan error)
	go func() { done <- s.Check() }()
	select {
	case <-done:
		t.Error("Check returned while no connection could have begun")
	case <-time.After(20 * time.Millisecond):
	}
	s.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnderWayCountsMessagesNotConnections(t *testing.T) {
	s := New(&Settings{}, Options{})
	for _, busy := range []bool{true, false, true} {
		s.sessions[&session{busy: busy}] = struct{}{}
	}
	if n := s.UnderWay(); n != 2 {
		t.Errorf("%d messages under way, want 2", n)
	}
}
