package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"
)

// Option sets something of a method that Handle cannot see from the function.
type Option func(*Method)

// Doc sets the documentation: a first sentence, then what a caller must know.
func Doc(text string) Option { return func(m *Method) { m.Doc = text } }

// In sets the Mode.
func In(mode Mode) Option { return func(m *Method) { m.Run = mode } }

// Needs sets the scope; the default is ScopeCall.
func Needs(s Scope) Option { return func(m *Method) { m.Scope = s } }

// Open lets everybody call the method, before authentication as well.
func Open() Option { return func(m *Method) { m.Open = true } }

// Also names methods whose work this one does: the method patterns of a token
// must cover them as well, so that a narrow token has no way around them.
func Also(methods ...string) Option { return func(m *Method) { m.Also = methods } }

// Legacy says that the method is there for clients of another program, and
// nothing that people need to see.
func Legacy() Option { return func(m *Method) { m.Legacy = true } }

// Within sets the deadline of a call that names none itself; negative is none.
func Within(d time.Duration) Option { return func(m *Method) { m.Deadline = d } }

// NeverSlow takes the method out of the slow-handler watch: it waits by design.
func NeverSlow() Option { return func(m *Method) { m.Slow = -1 } }

// Endless marks a stream that does not end by itself.
func Endless() Option { return func(m *Method) { m.Endless = true } }

// Lenient ignores unknown argument names.
func Lenient() Option { return func(m *Method) { m.Lenient = true } }

// Returns sets the result type where the Go type does not tell.
func Returns(t Type) Option { return func(m *Method) { m.Result = t } }

// Handle makes a row from a Go function. The exported fields of the struct P
// are the parameters, in order:
//
//	type params struct {
//		Key   string    `rpc:"key" doc:"what to read"`
//		Limit int       `rpc:"limit" default:"100"`
//		TTL   *float64  `rpc:"ttl"`            // a pointer is optional
//		Fn    *rpc.Ref  `rpc:"fn"`             // a function or object by reference
//		Lines *rpc.Reader `rpc:"lines"`        // the caller's stream, or an array
//		More  []rpc.Value `rpc:"args,rest"`    // all further positional arguments
//	}
//
// Tag options: optional (the zero value when absent), unlisted, rest. A field
// of type Value takes anything. The function is inspected once, here.
//
// A Value in P is borrowed when the method is Inline and owned otherwise. What
// the function returns is turned into a Value by Encode.
func Handle[P, R any](name string, fn func(context.Context, P) (R, error), opts ...Option) *Method {
	p := planOf[P](name)
	m := &Method{Name: name, Params: p.params, Refs: p.refs, Result: typeOf(reflect.TypeFor[R]())}
	for _, o := range opts {
		o(m)
	}
	return NewMethod(m, func(c *Call) (Value, error) {
		var in P
		if err := p.bind(c, m, reflect.ValueOf(&in).Elem()); err != nil {
			return Value{}, err
		}
		out, err := fn(c, in)
		if err != nil {
			return Value{}, err
		}
		return Encode(out)
	})
}

// HandleStream is Handle for a method whose answer is a stream: fn calls send
// for each item and returns when there are no more. send fails when the call
// has ended; fn then returns that error.
func HandleStream[P, T any](name string, fn func(ctx context.Context, in P, send func(T) error) error, opts ...Option) *Method {
	p := planOf[P](name)
	m := &Method{Name: name, Params: p.params, Refs: p.refs, StreamOut: true, Result: typeOf(reflect.TypeFor[T]())}
	for _, o := range opts {
		o(m)
	}
	t := TargetFunc(func(b *Batch, c *Call) {
		c.Own()
		c.link.run(c, func() {
			defer recoverCall(c)
			if c.Settled() {
				return
			}
			var in P
			if err := p.bind(c, m, reflect.ValueOf(&in).Elem()); err != nil {
				c.Finish(nil, Value{}, err)
				return
			}
			w := OpenWriter(nil, c)
			err := fn(c, in, func(item T) error {
				v, err := Encode(item)
				if err != nil {
					return err
				}
				return w.Send(v)
			})
			if c.Settled() {
				return // it was ended from outside, which a stream's sender notices late
			}
			w.sink.End(Soon, AsError(c, err))
		})
	})
	return NewTarget(m, t)
}

// maxParams bounds the parameters of a method: bind notes them in one word.
const maxParams = 64

// plan is how the arguments of a call become the fields of a struct.
type plan struct {
	params []Param
	fields []field
	refs   bool
}

type field struct {
	index    int
	set      func(f reflect.Value, v Value) error
	optional bool
	stream   bool
	rest     bool
	def      Value
	hasDef   bool

	nullIsAbsent bool // null means the same as no argument
}

func planOf[P any](method string) *plan { return planOfType(reflect.TypeFor[P](), method) }

func planOfType(t reflect.Type, method string) *plan {
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("rpc.Handle %s: parameters must be a struct, not %s", method, t))
	}
	p := new(plan)
	for i := range t.NumField() {
		sf := t.Field(i)
		if !sf.IsExported() {
			continue
		}
		name, flags, _ := strings.Cut(sf.Tag.Get("rpc"), ",")
		if name == "" {
			panic(fmt.Sprintf("rpc.Handle %s: field %s has no rpc tag", method, sf.Name))
		}
		f := field{index: i, set: setter(sf.Type)}
		par := Param{Name: name, Doc: sf.Tag.Get("doc"), Type: typeOf(sf.Type)}
		for flag := range strings.SplitSeq(flags, ",") {
			switch flag {
			case "optional":
				f.optional = true
			case "unlisted":
				par.Unlisted = true
			case "rest":
				f.rest, par.Rest, f.optional = true, true, true
			case "":
			default:
				panic(fmt.Sprintf("rpc.Handle %s: unknown tag option %q", method, flag))
			}
		}
		if def, ok := sf.Tag.Lookup("default"); ok {
			f.def, f.hasDef, f.optional = RawString(def), true, true
			par.Default = f.def
		}
		switch sf.Type {
		case reflect.TypeFor[*Reader]():
			f.stream, par.Stream = true, true
			par.Type = Type{Kind: KindAny}
		case reflect.TypeFor[*Ref]():
			p.refs = true
		case reflect.TypeFor[*File]():
		default:
			if sf.Type.Kind() == reflect.Pointer {
				f.optional = true
				par.Type.Nullable = true
			}
		}
		switch sf.Type.Kind() {
		case reflect.Pointer:
			f.nullIsAbsent = true
		case reflect.Interface: // null is a value
		default:
			// Clients that send every parameter by name send null for those left out.
			f.nullIsAbsent = f.optional && !f.hasDef && sf.Type != reflect.TypeFor[Value]()
		}
		if f.rest && sf.Type != reflect.TypeFor[[]Value]() {
			panic(fmt.Sprintf("rpc.Handle %s: rest parameter %s is not []rpc.Value", method, name))
		}
		if f.hasDef {
			if err := f.set(reflect.New(sf.Type).Elem(), f.def); err != nil {
				panic(fmt.Sprintf("rpc.Handle %s: default of %s: %v", method, name, err))
			}
		}
		if len(p.fields) == maxParams {
			panic(fmt.Sprintf("rpc.Handle %s: more than %d parameters", method, maxParams))
		}
		if p.index(name) >= 0 {
			panic(fmt.Sprintf("rpc.Handle %s: parameter %s stands there twice", method, name))
		}
		par.Required = !f.optional
		p.params = append(p.params, par)
		p.fields = append(p.fields, f)
	}
	return p
}

// arguments says how many arguments n are.
func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// bind fills the struct in from the call's arguments.
func (p *plan) bind(c *Call, m *Method, in reflect.Value) error {
	var got uint64 // bit i: field i has a value
	n := 0
	for v := range c.Args.List() {
		if n >= len(p.fields) || p.fields[n].stream && c.Input != nil {
			// The stream came beside the arguments: it is not among them.
			if n < len(p.fields) && n+1 < len(p.fields) {
				n++
			} else if tooManyIgnored(c.Protocol) {
				break
			} else if n < len(p.fields) {
				return invalid("argument %q: expected a stream or an array, got %s", p.params[n].Name, v.describe())
			} else {
				return invalid("%s takes at most %s", m.Name, arguments(len(p.fields)))
			}
		}
		f := &p.fields[n]
		if f.rest {
			appendRest(in.Field(f.index), v)
			got |= 1 << n
			continue
		}
		if err := p.set(c, in, n, v); err != nil {
			return err
		}
		if !v.IsUndefined() || !f.optional {
			got |= 1 << n
		}
		n++
	}
	for name, v := range c.Args.ByName() {
		i := p.index(name)
		if i < 0 {
			if m.Lenient {
				continue
			}
			return invalid("%s has no parameter %q", m.Name, CleanText(name, 64))
		}
		if got&(1<<i) != 0 && len(c.Args.list) > 0 {
			return invalid("%s got multiple values for argument %q", m.Name, p.params[i].Name)
		}
		if err := p.set(c, in, i, v); err != nil {
			return err
		}
		got |= 1 << i
	}
	for i := range p.fields {
		if got&(1<<i) != 0 {
			continue
		}
		f := &p.fields[i]
		switch {
		case f.stream && c.Input != nil:
			r := ReaderOf(c.Input)
			c.reads(r)
			in.Field(f.index).Set(reflect.ValueOf(r))
		case f.hasDef:
			if err := f.set(in.Field(f.index), f.def); err != nil {
				return fmt.Errorf("default of %s.%s: %w", m.Name, p.params[i].Name, err)
			}
		case !f.optional:
			return invalid("%s is missing argument %q", m.Name, p.params[i].Name)
		}
	}
	return nil
}

// tooManyIgnored: JavaScript callers may pass more arguments than a method
// takes.
func tooManyIgnored(p Protocol) bool { return p == Kkrpc || p == Capnweb }

func (p *plan) set(c *Call, in reflect.Value, i int, v Value) error {
	f := &p.fields[i]
	if f.optional && !f.rest && (v.IsUndefined() || v.IsNull() && f.nullIsAbsent) {
		if f.hasDef && v.IsUndefined() {
			return f.set(in.Field(f.index), f.def)
		}
		return nil
	}
	if err := f.set(in.Field(f.index), v); err != nil {
		return invalid("argument %q: %v", p.params[i].Name, err)
	}
	if f.stream {
		switch v.tree.(type) {
		case Readable, *File:
			c.reads(in.Field(f.index).Interface().(*Reader))
		}
	}
	return nil
}

// index finds a parameter by name; a trailing underscore, which Python clients
// put behind keywords, may be there.
func (p *plan) index(name string) int {
	for i := range p.params {
		if p.params[i].Name == name {
			return i
		}
	}
	if bare, ok := strings.CutSuffix(name, "_"); ok && bare != "" {
		for i := range p.params {
			if p.params[i].Name == bare {
				return i
			}
		}
	}
	return -1
}

func invalid(format string, args ...any) *Error {
	return &Error{Code: CodeInvalidParams, Message: fmt.Sprintf(format, args...), Ran: RanNo}
}

func appendRest(f reflect.Value, v Value) {
	list := f.Addr().Interface().(*[]Value)
	*list = append(*list, v)
}

// setter returns how a Value becomes a Go value of type t. Pointer targets are
// reached through Addr().Interface(), which neither allocates nor inspects the type.
func setter(t reflect.Type) func(reflect.Value, Value) error {
	switch t {
	case reflect.TypeFor[Value]():
		return func(f reflect.Value, v Value) error {
			*f.Addr().Interface().(*Value) = v
			return nil
		}
	case reflect.TypeFor[string]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*string), err = v.AsString()
			return err
		}
	case reflect.TypeFor[bool]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*bool), err = v.AsBool()
			return err
		}
	case reflect.TypeFor[int64]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*int64), err = v.AsInt()
			return err
		}
	case reflect.TypeFor[int]():
		return func(f reflect.Value, v Value) error {
			n, err := v.AsInt()
			*f.Addr().Interface().(*int) = int(n)
			return err
		}
	case reflect.TypeFor[uint64]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*uint64), err = v.AsUint()
			return err
		}
	case reflect.TypeFor[float64]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*float64), err = v.AsFloat()
			return err
		}
	case reflect.TypeFor[[]byte]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*[]byte), err = v.AsBytes()
			return err
		}
	case reflect.TypeFor[*Ref]():
		return func(f reflect.Value, v Value) error {
			r, ok := v.tree.(*Ref)
			if !ok {
				return fmt.Errorf("expected a function or an object by reference, got %s", v.describe())
			}
			*f.Addr().Interface().(**Ref) = r
			return nil
		}
	case reflect.TypeFor[*File]():
		return func(f reflect.Value, v Value) error {
			file, ok := v.tree.(*File)
			if !ok { // never from JSON that looks like one
				return fmt.Errorf("expected a file, got %s", v.describe())
			}
			*f.Addr().Interface().(**File) = file
			return nil
		}
	case reflect.TypeFor[Bytes]():
		return func(f reflect.Value, v Value) error {
			b, ok := v.tree.(Bytes)
			if !ok {
				data, err := v.AsBytes()
				if err != nil {
					return err
				}
				b.Data = data
			}
			*f.Addr().Interface().(*Bytes) = b
			return nil
		}
	case reflect.TypeFor[*Reader]():
		return func(f reflect.Value, v Value) error {
			r, err := v.AsReader()
			if err == nil {
				*f.Addr().Interface().(**Reader) = r
			}
			return err
		}
	case reflect.TypeFor[[]Value]():
		return func(f reflect.Value, v Value) (err error) {
			*f.Addr().Interface().(*[]Value), err = v.AsList()
			return err
		}
	}
	if t.Kind() == reflect.Pointer {
		inner := setter(t.Elem())
		return func(f reflect.Value, v Value) error {
			p := reflect.New(t.Elem())
			if err := inner(p.Elem(), v); err != nil {
				return err
			}
			f.Set(p)
			return nil
		}
	}
	return func(f reflect.Value, v Value) error {
		if err := v.Unmarshal(f.Addr().Interface()); err != nil {
			if te, ok := err.(*json.UnmarshalTypeError); ok {
				return fmt.Errorf("expected %s, got %s", typeOf(te.Type), te.Value)
			}
			return fmt.Errorf("expected %s, got %s", typeOf(t), v.describe())
		}
		return nil
	}
}

// typeOf describes a Go type.
func typeOf(t reflect.Type) Type {
	switch t {
	case reflect.TypeFor[Value](), reflect.TypeFor[any]():
		return Type{Kind: KindAny}
	case reflect.TypeFor[[]byte](), reflect.TypeFor[Bytes]():
		return Type{Kind: KindBytes}
	case reflect.TypeFor[*Ref]():
		return Type{Kind: KindFunction}
	case reflect.TypeFor[*File]():
		return Type{Kind: KindFile}
	case reflect.TypeFor[*big.Int]():
		return Type{Kind: KindInteger}
	case reflect.TypeFor[struct{}]():
		return Type{Kind: KindNull}
	case reflect.TypeFor[time.Time]():
		return Type{Kind: KindString}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeOf(t.Elem())
	case reflect.Bool:
		return Type{Kind: KindBool}
	case reflect.String:
		return Type{Kind: KindString}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return Type{Kind: KindInteger}
	case reflect.Float32, reflect.Float64:
		return Type{Kind: KindNumber}
	case reflect.Slice, reflect.Array:
		elem := typeOf(t.Elem())
		return Type{Kind: KindArray, Elem: &elem}
	case reflect.Map, reflect.Struct:
		return Type{Kind: KindObject}
	}
	return Type{Kind: KindAny}
}
