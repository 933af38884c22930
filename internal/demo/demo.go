// Package demo has the methods of hubd --demo: one of each kind, for those who
// try out a client, and for the tests of protocols and clients.
package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxRange bounds demo.range, whose answer is one array.
const maxRange = 1000000

// callClientLimit is how long demo.callClient waits for the caller's own method.
const callClientLimit = 10 * time.Second

// Register adds all of them to t, with what their services are for.
func Register(t *rpc.Table) error {
	t.Describe("math", "Arithmetic for demonstrations.")
	t.Describe("demo", "One method of each kind, for trying out clients.")
	return t.Add(methods()...)
}

// Methods returns those of these names, for a table that has others beside
// them, or all. It panics when there is no such method.
func Methods(names ...string) []*rpc.Method {
	all := methods()
	if len(names) == 0 {
		return all
	}
	list := make([]*rpc.Method, len(names))
	for i, name := range names {
		at := slices.IndexFunc(all, func(m *rpc.Method) bool { return m.Name == name })
		if at < 0 {
			panic("there is no demo method " + name)
		}
		list[i] = all[at]
	}
	return list
}

func methods() []*rpc.Method {
	return []*rpc.Method{
		rpc.NewMethod(&rpc.Method{
			Name: "math.add",
			Doc:  "Add two numbers. Integers stay integers, of any size.",
			Params: []rpc.Param{
				{Name: "a", Type: rpc.Type{Kind: rpc.KindInteger}, Required: true},
				{Name: "b", Type: rpc.Type{Kind: rpc.KindInteger}, Required: true},
			},
			Result: rpc.Type{Kind: rpc.KindInteger}, Run: rpc.Inline, Scope: rpc.ScopeRead,
		}, mathAdd),

		takes(rpc.Handle("demo.sleep", sleep, rpc.Needs(rpc.ScopeRead),
			rpc.Returns(rpc.Type{Kind: rpc.KindNumber}),
			rpc.Doc("Return the argument after that many seconds. Ends early when the call is cancelled.")), rpc.KindNumber),

		rpc.Handle("demo.fail", func(_ context.Context, in struct {
			Message string `rpc:"message" doc:"the text of the error"`
		}) (struct{}, error) {
			return struct{}{}, rpc.HandlerError("", in.Message)
		}, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead), rpc.Doc("Fail with the given message.")),

		rpc.Handle("demo.range", numbers, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Return the array 0..n-1.")),

		rpc.HandleStream("demo.count", count, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Stream the integers 0..n-1.")),

		rpc.Handle("demo.sum", sum, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Add up a stream of numbers. Integers stay integers; an empty stream is 0.")),

		rpc.HandleStream("demo.upper", upper, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Stream each item back in upper case, as it comes.")),

		rpc.Handle("demo.callback", callback, rpc.NeverSlow(),
			rpc.Doc("Call fn with 0..n-1 in order, then return n.")),

		withRefs(rpc.Handle("demo.callClient", callClient, rpc.NeverSlow(),
			rpc.Doc("Call a method of the caller's own API and return its result. Gives up after 10 seconds."))),

		withRefs(rpc.Handle("demo.counter", newCounter, rpc.In(rpc.Inline), rpc.Returns(rpc.Type{Kind: rpc.KindObject}),
			rpc.Doc("Return a counter object with increment(by=1) and value()."))),

		rpc.Handle("demo.authenticate", authenticate, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Look up a demonstration session token. Grants nothing.")),

		rpc.Handle("demo.getUserProfile", userProfile, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Return the profile of a demonstration user.")),

		rpc.NewMethod(&rpc.Method{
			Name: "demo.file_info",
			Doc:  "Return name, size and SHA-256 of each file among the arguments. Only krpc carries files.",
			Params: []rpc.Param{
				{Name: "files", Doc: "files; anything else is ignored", Type: rpc.Type{Kind: rpc.KindFile}, Rest: true},
			},
			Result: rpc.Type{Kind: rpc.KindArray, Elem: &rpc.Type{Kind: rpc.KindObject}}, Scope: rpc.ScopeRead, Slow: -1,
		}, fileInfos),
	}
}

// takes says what the first parameter is where it is bound as it came.
func takes(m *rpc.Method, k rpc.Kind) *rpc.Method {
	m.Params[0].Type = rpc.Type{Kind: k}
	return m
}

func withRefs(m *rpc.Method) *rpc.Method {
	m.Refs = true
	return m
}

// mathAdd adds two numbers; for kkrpc, whose users add any number of them, all.
func mathAdd(c *rpc.Call) (rpc.Value, error) {
	var operands [2]rpc.Value
	n := 0
	sum := rpc.Int(0)
	for v := range c.Args.List() {
		if c.Protocol == rpc.Kkrpc {
			var err error
			if sum, err = rpc.Add(sum, v); err != nil {
				return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument %d: %v", n, err)
			}
		} else if n < len(operands) {
			operands[n] = v
		} else if c.Protocol != rpc.Capnweb {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "math.add takes at most 2 arguments")
		}
		n++
	}
	if c.Protocol == rpc.Kkrpc {
		return sum, nil
	}
	for name, v := range c.Args.ByName() {
		i := 0
		switch name {
		case "a":
		case "b":
			i = 1
		default:
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "math.add has no parameter %q", rpc.CleanText(name, 64))
		}
		operands[i] = v
	}
	for i, name := range [...]string{"a", "b"} {
		if operands[i].IsUndefined() {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "math.add is missing argument %q", name)
		}
	}
	v, err := rpc.Add(operands[0], operands[1])
	if err != nil {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "math.add: %v", err)
	}
	return v, nil
}

func sleep(ctx context.Context, in struct {
	Seconds rpc.Value `rpc:"seconds" doc:"how long, in seconds"`
}) (rpc.Value, error) {
	seconds, err := in.Seconds.AsFloat()
	if err != nil {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument \"seconds\": %v", err)
	}
	if !(seconds >= 0 && seconds <= rpc.MaxDeadline.Seconds()*24) {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument \"seconds\": expected 0 to 86400")
	}
	if seconds > 0 {
		t := time.NewTimer(time.Duration(seconds * float64(time.Second)))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return rpc.Value{}, ctx.Err()
		}
	}
	return in.Seconds, nil
}

func numbers(_ context.Context, in struct {
	N int `rpc:"n" doc:"how many"`
}) ([]int, error) {
	if in.N < 0 || in.N > maxRange {
		return nil, rpc.Errorf(rpc.CodeInvalidParams, "argument \"n\": expected 0 to %d", maxRange)
	}
	list := make([]int, in.N)
	for i := range list {
		list[i] = i
	}
	return list, nil
}

func count(ctx context.Context, in struct {
	N     int     `rpc:"n" doc:"how many"`
	Delay float64 `rpc:"delay,unlisted" default:"0" doc:"seconds before each item"`
}, send func(int64) error) error {
	if !(in.Delay >= 0 && in.Delay <= rpc.MaxDeadline.Seconds()) {
		return rpc.Errorf(rpc.CodeInvalidParams, "argument \"delay\": expected 0 to 3600")
	}
	for i := range int64(in.N) {
		if in.Delay > 0 {
			t := time.NewTimer(time.Duration(in.Delay * float64(time.Second)))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
		}
		if err := send(i); err != nil {
			return err
		}
	}
	return nil
}

func sum(ctx context.Context, in struct {
	Values *rpc.Reader `rpc:"values" doc:"the numbers"`
}) (rpc.Value, error) {
	sum := rpc.Int(0)
	for v, err := range in.Values.All(ctx) {
		if err != nil {
			return rpc.Value{}, err
		}
		if sum, err = rpc.Add(sum, v); err != nil {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "stream item: %v", err)
		}
	}
	return sum, nil
}

func upper(ctx context.Context, in struct {
	Lines *rpc.Reader `rpc:"lines" doc:"strings or bytes"`
}, send func(rpc.Value) error) error {
	for v, err := range in.Lines.All(ctx) {
		if err != nil {
			return err
		}
		up, err := upperCase(v)
		if err != nil {
			return err
		}
		if err := send(up); err != nil {
			return err
		}
	}
	return nil
}

// upperCase turns strings to Unicode upper case and bytes to ASCII upper case.
func upperCase(v rpc.Value) (rpc.Value, error) {
	if b, ok := v.Tree().(rpc.Bytes); ok {
		out := make([]byte, len(b.Data))
		for i, c := range b.Data {
			if c >= 'a' && c <= 'z' {
				c -= 'a' - 'A'
			}
			out[i] = c
		}
		return rpc.TreeValue(rpc.Bytes{Data: out, Kind: b.Kind}), nil
	}
	s, err := v.AsString()
	if err != nil {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "stream item: %v", err)
	}
	return rpc.String(strings.ToUpper(s)), nil
}

func callback(ctx context.Context, in struct {
	Fn *rpc.Ref `rpc:"fn" doc:"called with each number"`
	N  int64    `rpc:"n" doc:"how many calls"`
}) (int64, error) {
	for i := range in.N {
		v, err := in.Fn.Call(ctx, rpc.Int(i))
		if err != nil {
			return 0, err
		}
		rpc.Drop(v)
	}
	return in.N, nil
}

func callClient(ctx context.Context, in struct {
	Method string      `rpc:"method" doc:"dotted name of the caller's method"`
	Args   []rpc.Value `rpc:"args,rest" doc:"its arguments"`
}) (rpc.Value, error) {
	var path []rpc.PathPart
	for part := range strings.SplitSeq(in.Method, ".") {
		path = append(path, rpc.PathPart{Name: part})
	}
	ctx, stop := context.WithTimeoutCause(ctx, callClientLimit, &rpc.Error{
		Code: rpc.CodeDeadlineExceeded, Message: fmt.Sprintf("the caller's method did not answer within %v", callClientLimit),
	})
	defer stop()
	return rpc.From(ctx).CallClient(ctx, path, in.Args...)
}

// newCounter returns an object that lives as long as somebody holds it. Its
// calls are inline, hence serial on one connection; others may hold it, too.
func newCounter(_ context.Context, in struct {
	Start int64 `rpc:"start" default:"0" doc:"the first value"`
}) (*rpc.Ref, error) {
	c := &counter{n: in.Start}
	return rpc.NewRef(rpc.Object{
		"increment": rpc.Handle("increment", c.increment, rpc.In(rpc.Inline)),
		"value":     rpc.Handle("value", c.value, rpc.In(rpc.Inline)),
	}, nil), nil
}

var users = map[string]struct{ token, name, bio string }{
	"u_1": {"cookie-123", "Ada Lovelace", "Mathematician & first programmer"},
	"u_2": {"cookie-456", "Alan Turing", "Asked whether machines can think."},
}

type user struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func authenticate(_ context.Context, in struct {
	Token string `rpc:"token" doc:"cookie-123 or cookie-456"`
}) (user, error) {
	for id, u := range users {
		if u.token == in.Token {
			return user{id, u.name}, nil
		}
	}
	return user{}, rpc.HandlerError("", "invalid session")
}

type profile struct {
	ID  string `json:"id"`
	Bio string `json:"bio"`
}

func userProfile(_ context.Context, in struct {
	ID string `rpc:"id" doc:"u_1 or u_2"`
}) (profile, error) {
	u, ok := users[in.ID]
	if !ok {
		return profile{}, rpc.HandlerError("", "no such user")
	}
	return profile{in.ID, u.bio}, nil
}
