package snekrpc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// inputState is where the caller's stream stands.
type inputState uint8

const (
	noInput   inputState = iota
	inputDue             // the command announced it
	inputRuns            // its start has come
	inputOver            // its end has come
)

// open reports whether messages of the stream are to be expected.
func (s inputState) open() bool { return s == inputDue || s == inputRuns }

// call is one command, and how its answer is written.
type call struct {
	rpc.Call
	conn  *conn
	codec codec
	in    *inStream // the caller's stream; nil when there is none
	bound bool      // the arguments fit: later failures of a stream come inside it

	// Guarded by conn.mu.
	input    inputState
	answered bool // the last message of the answer was sent
	began    bool // some of the answer was sent
	mute     bool // nobody waits for the answer any more
}

// command starts the call that m asks for.
func (c *conn) command(b *rpc.Batch, cd codec, m *message) {
	k := &call{conn: c, codec: cd}
	k.Peer = c.conn.Peer()
	k.Protocol = rpc.Snekrpc
	k.Trace = c.conn.Trace
	k.Reply = k
	var target rpc.Target
	method, err := c.s.lookup(m.service, m.command)
	streams := m.streams()
	denied := err == nil && !c.link.Peer(k.Peer).May(method)
	if err == nil && !denied {
		if streams == 1 {
			k.in = newInStream(k)
		}
		k.Args, err = k.bind(method, m, streams)
	}
	switch {
	case denied: // Start says so; what the method takes is not for everybody to learn
		target = method
	case err != nil:
		k.in = nil
		if method != nil {
			k.Method = method // for metrics
		}
		target = rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) { c.Finish(b, rpc.Value{}, err) })
	default:
		k.bound = true
		target = method
	}
	if streams > 0 {
		k.input = inputDue
		c.expect(true)
	}
	c.mu.Lock()
	c.cur = k
	c.mu.Unlock()
	c.link.Start(b, target, &k.Call)
}

// lookup finds the row of a command.
func (s *Server) lookup(service, command string) (*rpc.Method, *rpc.Error) {
	if service == metaService {
		if m := s.meta.methods[command]; m != nil {
			return m, nil
		}
		return nil, noCommand(service, command)
	}
	if m := s.row(service, command); m != nil {
		return m, nil
	}
	if bare, ok := strings.CutSuffix(command, "_"); ok && keywords[bare] {
		if m := s.row(service, bare); m != nil {
			return m, nil
		}
	}
	if s.cfg.Table.Service(service) == nil {
		return nil, noService(service)
	}
	return nil, noCommand(service, command)
}

func (s *Server) row(service, command string) *rpc.Method {
	m := s.cfg.Table.Lookup(service + "." + command)
	if m == nil && service == command && !strings.Contains(service, ".") {
		m = s.cfg.Table.Lookup(service)
	}
	if m == nil || !carried(m) {
		return nil
	}
	return m
}

// bind sorts the arguments of m by the parameters of method, in Python's words
// where they do not fit.
func (k *call) bind(method *rpc.Method, m *message, streams int) (rpc.Args, *rpc.Error) {
	fail := func(format string, args ...any) (rpc.Args, *rpc.Error) {
		return rpc.Args{}, badCall(m.service, m.command, format, args...)
	}
	if streams > 1 {
		return fail("takes one stream, got %d", streams)
	}
	params := method.Params
	rest := method.AnyParams || len(params) > 0 && params[len(params)-1].Rest
	if len(m.args) > len(params) && !rest {
		return fail("%s", tooMany(params, len(m.args)))
	}
	list := make([]rpc.Value, len(m.args))
	for i, a := range m.args {
		if a.stream && !method.AnyParams && (i >= len(params) || !params[i].Stream) {
			return fail("takes no stream as argument %d", i+1)
		}
		list[i] = k.argument(a)
	}
	var named []rpc.Named
	for _, a := range m.named {
		name := a.name
		if !method.AnyParams {
			i := paramIndex(params, a.name)
			switch {
			case i < 0 && method.Lenient && !a.stream:
				continue
			case i < 0:
				return fail("got an unexpected keyword argument '%s'", rpc.CleanText(a.name, 64))
			case i < len(list):
				return fail("got multiple values for argument '%s'", a.name)
			case a.stream && !params[i].Stream:
				return fail("takes no stream as argument '%s'", a.name)
			}
			name = params[i].Name
		}
		named = append(named, rpc.Named{Name: name, Value: k.argument(a)})
	}
	if missing := missing(params, len(list), named); len(missing) > 0 {
		return fail("missing %s", missingText(missing))
	}
	return rpc.MixedArgs(list, named), nil
}

func (k *call) argument(a arg) rpc.Value {
	if a.stream {
		return rpc.TreeValue(k.in.reader)
	}
	return a.value
}

// paramIndex finds a parameter by its own name or the published one.
func paramIndex(params []rpc.Param, name string) int {
	for i := range params {
		if params[i].Name == name {
			return i
		}
	}
	if bare, ok := strings.CutSuffix(name, "_"); ok {
		for i := range params {
			if params[i].Name == bare {
				return i
			}
		}
	}
	return -1
}

// tooMany says so as Python does, which counts self.
func tooMany(params []rpc.Param, given int) string {
	required := 0
	for _, p := range params {
		if p.Required {
			required++
		}
	}
	were := "were"
	if given == 0 {
		were = "was"
	}
	if required < len(params) {
		return fmt.Sprintf("takes from %d to %d positional arguments but %d %s given", required+1, len(params)+1, given+1, were)
	}
	plural := "s"
	if len(params) == 0 {
		plural = ""
	}
	return fmt.Sprintf("takes %d positional argument%s but %d %s given", len(params)+1, plural, given+1, were)
}

// missing returns the names of required parameters without an argument.
func missing(params []rpc.Param, positional int, named []rpc.Named) (names []string) {
next:
	for i := min(positional, len(params)); i < len(params); i++ {
		if !params[i].Required {
			continue
		}
		for _, n := range named {
			if n.Name == params[i].Name {
				continue next
			}
		}
		name, _ := pythonName(params[i].Name)
		names = append(names, "'"+name+"'")
	}
	return names
}

func missingText(names []string) string {
	n := len(names)
	switch n {
	case 1:
		return "1 required positional argument: " + names[0]
	case 2:
		return "2 required positional arguments: " + names[0] + " and " + names[1]
	}
	return fmt.Sprintf("%d required positional arguments: %s, and %s", n, strings.Join(names[:n-1], ", "), names[n-1])
}

// Own does nothing: a call borrows nothing but its arguments.
func (k *call) Own() {}

// Result answers with one value, or with a stream of its elements where the
// row promises a stream.
func (k *call) Result(b *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	if k.streams() {
		k.resultAsStream(b, v)
		return
	}
	if _, err := k.data(b, v); err != nil {
		k.undeliverable(b, err)
	}
	k.done(b)
}

// streams reports whether clients expect the answer as a stream.
func (k *call) streams() bool { return k.Method != nil && k.Method.StreamOut }

func (k *call) resultAsStream(b *rpc.Batch, v rpc.Value) {
	k.mark(b, startMsg)
	items, err := v.AsList()
	if err != nil {
		items = []rpc.Value{v}
		if v.IsUndefined() || v.IsNull() {
			items = nil
		}
	}
	for _, item := range items {
		if _, err := k.data(b, item); err != nil {
			k.undeliverable(b, err)
			k.done(b)
			return
		}
	}
	k.mark(b, endMsg)
	k.done(b)
}

// undeliverable answers with the reason why a result cannot be carried.
func (k *call) undeliverable(b *rpc.Batch, err error) {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		k.Undeliverable(e)
		k.fail(b, e)
	}
}

// Error answers with an error: inside a stream when the row promises one and
// the method has been run.
func (k *call) Error(b *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	if k.bound && k.streams() && !refusal(e) {
		k.mark(b, startMsg)
	}
	k.fail(b, e)
	k.done(b)
}

// refusal reports whether e may come from before the method was run. What the
// method itself finds wrong with its arguments is none.
func refusal(e *rpc.Error) bool {
	switch e.Code {
	case rpc.CodeUnauthenticated, rpc.CodePermissionDenied, rpc.CodeOverloaded, rpc.CodeUnavailable:
		return true
	case rpc.CodeNotFound:
		return e.Method != ""
	}
	return false
}

// Open begins a streamed answer.
func (k *call) Open(b *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	if !k.streams() && !(k.Method != nil && k.Method.AnyParams) { // clients expect the other form, if they know
		return rpc.Collect(c, src)
	}
	k.mark(b, startMsg)
	return openOutStream(k, src)
}

// end ends a streamed answer.
func (k *call) end(b *rpc.Batch, e *rpc.Error) {
	if e != nil {
		k.fail(b, e)
	} else {
		k.mark(b, endMsg)
	}
	k.done(b)
}

// claim notes that part of the answer is sent now. It reports false when nobody
// waits for it any more.
func (k *call) claim() bool {
	k.conn.mu.Lock()
	defer k.conn.mu.Unlock()
	if !k.mute {
		k.began = true
	}
	return !k.mute
}

// data sends one value of an answer.
func (k *call) data(b *rpc.Batch, v rpc.Value) (int, error) {
	if !k.claim() {
		return 0, nil
	}
	n, err := k.conn.egress.send(b, k.conn.sending.Load(), false, func(dst []byte) ([]byte, error) {
		return appendData(dst, k.codec, v)
	})
	if err == nil {
		k.conn.sent(n)
	}
	return n, err
}

// mark sends the start or the end of a stream.
func (k *call) mark(b *rpc.Batch, what kind) {
	if !k.claim() {
		return
	}
	n, err := k.conn.egress.send(b, k.conn.sending.Load(), true, func(dst []byte) ([]byte, error) {
		return appendMark(dst, k.codec, what), nil
	})
	if err == nil {
		k.conn.sent(n)
	}
}

// fail sends an error message.
func (k *call) fail(b *rpc.Batch, e *rpc.Error) {
	if k.claim() {
		k.conn.say(b, k.codec, nameOf(e), textOf(e))
	}
}

// done notes that the answer is complete. What still comes of the caller's
// stream is read and dropped.
func (k *call) done(*rpc.Batch) {
	if k.in != nil {
		k.in.Stop(nil)
	}
	k.conn.mu.Lock()
	defer k.conn.mu.Unlock()
	k.answered = true
	k.conn.settledLocked(k)
}
