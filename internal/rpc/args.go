package rpc

import "iter"

// Args are the arguments of a call as they came: one raw object or array that
// nobody has split yet, or values already apart. Named and positional may mix
// (snekrpc). The zero Args are none.
type Args struct {
	whole Value
	list  []Value
	named []Named
}

// Named is one argument given by name.
type Named struct {
	Name  string
	Value Value
}

// WholeArgs makes Args of one value that holds them all: an object is named
// arguments, an array positional ones, undefined or null none. Anything else
// is one positional argument.
func WholeArgs(v Value) Args { return Args{whole: v} }

// ListArgs makes positional Args.
func ListArgs(list ...Value) Args { return Args{list: list} }

// MixedArgs makes Args of positional and named ones.
func MixedArgs(list []Value, named []Named) Args { return Args{list: list, named: named} }

// Whole returns the one value that holds all arguments, if they came so.
func (a *Args) Whole() (Value, bool) { return a.whole, !a.whole.IsUndefined() }

// List iterates over the positional arguments.
func (a *Args) List() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		switch w := a.whole; {
		case w.Kind() == '[':
			for v := range w.Elements() {
				if !yield(v) {
					return
				}
			}
		case w.raw == nil && w.tree != nil:
			switch t := w.tree.(type) {
			case []any:
				for _, x := range t {
					if !yield(TreeValue(x)) {
						return
					}
				}
			case *Map:
			default:
				yield(w)
			}
		case w.IsUndefined() || w.IsNull() || w.Kind() == '{':
		default:
			yield(w)
		}
		for _, v := range a.list {
			if !yield(v) {
				return
			}
		}
	}
}

// ByName iterates over the named arguments.
func (a *Args) ByName() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if m, ok := a.whole.tree.(*Map); ok {
			for _, it := range m.Items {
				if name, ok := it.Key.(string); ok && !yield(name, TreeValue(it.Value)) {
					return
				}
			}
		}
		for key, v := range a.whole.Members() {
			if !yield(Unquote(key), v) {
				return
			}
		}
		for _, n := range a.named {
			if !yield(n.Name, n.Value) {
				return
			}
		}
	}
}

// First returns the first positional argument, undefined when there is none.
func (a *Args) First() Value {
	for v := range a.List() {
		return v
	}
	return Value{}
}

// Get returns the argument with that position or, failing that, that name.
func (a *Args) Get(position int, name string) (Value, bool) {
	for v := range a.List() {
		if position == 0 {
			return v, true
		}
		position--
	}
	for n, v := range a.ByName() {
		if n == name {
			return v, true
		}
	}
	return Value{}, false
}

// Own makes a stay valid for ever.
func (a *Args) Own() {
	a.whole = a.whole.Own()
	if len(a.list) > 0 {
		list := make([]Value, len(a.list))
		for i, v := range a.list {
			list[i] = v.Own()
		}
		a.list = list
	}
	if len(a.named) > 0 {
		named := make([]Named, len(a.named))
		for i, n := range a.named {
			named[i] = Named{n.Name, n.Value.Own()}
		}
		a.named = named
	}
}

// Holds reports whether r is among the arguments or inside one of them.
func (a *Args) Holds(r *Ref) bool {
	found := false
	look := func(part any) { found = found || part == any(r) }
	eachPart(a.whole, look)
	for _, v := range a.list {
		eachPart(v, look)
	}
	for _, n := range a.named {
		eachPart(n.Value, look)
	}
	return found
}
