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

	By     Identity // how it was found out who that is
	Source string   // what gives the peer its scopes, for refusals: a key of the configuration, a command; "" for none

	// Unauthenticated says that the peer has yet to say who it is: what it may
	// not call is answered with CodeUnauthenticated.
	Unauthenticated bool
	// Grant is what the permissions hang on when they can end before the
	// connection does; nil when they cannot.
	Grant *Grant
}

// Identity is how it was found out who a peer is.
type Identity string

// The ways. The zero value is that of peers of protocols' own tests.
const (
	ByKernel      Identity = "user"        // the kernel has named the user
	ByToken       Identity = "token"       // it has presented a token
	ByCertificate Identity = "certificate" // it has shown a certificate
	ByNobody      Identity = "nobody"      // nobody was asked, or nothing was said yet
	ByHub         Identity = "hub"         // it is the hub itself
)

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

// Until returns when the permission ends by itself; the zero time is never.
func (g *Grant) Until() time.Time {
	if g == nil {
		return time.Time{}
	}
	return g.until
}

// Holds reports whether the permission is still there. That of a nil Grant is.
func (g *Grant) Holds() bool {
	return g == nil || !g.ended.Load() && (g.until.IsZero() || time.Now().Before(g.until))
}

// Local is the peer of calls that the hub makes itself.
var Local = &Peer{UID: -1, GID: -1, PID: -1, Name: "hub", Scopes: AllScopes, By: ByHub}

// Has reports whether the peer has one of the scopes. A nil Peer has none.
func (p *Peer) Has(s Scope) bool { return p != nil && p.Scopes&s != 0 && p.Grant.Holds() }

// May reports whether the peer may call m. A nil Peer has no permissions.
func (p *Peer) May(m *Method) bool {
	if p == nil {
		return false
	}
	if m.Open {
		return true
	}
	if !p.Permits(m.Scope, m.Name) {
		return false
	}
	for _, other := range m.Also {
		if !p.covers(other) {
			return false
		}
	}
	return true
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
	why := p.Why(m.Scope, m.Name)
	for _, other := range m.Also {
		if p.Permits(m.Scope, m.Name) && !p.covers(other) {
			why = p.Why(m.Scope, other)
			break
		}
	}
	return &Error{Code: CodePermissionDenied, Message: "not allowed to call " + m.Name + why, Ran: RanNo}
}

// Allows refuses what a method is about to do on behalf of p when another
// method does the same and p may not call that one: what is done in several
// ways needs the same permissions in each. A nil Peer is the hub.
func (p *Peer) Allows(s Scope, name string) error {
	if p == nil || p.Permits(s, name) {
		return nil
	}
	if !p.Grant.Holds() {
		return ErrRevoked
	}
	return &Error{Code: CodePermissionDenied, Message: "not allowed to do what " + name + " does" + p.Why(s, name), Ran: RanNo}
}

// Why says what p lacks for the method of that name, in words that go on a
// refusal. Scopes are named with what gives them.
func (p *Peer) Why(s Scope, name string) string {
	switch {
	case p == nil:
		return ""
	case p.Has(s):
		return ": the token is for other methods than " + name
	}
	has := p.Scopes.String()
	if has == "" {
		has = "none"
	}
	why := ": that needs the scope " + s.String() + ", the caller (hub.whoami) has " + has
	if p.Source != "" {
		why += "; see " + p.Source
	}
	return why
}
