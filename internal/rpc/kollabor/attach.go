package kollabor

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// idle is how long an attached client hears nothing before it gets a heartbeat.
const idle = 5 * time.Second

// attachment is the attached phase of a connection. One goroutine, the pump,
// carries the events; a timer sends heartbeats.
type attachment struct {
	conn        *conn
	session     string
	peer        *rpc.Peer // who has attached
	follower    Follower
	interactive bool
	cancel      context.CancelFunc
	pump        sync.WaitGroup

	mu    sync.Mutex
	beat  *time.Timer // fires when the client has heard nothing for idle
	ended bool
}

// attach handles attach and subscribe: the acknowledgement, then the events
// that the session retains, then those that come.
func (c *conn) attach() {
	f := &c.frame
	mode := f.Member("mode")
	if mode.IsUndefined() {
		mode = rpc.String("readonly")
	}
	a := &attachment{conn: c, session: c.conn.Session, interactive: frame.Text(mode) == "interactive"}
	if !c.may(rpc.ScopeRead, "session.follow") || a.interactive && !c.may(rpc.ScopeCall, "session.send") {
		return
	}
	if v := f.Member("session"); !v.IsUndefined() {
		a.session = frame.Text(v)
	}
	if c.s.cfg.Sessions == nil {
		c.sendError(nil, "display tap not available")
		return
	}
	s := c.session(a.session)
	if s == nil {
		c.sendError(nil, "no such session: "+rpc.CleanText(a.session, 64))
		return
	}
	o := FollowOptions{ClientID: rpc.CleanText(frame.Text(f.Member("client_id")), 128), Mode: "readonly", Peer: c.link.Peer(c.peer), Link: c.link}
	if a.interactive {
		o.Mode = "interactive"
	}
	if o.ClientID == "" {
		o.ClientID = "attach-" + randomHex(4)
	}
	if v := f.Member("since_seq"); !v.IsUndefined() && !v.IsNull() {
		seq, err := v.AsUint()
		if err != nil {
			c.failed(&frame.Error{Reason: frame.BadType, Text: "since_seq is not an integer from 0"})
			c.sendError(nil, "since_seq must be an integer from 0")
			return
		}
		o.SinceSeq = &seq
	}
	o.Epoch = rpc.CleanText(frame.Text(f.Member("epoch")), 64)
	follower, err := s.Follow(o)
	if err != nil {
		c.sendError(nil, rpc.AsError(context.Background(), err).Text())
		return
	}
	a.follower = follower
	st := s.Status()
	c.answer(func(dst []byte) []byte {
		dst = append(dst, `{"type":"attach_ack","agent_id":`...)
		dst = rpc.AppendString(dst, c.s.cfg.AgentID, false)
		dst = append(dst, `,"mode":`...)
		raw, _ := mode.Raw()
		dst = append(dst, raw...)
		dst = append(dst, `,"uptime":`...)
		dst = strconv.AppendInt(dst, int64(time.Since(c.s.cfg.Started)/time.Second), 10)
		dst = append(dst, `,"hub":{"identity":`...)
		dst = rpc.AppendString(dst, st.Name, false)
		dst = append(dst, `,"is_coordinator":`...)
		dst = append(strconv.AppendBool(dst, st.Coordinator), '}')
		if c.modern.Load() {
			dst = append(dst, `,"epoch":`...)
			dst = rpc.AppendString(dst, st.Epoch, false)
		}
		return append(dst, '}')
	})
	if !a.interactive {
		c.readsOnly()
	}
	a.peer = c.link.Peer(c.peer)
	c.attached = a
	c.s.enter(c)
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.heard()
	a.pump.Go(func() { a.run(ctx) })
}

// readsOnly takes from the peer, on this connection and from now on, what a
// follower that only reads has no need of: it may call methods that read.
func (c *conn) readsOnly() {
	p := *c.link.Peer(c.peer)
	p.Scopes &= rpc.ScopeRead
	p.Source = "attach with mode interactive"
	c.peer = &p
	c.link.SetPeer(&p)
}

// run carries events to the client until the attachment ends.
func (a *attachment) run(ctx context.Context) {
	c := a.conn
	for {
		e, err := a.follower.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				// The session is closed. A client leaves when its connection does;
				// the reader ends with it.
				if errors.Is(err, io.EOF) {
					c.out.Close(c.s.cfg.Drain)
				} else {
					c.out.Fail(err)
				}
			}
			return
		}
		if c.out.Wait(ctx) != nil {
			return
		}
		a.event(e)
	}
}

// event sends one event, in pieces if the client reads short lines only.
func (a *attachment) event(e Event) {
	c := a.conn
	a.heard()
	limit := c.lineLimit()
	if len(e.JSON) <= limit {
		c.send(rpc.Soon, "event", func(dst []byte) []byte { return append(append(dst, e.JSON...), '\n') })
		return
	}
	for piece := range split(e, limit) {
		c.send(rpc.Soon, "event", func(dst []byte) []byte { return append(append(dst, piece...), '\n') })
	}
}

// heard puts the next heartbeat off.
func (a *attachment) heard() {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.ended:
	case a.beat == nil:
		a.beat = time.AfterFunc(idle, a.heartbeat)
	default:
		a.beat.Reset(idle)
	}
}

// heartbeat tells the client that the connection lives.
func (a *attachment) heartbeat() {
	a.heard()
	a.conn.send(nil, "heartbeat", func(dst []byte) []byte { return append(dst, `{"type":"heartbeat"}`+"\n"...) })
}

// control handles a line of the attached phase that belongs to no call. What
// has no meaning here is counted and not answered.
func (a *attachment) control(line []byte) {
	c := a.conn
	f := &c.frame
	switch {
	case f.Action == "" && f.Type == "input":
		c.in("input", line)
		a.input(f.Member("text"))
	case f.Action == "" && f.Type == "detach":
		c.in("detach", line)
		c.leave()
	case f.Action == frame.Goodbye:
		c.in(frame.Goodbye, line)
		c.leave()
	case f.Action == "" || f.Action == frame.Hello:
		c.failed(&frame.Error{Reason: frame.Misplaced, Text: "a frame that means nothing while attached"})
	default:
		c.failed(&frame.Error{Reason: frame.Misplaced, Text: "the action " + f.Action + " means nothing while attached"})
	}
}

// input hands on what the user typed.
func (a *attachment) input(v rpc.Value) {
	c := a.conn
	switch {
	case v.Kind() != '"':
		c.failed(&frame.Error{Reason: frame.BadType, Text: "the text of an input is not a string"})
	case !a.interactive:
		c.sendError(nil, "this client is attached read-only: its input is refused")
	case !a.peer.Grant.Holds(): // the hub is about to notice
		c.out.Fail(errExpelled)
	case len(raw(v)) == 2: // nothing was typed
	default:
		if err := a.follower.Input(v); err != nil {
			c.sendError(nil, rpc.AsError(context.Background(), err).Text())
		}
	}
}

// end frees everything; no event is sent after it.
func (a *attachment) end() {
	a.cancel()
	a.follower.Close()
	a.pump.Wait()
	a.mu.Lock()
	a.ended = true
	a.beat.Stop()
	a.mu.Unlock()
	a.conn.s.leave(a.conn)
}
