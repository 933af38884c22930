package rpc

import (
	"strings"
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
}

// Local is the peer of calls that the hub makes itself.
var Local = &Peer{UID: -1, GID: -1, PID: -1, Name: "hub", Scopes: AllScopes}

// May reports whether the peer may call m. A nil Peer may nothing.
func (p *Peer) May(m *Method) bool {
	if p == nil || p.Scopes&m.Scope == 0 {
		return false
	}
	if len(p.Methods) == 0 {
		return true
	}
	for _, pattern := range p.Methods {
		if prefix, wild := strings.CutSuffix(pattern, "*"); pattern == m.Name || wild && strings.HasPrefix(m.Name, prefix) {
			return true
		}
	}
	return false
}

// TraceContext is the W3C trace context that came with a call.
type TraceContext struct {
	Parent string // traceparent
	State  string // tracestate
}
