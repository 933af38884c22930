package rpc

import "fmt"

// MaxHops is how often a call is forwarded: beyond it, it goes in a circle.
// The count is part of the call (Call.Hops) and goes along on every way that
// has a place for it, so it also bounds how deep forwarding nests on one stack.
const MaxHops = 8

// ErrLoop ends a call that was forwarded too often.
var ErrLoop = &Error{Code: CodeInvalidParams, Message: "forwarding loop", Ran: RanNo}

// Hop returns the count of a call that c makes elsewhere to be answered, ErrLoop
// where that is one too many.
func (c *Call) Hop() (int, *Error) {
	if c.Hops >= MaxHops {
		return 0, ErrLoop
	}
	return c.Hops + 1, nil
}

// ParseHops reads the count that came with a call. Without one it is 0; what is
// no count is an error.
func ParseHops(v Value) (int, *Error) {
	if v.IsUndefined() || v.IsNull() {
		return 0, nil
	}
	if raw, ok := v.Raw(); ok && len(raw) == 1 && raw[0] >= '0' && raw[0] <= '0'+MaxHops {
		return int(raw[0] - '0'), nil
	}
	return 0, errHops
}

var errHops = &Error{Code: CodeInvalidParams, Message: fmt.Sprintf("hops must be an integer from 0 to %d", MaxHops), Ran: RanNo}

// Forward lets t answer c, as the method that path names there: the result,
// the error or the stream of t becomes that of c, and so does the deadline of c.
// A call that ends before t has answered is cancelled there. c is registered
// (Own) first; nothing blocks.
//
// It is how calls reach methods that are elsewhere: in a provider, behind a
// reference, in another server. What was forwarded MaxHops times fails with
// ErrLoop.
func Forward(b *Batch, c *Call, t Target, path []PathPart, args Args) {
	hops, err := c.Hop()
	if err != nil {
		c.Finish(b, Value{}, err)
		return
	}
	c.Own()
	args.Own()
	if c.Settled() { // its key was in use
		return
	}
	f := &forwarded{outer: c}
	f.inner = Call{
		Method: c.Method, Path: path, Get: c.Get, Args: args, Hops: hops, Peer: c.Peer, Protocol: c.Protocol, Trace: c.Trace,
		Client: c.Client, Input: c.Input, Unary: c.Unary, Reply: f,
		index: -1, began: c.began, deadline: c.deadline,
	}
	c.OnCancel(f.inner.Cancel)
	defer recoverCall(&f.inner)
	t.Start(b, &f.inner)
}

// forwarded is the call on its way, and its Reply.
type forwarded struct {
	outer *Call
	inner Call
}

func (f *forwarded) Result(b *Batch, _ *Call, v Value) {
	if f.outer.Settled() || !f.outer.Finish(b, v, nil) { // in the first case no answer is late
		f.inner.releaseResult(v)
	}
}

func (f *forwarded) Error(b *Batch, _ *Call, e *Error) {
	if !f.outer.Settled() {
		f.outer.Finish(b, Value{}, e)
	}
}

func (f *forwarded) Open(b *Batch, _ *Call, src Source) Sink { return f.outer.Open(b, src) }

func (f *forwarded) Own() {}

// Positional returns the arguments in the order of m's parameters, for targets
// that know no names. Parameters that were left out are undefined, as far as
// something follows: their defaults are the target's own business. Whatever comes
// for a method without described parameters is passed on as it is: then names are
// one object, the last argument.
func Positional(m *Method, a *Args) ([]Value, *Error) {
	var list []Value
	for v := range a.List() {
		list = append(list, v)
	}
	if len(m.Params) == 0 {
		return list, nil
	}
	rest := m.Params[len(m.Params)-1].Rest
	if len(list) > len(m.Params) && !rest {
		return nil, Errorf(CodeInvalidParams, "%s takes at most %s, got %d", m.Name, arguments(len(m.Params)), len(list))
	}
	given := len(list)
	for name, v := range a.ByName() {
		i := paramIndex(m, name)
		switch {
		case i < 0 && m.Lenient:
			continue
		case i < 0:
			return nil, Errorf(CodeInvalidParams, "%s has no parameter %q", m.Name, CleanText(name, 64))
		case i < given:
			return nil, Errorf(CodeInvalidParams, "argument %q is given twice", m.Params[i].Name)
		}
		for len(list) <= i {
			list = append(list, Value{})
		}
		list[i] = v
	}
	for i, p := range m.Params {
		if p.Required && !p.Stream && !p.Rest && (i >= len(list) || list[i].IsUndefined()) {
			return nil, Errorf(CodeInvalidParams, "argument %q is missing", p.Name)
		}
	}
	return list, nil
}

// FillHoles returns positional arguments for a target whose wire has no word for
// one that was left out before others: it gets the default that it has declared
// itself.
func FillHoles(m *Method, list []Value) []Value {
	if m == nil {
		return list
	}
	copied := false
	for i := range min(len(list), len(m.Params)) {
		if p := &m.Params[i]; list[i].IsUndefined() && !p.Default.IsUndefined() {
			if !copied {
				list, copied = append([]Value(nil), list...), true
			}
			list[i] = p.Default
		}
	}
	return list
}

// ByNames returns what Positional returns as named arguments, for targets that
// take names. It is not for methods with a parameter that takes the rest.
func ByNames(m *Method, list []Value) Args {
	named := make([]Named, 0, len(list))
	for i, v := range list {
		if !v.IsUndefined() {
			named = append(named, Named{m.Params[i].Name, v})
		}
	}
	return MixedArgs(nil, named)
}

func paramIndex(m *Method, name string) int {
	for i, p := range m.Params {
		if p.Name == name {
			return i
		}
	}
	return -1
}

// ParsePath reads a dotted name as a path of names.
func ParsePath(name string) ([]PathPart, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("name %q is not valid", CleanText(name, 64))
	}
	var path []PathPart
	for start, i := 0, 0; i <= len(name); i++ {
		if i == len(name) || name[i] == '.' {
			path = append(path, PathPart{Name: name[start:i]})
			start = i + 1
		}
	}
	return path, nil
}
