package capnweb

import (
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// mainObject is the method table as an object: dots in names are nested
// namespaces. A property that does not exist reads as undefined, calling it is
// a TypeError, as with a JavaScript object.
//
// It acts for the session that it was made in, whoever holds a reference to it
// or to a part of it: see Session.act.
type mainObject struct {
	table *rpc.Table
	peer  *rpc.Peer // on whose behalf calls run; nil: of the session
	of    *Session  // nil until a session has it
}

// NewMain returns a reference to the method table whose calls run on behalf of
// peer: what a method returns that lets its caller do more than before.
func NewMain(table *rpc.Table, peer *rpc.Peer) *rpc.Ref {
	return rpc.NewRef(&mainObject{table: table, peer: peer}, nil)
}

// method returns the row that a call names. Without one, refused is the error
// of the call, or nil when the path has to be followed by Start.
func (o *mainObject) method(path []rpc.PathPart, get bool) (m *rpc.Method, refused *rpc.Error) {
	if get || len(path) == 0 {
		return nil, nil
	}
	var buf [128]byte
	name := buf[:0]
	for i, part := range path {
		if part.IsIndex || strings.IndexByte(part.Name, '.') >= 0 {
			return nil, o.missing(path)
		}
		if i > 0 {
			name = append(name, '.')
		}
		name = append(name, part.Name...)
	}
	if m := o.table.LookupBytes(name); m != nil {
		return m, nil
	}
	return nil, o.missing(path)
}

// missing says why a call has no target: the property is not there, or that
// through which it would be reached.
func (o *mainObject) missing(path []rpc.PathPart) *rpc.Error {
	for i := range path[:len(path)-1] {
		if name, ok := dotted(path[:i+1]); !ok || o.table.Lookup(name) == nil && !o.namespace(name) {
			return readOfUndefined(path[i+1].Name)
		} else if o.table.Lookup(name) != nil && !o.namespace(name) && i+2 < len(path) {
			return readOfUndefined(path[i+2].Name)
		}
	}
	return notFunction(joinPath(path))
}

func dotted(path []rpc.PathPart) (string, bool) {
	for _, part := range path {
		if part.IsIndex || part.Name == "" || strings.IndexByte(part.Name, '.') >= 0 {
			return "", false
		}
	}
	return joinPath(path), true
}

// namespace reports whether rows begin with name and a dot.
func (o *mainObject) namespace(name string) bool {
	rows := o.table.Methods()
	prefix := name + "."
	i, _ := slices.BinarySearchFunc(rows, prefix, func(m *rpc.Method, p string) int { return strings.Compare(m.Name, p) })
	return i < len(rows) && strings.HasPrefix(rows[i].Name, prefix)
}

// Start follows the path of c.
func (o *mainObject) Start(b *rpc.Batch, c *rpc.Call) {
	if o.away(c) {
		o.of.act(b, c, o)
		return
	}
	o.takes(c)
	if !c.Get {
		m, refused := o.method(c.Path, false)
		switch {
		case refused != nil:
			c.Finish(b, rpc.Value{}, refused)
		case m == nil:
			c.Finish(b, rpc.Value{}, notFunction("main"))
		default:
			c.Path = nil
			checked{m, o}.Start(b, c)
		}
		return
	}
	// What is read may be handed on: it goes on permitting what its reader may,
	// whoever calls it, no less and no more.
	bound := &mainObject{o.table, c.Peer, o.of}
	name, ok := dotted(c.Path)
	switch {
	case len(c.Path) == 0:
		c.Finish(b, rpc.TreeValue(rpc.NewRef(bound, nil)), nil)
	case ok && o.table.Lookup(name) != nil:
		c.Finish(b, rpc.TreeValue(rpc.NewRef(checked{o.table.Lookup(name), bound}, nil)), nil)
	case ok && o.namespace(name):
		c.Finish(b, rpc.TreeValue(rpc.NewRef(&namespace{bound, slices.Clone(c.Path)}, nil)), nil)
	default:
		if e := o.missing(c.Path); e.Method == "" {
			c.Finish(b, rpc.Value{}, e)
			return
		}
		c.Finish(b, rpc.Value{}, nil)
	}
}

// checked is a row whose permission is checked at each call, for calls that do
// not come straight from a connection's link.
type checked struct {
	m    *rpc.Method
	main *mainObject // where it was read: it acts for the same
}

func (t checked) Start(b *rpc.Batch, c *rpc.Call) {
	if t.main.away(c) {
		t.main.of.act(b, c, t)
		return
	}
	t.main.takes(c)
	c.Method = t.m
	switch {
	case len(c.Path) > 0 && c.Get:
		c.Finish(b, rpc.Value{}, nil)
	case len(c.Path) > 0:
		c.Finish(b, rpc.Value{}, notFunction(joinPath(c.Path)))
	case c.Get:
		c.Finish(b, rpc.TreeValue(rpc.NewRef(t, nil)), nil)
	case !c.Peer.May(t.m):
		c.Finish(b, rpc.Value{}, c.Peer.Refusal(t.m))
	default:
		t.m.Start(b, c)
	}
}

// takes makes c a call on behalf of whom o acts for.
func (o *mainObject) takes(c *rpc.Call) {
	if o.peer != nil || o.of != nil {
		c.Peer = o.Behalf()
	}
}

// Behalf is on whose behalf calls run: see rpc.Bound.
func (o *mainObject) Behalf() *rpc.Peer {
	if o.peer == nil && o.of != nil {
		return o.of.Peer()
	}
	return o.peer
}

func (t checked) Behalf() *rpc.Peer { return t.main.Behalf() }

func (n *namespace) Behalf() *rpc.Peer { return n.main.Behalf() }

// namespace is a part of the main object that was read as a property.
type namespace struct {
	main *mainObject
	path []rpc.PathPart
}

func (n *namespace) Start(b *rpc.Batch, c *rpc.Call) {
	c.Path = append(slices.Clone(n.path), c.Path...)
	n.main.Start(b, c)
}
