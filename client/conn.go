package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// The path of one call:
//
//	Client.CallRaw        a connection that works (dial.go), again if it may be repeated
//	  conn.call           id -> pending, request -> outbox, wait
//	  conn.read           line -> frame -> pending (the only reader)
//	Outbox                the only writer: what many calls add at once leaves in one write

// features are the additions to the protocol that this client knows.
var features = []string{"stream", "cancel", "credit", "calls"}

// softLimit is how many bytes may wait to be sent before callers wait, too.
const softLimit = 1 << 20

// conn is one connection. It lives until it breaks and never comes back.
type conn struct {
	nc      net.Conn
	out     *rpc.Outbox
	handler Handler
	ctx     context.Context // of handlers; ends with the connection
	stop    context.CancelCauseFunc
	over    chan struct{} // closed when err is set
	greeted chan struct{} // closed when server is set
	server  Server
	token   bool // one was sent
	since   time.Time
	heard   atomic.Bool    // the hub has shown that it is there since guard looked last
	onEnd   func(*conn)    // called in a goroutine of its own when err is set
	wg      sync.WaitGroup // reader, guard and handlers

	mu        sync.Mutex // guards what follows; taken before that of a Stream
	calls     map[uint64]*pending
	serving   map[string]context.CancelCauseFunc // by the JSON text of the hub's id
	last      uint64
	err       error
	complaint *Error // what the hub said last of a line that is no call
}

// pending is a call that waits for its reply. Exactly one of its fields is set.
type pending struct {
	reply  chan outcome // holds one
	stream *Stream
}

type outcome struct {
	result []byte
	err    *Error
}

// newConn owns nc. It starts the reader and returns when the hub has answered the greeting.
func newConn(ctx context.Context, cl *Client, nc net.Conn) (*conn, error) {
	c := &conn{
		nc: nc, handler: cl.handle, since: time.Now(), token: cl.opts.Token != "", onEnd: cl.broke,
		over: make(chan struct{}), greeted: make(chan struct{}),
		calls: make(map[uint64]*pending), serving: make(map[string]context.CancelCauseFunc),
	}
	c.out = rpc.NewOutbox(newWire(nc, &c.heard), softLimit, math.MaxInt)
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	c.wg.Go(c.read)
	greeting := frame.Greeting{Version: frame.Version, Features: features, Identity: cl.opts.Identity, Name: cl.opts.Name, Token: cl.opts.Token}
	c.out.Append(nil, func(dst []byte) []byte { return frame.AppendHello(dst, greeting) })

	limit := time.NewTimer(helloLimit)
	defer limit.Stop()
	select {
	case <-c.greeted:
		c.wg.Go(c.guard)
		return c, nil
	case <-c.over:
		c.mu.Lock()
		err, complaint := c.err, c.complaint
		c.mu.Unlock()
		c.wait()
		if complaint != nil {
			e := *complaint
			e.cause = err
			return nil, &e
		}
		return nil, disconnected(err, RetrySafe)
	case <-limit.C:
		err := fmt.Errorf("no answer to the greeting within %v", helloLimit)
		c.close(err)
		c.wait()
		return nil, &Error{Kind: KindTimeout, Message: err.Error(), Retry: RetrySafe, cause: err}
	case <-ctx.Done():
		c.close(ctx.Err())
		c.wait()
		return nil, ended(ctx, "", RetrySafe)
	}
}

func (c *conn) alive() bool {
	select {
	case <-c.over:
		return false
	default:
		return true
	}
}

// cause returns why the connection ended.
func (c *conn) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// close ends the connection because of err, without waiting.
func (c *conn) close(err error) { c.end(err, 0) }

// end is close that first sends what is queued, for at most linger.
func (c *conn) end(err error, linger time.Duration) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = readError(err)
	calls := c.calls
	c.calls = nil
	close(c.over)
	c.mu.Unlock()
	c.stop(err)
	if linger > 0 {
		c.out.Close(linger)
	}
	c.out.Fail(err) // closes the socket, hence ends the reader
	e := disconnected(err, RetryUnknown)
	for _, p := range calls {
		p.settle(outcome{err: e})
	}
	go c.onEnd(c) // whoever holds the lock of the client may be here
}

// goodbye tells a hub that knows the word that this client will not come back.
func (c *conn) goodbye() {
	if slices.Contains(c.server.Features, frame.Goodbye) {
		c.out.Append(nil, frame.AppendGoodbye)
	}
}

// wait returns when the reader, the writer and all handlers have ended.
func (c *conn) wait() {
	c.wg.Wait()
	c.out.Close(0)
}

func (p *pending) settle(o outcome) {
	if p.stream != nil {
		p.stream.end(o)
		return
	}
	p.reply <- o
}

// register makes an id for p. It fails when the connection is over.
func (c *conn) register(p *pending) (uint64, *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, disconnected(c.err, RetrySafe)
	}
	c.last++
	c.calls[c.last] = p
	return c.last, nil
}

// drop forgets the call id, whose reply nobody waits for any more, and reports
// whether it was still waiting.
func (c *conn) drop(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.calls[id]
	delete(c.calls, id)
	return ok
}

// abandon drops the call and tells the hub to end it.
func (c *conn) abandon(id uint64) {
	if c.drop(id) {
		c.out.Append(nil, func(dst []byte) []byte { return frame.AppendCancel(dst, appendID(nil, id)) })
	}
}

// send queues the request of a registered call.
func (c *conn) send(id uint64, method string, params rpc.Value, o frame.RequestOptions, credit int) *Error {
	var failed *Error
	err := c.out.Append(nil, func(dst []byte) []byte {
		from := len(dst)
		var text [24]byte
		name := appendID(text[:0], id)
		out, err := frame.AppendRequest(dst, name, method, params, o)
		switch {
		case err != nil:
			failed = &Error{Kind: KindInvalidParams, Message: err.Error(), Retry: RetrySafe, cause: err}
			return dst
		case len(out)-from-1 > frame.MaxLine:
			failed = &Error{Kind: KindTooLarge, Message: "the request is larger than 16 MiB", Retry: RetrySafe}
			return out[:from]
		}
		if credit > 0 {
			out = frame.AppendCredit(out, name, credit)
		}
		return out
	})
	if failed == nil && err != nil {
		failed = disconnected(readError(err), RetryUnknown)
	}
	return failed
}

// call makes one plain call on this connection.
func (c *conn) call(ctx context.Context, method string, params rpc.Value, o frame.RequestOptions) ([]byte, *Error) {
	if err := c.out.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, ended(ctx, method, RetrySafe)
		}
		return nil, disconnected(readError(err), RetrySafe).of(method)
	}
	p := &pending{reply: make(chan outcome, 1)}
	id, err := c.register(p)
	if err != nil {
		return nil, err.of(method)
	}
	if err := c.send(id, method, params, o, 0); err != nil {
		c.drop(id)
		return nil, err.of(method)
	}
	select {
	case got := <-p.reply:
		if got.err != nil {
			return nil, got.err.of(method)
		}
		return got.result, nil
	case <-ctx.Done():
		c.abandon(id)
		return nil, ended(ctx, method, RetryUnknown)
	}
}

// read is the loop of the only reader. What it makes the client send, such as
// replies to the hub's calls, leaves when all lines of a read were looked at.
func (c *conn) read() {
	lines := frame.NewLineReader(listener{c.nc, &c.heard}, 0)
	defer lines.Release()
	var b rpc.Batch
	var f frame.Frame
	for {
		line, err := lines.Next()
		if tooLong, ok := errors.AsType[*frame.TooLongError](err); ok {
			id, _ := parseID(frame.FindID(tooLong.Head))
			c.settle(id, outcome{err: &Error{Kind: KindTooLarge, Message: "the answer is larger than 16 MiB", Retry: RetryUnknown}})
			if found, _ := lines.Skip(); found {
				continue
			}
			err = tooLong
		}
		if err != nil {
			if sent := c.out.Err(); sent != nil { // why the socket was closed under the reader
				err = sent
			}
			c.close(readError(err))
			b.Flush()
			return
		}
		if err := frame.Parse(line, &f); err == nil {
			c.handle(&b, &f)
		} else if len(line) > 0 && rpc.SkipSpace(line, 0) < len(line) {
			c.close(fmt.Errorf("the hub sent a line that is no frame: %w", err))
		}
		if !lines.Ready() {
			b.Flush()
		}
	}
}

// readError says in words what the end of the socket means.
func readError(err error) error {
	switch {
	case errors.Is(err, errHungUp):
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe), errors.Is(err, rpc.ErrOutboxClosed):
		return errHungUp
	case errors.Is(err, syscall.EPIPE):
		// Not wrapped: programs take EPIPE for the end of their own output.
		return fmt.Errorf("%w: %v", errHungUp, err)
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: %w", errHungUp, err)
	}
	return err
}

var errHungUp = errors.New("the hub closed the connection")

func (c *conn) handle(b *rpc.Batch, f *frame.Frame) {
	switch f.Action {
	case frame.Reply:
		if id, ok := parseID(f.ID()); ok {
			c.settle(id, c.outcomeOf(f))
		}
	case frame.Chunk:
		if s := c.stream(f); s != nil {
			s.item(b, f.Seq, f.Data)
		}
	case frame.Credit:
		if s := c.stream(f); s != nil {
			s.grant(f.N)
		}
	case frame.Request:
		c.serve(b, f)
	case frame.Cancel:
		c.mu.Lock()
		cancel := c.serving[string(f.ID())]
		c.mu.Unlock()
		if cancel != nil {
			cancel(&Error{Kind: KindCancelled, Message: "cancelled by the hub", Retry: RetryUnknown})
		}
	case "":
		switch f.Type {
		case "hello":
			c.welcome(f)
		case "error":
			c.complain(f)
		}
	}
}

func (c *conn) welcome(f *frame.Frame) {
	select {
	case <-c.greeted:
		return // said twice
	default:
	}
	version, _ := f.Member("version").AsFloat()
	c.server = Server{
		Version:  int(version),
		Software: frame.Text(f.Member("server")),
		Identity: frame.Text(f.Member("identity")),
	}
	for v := range f.Member("features").Elements() {
		c.server.Features = append(c.server.Features, frame.Text(v))
	}
	close(c.greeted)
}

// complain notes what the hub said of a line; it often precedes its hanging up.
func (c *conn) complain(f *frame.Frame) {
	msg := frame.Text(f.Member("msg"))
	if id, ok := parseID(f.ID()); ok {
		c.settle(id, outcome{err: &Error{Kind: KindMalformed, Message: msg, Retry: RetryUnknown}})
		return
	}
	kind := Kind(frame.Text(f.ErrorKind))
	if kind == "" { // an older hub, which sends no kind
		if kind = KindUnavailable; c.token {
			kind = KindUnauthenticated
		}
	}
	c.mu.Lock()
	c.complaint = &Error{Kind: kind, Message: msg, Retry: RetrySafe}
	c.mu.Unlock()
	select {
	case <-c.greeted:
	default: // the greeting was refused
		c.close(errors.New(msg))
	}
}

// settle hands o to whoever waits for the call id.
func (c *conn) settle(id uint64, o outcome) {
	c.mu.Lock()
	p := c.calls[id]
	delete(c.calls, id)
	c.mu.Unlock()
	if p != nil {
		p.settle(o)
	}
}

func (c *conn) stream(f *frame.Frame) *Stream {
	id, ok := parseID(f.ID())
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.calls[id]; p != nil {
		return p.stream
	}
	return nil
}

// outcomeOf reads a reply. What it returns does not refer to the line.
func (c *conn) outcomeOf(f *frame.Frame) outcome {
	text := frame.Text(f.Error)
	kind := frame.Text(f.ErrorKind)
	if text == "" && kind == "" && (f.Error.IsUndefined() || f.Error.IsNull()) {
		raw, _ := f.Result.Raw()
		if raw == nil {
			raw = []byte("null")
		}
		return outcome{result: append([]byte(nil), raw...)}
	}
	e := &Error{Kind: Kind(kind), Message: text, Retry: Retry(frame.Text(f.Retry))}
	if e.Kind == "" {
		e.Kind = KindHandler
	}
	if e.Kind == KindNotFound {
		e.noMethod = f.Member("no_method").Kind() == 't'
		if !slices.Contains(c.server.Features, "no_method") { // a hub that says it in words only
			e.noMethod = strings.HasPrefix(text, noMethodPrefix)
		}
	}
	if e.Retry == "" {
		e.Retry = RetryUnknown
	}
	if raw, ok := f.ErrorData.Raw(); ok && !f.ErrorData.IsNull() {
		e.Data = append([]byte(nil), raw...)
	}
	return outcome{err: e}
}

// appendID appends the JSON text of a call's id.
func appendID(dst []byte, id uint64) []byte {
	dst = append(dst, '"')
	dst = strconv.AppendUint(dst, id, 10)
	return append(dst, '"')
}

// parseID is the reverse of appendID; other ids are not this client's.
func parseID(text []byte) (uint64, bool) {
	if len(text) < 3 || len(text) > 22 || text[0] != '"' || text[len(text)-1] != '"' {
		return 0, false
	}
	var id uint64
	for _, d := range text[1 : len(text)-1] {
		if d < '0' || d > '9' {
			return 0, false
		}
		id = id*10 + uint64(d-'0')
	}
	return id, true
}
