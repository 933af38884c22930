package rpc

import (
	"fmt"
	"sync"
)

// What a call needs while it runs is bounded by the limits of calls. What it
// leaves in the hub when it is over, such as methods that a client provides or
// the prompts of a session, stays until somebody takes it away, and is charged
// to the user who left it: in bytes, with one limit for all of a user's
// connections (Gate.KeptPerUID) and one for all users (Gate.Kept).

// DefaultKeptPerUID and DefaultKept bound what is charged with Keep, in bytes.
const (
	DefaultKeptPerUID = 64 << 20
	DefaultKept       = 256 << 20
)

// Kept is a charge: so many bytes that a user makes the hub keep. It outlives
// the call and the connection that it was made for. Its methods may be called
// by many goroutines and, except Over, under any lock. A nil Kept charges
// nobody: Set does nothing and reports true.
type Kept struct {
	gate  *Gate
	quota *Quota // nil: only the limit of all users counts

	mu    sync.Mutex // innermost: nothing else is taken under it
	bytes int64
}

// Keep makes a charge of nothing yet to the user of the call. That of a call
// that has no connection is nil.
func (c *Call) Keep() *Kept {
	if c == nil || c.link == nil {
		return nil
	}
	return &Kept{gate: c.link.gate, quota: c.quota}
}

// Keep makes a charge of nothing yet to the user of the connection. That of no
// connection is nil.
func (l *Link) Keep() *Kept {
	if l == nil {
		return nil
	}
	quota := l.quota.Load()
	if quota == nil {
		quota = l.Quota
	}
	return &Kept{gate: l.gate, quota: quota}
}

// Quota is where what the user of the call uses up is counted; nil for a call
// that has no connection.
func (c *Call) Quota() *Quota {
	if c == nil || c.link == nil {
		return nil
	}
	return c.quota
}

// NewKept makes a charge of nothing yet that only the limit of all users
// bounds, for what the hub keeps of users who are not there.
func (g *Gate) NewKept() *Kept { return &Kept{gate: g} }

// Set makes the charge that many bytes, more or less than before. It reports
// false, and changes nothing, when that is too much; less is never too much.
func (k *Kept) Set(bytes int64) bool {
	if k == nil {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	by := bytes - k.bytes
	all, mine := k.add(by)
	if by > 0 && (all > or(k.gate.Kept, DefaultKept) || mine > or(k.gate.KeptPerUID, DefaultKeptPerUID)) {
		k.add(-by)
		return false
	}
	k.bytes = bytes
	return true
}

// Free takes the charge back. It may be called more than once.
func (k *Kept) Free() { k.Set(0) }

// add returns what all users, and the one of k, are charged with from now on.
func (k *Kept) add(by int64) (all, mine int64) {
	if k.quota != nil {
		mine = k.quota.kept.Add(by)
	}
	return k.gate.kept.Add(by), mine
}

// Over makes the error for whoever wanted the charge to be that many bytes,
// which Set has refused, and tells the observer.
func (k *Kept) Over(bytes int64) *Error {
	limit, most, who := LimitKept, or(k.gate.Kept, DefaultKept), "all users together keep"
	if k.quota != nil {
		k.mu.Lock()
		mine := k.quota.kept.Load() - k.bytes + bytes
		k.mu.Unlock()
		if own := or(k.gate.KeptPerUID, DefaultKeptPerUID); mine > own {
			limit, most, who = LimitKeptUID, own, "this user keeps"
		}
	}
	k.gate.Rejected(limit)
	return &Error{Code: CodeOverloaded, Ran: RanNo, Message: fmt.Sprintf("%s too much in the hub: with this more than %d bytes", who, most)}
}

// KeptBytes returns the bytes of all charges.
func (g *Gate) KeptBytes() int64 { return g.kept.Load() }
