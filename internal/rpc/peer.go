package rpc

import (
	"strings"
	"sync/atomic"
	"time"
)

// Scope is a set of permissions.
type Scope uint8

// The scopes. A method needs one of them; a peer has any set.
const (
	ScopeRead    Scope = 1 << iota // methods that only read
	ScopeCall                      // all other methods
	ScopeProvide                   // offering methods of one's own
	ScopeAdmin                     // steering the hub

	AllScopes = ScopeRead | ScopeCall | ScopeProvide | ScopeAdmin
)

var scopeNames = [...]string{"read", "call", "provide", "admin"}

func (s Scope) String() string {
	var names []string
	for i, n := range scopeNames {
		if s&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// ParseScope reads a list such as "read,call".
func ParseScope(list string) (Scope, bool) {
	var s Scope
next:
	for n := range strings.SplitSeq(list, ",") {
		for i, name := range scopeNames {
			if n == name {
				s |= 1 << i
				continue next
			}
		}
		return 0, false
	}
	return s, true
}

// Peer is who is at the other end of a connection. It is decided before the
// first call; a peer that authenticates later gets a new Peer for later calls.
type Peer struct {
	UID, GID, PID int // from the kernel; -1 when it does not say
	Name          string
	Scopes        Scope
	Methods       []string // patterns (a trailing * matches the rest); none means all

	// Unauthenticated says that the peer has yet to say who it is: what it may
	// not call is answered with CodeUnauthenticated.
	Unauthenticated bool
	// Grant is what the permissions hang on when they can end before the
	// connection does; nil when they cannot.
	Grant *Grant
}

// Grant is a permission that can be taken back while connections use it, such
// as that of a token. Its methods may be called by many goroutines.
type Grant struct {
	until time.Time
	ended atomic.Bool
}

// NewGrant returns a permission that holds until the given time; the zero time
// means that it does not end by itself.
func NewGrant(until time.Time) *Grant { return &Grant{until: until} }

// End takes the permission back, for good.
func (g *Grant) End() { g.ended.Store(true) }

// Holds reports whether the permission is still there. That of a nil Grant is.
func (g *Grant) Holds() bool {
	return g == nil || !g.ended.Load() && (g.until.IsZero() || time.Now().Before(g.until))
}

// Local is the peer of calls that the hub makes itself.
var Local = &Peer{UID: -1, GID: -1, PID: -1, Name: "hub", Scopes: AllScopes}

// Has reports whether the peer has one of the scopes. A nil Peer has none.
func (p *Peer) Has(s Scope) bool { return p != nil && p.Scopes&s != 0 && p.Grant.Holds() }

// May reports whether the peer may call m. A nil Peer may nothing.
func (p *Peer) May(m *Method) bool {
	if p == nil {
		return false
	}
	if m.Open {
		return true
	}
	return p.Permits(m.Scope, m.Name)
}

// Permits is May for what is no row of the table, such as a path of HTTP or an
// action of the native protocol: it goes by the name of the method that does
// the same, so that method patterns narrow it as well.
func (p *Peer) Permits(s Scope, name string) bool { return p.Has(s) && p.covers(name) }

// covers reports whether the method patterns of p let the name through.
func (p *Peer) covers(name string) bool {
	if len(p.Methods) == 0 {
		return true
	}
	for _, pattern := range p.Methods {
		if MatchName(pattern, name) {
			return true
		}
	}
	return false
}

// MatchName reports whether a method pattern covers name. A trailing * in the
// pattern matches the rest.
func MatchName(pattern, name string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	return pattern == name || wild && strings.HasPrefix(name, prefix)
}

// ErrRevoked refuses what was permitted until the permission was taken back.
var ErrRevoked = &Error{Code: CodeUnauthenticated, Message: "the token has expired or was revoked", Ran: RanNo}

// Refusal is the error of a call of m by a peer that May not call it.
func (p *Peer) Refusal(m *Method) *Error {
	switch {
	case p != nil && p.Unauthenticated:
		return &Error{Code: CodeUnauthenticated, Message: "calling " + m.Name + " needs authentication", Ran: RanNo}
	case p != nil && !p.Grant.Holds():
		return ErrRevoked
	}
	return &Error{Code: CodePermissionDenied, Message: "not allowed to call " + m.Name, Ran: RanNo}
}
