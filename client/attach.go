package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"
)

// Event is one event of a session.
type Event struct {
	Seq   uint64          // its number in the session; of a gap, the number of the last event that is missing
	Epoch string          // the life of the session that Seq counts in; "" when the hub does not say
	Type  string          // such as "output", "message", "gap"
	Time  time.Time       // when it was published; zero when the event does not say
	JSON  json.RawMessage // all of it, one object
}

// Gap reads a gap event: how many events this follower was too slow for, or
// came back too late for. It returns 0 for every other event.
func (e Event) Gap() uint64 {
	if e.Type != "gap" {
		return 0
	}
	var gap struct {
		Dropped uint64 `json:"dropped"`
	}
	if json.Unmarshal(e.JSON, &gap) != nil {
		return 0
	}
	return gap.Dropped
}

// restart reads a gap event that says that the session began anew.
func (e Event) restart() (epoch string, began bool) {
	if e.Type != "gap" {
		return "", false
	}
	var gap struct {
		Restarted bool   `json:"restarted"`
		Epoch     string `json:"epoch"`
	}
	err := json.Unmarshal(e.JSON, &gap)
	return gap.Epoch, err == nil && gap.Restarted
}

// Resumed tells how an attachment went on after its connection had broken.
type Resumed struct {
	Away      time.Duration // from the break until now
	Behind    uint64        // events published meanwhile; what is still kept of them follows
	Restarted bool          // the session is a new one of the same name: its events count from 1 again
}

// AttachOptions are what Attach may be told. The nil *AttachOptions and the
// zero value mean the defaults.
type AttachOptions struct {
	// Interactive announces a follower that sends input, see Input.
	Interactive bool
	// Name is how others see this follower; "" leaves it to the hub.
	Name string
	// Since asks for the events after that number, as far as they are kept; nil
	// for those that the session keeps for new followers.
	Since *uint64
	// Epoch is the life of the session in which Since was given, see
	// Event.Epoch; "" is the present one. When the session has another one by
	// now, Since means nothing in it: a gap event tells so, and all events that
	// are kept follow.
	Epoch string
	// Patience is how long a broken connection is tried again; 0 means for
	// ever, negative not at all.
	Patience time.Duration
	// OnBreak and OnResume, where set, hear of a broken connection and of its
	// return. They are called between two events, by the goroutine of the loop.
	OnBreak  func(err error)
	OnResume func(Resumed)
}

// goneAfter is how long a hub that is back may not know the session before it is
// taken to have ended: its producer needs a while to come back, too.
const goneAfter = 15 * time.Second

// attachDeadline is the longest wait for the first event that the hub allows.
const attachDeadline = time.Hour

// Attach follows a session: it yields the events that are kept and then those
// that are published, in order, none twice. When the connection breaks it is
// made again and goes on where it was; events that are lost for good are told
// by an event of type "gap". The loop ends without error when the session is
// closed; leaving it detaches, and another loop attaches anew.
func (c *Client) Attach(ctx context.Context, session string, opts *AttachOptions) iter.Seq2[Event, error] {
	var o AttachOptions
	if opts != nil {
		o = *opts
	}
	return func(yield func(Event, error) bool) {
		a := &attachment{client: c, session: session, opts: o} // each loop attaches anew
		a.run(ctx, yield)
	}
}

// attachment is one running Attach.
type attachment struct {
	client  *Client
	session string
	opts    AttachOptions
	seen    bool   // last is valid
	last    uint64 // number of the last event yielded
	epoch   string // the life of the session that last counts in; "" when the hub does not say
}

func (a *attachment) run(ctx context.Context, yield func(Event, error) bool) {
	if a.opts.Since != nil {
		a.seen, a.last = true, *a.opts.Since
	}
	// Who comes back must know in which life of the session its numbers were
	// given. A session that is not there makes following fail, not this.
	if a.epoch = a.opts.Epoch; a.epoch == "" || a.opts.Since == nil {
		if info, err := a.look(ctx); err == nil {
			a.epoch = info.Epoch
		}
	}
	s, err := a.follow(ctx)
	for {
		if err == nil {
			var left bool
			if left, err = a.pass(s, yield); left || err == nil {
				return
			}
		}
		if ctx.Err() != nil || !resumable(err) || a.opts.Patience < 0 {
			yield(Event{}, err)
			return
		}
		if KindOf(err) == KindTimeout { // nothing happened for attachDeadline
			s, err = a.follow(ctx)
			continue
		}
		if s == nil { // the very first attempt
			yield(Event{}, err)
			return
		}
		if a.opts.OnBreak != nil {
			a.opts.OnBreak(err)
		}
		if s, err = a.resume(ctx); err != nil {
			yield(Event{}, err)
			return
		}
	}
}

func resumable(err error) bool {
	switch KindOf(err) {
	case KindDisconnected:
		return !errors.Is(err, ErrClosed)
	case KindUnavailable, KindOverloaded, KindTimeout:
		return true
	}
	return false
}

func (a *attachment) follow(ctx context.Context) (*Stream, error) {
	params := map[string]any{"session": a.session}
	if a.opts.Interactive {
		params["mode"] = "interactive"
	}
	if a.opts.Name != "" {
		params["client_id"] = a.opts.Name
	}
	if a.seen {
		params["since_seq"] = a.last
		if a.epoch != "" {
			params["epoch"] = a.epoch
		}
	}
	return a.client.Open(ctx, "session.follow", params, WithTimeout(attachDeadline), Idempotent())
}

// pass yields the events of s. It reports whether the loop was left; a nil
// error with that means that the session was closed.
func (a *attachment) pass(s *Stream, yield func(Event, error) bool) (left bool, err error) {
	defer s.Close()
	down := false
	for {
		item, err := s.Recv()
		if err == io.EOF {
			if down {
				return false, &Error{Kind: KindUnavailable, Message: "the hub is shutting down", Method: s.method, Retry: RetrySafe}
			}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		e, err := eventOf(item)
		if err != nil {
			return false, err
		}
		down, e.Epoch = e.Type == "shutdown", a.epoch
		if epoch, began := e.restart(); began {
			a.seen, a.last, a.epoch = true, e.Seq, epoch
			e.Epoch = epoch
			if !yield(e, nil) {
				return true, nil
			}
			continue
		}
		if e.Seq > 0 {
			if a.seen && e.Seq <= a.last {
				continue
			}
			a.seen, a.last = true, e.Seq
		}
		if !yield(e, nil) {
			return true, nil
		}
	}
}

func eventOf(item json.RawMessage) (Event, error) {
	var head struct {
		Seq  uint64  `json:"seq"`
		Type string  `json:"type"`
		TS   float64 `json:"ts"`
	}
	if err := decode("session.follow", item, &head); err != nil {
		return Event{}, err
	}
	e := Event{Seq: head.Seq, Type: head.Type, JSON: item}
	if head.TS > 0 && head.TS < 1e11 {
		e.Time = time.UnixMicro(int64(head.TS * 1e6))
	}
	return e, nil
}

// resume waits for the hub and for the session, which its owner may have to
// open again, and follows it from where the attachment was.
func (a *attachment) resume(ctx context.Context) (*Stream, error) {
	broke := time.Now()
	var unknown time.Time // since then the hub says that there is no such session
	var s *Stream
	err := try(ctx, a.opts.Patience, func() (bool, error) {
		var r Resumed
		var err error
		if s, r, err = a.tryResume(ctx); err == nil {
			r.Away = time.Since(broke)
			if a.opts.OnResume != nil {
				a.opts.OnResume(r)
			}
			return false, nil
		}
		if KindOf(err) != KindNotFound {
			unknown = time.Time{}
		} else if unknown.IsZero() {
			unknown = time.Now()
		}
		again := resumable(err) || KindOf(err) == KindNotFound && time.Since(unknown) <= goneAfter
		return again, err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ended(ctx, "session.follow", RetrySafe)
	}
	return s, err
}

func (a *attachment) tryResume(ctx context.Context) (*Stream, Resumed, error) {
	var r Resumed
	info, err := a.look(ctx)
	if err != nil {
		return nil, r, err
	}
	known := a.epoch != "" && info.Epoch == a.epoch
	switch {
	case !a.seen:
		r.Behind = info.Seq
	case a.epoch != "" && !known, !known && info.Seq < a.last:
		r.Restarted, r.Behind = true, info.Seq
		a.last = 0
	case info.Seq < a.last: // its producer is bringing it back
	default:
		r.Behind = info.Seq - a.last
	}
	a.epoch = info.Epoch
	s, err := a.follow(ctx)
	return s, r, err
}

// sessionInfo is what session.info says, as far as it matters here.
type sessionInfo struct {
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
}

// look asks how the session stands.
func (a *attachment) look(ctx context.Context) (info sessionInfo, err error) {
	err = a.client.Call(ctx, "session.info", map[string]string{"session": a.session}, &info, WithTimeout(helloLimit), Idempotent())
	return info, err
}

// Input sends what somebody typed to the owner of a session.
func (c *Client) Input(ctx context.Context, session, text string) error {
	return c.Call(ctx, "session.send", map[string]string{"session": session, "text": text}, nil)
}

// Resize tells the owner of a session the size of this side's terminal.
func (c *Client) Resize(ctx context.Context, session string, cols, rows int) error {
	if cols <= 0 || rows <= 0 {
		return &Error{Kind: KindInvalidParams, Message: fmt.Sprintf("there is no terminal of %d by %d", cols, rows), Method: "session.resize", Retry: RetrySafe}
	}
	return c.Call(ctx, "session.resize", map[string]any{"session": session, "cols": cols, "rows": rows}, nil)
}

// Publish adds an event, an object with a string member "type", to a session.
func (c *Client) Publish(ctx context.Context, session string, event any) error {
	return c.Call(ctx, "session.publish", map[string]any{"session": session, "event": event}, nil)
}
