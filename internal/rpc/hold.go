package rpc

// Items of streams are borrowed, the references in them included: whoever
// keeps one beyond Sink.Item keeps a hold on each of its references. What a
// call from Go returns belongs to its caller, who gives it back with Drop.

// Keep returns a copy of a borrowed value that may be kept, with a hold on
// every reference in it.
func Keep(v Value) Value {
	v = v.Own()
	if v.tree != nil {
		eachRef(v.tree, func(r *Ref) { r.Retain() })
	}
	return v
}

// Drop gives back the holds that v has on its references, and the streams in
// it that nobody reads. It must not be called under a lock.
func Drop(v Value) {
	if v.tree != nil {
		dropTree(v.tree)
	}
}

// releaseResult drops a result of c that nobody gets. What came with the arguments is
// lent: it is not part of the result.
func (c *Call) releaseResult(v Value) {
	if v.tree == nil {
		return
	}
	eachPart(v.tree, func(part any) {
		switch part := part.(type) {
		case *Ref:
			if !c.Args.Holds(part) {
				part.Release()
			}
		case Readable:
			part.Close(errFinished)
		}
	})
}

func dropTree(x any) {
	eachPart(x, func(part any) {
		switch part := part.(type) {
		case *Ref:
			part.Release()
		case Readable:
			part.Close(errFinished)
		}
	})
}

func dropAll(list []Value) {
	for _, v := range list {
		Drop(v)
	}
}

func eachRef(x any, f func(*Ref)) {
	eachPart(x, func(part any) {
		if r, ok := part.(*Ref); ok {
			f(r)
		}
	})
}

// eachPart visits the references and the streams in a tree.
func eachPart(x any, f func(any)) {
	switch x := x.(type) {
	case Value:
		if x.tree != nil {
			eachPart(x.tree, f)
		}
	case []any:
		for _, el := range x {
			eachPart(el, f)
		}
	case *Map:
		if x != nil {
			for _, it := range x.Items {
				eachPart(it.Value, f)
			}
		}
	case *Reader:
		if x != nil {
			f(x)
		}
	case *Ref:
		if x != nil {
			f(x)
		}
	case Readable:
		f(x)
	}
}
