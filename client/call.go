package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// CallOption changes how one call is made.
type CallOption func(*callOptions)

type callOptions struct {
	timeout    time.Duration
	idempotent bool
}

// WithTimeout bounds the wait for the answer; the hub ends the method then. For
// a stream it bounds the wait for the first item, not the stream. Without it
// and without a deadline of the context the hub's own limit holds (30 seconds).
func WithTimeout(d time.Duration) CallOption {
	return func(o *callOptions) { o.timeout = d }
}

// Idempotent says that making the call twice does no harm: it is made again
// when the connection broke before the answer came, or when the hub does not
// know whether the method ran because its provider has left.
func Idempotent() CallOption {
	return func(o *callOptions) { o.idempotent = true }
}

func gather(opts []CallOption) (o callOptions) {
	for _, f := range opts {
		f(&o)
	}
	return o
}

// hopsKey is the context key of how often the call that a handler answers was
// forwarded.
type hopsKey struct{}

// request returns the members of the request that tell the hub of time, and of
// which call it is a part.
func (o *callOptions) request(ctx context.Context) frame.RequestOptions {
	hops, _ := ctx.Value(hopsKey{}).(int)
	limit := o.timeout
	if d, ok := ctx.Deadline(); ok {
		if left := time.Until(d); limit <= 0 || left < limit {
			limit = left
		}
	} else if limit <= 0 {
		return frame.RequestOptions{Hops: hops}
	}
	return frame.RequestOptions{Timeout: max(limit.Seconds(), rpc.MinDeadline.Seconds()), Hops: hops}
}

// Call calls a method and stores its result in the value that result points
// to, by the rules of encoding/json; nil drops it.
//
// params is an object (a map, a struct, a json.RawMessage) for named arguments,
// a slice for positional ones, or nil for none.
func (c *Client) Call(ctx context.Context, method string, params, result any, opts ...CallOption) error {
	text, err := c.CallRaw(ctx, method, params, opts...)
	if err != nil || result == nil {
		return err
	}
	return decode(method, text, result)
}

// CallRaw calls a method and returns its result as the hub sent it. That is
// JSON, but for the tokens NaN, Infinity and -Infinity, which may stand for
// numbers that JSON does not have.
func (c *Client) CallRaw(ctx context.Context, method string, params any, opts ...CallOption) (json.RawMessage, error) {
	v, err := encode(method, params)
	if err != nil {
		return nil, err
	}
	o := gather(opts)
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	for r := c.repeats(o); ; {
		cn, err := c.live(ctx)
		if err != nil {
			return nil, named(err, method)
		}
		text, failed := cn.call(ctx, method, v, o.request(ctx))
		if failed == nil {
			return text, nil
		}
		if failed = r.again(ctx, failed); failed != nil {
			return nil, failed
		}
	}
}

func named(err error, method string) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.of(method)
	}
	return err
}

// encode makes params ready to be sent. Raw JSON passes as it is.
func encode(method string, x any) (rpc.Value, error) {
	if !utf8.ValidString(method) {
		return rpc.Value{}, invalid(method, "the name of the method holds bytes that are not UTF-8")
	}
	var text []byte
	switch x := x.(type) {
	case nil:
		return rpc.Value{}, nil
	case json.RawMessage:
		text = x
	default:
		if strings.HasPrefix(method, "state.") && holdsDuration(x) {
			return rpc.Value{}, &Error{
				Kind: KindInvalidParams, Method: method, Retry: RetrySafe,
				Message: "a time.Duration is sent as nanoseconds, and the hub takes seconds: give d.Seconds()",
			}
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(x); err != nil {
			return rpc.Value{}, &Error{Kind: KindInvalidParams, Message: err.Error(), Method: method, Retry: RetrySafe, cause: err}
		}
		text = b.Bytes()
		// That is how encoding/json writes bytes that are not UTF-8; it may also
		// stand in JSON that x holds.
		if bytes.Contains(text, []byte(`\ufffd`)) {
			if where, bad := notText(reflect.ValueOf(x), "", 0); bad {
				return rpc.Value{}, invalid(method, where+" holds bytes that are not UTF-8: text is needed, or base64 where the method takes bytes")
			}
		}
	}
	if len(text) == 0 {
		return rpc.Value{}, nil
	}
	v, err := rpc.Parse(text)
	if err != nil {
		return v, &Error{Kind: KindInvalidParams, Message: "the arguments are not JSON: " + err.Error(), Method: method, Retry: RetrySafe, cause: err}
	}
	return v, nil
}

func invalid(method, message string) *Error {
	return &Error{Kind: KindInvalidParams, Message: message, Method: method, Retry: RetrySafe}
}

// notText looks for a string below v, the arguments or the part of them called
// name, that is not UTF-8, and returns the name of the part that holds it.
func notText(v reflect.Value, name string, depth int) (where string, bad bool) {
	if depth > 64 { // encoding/json has found its end; what is that deep is not named
		return "", false
	}
	switch v.Kind() {
	case reflect.String:
		return cmp.Or(name, "an argument"), !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return notText(v.Elem(), name, depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 { // base64, or JSON
			return "", false
		}
		for i := range v.Len() {
			if where, bad := notText(v.Index(i), name, depth+1); bad {
				return where, true
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if where, bad := notText(v.Field(i), cmp.Or(name, v.Type().Field(i).Name), depth+1); bad {
				return where, true
			}
		}
	case reflect.Map:
		for key, value := range v.Seq2() {
			text := key.String()
			if key.Kind() == reflect.String && !utf8.ValidString(text) {
				return cmp.Or(name, "the name of an argument"), true
			}
			if where, bad := notText(value, cmp.Or(name, text), depth+1); bad {
				return where, true
			}
		}
	}
	return "", false
}

// holdsDuration reports whether a time.Duration is among arguments that are
// given as maps and slices. In those of a struct its author has chosen the form.
func holdsDuration(x any) bool {
	switch x := x.(type) {
	case time.Duration:
		return true
	case map[string]any:
		for _, v := range x {
			if holdsDuration(v) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(x, holdsDuration)
	case []map[string]any:
		for _, v := range x {
			if holdsDuration(v) {
				return true
			}
		}
	}
	return false
}

// decode stores JSON text of the hub in *ptr. Tokens that encoding/json does
// not know are read as null.
func decode(method string, text []byte, ptr any) error {
	if raw, ok := ptr.(*json.RawMessage); ok {
		*raw = text
		return nil
	}
	err := json.Unmarshal(text, ptr)
	if err == nil {
		return nil
	}
	if v, parseErr := rpc.Parse(text); parseErr == nil && v.Traits().Has(rpc.HasNonFinite) {
		if strict, jsonErr := v.JSON(); jsonErr == nil {
			if err = json.Unmarshal(strict, ptr); err == nil {
				return nil
			}
		}
	}
	return &Error{Kind: KindMalformed, Message: "the result does not fit: " + err.Error(), Method: method, Retry: RetryUnsafe, cause: err}
}
