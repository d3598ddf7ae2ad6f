package keystore

import (
	"context"
	"fmt"
	"strings"
)

// SenderStore is a Store that says which of its keys sign an author's mail, where
// that is not simply those of the author's domain.
type SenderStore interface {
	Store

	// KnowsSenders reports whether the store is set up to say that.
	KnowsSenders() bool

	// Sender returns which keys sign the mail of an author. The address is in
	// lower case, its domain in A-labels, its local part in ASCII and no longer
	// than RFC 5321 allows, or empty. An error means that the store cannot tell; it
	// is ErrBroken (wrapped) if the store answered with something that is no
	// answer. That no key signs is none.
	Sender(ctx context.Context, address string) (*Sender, error)
}

// Sender is which keys sign an author's mail. It is shared and must not be
// changed.
type Sender struct {
	// Row is what the store's rows are about, such as "ann@example.com",
	// "example.com" or "*". Empty if there are none for the author.
	Row string

	// Keys sign, all of them. They need not be there.
	Keys []SenderKey

	// Broken says what is wrong with rows that name no key.
	Broken []error
}

// SenderKey names a key that signs an author's mail.
type SenderKey struct {
	Domain   string // valid as of ValidDomain
	Selector string // valid as of ValidSelector

	// Identity is the value of i=, in Domain or below it (RFC 6376, section 3.5).
	// Empty leaves the tag out.
	Identity string
}

// isSender reports whether what a Cache has under this key is a Sender: its key
// is an address, and that of a domain has no "@".
func isSender(key string) bool { return strings.IndexByte(key, '@') >= 0 }

// about names what a Cache has under a key, for errors.
func about(key string) string {
	if isSender(key) {
		return "author " + key
	}
	return "domain " + key
}

// Sender returns which keys sign the mail of an author, for a SenderStore. It is
// cached, refreshed and counted as domains are, with the same errors as Signing
// has for them, but for ErrNotFound; an author takes no room of MaxEntries.
func (c *Cache) Sender(ctx context.Context, address string) (*Sender, error) {
	e, err := c.lookup(ctx, address)
	if err != nil {
		return nil, err
	}
	return e.sender, nil
}

// CachedSender is Sender for callers that cannot wait: ok is false when the
// answer would take a look at the store.
func (c *Cache) CachedSender(address string) (s *Sender, err error, ok bool) {
	e, err, ok := c.cached(address)
	if err != nil || !ok {
		return nil, err, ok
	}
	return e.sender, nil, true
}

// readSender asks the store about an author.
func (c *Cache) readSender(ctx context.Context, address string) (s *Sender, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: panic: %v", about(address), r)
		}
	}()
	store, ok := c.store.(SenderStore)
	if !ok {
		return nil, fmt.Errorf("%s: the keystore does not tell which keys sign", about(address))
	}
	c.counted(address, func() error {
		s, err = store.Sender(ctx, address)
		return err
	})
	return s, err
}

// size is what a Sender takes in memory beside the entry.
func (s *Sender) size() int64 {
	var size int64
	for _, k := range s.Keys {
		size += int64(len(k.Domain)+len(k.Selector)+len(k.Identity)) + senderKeyBytes
	}
	for _, err := range s.Broken {
		size += entryBytes + int64(len(err.Error()))
	}
	return size
}
