package rpc

import "reflect"

// HandleTarget is Handle for a method that answers by itself: a commit queue, a
// stream that is fed from elsewhere. fn runs on the reader of the connection,
// so it never blocks; it finishes c, or sees to it that somebody else does. What
// is borrowed in c and in stays valid until fn returns, unless fn calls c.Own.
//
// R is what the answer holds, for descriptions; the answer itself goes through
// c.Finish.
func HandleTarget[P, R any](name string, fn func(b *Batch, c *Call, in P), opts ...Option) *Method {
	p := planOf[P](name)
	m := &Method{Name: name, Params: p.params, Refs: p.refs, Result: typeOf(reflect.TypeFor[R]())}
	for _, o := range opts {
		o(m)
	}
	return NewTarget(m, TargetFunc(func(b *Batch, c *Call) {
		var in P
		if err := p.bind(c, m, reflect.ValueOf(&in).Elem()); err != nil {
			c.Finish(b, Value{}, err)
			return
		}
		fn(b, c, in)
	}))
}

// Streams marks a method whose answer is a stream of what it returns.
func Streams() Option { return func(m *Method) { m.StreamOut = true } }
