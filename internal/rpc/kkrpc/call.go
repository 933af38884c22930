package kkrpc

import (
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// call is a request of the peer, and how it is answered.
type call struct {
	rpc.Call
	s        *Session
	d        Dialect
	id       rpc.Value // borrowed until Own
	text     bool      // errors go as text
	property []string  // what is read; nothing there is an error in the classic dialect
	readers  []*rpc.Reader
	gone     bool    // leave was called; guarded by Session.mu
	after    []*call // reads of properties that wait for this write; guarded by Session.mu
}

// refusal is the Target of a request that names nothing that could run.
type refusal struct{ e *rpc.Error }

func (r refusal) Start(b *rpc.Batch, c *rpc.Call) { c.Finish(b, rpc.Value{}, r.e) }

// value is the Target of a property that is part of the API itself.
type value struct{ v rpc.Value }

func (t value) Start(b *rpc.Batch, c *rpc.Call) { c.Finish(b, t.v, nil) }

var emptyObject = rpc.RawString("{}")

// request handles a request of the peer.
func (s *Session) request(b *rpc.Batch, m *message) {
	if !s.fixed {
		s.dialect.Store(uint32(m.dialect))
	}
	if m.textErrors {
		s.textErrors.Store(true)
	}
	k := &call{s: s, d: m.dialect, id: m.id, text: s.wants.TextErrors || s.textErrors.Load()}
	k.Peer, k.Protocol, k.Reply, k.Client, k.Unary = s.peer.Load(), rpc.Kkrpc, k, s.client, !s.wants.Streams
	bad := k.meta(m.meta)
	s.mu.Lock()
	s.running++
	s.mu.Unlock()
	t := s.target(k, m)
	if bad != nil {
		t = refusal{bad}
	}
	switch m.kind {
	case isGet:
		if s.waits(k, t) {
			return
		}
		s.link.Start(b, t, &k.Call)
	case isSet:
		s.link.Start(b, t, &k.Call)
		s.mu.Lock()
		if !k.gone {
			s.lastSet = k
		}
		s.mu.Unlock()
	default:
		s.link.Start(b, t, &k.Call)
	}
}

// waits makes the read of a property wait for the latest write of the same peer
// that is not on disk yet. JavaScript assigns a property without waiting, and
// compact peers have no other way: what they read next must be what they wrote.
// Writes of one connection take effect in their order, so that the latest is
// enough.
func (s *Session) waits(k *call, t rpc.Target) bool {
	if s.api == nil || s.api.Properties == nil || t != rpc.Target(s.api.Properties.Get) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastSet == nil || s.held+len(s.lastSet.after) >= s.limits.MaxEntries {
		return false
	}
	k.Own()
	s.lastSet.after = append(s.lastSet.after, k)
	return true
}

// next starts what has waited for k, whose answer is sent.
func (k *call) next(b *rpc.Batch) {
	s := k.s
	s.mu.Lock()
	after := k.after
	k.after = nil
	s.mu.Unlock()
	for _, get := range after {
		s.link.Start(b, s.api.Properties.Get, &get.Call)
	}
}

// target finds what a request is for and reads its arguments.
func (s *Session) target(k *call, m *message) rpc.Target {
	switch {
	case m.kind == noKind:
		return refusal{invalid("unknown operation")}
	case m.kind == isRef:
		return refusal{errNoRefs}
	case s.api == nil && m.dialect == Compact:
		return refusal{&rpc.Error{Code: rpc.CodeNotFound, Message: "No API exposed", Ran: rpc.RanNo}}
	case s.api == nil:
		return refusal{&rpc.Error{Code: rpc.CodeNotFound, Message: "No API implementation available", Ran: rpc.RanNo}}
	}
	switch m.kind {
	case isGet:
		return s.property(k, m)
	case isSet:
		return s.assignment(k, m)
	}
	if row := s.row(m); row != nil && m.kind == isCall {
		if m.dialect == Compact && !m.args.IsUndefined() && m.args.Kind() != '[' {
			return refusal{invalid("arguments are no array")}
		}
		a, err := s.arguments(m, row)
		if err != nil {
			return refusal{err}
		}
		k.Args, k.Refs = a.args, a.refs
		k.readers = a.readers
		return row
	}
	if a, err := s.arguments(m, nil); err == nil {
		k.Refs = a.refs // to be released: nobody takes them
	}
	path, ok := s.callPath(m)
	if !ok {
		return refusal{invalid("Missing path")}
	}
	at := s.api.missingAt(path)
	if m.kind == isNew {
		return refusal{missingConstructor(m.dialect, path, at, at == len(path))}
	}
	return refusal{missingMethod(m.dialect, path, at)}
}

// row returns the method that a call names, nil if there is none.
func (s *Session) row(m *message) *rpc.Method {
	if m.dialect == Classic {
		return s.api.Table.LookupBytes(stringBytes(m.method))
	}
	var buf [128]byte
	name := buf[:0]
	for part := range m.path.Elements() {
		if part.Kind() != '"' || len(name) > 256 {
			return nil
		}
		if len(name) > 0 {
			name = append(name, '.')
		}
		name = append(name, stringBytes(part)...)
	}
	return s.api.Table.LookupBytes(name)
}

// stringBytes returns what a JSON string says, without a copy where there are no escapes.
func stringBytes(v rpc.Value) []byte {
	raw, _ := v.Raw()
	if v.Kind() != '"' {
		return nil
	}
	if slices.Contains(raw, '\\') {
		return []byte(rpc.Unquote(raw))
	}
	return raw[1 : len(raw)-1]
}

// callPath returns the path of a call in either dialect, for error texts.
func (s *Session) callPath(m *message) ([]string, bool) {
	if m.dialect == Compact {
		return pathOf(m.path)
	}
	name := text(m.method)
	if len(name) > 1024 {
		name = name[:1024]
	}
	return strings.SplitN(name, ".", maxPath), true
}

// property is the target of a get.
func (s *Session) property(k *call, m *message) rpc.Target {
	path, ok := pathOf(m.path)
	if !ok || len(path) == 0 { // the whole API is no value
		return refusal{invalid("Invalid get request: missing path")}
	}
	if key, ok := s.api.key(path); ok {
		k.property = path
		k.Args = rpc.ListArgs(rpc.String(key))
		return s.api.Properties.Get
	}
	if at := s.api.missingAt(path); at < len(path) {
		if m.dialect == Compact && at == len(path)-1 {
			return value{} // undefined
		}
		return refusal{missingProperty(m.dialect, path, at)}
	}
	if s.api.Table.Lookup(strings.Join(path, ".")) != nil {
		return value{} // a function is nothing on the wire
	}
	return value{emptyObject}
}

// assignment is the target of a set.
func (s *Session) assignment(k *call, m *message) rpc.Target {
	path, ok := pathOf(m.path)
	if !ok || len(path) == 0 {
		if m.dialect == Compact {
			return refusal{invalid("Cannot set empty path")}
		}
		return refusal{invalid("Invalid set request: missing path")}
	}
	if key, ok := s.api.key(path); ok {
		v := m.value
		if m.dialect == Classic {
			v = bytesIn(m.typed("value", v))
		} else {
			v = m.typed("v", v)
		}
		if v.IsUndefined() {
			v = rpc.Null // Python leaves None out
		}
		k.Args = rpc.ListArgs(rpc.String(key), v)
		return s.api.Properties.Set
	}
	if at := s.api.missingAt(path[:len(path)-1]); at < len(path)-1 {
		return refusal{missingProperty(m.dialect, path, at)}
	}
	return refusal{invalid("property " + dotted(path) + " cannot be set")}
}

// meta takes the trace context of a compact request, and how often it was forwarded.
func (k *call) meta(meta rpc.Value) (bad *rpc.Error) {
	if meta.Kind() != '{' {
		return nil
	}
	member := func(name string) string {
		v, _ := meta.Member(name)
		if raw, _ := v.Raw(); len(raw) > 1024 {
			return ""
		}
		return text(v)
	}
	k.Trace = rpc.ParseTrace(member("traceparent"), member("tracestate"))
	hops, _ := meta.Member("hops")
	k.Hops, bad = rpc.ParseHops(hops)
	return bad
}

// Own copies the id.
func (k *call) Own() { k.id = k.id.Own() }

// leave does what comes with the answer, before it is sent: callbacks that
// nobody has kept are released.
func (k *call) leave() {
	k.s.mu.Lock()
	if k.gone {
		k.s.mu.Unlock()
		return
	}
	k.gone = true
	k.s.running--
	if k.s.lastSet == k {
		k.s.lastSet = nil
	}
	k.s.mu.Unlock()
	for _, r := range k.readers {
		r.Close(nil)
	}
	refs := k.Refs
	k.Refs = nil
	for _, r := range refs {
		r.Release()
	}
	if k.s.anythingDue() {
		k.s.sayReleases()
	}
}

// Result sends the answer.
func (k *call) Result(b *rpc.Batch, c *rpc.Call, v rpc.Value) {
	s := k.s
	v, e := k.results(v)
	if e == nil && v.IsUndefined() && k.property != nil && k.d == Classic {
		e = missingProperty(Classic, k.property, len(k.property)-1)
	}
	k.leave()
	if e == nil && k.d == Classic && hasMember(v, classicStream) || s.wants.Streams && k.d == Compact && hasMember(v, streamTag) {
		e = errMarker
	}
	if e == nil {
		p := getScratch()
		out, err := appendResult((*p)[:0], k.d, k.id, v, s.form)
		switch {
		case err != nil:
			e = rpc.AsError(c, err)
		case len(out) > s.limits.MaxMessage:
			e = errTooLarge
		default:
			_ = s.send(b, k.d, out)
		}
		putScratch(p, out)
	}
	if e != nil {
		c.Undeliverable(e)
		k.fail(b, e)
	}
	k.next(b)
}

// Error sends the error.
func (k *call) Error(b *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	k.leave()
	k.fail(b, e)
	k.next(b)
}

func (k *call) fail(b *rpc.Batch, e *rpc.Error) {
	s := k.s
	p := getScratch()
	out := appendFailure((*p)[:0], k.d, k.id, e, k.text, s.form)
	_ = s.send(b, k.d, out)
	putScratch(p, out)
}

// results deals with references in a result: the protocol has none. A
// reference that a method with callbacks returns is what keeps their use going
// (a watch): it is held until the peer leaves, and the answer is true. Any other
// is given back. References among the arguments are lent, not given.
func (k *call) results(v rpc.Value) (rpc.Value, *rpc.Error) {
	if _, raw := v.Raw(); raw {
		return v, nil
	}
	if r, ok := v.AsRef(); ok && len(k.Refs) > 0 && !slices.Contains(k.Refs, r) {
		s := k.s
		s.mu.Lock()
		full := s.ended != nil || s.entriesLocked() >= s.limits.MaxEntries
		if !full {
			s.kept = append(s.kept, r)
		}
		s.mu.Unlock()
		if full {
			r.Release()
			return rpc.Value{}, errTables
		}
		return rpc.True, nil
	}
	k.releaseRefs(v.Tree())
	return v, nil
}

// releaseRefs releases the references in a tree that were given to the caller.
func (k *call) releaseRefs(x any) {
	switch x := x.(type) {
	case *rpc.Ref:
		if !slices.Contains(k.Refs, x) {
			x.Release()
		}
	case []any:
		for _, e := range x {
			k.releaseRefs(e)
		}
	case *rpc.Map:
		for _, it := range x.Items {
			k.releaseRefs(it.Value)
		}
	case rpc.Value:
		if _, raw := x.Raw(); !raw && !x.IsUndefined() {
			k.releaseRefs(x.Tree())
		}
	}
}
