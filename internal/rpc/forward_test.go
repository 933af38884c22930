package rpc

import (
	"context"
	"strings"
	"testing"
)

func TestPositional(t *testing.T) {
	m := &Method{Name: "x.y", Params: []Param{
		{Name: "a", Required: true}, {Name: "b", Default: RawString("7")}, {Name: "c"},
	}}
	for _, c := range []struct{ args, want string }{
		{`[1]`, "1"},
		{`[1,2,3]`, "1 2 3"},
		{`{"a":1}`, "1"},
		{`{"c":3,"a":1}`, "1  3"},
		{`{"b":2,"a":1}`, "1 2"},
		{`[1,2,3,4]`, "error: x.y takes at most 3"},
		{`{"b":2}`, `error: argument "a" is missing`},
		{`{"a":1,"z":2}`, `error: x.y has no parameter "z"`},
		{`[]`, `error: argument "a" is missing`},
	} {
		args := WholeArgs(RawString(c.args))
		got := []string{}
		list, err := Positional(m, &args)
		for _, v := range list {
			raw, _ := v.Raw()
			got = append(got, string(raw))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = "error: " + err.Message
		}
		if !strings.HasPrefix(text, c.want) || err == nil && text != c.want {
			t.Errorf("%s: %s, want %s", c.args, text, c.want)
		}
	}
	both := MixedArgs([]Value{RawString("1")}, []Named{{"a", RawString("2")}})
	if _, err := Positional(m, &both); err == nil || !strings.Contains(err.Message, "twice") {
		t.Errorf("given twice: %v", err)
	}
	free := WholeArgs(RawString(`[1,2]`))
	if list, err := Positional(&Method{Name: "x.z"}, &free); err != nil || len(list) != 2 {
		t.Errorf("without described parameters: %v, %v", list, err)
	}
}

func TestParsePath(t *testing.T) {
	path, err := ParsePath("a.b.c")
	if err != nil || len(path) != 3 || path[0].Name != "a" || path[2].Name != "c" {
		t.Errorf("got %v, %v", path, err)
	}
	for _, bad := range []string{"", "a.", ".a", "a..b", "1a"} {
		if _, err := ParsePath(bad); err == nil {
			t.Errorf("%q is a path", bad)
		}
	}
}

// A call that is forwarded in a circle ends, whether what forwards it answers at
// once or in a goroutine, and however the circle is closed.
func TestForwardEndsLoops(t *testing.T) {
	hops := 0
	var a, b Target
	a = TargetFunc(func(batch *Batch, c *Call) { hops++; Forward(batch, c, b, c.Path, c.Args) })
	b = TargetFunc(func(batch *Batch, c *Call) { hops++; Forward(batch, c, a, c.Path, c.Args) })
	if _, err := Do(context.Background(), a, &Call{}); err == nil || err.Error() != ErrLoop.Error() {
		t.Errorf("forwarded: %v", err)
	}
	if hops != MaxHops+1 {
		t.Errorf("%d started, want the first and %d hops", hops, MaxHops)
	}
	hops = 0
	var self *Method
	self = NewMethod(&Method{Name: "self"}, func(c *Call) (Value, error) {
		hops++
		return NewRef(self, nil).Call(c)
	})
	if _, err := Do(context.Background(), self, &Call{}); err == nil || err.Error() != ErrLoop.Error() {
		t.Errorf("called by a method: %v", err)
	}
	if hops != MaxHops+1 {
		t.Errorf("%d started, want the first and %d hops", hops, MaxHops)
	}
}

func TestFillHoles(t *testing.T) {
	m := &Method{Params: []Param{{Name: "a"}, {Name: "b", Default: RawString("7")}, {Name: "c", Default: RawString("8")}}}
	list := []Value{{}, {}, RawString("3")}
	got := FillHoles(m, list)
	if raw, _ := got[1].Raw(); len(got) != 3 || !got[0].IsUndefined() || string(raw) != "7" || !list[1].IsUndefined() {
		t.Errorf("got %v of %v", got, list)
	}
}

// unheard is the Reply of a call whose answer is discarded.
type unheard struct{}

func (unheard) Result(*Batch, *Call, Value)             {}
func (unheard) Error(*Batch, *Call, *Error)             {}
func (unheard) Open(_ *Batch, c *Call, src Source) Sink { return Collect(c, src) }
func (unheard) Own()                                    {}

// An answer that finds its call settled is given back, but for what is lent: the
// references among the arguments.
func TestAnswerThatNobodyGetsIsGivenBack(t *testing.T) {
	for _, forwarded := range []bool{true, false} {
		given, lent := 0, 0
		arg := NewRef(nil, func() { lent++ })
		answer := TreeValue([]any{TreeValue(NewRef(nil, func() { given++ })), TreeValue(arg)})
		outer := &Call{Reply: unheard{}, Args: ListArgs(TreeValue(arg))}
		if forwarded {
			Forward(nil, outer, TargetFunc(func(b *Batch, c *Call) {
				outer.Finish(b, Null, nil)
				c.Finish(b, answer, nil)
			}), nil, outer.Args)
		} else {
			runFunc(outer, func(*Call) (Value, error) {
				outer.Finish(nil, Null, nil)
				return answer, nil
			})
		}
		if given != 1 || lent != 0 {
			t.Errorf("forwarded: %t: given back: %d of its own, %d lent", forwarded, given, lent)
		}
		arg.Release()
		if lent != 1 {
			t.Errorf("forwarded: %t: lent %d", forwarded, lent)
		}
	}
}
