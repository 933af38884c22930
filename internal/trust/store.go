package trust

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What Check and the changes of a Store fail with.
var (
	// ErrInvalid means that the token is none of this hub, or was revoked.
	ErrInvalid = errors.New("the token is not valid")
	// ErrExpired means that the token was good once. Only who has its secret learns that.
	ErrExpired = errors.New("the token has expired")
	// ErrTaken means that another token has the name.
	ErrTaken = errors.New("there is a token of that name")
	// ErrFull means that there are MaxTokens tokens.
	ErrFull = fmt.Errorf("there are %d tokens: revoke some first", MaxTokens)
)

// keepExpired is how long an expired token is listed before it goes when
// another one is made.
const keepExpired = 30 * 24 * time.Hour

// Store is the set of tokens of a hub, in memory and in a file. Its methods may
// be called by many goroutines.
type Store struct {
	path string
	now  func() time.Time

	saving sync.Mutex // one writer of the file at a time; before mu

	mu     sync.RWMutex
	tokens map[string]*entry // by id
	unused bool              // a time of last use is not in the file yet
}

// entry is a token with what only the store needs. All but used is constant.
type entry struct {
	Token
	digest digest
	grant  *rpc.Grant // shared by the peers that came with the token
}

// Open reads the tokens in the file at path; a file that does not exist has
// none. It fails when others can read or change the file: whoever can write
// there can do everything that a token can.
func Open(path string) (*Store, error) {
	s := &Store{path: path, now: time.Now, tokens: map[string]*entry{}}
	list, err := readFile(path)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		s.tokens[e.ID] = e
	}
	return s, nil
}

// Create makes a token with the name, scopes, patterns and end that t has, and
// returns it whole: nobody can do so later. It is in the file when Create returns.
func (s *Store) Create(t Token) (whole string, made Token, err error) {
	now := s.now()
	t.Created, t.Used = now.UTC().Truncate(time.Second), time.Time{}
	if !t.Expires.IsZero() {
		t.Expires = t.Expires.UTC().Truncate(time.Second)
	}
	if err := t.check(); err != nil {
		return "", t, err
	}
	if t.Expired(now) {
		return "", t, errors.New("the token would have expired before it is made")
	}
	t.Methods = slices.Clone(t.Methods)
	e := &entry{Token: t, grant: rpc.NewGrant(t.Expires)}
	e.ID, whole, e.digest = generate()
	err = s.change(func(tokens map[string]*entry) error {
		for id, old := range tokens {
			if old.Expired(now.Add(-keepExpired)) {
				delete(tokens, id)
			} else if old.Name == t.Name {
				return ErrTaken
			}
		}
		if len(tokens) >= MaxTokens {
			return ErrFull
		}
		tokens[e.ID] = e
		return nil
	})
	if err != nil {
		return "", t, err
	}
	return whole, e.Token, nil
}

// Revoke ends the token of that id or name, and with it the permissions of all
// who have presented it. ok is false when there is none.
func (s *Store) Revoke(which string) (gone Token, ok bool, err error) {
	var found *entry
	err = s.change(func(tokens map[string]*entry) error {
		for id, e := range tokens {
			if id == which || e.Name == which {
				found = e
				delete(tokens, id)
				return nil
			}
		}
		return errUnchanged
	})
	if found != nil && err == nil {
		found.grant.End()
		return found.Token, true, nil
	}
	return Token{}, false, err
}

// List returns all tokens, expired ones as well, by name.
func (s *Store) List() []Token {
	s.mu.RLock()
	list := make([]Token, 0, len(s.tokens))
	for _, e := range s.tokens {
		list = append(list, e.Token)
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Len returns how many tokens there are.
func (s *Store) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.tokens)
}

// Check says whose token it is that a peer has presented, and returns what its
// permissions hang on. The time it takes tells nothing about the secret.
func (s *Store) Check(whole string) (Token, *rpc.Grant, error) {
	id, secret, ok := split(whole)
	if !ok {
		return Token{}, nil, ErrInvalid
	}
	given := sha256.Sum256([]byte(secret))
	s.mu.RLock()
	e := s.tokens[id]
	var t Token
	var want digest // of no secret that anybody knows
	if e != nil {
		t, want = e.Token, e.digest
	}
	s.mu.RUnlock()
	same := subtle.ConstantTimeCompare(given[:], want[:]) == 1
	switch now := s.now(); {
	case e == nil || !same:
		return Token{}, nil, ErrInvalid
	case t.Expired(now):
		return Token{}, nil, ErrExpired
	default:
		s.used(id, now)
		return t, e.grant, nil
	}
}

// used notes when a token was last of use, in hours: enough to find those that
// nobody needs, and no record of what their owners do.
func (s *Store) used(id string, now time.Time) {
	hour := now.UTC().Truncate(time.Hour)
	s.mu.RLock()
	e := s.tokens[id]
	known := e == nil || !e.Used.Before(hour)
	s.mu.RUnlock()
	if known {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.tokens[id]; old != nil {
		fresh := *old // lists and the file may be reading the old one
		fresh.Used = hour
		s.tokens[id] = &fresh
		s.unused = true
	}
}

// Flush writes the times of last use, if there are new ones.
func (s *Store) Flush() error {
	s.mu.RLock()
	dirty := s.unused
	s.mu.RUnlock()
	if !dirty {
		return nil
	}
	return s.change(func(map[string]*entry) error { return nil })
}

// errUnchanged makes change keep everything as it is; it is no failure.
var errUnchanged = errors.New("unchanged")

// change lets f change the set and writes the file. The set that everybody sees
// changes only when the file has.
func (s *Store) change(f func(map[string]*entry) error) error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	next := make(map[string]*entry, len(s.tokens)+1)
	maps.Copy(next, s.tokens)
	s.unused = false // uses from now on are noted again
	s.mu.Unlock()
	err := f(next)
	if err == nil {
		err = writeFile(s.path, next)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.unused = true
		if err == errUnchanged {
			return nil
		}
		return err
	}
	for id, e := range next {
		if now := s.tokens[id]; now != nil && now.Used.After(e.Used) {
			next[id] = now
		}
	}
	s.tokens = next
	return nil
}
