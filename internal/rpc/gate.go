package rpc

import (
	"sync/atomic"
	"time"
)

// Observer is the hub's view of calls: metrics and logs. Its methods are
// called without locks and from any goroutine, and must not block.
type Observer interface {
	// Done comes once per started call, after its answer; err is nil for success.
	Done(c *Call, err *Error, took time.Duration)
	// Slow comes while a call still runs, when it passes its slow threshold.
	Slow(c *Call, age time.Duration)
	// Late comes when a handler answers a call whose answer was decided before.
	Late(c *Call)
	// Panic comes when a method panicked; stack is for the log.
	Panic(c *Call, value any, stack []byte)
	// Rejected comes when a call is refused because of a limit.
	Rejected(limit string)
}

// Names of the limits that Rejected tells.
const (
	LimitCallsPerConnection = "calls_per_connection"
	LimitCallsPerUID        = "calls_per_uid"
	LimitCalls              = "calls"
	LimitOutbox             = "outbox"
	LimitRequestMemory      = "request_memory"
	LimitMemory             = "memory"
	LimitSubscriptions      = "subscriptions_per_connection"
	LimitSubscriptionsUID   = "subscriptions_per_uid"
	LimitHeldValues         = "capnweb_values"
	LimitKept               = "kept"
	LimitKeptUID            = "kept_per_uid"
)

// Default limits and times of calls.
const (
	DefaultDeadline = 30 * time.Second
	MaxDeadline     = time.Hour
	MinDeadline     = time.Millisecond
	DefaultSlow     = time.Second

	DefaultCallsPerLink = 4096
	DefaultCallsPerUID  = 16384
	DefaultCalls        = 65536

	DefaultSubscriptionsPerLink = 256
	DefaultSubscriptionsPerUID  = 4096
	DefaultRequestMemory        = 256 << 20

	smallRequest = 16 << 10 // bytes of arguments; such a call is counted, but not refused for lack of RequestMemory
)

// Gate is what all links of a hub share: limits, default times, the observer,
// and whether new calls are still taken. Its exported fields are set before
// the first link is made. The zero Gate has the default limits.
type Gate struct {
	Observer     Observer      // nil: nothing is observed
	Deadline     time.Duration // of a method that names none; 0: DefaultDeadline
	MaxDeadline  time.Duration // 0: MaxDeadline
	Slow         time.Duration // of a method that names none; 0: DefaultSlow
	CallsPerLink int           // 0: DefaultCallsPerLink
	CallsPerUID  int           // 0: DefaultCallsPerUID; see Quota
	Calls        int           // 0: DefaultCalls

	// Calls of Endless methods are subscriptions, and so is what Call.Subscribe counts.
	SubscriptionsPerLink int // 0: DefaultSubscriptionsPerLink
	SubscriptionsPerUID  int // 0: DefaultSubscriptionsPerUID

	// RequestMemory bounds the bytes of the arguments of registered calls. A call
	// of more than 16 KiB that comes when they hold as much is refused. 0: DefaultRequestMemory.
	RequestMemory int64

	KeptPerUID int64 // bytes that one user makes the hub keep; 0: DefaultKeptPerUID; see Kept
	Kept       int64 // all users; 0: DefaultKept

	inFlight atomic.Int64
	kept     atomic.Int64 // bytes of all charges; see Kept
	memory   atomic.Int64 // of the arguments of registered calls
	draining atomic.Bool
	scarce   atomic.Bool
}

// Drain refuses all new calls from now on.
func (g *Gate) Drain() { g.draining.Store(true) }

// SetScarce says whether the process is short of memory. While it is, only
// small calls of light methods are taken: those that run inline or steer the hub.
func (g *Gate) SetScarce(on bool) { g.scarce.Store(on) }

// Memory returns how many bytes the arguments of running calls hold.
func (g *Gate) Memory() int64 { return g.memory.Load() }

// InFlight returns how many registered calls run.
func (g *Gate) InFlight() int { return int(g.inFlight.Load()) }

// Rejected tells the observer of a refusal because of a limit.
func (g *Gate) Rejected(limit string) {
	if g.Observer != nil {
		g.Observer.Rejected(limit)
	}
}

func or[T ~int | ~int64](v, fallback T) T {
	if v == 0 {
		return fallback
	}
	return v
}

// Quota counts the calls in flight of all links that share it, such as those of
// one uid, and what they make the hub keep: bytes and sessions.
type Quota struct {
	n             atomic.Int64
	subscriptions atomic.Int64
	kept          atomic.Int64 // bytes; see Kept
	sessions      atomic.Int64
}

// N returns the present count.
func (q *Quota) N() int { return int(q.n.Load()) }

// Sessions adds n to the sessions of the user, and returns how many those are
// from now on. Those of a nil Quota are not counted.
func (q *Quota) Sessions(n int) int {
	if q == nil {
		return 0
	}
	return int(q.sessions.Add(int64(n)))
}

// Idle reports whether nothing counts in it.
func (q *Quota) Idle() bool {
	return q.n.Load() == 0 && q.subscriptions.Load() == 0 && q.kept.Load() == 0 && q.sessions.Load() == 0
}
