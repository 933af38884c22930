package capnweb

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// encoder writes values as expressions. It runs under Session.mu: references
// become exports, streams become pipes whose messages precede the one written.
type encoder struct {
	s     *Session
	out   []byte
	made  []int64 // exports created, to be taken back when the value cannot be encoded
	pumps []pumpStart
	depth int  // of the expression that comes next; see maxDepth
	reply bool // the message is an answer
	err   *rpc.Error
}

// pumpStart is a stream that is pumped once the message that mentions it is queued.
type pumpStart struct {
	pump *pump
	from rpc.Readable
}

func (e *encoder) cannot(what string) {
	e.refuse(&rpc.Error{Code: rpc.CodeSerialization, Message: "Cannot serialize value: " + what, Ran: rpc.RanYes})
}

// refuse gives the message up because of err; the first reason counts.
func (e *encoder) refuse(err *rpc.Error) {
	if e.err == nil {
		e.err = err
	}
}

// value appends the expression of v.
func (e *encoder) value(v rpc.Value) {
	raw, ok := v.Raw()
	if !ok {
		if v.IsUndefined() {
			e.out = append(e.out, `["undefined"]`...)
			return
		}
		e.tree(v.Tree())
		return
	}
	t := v.Traits()
	if e.depth+int(t.Depth) >= maxDepth {
		e.deep()
		return
	}
	switch {
	case t.Has(rpc.HasBigInt | rpc.HasNonFinite):
		e.tree(v.Tree())
	case t.Has(rpc.HasArray | rpc.HasNewline):
		e.out = appendDoubled(e.out, raw)
	default:
		e.out = append(e.out, raw...)
	}
}

func (e *encoder) deep() {
	e.refuse(&rpc.Error{Code: rpc.CodeSerialization, Ran: rpc.RanYes,
		Message: "Serialization exceeded maximum allowed depth. (Does the message contain cycles?)"})
}

func (e *encoder) str(s string) { e.out = rpc.AppendString(e.out, s, false) }

func (e *encoder) text(s string) { e.out = append(e.out, s...) }

// end appends the end of a message, which must not be longer than its receiver takes.
func (e *encoder) end(s string) {
	e.text(s)
	if limit := max(e.s.limits.MaxMessage, DefaultMaxMessage); len(e.out) > limit {
		e.cannot(fmt.Sprintf("the message would be longer than %d bytes", limit))
	}
}

func (e *encoder) tree(x any) {
	if e.err != nil {
		return
	}
	if e.depth >= maxDepth {
		e.deep()
		return
	}
	e.depth++
	defer func() { e.depth-- }()
	switch x := x.(type) {
	case nil:
		e.text("null")
	case rpc.Value:
		e.depth--
		e.value(x)
		e.depth++
	case rpc.Undefined:
		e.text(`["undefined"]`)
	case bool:
		e.out = strconv.AppendBool(e.out, x)
	case int:
		e.integer(int64(x))
	case int64:
		e.integer(x)
	case uint64:
		if x <= maxSafe {
			e.integer(int64(x))
			return
		}
		e.text(`["bigint","`)
		e.out = append(strconv.AppendUint(e.out, x, 10), '"', ']')
	case *big.Int:
		if x == nil {
			e.text("null")
			return
		}
		e.text(`["bigint","`)
		from := len(e.out)
		e.out = x.Append(e.out, 10)
		if len(e.out)-from > maxBigIntLength {
			e.cannot("an integer of more than 16384 digits")
		}
		e.text(`"]`)
	case float64:
		e.float(x)
	case rpc.Number:
		if f, err := strconv.ParseFloat(string(x), 64); err != nil {
			e.float(f) // beyond the largest: infinite
			return
		}
		e.text(string(x))
	case string:
		e.str(x)
	case rpc.Bytes:
		e.bytes(x.Data, x.Kind)
	case rpc.Ext:
		e.bytes(x.Data, "")
	case time.Time:
		e.text(`["date",`)
		ms, rest := x.UnixMilli(), x.Nanosecond()%1e6
		if rest == 0 {
			e.out = strconv.AppendInt(e.out, ms, 10)
		} else {
			e.out = strconv.AppendFloat(e.out, float64(ms)+float64(rest)/1e6, 'f', -1, 64)
		}
		e.text("]")
	case InvalidDate:
		e.text(`["date",null]`)
	case URL:
		if !e.s.modern { // older peers abort on the tag
			e.str(string(x))
			return
		}
		e.text(`["url",`)
		e.str(string(x))
		e.text("]")
	case Headers:
		e.text(`["headers",`)
		e.pairs(x)
		e.text("]")
	case *Request:
		e.text(`["request",`)
		e.str(x.URL)
		e.text(",")
		e.init(x.Init)
		e.text("]")
	case *Response:
		e.text(`["response",`)
		e.tree(x.Body)
		e.text(",")
		e.init(x.Init)
		e.text("]")
	case Blob:
		e.text(`["blob",`)
		e.str(x.Type)
		e.text(",")
		if p := e.readable(rpc.Items(rpc.TreeValue(rpc.Bytes{Data: x.Data}))); p != nil {
			p.pieces = true
		}
		e.text("]")
	case *rpc.Error:
		if x == nil {
			e.text("null")
			return
		}
		e.error(x)
	case []any:
		e.text("[[")
		for i, el := range x {
			if i > 0 {
				e.text(",")
			}
			e.tree(el)
		}
		e.text("]]")
	case *rpc.Map:
		if x == nil {
			e.text("null")
			return
		}
		e.object(x)
	case *rpc.Ref:
		if x == nil {
			e.text("null")
			return
		}
		e.ref(x)
	case *Stub:
		e.stub(x)
	case rpc.Readable:
		if r, ok := x.(*rpc.Reader); ok && r == nil {
			e.text("null")
			return
		}
		e.readable(x)
	case *rpc.File:
		e.cannot("a file")
	default:
		v, err := rpc.Encode(x)
		if err != nil || v.Tree() == x {
			e.cannot(fmt.Sprintf("%T", x))
			return
		}
		e.value(v)
	}
}

// float writes a float as such: 1.0 is not 1 to everybody. JavaScript has no
// other numbers beyond 2^53, and writes those as integers.
func (e *encoder) float(x float64) {
	switch {
	case math.IsNaN(x):
		e.text(`["nan"]`)
	case math.IsInf(x, 1):
		e.text(`["inf"]`)
	case math.IsInf(x, -1):
		e.text(`["-inf"]`)
	case math.Abs(x) > maxSafe && math.Abs(x) < 1e21:
		e.out = strconv.AppendFloat(e.out, x, 'f', -1, 64)
	default:
		e.out = rpc.AppendFloat(e.out, x, rpc.Form{})
	}
}

func (e *encoder) integer(i int64) {
	if i > maxSafe || i < -maxSafe {
		e.text(`["bigint","`)
		e.out = append(strconv.AppendInt(e.out, i, 10), '"', ']')
		return
	}
	e.out = strconv.AppendInt(e.out, i, 10)
}

func (e *encoder) bytes(data []byte, kind string) {
	e.text(`["bytes","`)
	e.out = base64.RawStdEncoding.AppendEncode(e.out, data)
	e.text(`"`)
	if size := containers[kind]; size > 0 && len(data)%size == 0 && kind != "Uint8Array" && e.s.modern {
		e.text(",")
		e.str(kind)
	}
	e.text("]")
}

func (e *encoder) object(m *rpc.Map) {
	e.text("{")
	for i, it := range m.Items {
		key, err := rpc.KeyText(it.Key)
		if err != nil {
			e.cannot("a map key that no object can have")
			return
		}
		if i > 0 {
			e.text(",")
		}
		e.str(key)
		e.text(":")
		e.tree(it.Value)
	}
	e.text("}")
}

func (e *encoder) pairs(h Headers) {
	e.text("[")
	for i, p := range h {
		if i > 0 {
			e.text(",")
		}
		e.text("[")
		e.str(p[0])
		e.text(",")
		e.str(p[1])
		e.text("]")
	}
	e.text("]")
}

// init writes the init object of requests and responses: plain JSON but for
// the body, and headers as bare pairs.
func (e *encoder) init(m *rpc.Map) {
	e.text("{")
	for i, it := range m.Items {
		if i > 0 {
			e.text(",")
		}
		name, _ := it.Key.(string)
		e.str(name)
		e.text(":")
		switch v := it.Value.(type) {
		case Headers:
			e.pairs(v)
		default:
			e.tree(v)
		}
	}
	e.text("}")
}

// error writes an error.
func (e *encoder) error(x *rpc.Error) {
	if r := remoteOf(x); r != nil {
		if r.isValue {
			e.value(r.thrown)
			return
		}
		e.errorForm(r.name, r.message, r.props)
		return
	}
	name, message := wireName(x)
	var props *rpc.Map
	if !plain(x) {
		props = new(rpc.Map)
		props.Set("code", string(x.Code))
		props.Set("ran", x.Ran.String())
		if !x.Data.IsUndefined() {
			props.Set("data", x.Data)
		}
	}
	e.errorForm(name, message, props)
}

func (e *encoder) errorForm(name, message string, props *rpc.Map) {
	e.text(`["error",`)
	e.str(name)
	e.text(",")
	e.str(message)
	if props != nil && len(props.Items) > 0 {
		e.text(",null,")
		// A property that cannot be encoded is left out: it must not hide the error.
		kept := new(rpc.Map)
		for _, it := range props.Items {
			if holdsLink(it.Value) {
				continue
			}
			try := encoder{s: e.s, depth: e.depth}
			try.tree(it.Value)
			if try.err == nil {
				kept.Set(it.Key, it.Value)
			}
		}
		e.object(kept)
	}
	e.text("]")
}

// holdsLink reports whether a reference or a stream stands in x.
func holdsLink(x any) bool {
	found := false
	_ = survey(rpc.TreeValue(x), func(any) { found = true })
	return found
}

// ref writes a reference: one of the peer's own goes back as such, any other
// becomes an export with a new id, and so does one that was given back: calls
// of it come here and fail.
//
// In an answer the peer's own becomes an export, too: the JavaScript library
// (0.12.0) makes an import form into something that fails when it is awaited,
// and an answer is awaited. The suite under tests/interop/capnweb shows it.
func (e *encoder) ref(r *rpc.Ref) {
	if id, ok := r.ID.(importID); ok && r.Owner == any(e.s) && !e.reply && !e.s.givenBackLocked(r) {
		e.text(`["import",`)
		e.out = append(strconv.AppendInt(e.out, int64(id), 10), ']')
		return
	}
	tag := `["export",`
	if _, ok := r.ID.(writableID); ok {
		tag = `["writable",`
	}
	id := e.s.exportLocked(r)
	e.made = append(e.made, id)
	e.text(tag)
	e.out = append(strconv.AppendInt(e.out, id, 10), ']')
}

// stub writes a result of the peer's, there or not.
func (e *encoder) stub(st *Stub) {
	switch {
	case st.s != e.s:
		e.cannot("a stub of another session")
	case st.fail != nil: // the call is not made
		e.refuse(st.fail)
	case st.res != nil && e.s.imports[st.id] != st.res.x: // answered
		select {
		case <-st.res.done:
		default:
			e.cannot("a result that is just arriving")
			return
		}
		v, fail := st.res.outcome()
		if fail != nil {
			e.refuse(fail)
			return
		}
		for _, part := range st.path {
			v, _ = step(v, part)
		}
		e.value(v)
	default:
		e.text(`["pipeline",`)
		e.out = strconv.AppendInt(e.out, st.id, 10)
		e.path(st.path)
		e.text("]")
	}
}

// readable opens a pipe and mentions its reading end.
func (e *encoder) readable(from rpc.Readable) *pump {
	if e.s.unary {
		e.cannot("a stream in a batch")
		return nil
	}
	p := e.s.newPumpLocked()
	e.pumps = append(e.pumps, pumpStart{p, from})
	e.text(`["readable",`)
	e.out = append(strconv.AppendInt(e.out, p.id, 10), ']')
	return p
}

// undo takes back what a value that could not be encoded has created. The
// references are to be released without the lock.
func (e *encoder) undo() []*promise {
	var drop []*promise
	for _, id := range e.made {
		if x := e.s.exports[id]; x != nil {
			delete(e.s.exports, id)
			drop = append(drop, x.p)
		}
	}
	e.s.lastOut -= int64(len(e.pumps)) // the pipes have not been announced
	for _, ps := range e.pumps {
		delete(e.s.imports, ps.pump.id)
	}
	e.made, e.pumps = nil, nil
	return drop
}

// safeFloat reports whether an integer literal is exact as a JavaScript number.
func safeFloat(f float64) bool { return f == math.Trunc(f) && math.Abs(f) <= maxSafe }
