package statesvc

import (
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const maxPatchOps = 1000

// patchStep is one operation of an RFC 6902 patch.
type patchStep struct {
	op         string
	path, from []string
	value      rpc.Value
}

type patchSteps []patchStep

// parsePatch reads a patch; what it returns owns its memory.
func parsePatch(v rpc.Value) (patchSteps, error) {
	items, err := list("ops", v)
	if err != nil {
		return nil, err
	}
	if len(items) > maxPatchOps {
		return nil, rpc.Errorf(rpc.CodeTooLarge, "a patch has at most %d operations", maxPatchOps)
	}
	steps := make(patchSteps, len(items))
	for i, item := range items {
		f, err := fieldsOf(item)
		if err != nil {
			return nil, invalid("patch operation %d: %v", i+1, err)
		}
		if err := steps[i].parse(f); err != nil {
			return nil, invalid("patch operation %d: %s", i+1, fault(err).Message)
		}
	}
	return steps, nil
}

func (p *patchStep) parse(f *fields) (err error) {
	p.op = f.str("op", true)
	path := f.pointer("path")
	switch p.op {
	case "add", "replace", "test":
		v, ok := f.take("value")
		if !ok {
			f.fail("%s misses its value", p.op)
		}
		p.value = v.Own()
	case "remove":
	case "move", "copy":
		from := f.pointer("from")
		if f.err == nil {
			p.from, err = pointerParts(from)
		}
	default:
		f.fail("unknown operation %q", rpc.CleanText(p.op, 32))
	}
	if f.err != nil {
		return f.err // members that mean nothing are ignored, as RFC 6902 asks
	}
	if err != nil {
		return err
	}
	p.path, err = pointerParts(path)
	if err == nil && p.op == "move" && len(p.path) > len(p.from) && slices.Equal(p.path[:len(p.from)], p.from) {
		return invalid("a value cannot be moved into itself")
	}
	return err
}

func (f *fields) pointer(name string) string {
	v, ok := f.take(name)
	if !ok {
		f.fail("it misses %q", name)
		return ""
	}
	s, err := v.AsString()
	if err != nil {
		f.fail("%s: %v", name, err)
	}
	return s
}

var unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

// pointerParts reads an RFC 6901 pointer; "" is the whole value and has no parts.
func pointerParts(pointer string) ([]string, error) {
	if pointer == "" {
		return nil, nil
	}
	if pointer[0] != '/' {
		return nil, invalid("path %q does not begin with a slash", rpc.CleanText(pointer, 64))
	}
	if strings.Count(pointer, "/") > rpc.MaxDepth {
		return nil, invalid("the path is longer than %d steps", rpc.MaxDepth)
	}
	parts := strings.Split(pointer[1:], "/")
	for i, p := range parts {
		for j := strings.IndexByte(p, '~'); j >= 0; {
			if j+1 == len(p) || p[j+1] != '0' && p[j+1] != '1' {
				return nil, invalid("path %q has a ~ that escapes nothing", rpc.CleanText(pointer, 64))
			}
			next := strings.IndexByte(p[j+1:], '~')
			if next < 0 {
				break
			}
			j += 1 + next
		}
		parts[i] = unescapePointer.Replace(p)
	}
	return parts, nil
}

// change applies the patch to a value and says what that cost: parts of containers looked at or copied.
func (steps patchSteps) change(old *Item, most int) (result Value, cost int, err error) {
	d := document{work: most, item: old}
	defer func() { cost = most - d.work }()
	if err := d.spend(len(old.Value.Data) / 8); err != nil { // it is checked first, and written in the end
		return Value{}, 0, err
	}
	v, err := LoadedValue(old.Value)
	if err != nil {
		return Value{}, 0, err
	}
	d.root = nodeOf(v)
	for i := range steps {
		if err := d.do(&steps[i]); err != nil {
			return Value{}, 0, err
		}
	}
	result, err = StoredValue(valueOf(closed(d.root, 0)))
	return result, 0, err
}

// closed turns the open containers of a document back into a tree. What is nested too deeply is left as it is: it cannot
// be stored anyway.
func closed(x any, depth int) any {
	if depth > rpc.MaxDepth {
		return x
	}
	switch c := x.(type) {
	case *array:
		for i, e := range c.items {
			c.items[i] = closed(e, depth+1)
		}
		if c.items == nil {
			return []any{}
		}
		return c.items
	case *rpc.Map:
		for i := range c.Items {
			c.Items[i].Value = closed(c.Items[i].Value, depth+1)
		}
	}
	return x
}

// document is a value being patched. Text is opened one level at a time, along the paths that are used.
type document struct {
	root any
	work int // what the patch may still cost
	item *Item
}

// array is an open JSON array: unlike []any it can be changed in place.
type array struct{ items []any }

func (d *document) spend(n int) error {
	if d.work -= n + 1; d.work < 0 {
		return errTooMuchWork
	}
	return nil
}

// open returns x as a container that belongs to the document, or as it is.
func (d *document) open(x any) (any, error) {
	switch c := x.(type) {
	case rpc.Value:
		if c.Kind() != '{' && c.Kind() != '[' {
			return x, nil
		}
		text, _ := c.Raw()
		if err := d.spend(len(text) / 4); err != nil {
			return nil, err
		}
		if m := membersOf(c); m != nil {
			return m, nil
		}
		a := &array{}
		for e := range c.Elements() {
			a.items = append(a.items, e)
		}
		return a, nil
	case []any:
		if err := d.spend(len(c)); err != nil {
			return nil, err
		}
		return &array{items: slices.Clone(c)}, nil
	}
	return x, nil
}

func (d *document) do(p *patchStep) error {
	switch p.op {
	case "add", "replace":
		x, err := d.freeze(nodeOf(p.value)) // the caller's tree is not ours to change
		if err != nil {
			return err
		}
		return d.put(p.path, x, p.op == "add")
	case "remove":
		_, err := d.remove(p.path)
		return err
	case "move":
		if _, err := d.find(p.from); err != nil || slices.Equal(p.from, p.path) {
			return err
		}
		x, err := d.remove(p.from)
		if err != nil {
			return err
		}
		return d.put(p.path, x, true)
	case "copy":
		x, err := d.find(p.from)
		if err != nil {
			return err
		}
		text, err := d.freeze(x)
		if err != nil {
			return err
		}
		return d.put(p.path, text, true)
	}
	x, err := d.find(p.path) // test
	if err != nil {
		return err
	}
	if x, err = d.freeze(x); err != nil {
		return err
	}
	if !equalValues(valueOf(x), p.value, &d.work) {
		if d.work < 0 {
			return errTooMuchWork // they may be equal
		}
		return rpc.Errorf(rpc.CodeConflict, "the value at %q is another", pointerOf(p.path)).With(conflictData(d.item.Key, d.item.Revision))
	}
	return nil
}

// freeze returns a part of the document as a tree that shares nothing changeable with it.
func (d *document) freeze(x any) (any, error) {
	switch c := x.(type) {
	case *array:
		out := make([]any, len(c.items))
		return out, d.freezeAll(len(out), func(i int) (err error) {
			out[i], err = d.freeze(c.items[i])
			return err
		})
	case []any:
		return d.freeze(&array{items: c})
	case *rpc.Map:
		out := &rpc.Map{Items: slices.Clone(c.Items)}
		return out, d.freezeAll(len(out.Items), func(i int) (err error) {
			out.Items[i].Value, err = d.freeze(out.Items[i].Value)
			return err
		})
	case rpc.Value:
		text, _ := c.Raw()
		return x, d.spend(len(text))
	case string:
		return x, d.spend(len(c))
	case rpc.Bytes:
		return x, d.spend(len(c.Data))
	case *big.Int:
		return x, d.spend(c.BitLen() / 8)
	}
	return x, d.spend(1)
}

func (d *document) freezeAll(n int, part func(int) error) error {
	for i := range n {
		if err := d.spend(1); err != nil {
			return err
		}
		if err := part(i); err != nil {
			return err
		}
	}
	return nil
}

// container opens everything down to the container that holds the last step of path.
func (d *document) container(path []string) (any, error) {
	x, err := d.open(d.root)
	if err != nil {
		return nil, err
	}
	d.root = x
	for i, step := range path[:len(path)-1] {
		slot, err := d.slot(x, step)
		if err != nil {
			return nil, err
		}
		if slot == nil {
			return nil, noPath(path[:i+1])
		}
		if x, err = d.open(*slot); err != nil {
			return nil, err
		}
		*slot = x
	}
	return x, nil
}

// slot returns where the member or element named step stands, nil if it does not.
func (d *document) slot(x any, step string) (*any, error) {
	switch c := x.(type) {
	case *rpc.Map:
		if err := d.spend(len(c.Items) / 8); err != nil {
			return nil, err
		}
		if i := memberIndex(c, step); i >= 0 {
			return &c.Items[i].Value, nil
		}
	case *array:
		if i, ok := elementIndex(step, len(c.items)); ok {
			return &c.items[i], nil
		}
	}
	return nil, nil
}

func memberIndex(m *rpc.Map, name string) int {
	return slices.IndexFunc(m.Items, func(it rpc.Item) bool { return it.Key == any(name) })
}

// elementIndex reads an index below n, without signs and leading zeros.
func elementIndex(step string, n int) (int, bool) {
	if step == "" || len(step) > 1 && step[0] == '0' || step[0] < '0' || step[0] > '9' {
		return 0, false
	}
	i, err := strconv.Atoi(step)
	return i, err == nil && i < n
}

func (d *document) find(path []string) (any, error) {
	if len(path) == 0 {
		return d.root, nil
	}
	x, err := d.container(path)
	if err != nil {
		return nil, err
	}
	slot, err := d.slot(x, path[len(path)-1])
	if err == nil && slot == nil {
		err = noPath(path)
	}
	if err != nil {
		return nil, err
	}
	return *slot, nil
}

// put sets what path names; add makes it when it is not there and moves the elements of an array apart.
func (d *document) put(path []string, value any, add bool) error {
	if err := d.spend(8); err != nil {
		return err
	}
	if len(path) == 0 {
		d.root = value
		return nil
	}
	x, err := d.container(path)
	if err != nil {
		return err
	}
	last := path[len(path)-1]
	if a, ok := x.(*array); ok && add {
		at := len(a.items)
		if last != "-" {
			i, ok := elementIndex(last, len(a.items)+1)
			if !ok {
				return noPath(path)
			}
			at = i
		}
		if err := d.spend((len(a.items) - at) / 8); err != nil {
			return err
		}
		a.items = slices.Insert(a.items, at, value)
		return nil
	}
	slot, err := d.slot(x, last)
	if err != nil {
		return err
	}
	m, isMap := x.(*rpc.Map)
	switch {
	case slot != nil:
		*slot = value
	case add && isMap:
		m.Set(last, value)
	default:
		return noPath(path)
	}
	return nil
}

func (d *document) remove(path []string) (any, error) {
	if len(path) == 0 {
		old := d.root
		d.root = nil
		return old, nil
	}
	x, err := d.container(path)
	if err != nil {
		return nil, err
	}
	last := path[len(path)-1]
	slot, err := d.slot(x, last)
	if err != nil {
		return nil, err
	}
	if slot == nil {
		return nil, noPath(path)
	}
	old := *slot
	switch c := x.(type) {
	case *rpc.Map:
		i := memberIndex(c, last)
		c.Items = slices.Delete(c.Items, i, i+1)
	case *array:
		i, _ := elementIndex(last, len(c.items))
		if err := d.spend((len(c.items) - i) / 8); err != nil {
			return nil, err
		}
		c.items = slices.Delete(c.items, i, i+1)
	}
	return old, nil
}

func noPath(path []string) *rpc.Error {
	return invalid("there is nothing at %q", pointerOf(path))
}

func pointerOf(path []string) string {
	var b strings.Builder
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(p, "~", "~0"), "/", "~1"))
		if b.Len() > 128 {
			break
		}
	}
	return rpc.CleanText(b.String(), 128)
}
