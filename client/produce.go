package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// ProduceOptions are what Produce may be told. The nil *ProduceOptions and the
// zero value mean the defaults.
type ProduceOptions struct {
	// Title and Meta are shown with the session.
	Title string
	Meta  any
	// Ring is how many events the hub keeps for new followers; 0 leaves it to the hub.
	Ring int
	// Buffer bounds the bytes of the events that wait for the hub; 0 means 8 MiB.
	// Publish waits while there are more.
	Buffer int
	// Retain bounds the bytes of the events that the hub has taken and that are
	// kept to bring them back should it crash; 0 means 4 MiB, negative none.
	Retain int
	// OnInput, where set, gets what is meant for the owner of the session: one
	// item after the other. While it does not return no more are taken.
	OnInput func(Input)
	// OnBreak and OnResume, where set, hear of a broken connection and of its
	// return.
	OnBreak  func(err error)
	OnResume func(away time.Duration)
}

// Input is one item for the owner of a session.
type Input struct {
	Type     string          `json:"type"`      // "input", "resize", "permission_response" or "message"
	Text     string          `json:"text"`      // of an input: what was typed
	ClientID string          `json:"client_id"` // of an input or a permission_response: who
	Cols     int             `json:"cols"`      // of a resize
	Rows     int             `json:"rows"`      // of a resize
	ToolID   string          `json:"tool_id"`   // of a permission_response: the prompt
	Response string          `json:"response"`  // of a permission_response: the answer
	JSON     json.RawMessage `json:"-"`         // all of it
}

const (
	defaultBuffer = 8 << 20
	defaultRetain = 4 << 20
)

// Producer publishes the events of one session, which it owns. What it
// publishes reaches the session once and in order, whatever happens to the
// connection and the hub, as long as the producer lives: it numbers its events,
// repeats those that it does not know to have arrived, and brings back the
// latest of those that had when a hub comes back without memory.
type Producer struct {
	client  *Client
	session string
	id      string // secret: who knows it can take the session over
	opts    ProduceOptions
	ctx     context.Context
	stop    context.CancelFunc
	done    chan struct{} // closed when run has ended
	first   chan error    // the outcome of the first attempt
	inputs  sync.Mutex    // held while OnInput runs

	mu      sync.Mutex
	queue   []produced    // those the hub has taken first, then those that wait
	taken   int           // how many of the queue the hub has taken
	kept    int           // bytes of those
	waiting int           // bytes of the others
	lastN   uint64        // number of the latest event of the queue
	life    life          // of the session, as the hub said when it was opened
	passed  uint64        // greatest number that the session gave to an event that is no longer in the queue
	owner   *conn         // the connection that owns the session; nil while there is none
	closed  bool          // nothing more may be published
	err     error         // why it has ended
	moved   chan struct{} // closed and replaced when any of these changes
}

// produced is one event.
type produced struct {
	n    uint64 // the producer's number
	seq  uint64 // the session's; 0 while it is not known
	json json.RawMessage
}

// life is the answer of session.open.
type life struct {
	Seq   uint64 `json:"seq"`
	Epoch string `json:"epoch"`
	Taken uint64 `json:"taken"`
}

// Produce opens a session and owns it until Close. It fails when the first
// attempt does: when the hub is not there, or the session belongs to somebody
// else. A client has one producer of a session at a time: while there is one,
// another is refused with KindConflict.
func (c *Client) Produce(ctx context.Context, session string, opts *ProduceOptions) (*Producer, error) {
	var id [16]byte
	rand.Read(id[:]) // never fails
	p := &Producer{
		client: c, session: session, id: hex.EncodeToString(id[:]),
		done: make(chan struct{}), first: make(chan error, 1), moved: make(chan struct{}),
	}
	if opts != nil {
		p.opts = *opts
	}
	if p.opts.Buffer <= 0 {
		p.opts.Buffer = defaultBuffer
	}
	if p.opts.Retain == 0 {
		p.opts.Retain = defaultRetain
	}
	c.mu.Lock()
	if c.producers[session] != nil {
		c.mu.Unlock()
		return nil, &Error{Kind: KindConflict, Message: "this client produces " + session + " already", Method: "session.open", Retry: RetrySafe}
	}
	if c.producers == nil {
		c.producers = make(map[string]*Producer)
	}
	c.producers[session] = p
	c.mu.Unlock()
	p.ctx, p.stop = context.WithCancel(context.Background())
	go p.run()
	select {
	case err := <-p.first:
		if err != nil {
			p.stop()
			<-p.done
			return nil, err
		}
		return p, nil
	case <-ctx.Done():
		p.stop()
		<-p.done
		return nil, ended(ctx, "session.open", RetryUnknown)
	}
}

// Publish adds an event, an object with a string member "type", to what goes
// to the session. It waits while too much of that waits for the hub, but not
// for the hub to take this event: see Flush.
func (p *Producer) Publish(ctx context.Context, event any) error {
	v, err := encode("session.publish", event)
	if err != nil {
		return err
	}
	text, _ := v.Raw()
	kind, _ := v.Member("type")
	if name, err := kind.AsString(); err != nil || name == "" {
		return &Error{Kind: KindInvalidParams, Message: "an event is an object with a string member type", Method: "session.publish", Retry: RetrySafe}
	}
	if len(text)+6*len(p.session)+eventOverhead > frame.MaxLine {
		return &Error{Kind: KindTooLarge, Message: "the event does not fit into a frame of 16 MiB", Method: "session.publish", Retry: RetrySafe}
	}
	e, closed := append(json.RawMessage(nil), text...), false
	err = p.await(ctx, func() bool {
		if closed = p.closed; closed {
			return true
		}
		if p.waiting > 0 && p.waiting+len(e) > p.opts.Buffer {
			return false
		}
		p.lastN++
		p.queue = append(p.queue, produced{n: p.lastN, json: e})
		p.waiting += len(e)
		p.movedLocked()
		return true
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if closed || err != nil && p.closed && ctx.Err() == nil {
		err = errProducerClosed
	}
	return err
}

// errProducerClosed is why an event is not taken any more.
var errProducerClosed = &Error{Kind: KindDisconnected, Message: "the producer is closed", Method: "session.publish", Retry: RetrySafe, cause: ErrClosed}

// eventOverhead is more than what a request has around an event and the name of its session.
const eventOverhead = 512

// Flush waits until the hub has taken all that was published.
func (p *Producer) Flush(ctx context.Context) error {
	return p.await(ctx, func() bool { return p.taken == len(p.queue) })
}

// Close flushes and closes the session: its followers get what is left and
// then the end. When ctx ends before that the session is left to itself; the
// hub closes it when nobody comes for it in time.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.movedLocked()
	p.mu.Unlock()
	err := p.Flush(ctx)
	for wait := pace(); err == nil; {
		// On the connection that owns the session a refusal is final.
		var cn *conn
		if err = p.await(ctx, func() bool { cn = p.owner; return cn != nil }); err != nil {
			break
		}
		err = p.call(ctx, cn, "session.close", map[string]string{"session": p.session}, new(struct{}))
		if !resumable(err) {
			break
		}
		pause := wait.NextBackOff()
		if pause == backoff.Stop {
			pause = wait.MaxInterval
		}
		select {
		case <-time.After(pause):
			err = nil
		case <-ctx.Done():
		}
	}
	if KindOf(err) == KindNotFound {
		err = nil // it is closed already
	}
	p.stop()
	<-p.done
	return err
}

// Done is closed when the producer has ended, by Close or because the session
// is lost to it; Err has the reason.
func (p *Producer) Done() <-chan struct{} { return p.done }

// Err returns why the producer has ended by itself: nil while it has not.
func (p *Producer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// await returns when try, which is called with p.mu held, says so.
func (p *Producer) await(ctx context.Context, try func() bool) error {
	for {
		p.mu.Lock()
		if err := p.err; err != nil {
			p.mu.Unlock()
			return err
		}
		if try() {
			p.mu.Unlock()
			return nil
		}
		moved := p.moved
		p.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ended(ctx, "session.publish", RetryUnknown)
		case <-p.ctx.Done():
			return disconnected(ErrClosed, RetrySafe).of("session.publish")
		}
	}
}

func (p *Producer) movedLocked() {
	close(p.moved)
	p.moved = make(chan struct{})
}

// errSessionClosed is why a producer ends whose session somebody closed.
var errSessionClosed = &Error{Kind: KindNotFound, Message: "the session was closed", Method: "session.input", Retry: RetrySafe}

// run keeps the session until the producer ends.
func (p *Producer) run() {
	defer close(p.done)
	defer func() {
		p.client.mu.Lock()
		delete(p.client.producers, p.session)
		p.client.mu.Unlock()
	}()
	var broke time.Time
	wait := pace()
	connected := func() {
		wait.Reset()
		if broke.IsZero() {
			p.first <- nil
		} else if p.opts.OnResume != nil {
			p.opts.OnResume(time.Since(broke))
		}
		broke = time.Time{}
	}
	for begun := false; ; begun = true {
		err := p.serve(func() { begun = true; connected() })
		switch {
		case p.ctx.Err() != nil:
			return
		case !begun:
			p.first <- err
			return
		case KindOf(err) == KindTimeout: // no input for attachDeadline
			continue
		case !resumable(err) && KindOf(err) != KindConflict && KindOf(err) != KindCancelled:
			p.mu.Lock()
			p.err = err
			p.movedLocked()
			p.mu.Unlock()
			return
		}
		if broke.IsZero() {
			broke = time.Now()
			if p.opts.OnBreak != nil {
				p.opts.OnBreak(err)
			}
		}
		pause := wait.NextBackOff()
		if pause == backoff.Stop {
			pause = wait.MaxInterval
		}
		select {
		case <-time.After(pause):
		case <-p.ctx.Done():
			return
		}
	}
}

// serve is the life of one connection. It returns why that ended.
func (p *Producer) serve(connected func()) error {
	cn, err := p.client.live(p.ctx)
	if err != nil {
		return err
	}
	if err := p.open(cn); err != nil {
		return err
	}
	params, err := encode("session.input", map[string]string{"session": p.session})
	if err != nil {
		return err
	}
	s, failed := cn.open(p.ctx, "session.input", params, frame.RequestOptions{Stream: true, Timeout: attachDeadline.Seconds()})
	if failed != nil {
		return failed
	}
	defer s.Close()
	p.own(cn)
	defer p.own(nil)
	broken := make(chan error, 1)
	go func() { broken <- p.take(s) }() // ends with the stream
	connected()
	for {
		e, ok, moved := p.next()
		if !ok {
			select {
			case <-moved:
				continue
			case err := <-broken:
				return err
			case <-p.ctx.Done():
				return p.ctx.Err()
			}
		}
		if err := p.publish(cn, e); err != nil {
			return err
		}
	}
}

// own notes which connection owns the session.
func (p *Producer) own(cn *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owner = cn
	p.movedLocked()
}

// open makes this connection the owner of the session and finds out how far
// the hub is. To a hub without memory it says where to go on.
func (p *Producer) open(cn *conn) error {
	p.mu.Lock()
	params := map[string]any{"name": p.session, "producer": p.id}
	if p.opts.Title != "" {
		params["title"] = p.opts.Title
	}
	if p.opts.Meta != nil {
		params["meta"] = p.opts.Meta
	}
	if p.opts.Ring > 0 {
		params["ring"] = p.opts.Ring
	}
	if p.life.Epoch != "" {
		params["epoch"], params["seq"], params["taken"] = p.life.Epoch, p.passed, p.lastN
		if len(p.queue) > 0 {
			params["taken"] = p.queue[0].n - 1
			if seq := p.queue[0].seq; seq > 0 {
				params["seq"] = seq - 1
			}
		}
	}
	p.mu.Unlock()
	var now life
	if err := p.call(p.ctx, cn, "session.open", params, &now); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Epoch != "" && p.life.Epoch != now.Epoch { // the numbers of the past mean nothing any more
		for i := range p.queue {
			p.queue[i].seq = 0
		}
		p.passed = 0
	}
	p.life = now
	p.taken, p.kept, p.waiting = 0, 0, 0
	for i, e := range p.queue {
		if e.n <= now.Taken {
			p.taken = i + 1
			p.kept += len(e.json)
		} else {
			p.waiting += len(e.json)
		}
	}
	p.forgetLocked()
	p.movedLocked()
	return nil
}

// next returns the oldest event that the hub has not taken, or what is closed
// when there may be one.
func (p *Producer) next() (e produced, ok bool, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken < len(p.queue) {
		return p.queue[p.taken], true, nil
	}
	return produced{}, false, p.moved
}

// publish brings one event to the hub.
func (p *Producer) publish(cn *conn, e produced) error {
	params := map[string]any{"session": p.session, "event": e.json, "n": e.n}
	if e.seq > 0 {
		params["seq"] = e.seq
	}
	var answer struct {
		Seq uint64 `json:"seq"`
	}
	if err := p.call(p.ctx, cn, "session.publish", params, &answer); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if answer.Seq > 0 {
		p.queue[p.taken].seq = answer.Seq
	}
	p.taken++
	p.kept += len(e.json)
	p.waiting -= len(e.json)
	p.forgetLocked()
	p.movedLocked()
	return nil
}

// forgetLocked drops the oldest events that the hub has taken, as far as they are too much.
func (p *Producer) forgetLocked() {
	n := 0
	for n < p.taken && p.kept > max(0, p.opts.Retain) {
		p.kept -= len(p.queue[n].json)
		p.passed = max(p.passed, p.queue[n].seq)
		p.queue[n] = produced{}
		n++
	}
	p.queue = p.queue[n:]
	p.taken -= n
}

// call makes a call on this very connection.
func (p *Producer) call(ctx context.Context, cn *conn, method string, params, result any) error {
	v, err := encode(method, params)
	if err != nil {
		return err
	}
	text, failed := cn.call(ctx, method, v, frame.RequestOptions{})
	if failed != nil {
		return failed
	}
	return decode(method, text, result)
}

// take hands on what is meant for the owner, until the stream ends.
func (p *Producer) take(s *Stream) error {
	for {
		item, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return errSessionClosed
		}
		if err != nil {
			return err
		}
		var in Input
		if err := decode("session.input", item, &in); err != nil {
			continue // nothing that this client knows
		}
		in.JSON = item
		if in.Type == "permission_response" {
			p.answered(in)
		}
		if p.opts.OnInput != nil {
			p.inputs.Lock()
			p.opts.OnInput(in)
			p.inputs.Unlock()
		}
	}
}

// answered keeps a prompt that has got its answer from being brought back: a
// prompt is asked once.
func (p *Producer) answered(in Input) {
	resolved, err := json.Marshal(map[string]string{"type": "permission_resolved", "tool_id": in.ToolID, "response": in.Response})
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.queue[:p.taken] {
		v, err := rpc.Parse(p.queue[i].json)
		if err != nil {
			continue
		}
		details, _ := v.Member("details")
		if frame.Text(member(v, "type")) == "permission_request" && frame.Text(member(details, "tool_id")) == in.ToolID {
			p.kept -= len(p.queue[i].json)
			p.queue[i].json = resolved
			p.kept += len(p.queue[i].json)
		}
	}
}

func member(object rpc.Value, name string) rpc.Value {
	v, _ := object.Member(name)
	return v
}
