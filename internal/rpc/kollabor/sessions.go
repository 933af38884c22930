package kollabor

import (
	"context"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Sessions finds the sessions that clients attach to. It is safe for
// concurrent use, as are the sessions it returns.
type Sessions interface {
	// Session returns the open session of that name, nil if there is none.
	Session(name string) Session
}

// Session is what an attached client sees of one session.
type Session interface {
	// Status says how it stands.
	Status() Status
	// Output returns the texts of the latest n output events, oldest first.
	Output(n int) []string
	// Context returns the latest n lines of output as one text.
	Context(n int) string
	// Follow begins to follow the session.
	Follow(o FollowOptions) (Follower, error)
	// Deliver takes a message in, an object as the action message has it:
	// absent members get their defaults. It returns the message's id, or the
	// one it was given. One that was seen before is dropped without an error.
	// It is charged to the connection that it comes from while it waits.
	Deliver(by *rpc.Link, message rpc.Value) (id rpc.Value, err error)
	// SetRoster replaces the list of peers that clients tell the session of.
	// What is no list of objects is ignored. It is charged to the connection.
	SetRoster(by *rpc.Link, agents rpc.Value) error
}

// Status is how a session stands.
type Status struct {
	Name        string
	State       string // such as "idle"
	Task        string // what is being worked on; may be ""
	Coordinator bool
	Opened      time.Time
	Epoch       string // of the life of the session that its numbers count in
}

// FollowOptions say who follows a session, and from where.
type FollowOptions struct {
	ClientID string // as the client gave it; no key of anything
	Mode     string // "interactive" may send input, anything else reads only
	Peer     *rpc.Peer
	Link     *rpc.Link // the client's connection
	SinceSeq *uint64   // events with a greater number; nil: what the session retains
	Epoch    string    // the life of the session that SinceSeq counts in; "" for the present one
}

// Follower is one client's place in the events of a session.
type Follower interface {
	// Next waits under ctx for the next event. io.EOF means that the session was closed.
	Next(ctx context.Context) (Event, error)
	// Input hands in what an interactive client typed, a JSON string that is
	// borrowed. It does not block.
	Input(text rpc.Value) error
	// Close ends it; a waiting Next returns.
	Close()
}

// Event is one event of a session.
type Event struct {
	Type string
	JSON []byte // the whole object on one line; shared, never changed
}
