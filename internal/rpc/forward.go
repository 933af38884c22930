package rpc

import "fmt"

// Forward lets t answer c, as the method that path names there: the result,
// the error or the stream of t becomes that of c, and so does the deadline of c.
// A call that ends before t has answered is cancelled there. c is registered
// (Own) first; nothing blocks.
//
// It is how calls reach methods that are elsewhere: in a provider, behind a
// reference, in another server.
func Forward(b *Batch, c *Call, t Target, path []PathPart, args Args) {
	c.Own()
	args.Own()
	if c.Settled() { // its key was in use
		return
	}
	f := &forwarded{outer: c}
	f.inner = Call{
		Method: c.Method, Path: path, Args: args, Peer: c.Peer, Protocol: c.Protocol, Trace: c.Trace,
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
	if !f.outer.Settled() { // else nobody waits, and no answer is late
		f.outer.Finish(b, v, nil)
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
// that know no names. Parameters that were left out get their defaults; those
// that have none are undefined, as far as something follows. Whatever comes for a
// method without described parameters is passed on as it is: then names are one
// object, the last argument.
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
		switch {
		case i < len(list) && !list[i].IsUndefined() || p.Stream || p.Rest:
		case p.Required:
			return nil, Errorf(CodeInvalidParams, "argument %q is missing", p.Name)
		case p.Default.IsUndefined():
		default:
			for len(list) <= i {
				list = append(list, Value{})
			}
			list[i] = p.Default
		}
	}
	return list, nil
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
