// Package kollaborstate answers the generic part of kollabor's own state.* methods: facts about the hub under exactly the
// names that kollabor's decoders accept. They live beside the state service's methods and know nothing of its store.
package kollaborstate

import (
	"context"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Hub is what the methods ask the daemon. Its methods may be called by many goroutines and must be quick; c is the call
// that asks.
type Hub interface {
	// System describes the process and its machine.
	System() System
	// Self says who the caller's socket speaks for.
	Self(c *rpc.Call) Self
	// Roster returns the other sessions and clients, sorted by identity.
	Roster(c *rpc.Call) []Peer
	// Work returns how busy the hub is.
	Work() Work
	// Sessions returns the sessions, and the name of that of the caller's socket.
	Sessions(c *rpc.Call) (active string, sessions []Session)
	// Send passes a message to the session or client named target, "" for all, and returns how many it reached. force
	// asks for those that would rather not be disturbed as well.
	Send(ctx context.Context, c *rpc.Call, target, content string, force bool) (reached int, err error)
	// CancelCurrent cancels what the caller has running on its connection, beside this call, and reports whether
	// there was anything.
	CancelCurrent(c *rpc.Call) bool
}

// System are facts about the process and its machine.
type System struct {
	Cwd      string
	Branch   string // of the version control in Cwd; "" outside
	PID      int
	Uptime   time.Duration
	Platform string // as Python's platform.system() says: "Linux"
	Arch     string // as Python's platform.machine() says: "x86_64"
	Methods  int    // methods in the table
	Services int
}

// Self is an identity of the hub.
type Self struct {
	Identity string
	AgentID  string
}

// Peer is somebody else in the hub.
type Peer struct {
	Identity    string
	State       string // "idle" or "working"
	Task        string
	Coordinator bool
}

// Work is how busy the hub is.
type Work struct {
	InFlight   int // calls that run
	Queue      int // writes that wait
	QueueMax   int
	Dropped    int // events that slow followers lost
	Background int // connections with work of their own: streams
}

// Session is a session of the hub.
type Session struct {
	Name       string
	Title      string
	Created    time.Time
	LastActive time.Time // zero: never
}
