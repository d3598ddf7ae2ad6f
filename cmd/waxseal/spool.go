package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// spoolMemory is how much of a message is kept in memory; what goes beyond that
// goes into a temporary file.
const spoolMemory = 4 << 20

// spool is an input that can be had twice: once by Read, to its end, and then by
// copy. A file is read twice, unless it is written to as well. What comes by a
// pipe is kept.
type spool struct {
	from io.Reader
	to   io.Writer

	again  io.ReadSeeker // from, if it is a file
	start  int64         // where it stood
	sum    hash.Hash     // of what was read of it,
	octets int64         // and how much that was

	memory []byte   // what came by a pipe,
	file   *os.File // or nil: it all, if it is more than spoolMemory
}

// newSpool prepares for reading, and for copying to to. close must be called.
func newSpool(from io.Reader, to io.Writer) (*spool, error) {
	s := &spool{from: from, to: to}
	seeker, ok := from.(io.ReadSeeker)
	if f, isFile := from.(*os.File); isFile {
		info, err := f.Stat()
		if err != nil {
			return nil, err
		}
		ok = info.Mode().IsRegular() && !isOpenAs(to, info)
	}
	if ok {
		if start, err := seeker.Seek(0, io.SeekCurrent); err == nil {
			s.again, s.start, s.sum = seeker, start, sha256.New()
		}
	}
	return s, nil
}

// isOpenAs reports whether what is written to is the file.
func isOpenAs(to io.Writer, file os.FileInfo) bool {
	f, ok := to.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(info, file)
}

// Read reads for the first time.
func (s *spool) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	if s.again != nil {
		s.sum.Write(p[:n])
		s.octets += int64(n)
		return n, err
	}
	if keepErr := s.keep(p[:n]); keepErr != nil {
		return n, fmt.Errorf("keeping it in a temporary file; give it as a file, or set TMPDIR to a directory with room: %w", keepErr)
	}
	return n, err
}

// keep keeps what came by a pipe.
func (s *spool) keep(p []byte) error {
	if s.file == nil && len(s.memory)+len(p) <= spoolMemory {
		s.memory = append(s.memory, p...)
		return nil
	}
	if s.file == nil {
		f, err := os.CreateTemp("", "waxseal-")
		if err != nil {
			return err
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
		if _, err := f.Write(s.memory); err != nil {
			return err
		}
		s.memory = nil
	}
	_, err := s.file.Write(p)
	return err
}

// copy writes what was read, and not what a file has been given since. If what
// was read has changed in the meantime, the error comes at the end.
func (s *spool) copy() error {
	switch {
	case s.again != nil:
		before := s.sum.Sum(nil)
		s.sum.Reset()
		if _, err := s.again.Seek(s.start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.Copy(s.to, io.TeeReader(io.LimitReader(s.again, s.octets), s.sum)); err != nil {
			return err
		}
		if !bytes.Equal(s.sum.Sum(nil), before) {
			return errors.New("the message changed while it was signed; do not use the output")
		}
		return nil
	case s.file != nil:
		if _, err := s.file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(s.to, s.file)
		return err
	}
	_, err := s.to.Write(s.memory)
	return err
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
}
