package milter

import "errors"

// Check takes what every connection and every message needs, and says what is
// missing. It waits as long as they would have to: who watches over the server
// takes a Check that does not return for a failure.
func (s *Server) Check() error {
	s.mu.Lock()
	settings := s.settings.Load()
	s.mu.Unlock()
	if settings == nil {
		return errors.New("no settings are in force")
	}
	return nil
}

// UnderWay returns the number of messages between their MAIL command and their
// answer.
func (s *Server) UnderWay() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.sessions {
		c.mu.Lock()
		if c.busy {
			n++
		}
		c.mu.Unlock()
	}
	return n
}
