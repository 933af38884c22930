package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Handler answers a call that the hub makes to this client. Each call runs in
// a goroutine of its own; ctx ends when the hub gives up or the connection
// ends. Calls that it makes with ctx are part of the call that it answers: such
// that go in a circle end with "forwarding loop". params is valid for ever. The result is encoded as encoding/json does.
// An *Error is passed on with its Kind, any other error with KindHandler.
type Handler func(ctx context.Context, method string, params json.RawMessage) (any, error)

// Methods is a Handler made of named functions:
//
//	client.Options{Handler: client.Methods{"greet": greet}.Handle}
type Methods map[string]func(ctx context.Context, params json.RawMessage) (any, error)

// Handle calls the function named method.
func (m Methods) Handle(ctx context.Context, method string, params json.RawMessage) (any, error) {
	f := m[method]
	if f == nil {
		return nil, NoMethod(method)
	}
	return f(ctx, params)
}

// maxServed bounds the calls of the hub that run at the same time.
const maxServed = 1024

// serve starts a call that the hub makes.
func (c *conn) serve(b *rpc.Batch, f *frame.Frame) {
	id := append([]byte(nil), f.ID()...)
	if len(id) == 0 {
		return // nothing that could be answered
	}
	hops, wrong := rpc.ParseHops(f.Hops)
	if wrong != nil {
		c.answer(b, id, rpc.Value{}, &Error{Kind: KindInvalidParams, Message: wrong.Message, Retry: RetrySafe})
		return
	}
	method := string(f.MethodName())
	key := string(id)
	ctx, cancel := context.WithCancelCause(context.WithValue(c.ctx, hopsKey{}, hops))
	c.mu.Lock()
	_, twice := c.serving[key]
	full := len(c.serving) >= maxServed
	if !twice && !full {
		c.serving[key] = cancel
	}
	c.mu.Unlock()
	if twice || full {
		cancel(nil)
		e := &Error{Kind: KindDuplicate, Message: "the id is still in use", Retry: RetrySafe}
		if full {
			e = &Error{Kind: KindOverloaded, Message: "too many calls at the same time", Retry: RetrySafe}
		}
		c.answer(b, id, rpc.Value{}, e)
		return
	}
	raw, _ := f.Params.Raw()
	params := append(json.RawMessage(nil), raw...)
	limit := rpc.DefaultDeadline
	if s, err := f.Timeout.AsFloat(); err == nil && s > 0 {
		limit = time.Duration(math.Min(s, rpc.MaxDeadline.Seconds()) * float64(time.Second))
	}
	c.wg.Go(func() {
		ctx, stop := context.WithTimeout(ctx, limit)
		defer stop()
		v, err := run(ctx, c.handler, method, params)
		c.mu.Lock()
		delete(c.serving, key)
		c.mu.Unlock()
		cancel(nil)
		c.answer(nil, id, v, err)
	})
}

// run calls h and encodes what it returns.
func run(ctx context.Context, h Handler, method string, params json.RawMessage) (v rpc.Value, failed *Error) {
	defer func() {
		if p := recover(); p != nil {
			failed = &Error{Kind: KindInternal, Message: fmt.Sprintf("panic: %v", p), Retry: RetryUnknown}
		}
	}()
	result, err := h(ctx, method, params)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			return v, e
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
			return v, &Error{Kind: KindTimeout, Message: noAnswer, Retry: RetryUnknown}
		case errors.Is(err, context.Canceled) && ctx.Err() != nil:
			return v, &Error{Kind: KindCancelled, Message: "cancelled", Retry: RetryUnknown}
		}
		return v, &Error{Kind: KindHandler, Message: err.Error(), Retry: RetryUnsafe}
	}
	if result == nil {
		return rpc.Null, nil
	}
	v, err = encode("", result)
	if err != nil {
		return v, &Error{Kind: KindSerialization, Message: "result not json-serializable: " + err.Error(), Retry: RetryUnsafe}
	}
	return v, nil
}

// answer queues the reply to a call of the hub.
func (c *conn) answer(b *rpc.Batch, id []byte, v rpc.Value, e *Error) {
	c.out.Append(b, func(dst []byte) []byte {
		if e == nil {
			out, err := frame.AppendReply(dst, id, v)
			if err == nil && len(out)-len(dst)-1 <= frame.MaxLine {
				return out
			}
			e = &Error{Kind: KindSerialization, Message: "the result cannot be sent", Retry: RetryUnsafe}
		}
		fail := frame.Failure{Kind: string(e.Kind), Text: e.Message, Retry: string(e.Retry), NoMethod: e.NoMethod()}
		if fail.Text == "" {
			fail.Text = string(e.Kind)
		}
		if len(e.Data) > 0 {
			if data, err := rpc.Parse(e.Data); err == nil {
				fail.Data = data
			}
		}
		return frame.AppendFailure(dst, id, fail)
	})
}
