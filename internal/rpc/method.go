package rpc

import (
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Mode says where a Go function runs.
type Mode uint8

const (
	// Concurrent runs each call in a goroutine of its own.
	Concurrent Mode = iota
	// Inline runs on the reader of the connection. It is a promise: the
	// function never blocks and is done within a small fraction of a
	// millisecond, whatever its arguments.
	Inline
	// Serial runs one call after another in arrival order, off the reader.
	Serial
)

// Kind is a JSON type, for descriptions.
type Kind string

// The kinds.
const (
	KindAny      Kind = "any"
	KindNull     Kind = "null"
	KindBool     Kind = "boolean"
	KindInteger  Kind = "integer"
	KindNumber   Kind = "number"
	KindString   Kind = "string"
	KindBytes    Kind = "bytes"
	KindArray    Kind = "array"
	KindObject   Kind = "object"
	KindFunction Kind = "function"
	KindFile     Kind = "file"
)

// Type describes a parameter or a result.
type Type struct {
	Kind     Kind
	Elem     *Type // of an array; nil is any
	Nullable bool
}

// String returns the type as hubctl shows it: "string", "[]integer", "object?".
func (t Type) String() string {
	s := string(t.Kind)
	if t.Kind == KindArray && t.Elem != nil {
		s = "[]" + t.Elem.String()
	}
	if t.Nullable {
		s += "?"
	}
	return s
}

// Param is one parameter of a method.
type Param struct {
	Name     string
	Doc      string
	Type     Type // of one item where Stream is set
	Stream   bool // the caller's stream, or an array in its place
	Required bool
	Default  Value // what an absent argument means; undefined for nothing
	Unlisted bool  // accepted, but not published to snekrpc clients
	Rest     bool  // takes all further positional arguments
}

// Method is a row of the table, and a Target. It is not changed after registration.
type Method struct {
	Name      string
	Doc       string
	Params    []Param
	Result    Type          // of one item where StreamOut is set
	StreamOut bool          // the answer is a stream
	Endless   bool          // ... that never ends by itself: callers that take no streams are refused
	Deadline  time.Duration // 0: the hub's default; negative: none unless the caller asks
	Slow      time.Duration // 0: the hub's default; negative: never
	Scope     Scope
	Also      []string // names of further methods that the patterns of a token must cover: what it does is theirs
	Open      bool     // peers that have yet to authenticate may call it, too
	Run       Mode
	Legacy    bool   // for clients of another program: lists for people leave it out
	Lenient   bool   // unknown argument names are ignored
	Provider  string // who offers it; "" for the hub itself
	Metric    any    // the observer's own handle, set at registration
	Refs      bool   // takes or returns references, or calls its caller: protocols that cannot do not list it
	AnyParams bool   // the parameters are not known here: whoever runs it checks them
	Origin    any    // what the row was made of, for whoever made it

	target Target // set by NewMethod
	serial serial
}

// StreamIn reports whether a parameter is the caller's stream.
func (m *Method) StreamIn() bool { return m.streamParam() != nil }

func (m *Method) streamParam() *Param {
	for i := range m.Params {
		if m.Params[i].Stream {
			return &m.Params[i]
		}
	}
	return nil
}

// ReadOnly reports whether a call can always be repeated.
func (m *Method) ReadOnly() bool { return m.Scope == ScopeRead }

// ErrAnswered is what a Func returns that has answered its call, or opened its
// answer as a stream, itself.
var ErrAnswered = errors.New("the call has been answered")

// Func is a Go function as the binder sees it: it has the whole Call, which is
// also its context. One that answers by itself (a stream) returns ErrAnswered.
type Func func(c *Call) (Value, error)

// NewMethod makes a row whose Target runs f in the given Mode. m is used as it is.
func NewMethod(m *Method, f Func) *Method {
	m.target = &funcTarget{m: m, f: f}
	return m
}

// NewTarget makes a row that hands its calls to t as they are: providers,
// mounts, commit queues.
func NewTarget(m *Method, t Target) *Method {
	m.target = t
	return m
}

// Start runs the method. It does not check permissions, which Link.Start does,
// but the limits of subscriptions: they hold however the call came here.
func (m *Method) Start(b *Batch, c *Call) {
	if c.Method == nil {
		c.Method = m
	}
	if len(c.Path) > 0 {
		c.Finish(b, Value{}, NoMethod(m.Name+"."+c.Path[0].Name))
		return
	}
	if m.Endless && c.Unary && len(c.Refs) == 0 { // with a function among the arguments the items go there
		c.Finish(b, Value{}, &Error{Code: CodeInvalidParams, Ran: RanNo,
			Message: m.Name + " streams without end: ask for its result as a stream"})
		return
	}
	if m.Endless && c.link != nil {
		if e := c.crowded(); e != nil {
			c.Finish(b, Value{}, e)
			return
		}
	}
	m.target.Start(b, c)
}

// light reports whether a call of m costs next to nothing, or may help when
// there is little left of something.
func (m *Method) light() bool { return m.Run == Inline || m.Scope == ScopeAdmin }

// funcTarget runs a Go function.
type funcTarget struct {
	m *Method
	f Func
}

func (t *funcTarget) Start(b *Batch, c *Call) {
	switch t.m.Run {
	case Inline:
		v, err := t.f(c)
		if err != ErrAnswered {
			c.Finish(b, v, err)
		}
	case Serial:
		c.Own()
		t.m.serial.add(c, t.f)
	default:
		c.Own()
		c.link.run(c, func() { t.run(c) })
	}
}

// run is the body of a goroutine handler.
func (t *funcTarget) run(c *Call) {
	runFunc(c, t.f)
}

func runFunc(c *Call, f Func) {
	defer recoverCall(c)
	if c.Settled() {
		return // cancelled before it began
	}
	v, err := f(c)
	if err == ErrAnswered {
		return
	}
	if err == nil && c.link != nil && c.link.Out != nil {
		// A goroutine may wait for room where a reader may not. When the call
		// ends meanwhile, Finish finds it settled.
		_ = c.link.Out.Wait(c)
	}
	if err != nil && c.Settled() && AsError(c, err).Code != CodeHandler {
		return // it ended because its context did: not a late answer
	}
	if !c.Finish(nil, v, err) {
		c.releaseResult(v)
	}
}

// recoverCall answers the call of a goroutine that panicked.
func recoverCall(c *Call) {
	p := recover()
	if p == nil {
		return
	}
	if c.link != nil && c.link.gate.Observer != nil {
		c.link.gate.Observer.Panic(c, p, debug.Stack())
	}
	c.Finish(nil, Value{}, errInternal)
}

// serial runs calls one after another on a goroutine that exists while there are any.
type serial struct {
	mu      sync.Mutex
	queue   []*Call
	sweepAt int // length of the queue at which calls that were cancelled meanwhile are dropped
	running bool
}

func (s *serial) add(c *Call, f Func) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, c)
	if s.sweepAt = max(s.sweepAt, 1024); len(s.queue) >= s.sweepAt {
		// Cancelled calls no longer count against the limits of their links.
		s.queue = slices.DeleteFunc(s.queue, (*Call).Settled)
		s.sweepAt = 2 * len(s.queue)
	}
	if s.running {
		return
	}
	s.running = true
	go s.work(f) // ends when the queue is empty; each call is bounded by its deadline
}

func (s *serial) work(f Func) {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running, s.queue, s.sweepAt = false, nil, 0
			s.mu.Unlock()
			return
		}
		c := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.mu.Unlock()
		c.link.enter() // only now: what waits here ends with its link's calls
		runFunc(c, f)
		c.link.leave()
	}
}
