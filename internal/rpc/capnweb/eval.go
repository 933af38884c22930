package capnweb

import (
	"math"
	"strconv"
	"sync/atomic"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// evaluator turns the text of expressions into values, in one pass over text
// that rpc.Scan has accepted. It never blocks: what is not known yet becomes a
// hole. Calls that it meets are started in the order of the text.
type evaluator struct {
	s      *Session
	b      []byte
	i      int
	batch  *rpc.Batch
	pl     *payload  // what the values evaluated belong to
	scope  *mapScope // set inside the instructions of a map
	budget *budget   // of the message
	paid   bool      // the next operation is: it is an instruction of a map
	nested int       // how many calls enclose the present position
	depth  int       // of the expression at the present position; see maxDepth
	hops   int       // of the call that the message answers
}

// Limits of expressions, which are those of the JavaScript library: what we
// accept we can send to it, and the other way round.
const (
	maxDepth        = 256             // no expression is at this depth: elements, members and arguments are one deeper than what holds them
	maxNesting      = 2*maxDepth + 16 // of the text: an array is two arrays there, a call is one and its list of arguments
	maxBigIntLength = 16384           // digits and sign
)

var errDeep = &protocolError{name: "TypeError", message: "Deserialization exceeded maximum allowed message depth of 256."}

// budget is what one message may still ask for, in the maps that it begins as well.
type budget struct {
	ops  atomic.Int64 // calls, property reads, and instructions of maps for each element
	refs atomic.Int64 // mentions of what is there already
}

const refsPerOp = 16 // of a budget

func newBudget(ops int) *budget {
	b := new(budget)
	b.ops.Store(int64(ops))
	b.refs.Store(int64(ops) * refsPerOp)
	return b
}

func (b *budget) over() bool { return b.ops.Load() < 0 || b.refs.Load() < 0 }

// spend takes one from a part of the budget.
func (e *evaluator) spend(part *atomic.Int64) error {
	if left := part.Add(-1); left < 0 {
		if left == -1 { // the rest of a map would count again
			e.s.link.Rejected(LimitOperations)
		}
		return broken("too many operations in one message")
	}
	return nil
}

func (e *evaluator) space() byte {
	e.i = rpc.SkipSpace(e.b, e.i)
	return e.b[e.i]
}

// skip returns the text of the value at the present position and moves behind it.
func (e *evaluator) skip() ([]byte, rpc.Traits) {
	e.space()
	n, t, err := rpc.ScanNested(e.b[e.i:], maxNesting)
	if err != nil { // cannot be: the message has passed it
		n = len(e.b) - e.i - 1
	}
	text := e.b[e.i : e.i+n]
	e.i += n
	return text, t
}

// more moves to the next element of an array and reports whether there is one;
// at the end it stays at the bracket.
func (e *evaluator) more() bool {
	switch e.space() {
	case ',':
		e.i++
		e.space()
		return true
	case ']':
		return false
	}
	return true // behind the opening bracket
}

// rest skips the elements that are left, which the protocol tolerates, and the bracket.
func (e *evaluator) rest() {
	for e.more() {
		e.skip()
	}
	e.i++
}

// literal reads a string.
func (e *evaluator) literal() (text []byte, ok bool) {
	if e.space() != '"' {
		return nil, false
	}
	end := rpc.StringEnd(e.b, e.i)
	text = e.b[e.i:end]
	e.i = end
	return text, true
}

// unquote returns a string, or its text where no Go string can hold it.
func unquote(text []byte) any {
	for _, c := range text {
		if c == '\\' {
			if _, t, err := rpc.Scan(text); err == nil && t.Has(rpc.HasSurrogate) {
				return rpc.RawValue(append([]byte(nil), text...), t)
			}
			break
		}
	}
	return rpc.Unquote(text)
}

// integer reads an id.
func (e *evaluator) integer() (int64, bool) {
	if c := e.space(); c != '-' && (c < '0' || c > '9') {
		return 0, false
	}
	text, _ := e.skip()
	return parseID(text)
}

func parseID(text []byte) (int64, bool) {
	if len(text) < 16 {
		if i, err := strconv.ParseInt(string(text), 10, 64); err == nil {
			return i, true
		}
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !safeFloat(f) {
		return 0, false
	}
	return int64(f), true
}

// argument evaluates one argument of a message's own call: text without any
// tag stays text.
func (e *evaluator) argument() (rpc.Value, error) {
	from := e.i
	text, t := e.skip()
	if v, ok := passable(text, t); ok && e.depth+int(v.Traits().Depth) < maxDepth {
		return v, nil
	}
	e.i = from
	x, err := e.value()
	return rpc.TreeValue(x), err
}

// value evaluates the expression at the present position to a tree node.
func (e *evaluator) value() (any, error) {
	if e.depth >= maxDepth {
		return nil, errDeep
	}
	switch c := e.space(); c {
	case '{':
		return e.object()
	case '[':
		return e.array()
	case '"':
		text, _ := e.literal()
		return unquote(text), nil
	case 't':
		e.i += 4
		return true, nil
	case 'f':
		e.i += 5
		return false, nil
	case 'n':
		e.i += 4
		return nil, nil
	}
	text, _ := e.skip()
	return number(text), nil
}

// number keeps integers that JavaScript has exactly, and the spelling of the others.
func number(text []byte) any {
	if i, err := strconv.ParseInt(string(text), 10, 64); err == nil && i <= maxSafe && i >= -maxSafe && string(text) != "-0" {
		return i
	}
	for _, c := range text {
		if c == '.' || c|0x20 == 'e' {
			return rpc.Number(text)
		}
	}
	f, _ := strconv.ParseFloat(string(text), 64)
	return f
}

func (e *evaluator) object() (any, error) {
	m := &rpc.Map{}
	e.depth++
	defer func() { e.depth-- }()
	e.i++
	for {
		switch e.space() {
		case '}':
			e.i++
			return m, nil
		case ',':
			e.i++
			e.space()
		}
		key, _ := e.literal()
		e.space()
		e.i++ // the colon
		x, err := e.value()
		if err != nil {
			return nil, err
		}
		// Dropped only now: references in it have been counted.
		if name := rpc.Unquote(key); !inherited(name) {
			m.Set(name, x)
		}
	}
}

// array evaluates a wrapped array or a tagged value.
func (e *evaluator) array() (any, error) {
	start := e.i
	e.i++
	switch e.space() {
	case '[':
		list := []any{}
		e.i++
		e.depth++
		for e.more() {
			x, err := e.value()
			if err != nil {
				return nil, err
			}
			list = append(list, x)
		}
		e.depth--
		e.i++
		if e.space() != ']' {
			return nil, e.unknown(start)
		}
		e.i++
		return list, nil
	case '"':
		lit, _ := e.literal()
		tag := string(lit[1 : len(lit)-1])
		x, ok, err := e.tagged(tag)
		if err != nil {
			return nil, err
		}
		if !ok || exact(tag) && e.more() {
			return nil, e.unknown(start)
		}
		e.rest()
		return x, nil
	}
	return nil, e.unknown(start)
}

// exact reports whether nothing may follow the operands of a tag.
func exact(tag string) bool {
	switch tag {
	case "undefined", "url", "headers", "request", "response", "blob", "pipeline", "import", "remap":
		return true
	}
	return false
}

// unknown is the error of the array at start.
func (e *evaluator) unknown(start int) error {
	e.i = start
	text, _ := e.skip()
	return unknown(text)
}

// tagged evaluates what follows a tag. ok is false when the operands are not
// what the tag needs. What is left of the array is skipped by the caller.
func (e *evaluator) tagged(tag string) (x any, ok bool, err error) {
	switch tag {
	case "undefined":
		return rpc.Undefined{}, true, nil
	case "inf":
		return math.Inf(1), true, nil
	case "-inf":
		return math.Inf(-1), true, nil
	case "nan":
		return math.NaN(), true, nil
	case "bigint":
		return e.bigint()
	case "date":
		return e.date()
	case "bytes":
		return e.bytes()
	case "error":
		return e.error()
	case "url":
		return e.url()
	case "headers":
		if !e.more() {
			return nil, false, nil
		}
		h, ok, err := e.headers()
		return h, ok, err
	case "request":
		return e.request()
	case "response":
		return e.response()
	case "blob":
		return e.blob()
	case "pipeline", "import", "remap":
		p, stub, ok, err := e.reference(tag)
		if err != nil || !ok {
			return nil, ok, err
		}
		return e.place(p, stub), true, nil
	case "export", "promise", "writable", "readable":
		return e.mention(tag)
	}
	return nil, false, nil
}

// path reads an array of names and indices.
func (e *evaluator) path() ([]rpc.PathPart, bool) {
	if e.space() != '[' {
		return nil, false
	}
	e.i++
	var path []rpc.PathPart
	for e.more() {
		switch c := e.space(); {
		case c == '"':
			text, _ := e.literal()
			if path == nil {
				path = make([]rpc.PathPart, 0, 2)
			}
			path = append(path, rpc.PathPart{Name: rpc.Unquote(text)})
		case c == '-' || c >= '0' && c <= '9':
			text, _ := e.skip()
			part := rpc.PathPart{Name: string(text), IsIndex: true, Index: -1}
			if i, ok := parseID(text); ok && i >= 0 && i <= math.MaxInt32 {
				part.Index = int(i)
			}
			path = append(path, part)
		default:
			return nil, false
		}
	}
	e.i++
	return path, true
}

// reference evaluates pipeline, import and remap to a promise, of which the
// caller has one hold. stub says that it is to be delivered as a reference.
func (e *evaluator) reference(tag string) (p *promise, stub, ok bool, err error) {
	if !e.more() {
		return nil, false, false, nil
	}
	from := e.i
	id, isInt := e.integer()
	if !isInt {
		if c := e.b[from]; c == '-' || c >= '0' && c <= '9' {
			return nil, false, false, quoting("Error", "no such entry on exports table: %s", e.b[from:e.i])
		}
		return nil, false, false, nil
	}
	var path []rpc.PathPart
	more := e.more()
	if more {
		if path, ok = e.path(); !ok {
			return nil, false, false, nil
		}
	}
	part := &e.budget.refs
	if len(path) > 0 || e.more() { // something is read, called or mapped
		part = &e.budget.ops
	}
	if part == &e.budget.ops && e.paid {
		e.paid = false
	} else if err := e.spend(part); err != nil {
		return nil, false, false, err
	}
	if tag == "remap" {
		if !more {
			return nil, false, false, nil
		}
		return e.remap(id, path)
	}
	if more && e.more() { // arguments
		if e.space() != '[' {
			return nil, false, false, nil
		}
		base, err := e.find(id)
		if err != nil {
			return nil, false, false, err
		}
		args := new(payload)
		list, err := e.arguments(args)
		if err != nil {
			base.unref()
			args.drop(rpc.ErrCancelled)
			return nil, false, false, err
		}
		p = newPromise(e.s)
		p.hops = e.hops
		p.operate(e.batch, base, path, false, list, args)
		return p, tag == "import", true, nil
	}
	base, err := e.find(id)
	if err != nil {
		return nil, false, false, err
	}
	if len(path) == 0 {
		return base, tag == "import", true, nil
	}
	p = newPromise(e.s)
	p.hops = e.hops
	p.operate(e.batch, base, path, true, nil, nil)
	return p, tag == "import", true, nil
}

// arguments evaluates an argument list; what its values hold goes to pl.
func (e *evaluator) arguments(pl *payload) ([]rpc.Value, error) {
	outer := e.pl
	e.pl = pl
	e.nested++
	e.depth++
	defer func() {
		e.pl = outer
		e.nested--
		e.depth--
	}()
	var list []rpc.Value
	e.i++
	for e.more() {
		if e.nested == 1 {
			v, err := e.argument()
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			continue
		}
		x, err := e.value()
		if err != nil {
			return nil, err
		}
		list = append(list, rpc.TreeValue(x))
	}
	e.i++
	return list, nil
}

// find returns the export or, inside a map, the variable with that number,
// with a hold for the caller.
func (e *evaluator) find(id int64) (*promise, error) {
	if e.scope != nil {
		return e.scope.find(id)
	}
	e.s.mu.Lock()
	defer e.s.mu.Unlock()
	x := e.s.exports[id]
	if x == nil {
		return nil, broken("no such entry on exports table: %d", id)
	}
	x.p.holds++
	return x.p, nil
}

// place puts the outcome of a promise into the tree: a reference where it is
// one or has to be one, otherwise a hole. It takes the caller's hold.
func (e *evaluator) place(p *promise, stub bool) any {
	if r := p.reference(); r != nil {
		e.pl.refs = append(e.pl.refs, r)
		p.unref()
		return r
	}
	if stub {
		r := rpc.NewRef(promiseTarget{p}, p.unref)
		e.pl.refs = append(e.pl.refs, r)
		return r
	}
	e.pl.holes = append(e.pl.holes, p)
	return &hole{p}
}

// mention evaluates the forms that introduce something of the sender.
func (e *evaluator) mention(tag string) (any, bool, error) {
	if e.scope != nil {
		return nil, false, &mapError{"A mapper function cannot refer to exports."}
	}
	if !e.more() {
		return nil, false, nil
	}
	id, ok := e.integer()
	if !ok {
		return nil, false, nil
	}
	switch tag {
	case "promise":
		p, err := e.s.importPromise(id)
		if err != nil {
			return nil, false, err
		}
		e.pl.holes = append(e.pl.holes, p)
		return &hole{p}, true, nil
	case "readable":
		st, err := e.s.takeReadable(id)
		if err != nil {
			return nil, false, err
		}
		e.pl.streams = append(e.pl.streams, st)
		return st, true, nil
	}
	r, err := e.s.importRef(id, tag == "writable")
	if err != nil {
		return nil, false, err
	}
	e.pl.refs = append(e.pl.refs, r)
	return r, true, nil
}

// expression evaluates the top of a message to a promise with one hold.
func (e *evaluator) expression() (*promise, error) {
	if e.space() == '[' {
		start := e.i
		e.i++
		if e.space() == '"' {
			lit, _ := e.literal()
			switch tag := string(lit[1 : len(lit)-1]); tag {
			case "pipeline", "import", "remap":
				p, _, ok, err := e.reference(tag)
				if err != nil {
					return nil, err
				}
				if ok && e.more() {
					p.unref()
					ok = false
				}
				if !ok {
					return nil, e.unknown(start)
				}
				e.i++
				return p, nil
			}
		}
		e.i = start
	}
	pl := new(payload)
	e.pl = pl
	v, err := e.argument()
	if err != nil {
		pl.drop(rpc.ErrCancelled)
		return nil, err
	}
	pl.v = v
	return settledWith(e.s, e.batch, pl), nil
}
