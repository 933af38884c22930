package kollabor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// house is a Sessions with sessions made by hand.
type house map[string]*room

func (h house) Session(name string) Session {
	if r := h[name]; r != nil {
		return r
	}
	return nil
}

// room is a Session: a list of events that everybody reads at his own place.
type room struct {
	name  string
	state string
	task  string
	epoch string

	mu        sync.Mutex
	events    []Event
	closed    bool
	wake      chan struct{}
	inputs    []string
	delivered []string
	roster    string
	followers int
	follows   []FollowOptions
}

func newRoom(name string) *room {
	return &room{name: name, state: "idle", wake: make(chan struct{})}
}

func (r *room) publish(typ, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, Event{Type: typ, JSON: []byte(text)})
	close(r.wake)
	r.wake = make(chan struct{})
}

func (r *room) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	close(r.wake)
	r.wake = make(chan struct{})
}

func (r *room) count() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.followers
}

func (r *room) Status() Status {
	return Status{Name: r.name, State: r.state, Task: r.task, Opened: time.Now(), Epoch: r.epoch}
}

func (r *room) Context(n int) string { return strings.Join(r.Output(n), "\n") }

func (r *room) Output(n int) (lines []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e.Type == "output" {
			v, _ := rpc.Parse(e.JSON)
			text, _ := v.Member("rendered")
			s, _ := text.AsString()
			lines = append(lines, s)
		}
	}
	return lines[max(0, len(lines)-n):]
}

func (r *room) Deliver(_ *rpc.Link, message rpc.Value) (rpc.Value, error) {
	id, set := message.Member("id")
	if !set {
		id = rpc.String("given")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.delivered = append(r.delivered, string(raw(message)))
	return id.Own(), nil
}

func (r *room) SetRoster(_ *rpc.Link, agents rpc.Value) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.roster = string(raw(agents))
	return nil
}

func (r *room) Follow(o FollowOptions) (Follower, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.followers++
	r.follows = append(r.follows, o)
	f := &guest{r: r, o: o}
	if o.SinceSeq != nil {
		f.at = int(*o.SinceSeq)
	}
	return f, nil
}

type guest struct {
	r    *room
	o    FollowOptions
	at   int
	left bool
}

func (g *guest) Next(ctx context.Context) (Event, error) {
	for {
		g.r.mu.Lock()
		if g.at < len(g.r.events) {
			e := g.r.events[g.at]
			g.at++
			g.r.mu.Unlock()
			return e, nil
		}
		wake, closed := g.r.wake, g.r.closed
		g.r.mu.Unlock()
		if closed {
			return Event{}, io.EOF
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}

func (g *guest) Input(text rpc.Value) error {
	s, err := text.AsString()
	if err != nil {
		return err
	}
	g.r.mu.Lock()
	g.r.inputs = append(g.r.inputs, s)
	g.r.mu.Unlock()
	g.r.publish("input", fmt.Sprintf(`{"type":"input","text":%s,"client_id":"%s"}`, raw(text), g.o.ClientID))
	return nil
}

func (g *guest) Close() {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	if !g.left {
		g.left = true
		g.r.followers--
	}
}
