package capnweb

import (
	"github.com/hubd-dev/hubd/internal/rpc"
)

// mapError is a fault in the body of a map: it rejects the map and nothing else.
type mapError struct{ message string }

func (e *mapError) Error() string { return e.message }

// remap evaluates ["remap", id, path, captures, instructions] behind the path.
func (e *evaluator) remap(id int64, path []rpc.PathPart) (*promise, bool, bool, error) {
	if !e.more() || e.space() != '[' {
		return nil, false, false, nil
	}
	base, err := e.find(id)
	if err != nil {
		return nil, false, false, err
	}
	m := &mapping{p: newPromise(e.s), budget: e.budget, hops: e.hops}
	if err := e.captures(m); err != nil {
		base.unref()
		m.drop()
		return nil, false, false, err
	}
	if !e.more() || e.space() != '[' {
		base.unref()
		m.drop()
		return nil, false, false, nil
	}
	text, _ := e.skip()
	if !e.s.hold(len(text)) {
		base.unref()
		m.drop()
		return failed(e.s, e.s.overHeld(rpc.RanNo)), false, true, nil
	}
	m.body = append([]byte(nil), text...) // the elements may come later
	source := base
	if len(path) > 0 {
		source = newPromise(e.s)
		source.hops = e.hops
		source.operate(e.batch, base, path, true, nil, nil)
	}
	m.source = source
	if !source.after(m.p, m.run) {
		m.run(e.batch)
	}
	return m.p, false, true, nil
}

// captures reads the list of what the body refers to besides the element.
func (e *evaluator) captures(m *mapping) error {
	e.i++
	for e.more() {
		start := e.i
		fail := func() error {
			e.i = start
			text, _ := e.skip()
			return quoting("TypeError", "unknown map capture: %s", text)
		}
		if e.space() != '[' {
			return fail()
		}
		e.i++
		tag, ok := e.literal()
		if !ok || !e.more() {
			return fail()
		}
		kind := string(tag)
		id, ok := e.integer()
		if !ok {
			return fail()
		}
		switch {
		case kind == `"import"`:
			p, err := e.find(id)
			if err != nil {
				return err
			}
			m.captures = append(m.captures, p)
		case kind == `"export"` && e.scope == nil:
			r, err := e.s.importRef(id, false)
			if err != nil {
				return err
			}
			m.captures = append(m.captures, settledWith(e.s, e.batch, &payload{v: rpc.TreeValue(r), refs: []*rpc.Ref{r}}))
		default:
			return fail()
		}
		if err := e.spend(&e.budget.refs); err != nil {
			return err
		}
		e.rest()
	}
	e.i++
	return nil
}

// mapping is one map that runs, or waits for what it maps.
type mapping struct {
	p        *promise // the outcome
	source   *promise
	captures []*promise
	body     []byte // the list of instructions
	budget   *budget
	hops     int // of the call whose answer asks for it
}

func (m *mapping) drop() {
	for _, c := range m.captures {
		c.unref()
	}
	if m.source != nil {
		m.source.unref()
	}
	m.p.s.unhold(len(m.body))
}

// run maps the value of the source, which is settled.
func (m *mapping) run(b *rpc.Batch) {
	s := m.p.s
	src := m.source
	if src.fail != nil {
		m.drop()
		m.p.settle(b, new(payload), src.fail)
		return
	}
	v := src.value
	if v.IsUndefined() || v.IsNull() {
		m.drop()
		m.p.settle(b, &payload{v: v}, nil)
		return
	}
	pl := new(payload)
	list, isList := listOf(v)
	var err error
	if !isList {
		var one *promise
		if one, err = m.element(b, v); err == nil {
			pl.holes = []*promise{one}
			pl.v = rpc.TreeValue(&hole{one})
		}
	} else {
		out := make([]any, len(list))
		for i, x := range list {
			var one *promise
			if one, err = m.element(b, x); err != nil {
				break
			}
			pl.holes = append(pl.holes, one)
			out[i] = &hole{one}
		}
		pl.v = rpc.TreeValue(out)
	}
	m.drop()
	if err != nil {
		pl.drop(rpc.ErrCancelled)
		fail := rpc.HandlerError("", err.Error())
		fail.Ran = rpc.RanUnknown
		if pe, ok := err.(*protocolError); ok {
			if m.budget.over() {
				s.abort(pe)
			}
			if pe.name != "Error" {
				fail.Name = pe.name
			}
		}
		m.p.settle(b, new(payload), fail)
		return
	}
	// The promises of the elements become one value.
	whole := settledWith(s, b, pl)
	deliver := func(b *rpc.Batch) {
		out, fail := whole.take(false)
		m.p.settle(b, &out, fail)
	}
	if !whole.after(m.p, deliver) {
		deliver(b)
	}
}

// listOf returns the elements of an array.
func listOf(v rpc.Value) ([]rpc.Value, bool) {
	list, err := v.AsList()
	return list, err == nil
}

// element runs the instructions for one element and returns the last result.
func (m *mapping) element(b *rpc.Batch, v rpc.Value) (*promise, error) {
	s := m.p.s
	pl := payload{v: v}
	el := newPromise(s)
	if e := el.adopt(&pl); e != nil {
		pl.drop(e)
		return nil, e
	}
	el.value, el.refs, el.settled = pl.v, pl.refs, true // streams stay with the source
	el.done.Store(true)
	scope := &mapScope{captures: m.captures, results: []*promise{el}}
	defer scope.drop()
	e := &evaluator{s: s, b: m.body, i: 1, batch: b, scope: scope, budget: m.budget, hops: m.hops, nested: 1}
	for e.more() {
		if err := e.spend(&e.budget.ops); err != nil {
			return nil, err
		}
		e.paid = true
		p, err := e.expression()
		if err != nil {
			return nil, err
		}
		scope.results = append(scope.results, p)
	}
	if len(scope.results) == 1 {
		return nil, &mapError{"Invalid empty mapper function."}
	}
	return scope.results[len(scope.results)-1].hold(), nil
}

// mapScope is what numbers mean inside the instructions: 0 is the element,
// k the result of instruction k, -k capture k.
type mapScope struct {
	captures []*promise
	results  []*promise
}

func (sc *mapScope) find(id int64) (*promise, error) {
	switch {
	case id >= 0 && id < int64(len(sc.results)):
		return sc.results[id].hold(), nil
	case id < 0 && -id <= int64(len(sc.captures)):
		return sc.captures[-id-1].hold(), nil
	}
	return nil, &mapError{"no such entry on exports table: " + itoa(id)}
}

func (sc *mapScope) drop() {
	for _, p := range sc.results {
		p.unref()
	}
}
