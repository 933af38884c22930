package rpc

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRefsEndWithTheCall(t *testing.T) {
	released := 0
	ref := NewRef(nil, func() { released++ })
	r := start(NewLink(nil), method(Inline, func(c *Call) (Value, error) { return Null, nil }), &Call{Refs: []*Ref{ref}}, "")
	r.wait(t)
	if released != 1 {
		t.Errorf("released %d times", released)
	}
	kept := NewRef(nil, func() { released++ })
	start(NewLink(nil), method(Inline, func(c *Call) (Value, error) { kept.Retain(); return Null, nil }), &Call{Refs: []*Ref{kept}}, "").wait(t)
	if released != 1 {
		t.Error("a retained reference is gone")
	}
	kept.Release()
	if released != 2 {
		t.Error("the last hold releases nothing")
	}
	kept.Retain()
	kept.Release()
	if released != 2 {
		t.Error("released twice")
	}
}

func TestObject(t *testing.T) {
	n := int64(0)
	obj := Object{
		"increment": method(Inline, func(c *Call) (Value, error) {
			by, err := c.Args.First().AsInt()
			n += by
			return Int(n), err
		}),
		"value": method(Concurrent, func(*Call) (Value, error) { return Int(n), nil }),
	}
	ref := NewRef(obj, nil)
	call := func(get bool, path ...string) (Value, error) {
		c := &Call{Get: get, Args: ListArgs(Int(2))}
		for _, p := range path {
			c.Path = append(c.Path, PathPart{Name: p})
		}
		return Do(t.Context(), ref.Target, c)
	}
	if v, err := call(false, "increment"); err != nil || string(v.raw) != "2" {
		t.Errorf("%s, %v", v.raw, err)
	}
	if v, err := call(false, "value"); err != nil || string(v.raw) != "2" {
		t.Errorf("%s, %v", v.raw, err)
	}
	if v, err := call(true, "increment"); err != nil || n != 2 {
		t.Errorf("reading a function calls it: %v, %d", err, n)
	} else if f, ok := v.AsRef(); !ok {
		t.Errorf("a function reads as %v", v.Tree())
	} else if v, err := f.Call(t.Context(), Int(3)); err != nil || string(v.raw) != "5" {
		t.Errorf("a function that was read: %s, %v", v.raw, err)
	}
	for _, path := range [][]string{{"nothing"}, {"value", "deeper"}} {
		if _, err := call(false, path...); !errors.Is(err, &Error{Code: CodeNotFound}) {
			t.Errorf("%v: %v", path, err)
		}
	}
	if _, err := call(false); !errors.Is(err, &Error{Code: CodeInvalidParams}) {
		t.Errorf("the object itself: %v", err)
	}
	if v, err := call(true, "nothing"); err != nil || !v.IsUndefined() {
		t.Errorf("a property that is not there: %v, %v", v, err)
	}
	if _, err := ref.Call(t.Context()); !errors.Is(err, &Error{Code: CodeInvalidParams}) {
		t.Errorf("Ref.Call: %v", err)
	}
}

func TestDo(t *testing.T) {
	if v, err := Do(t.Context(), method(Concurrent, func(c *Call) (Value, error) { return c.Args.First(), nil }), &Call{Args: ListArgs(String("x"))}); err != nil || string(v.raw) != `"x"` {
		t.Errorf("%s, %v", v.raw, err)
	}
	for _, mode := range []Mode{Inline, Concurrent, Serial} {
		_, err := Do(t.Context(), method(mode, func(*Call) (Value, error) { panic("x") }), &Call{})
		if !errors.Is(err, &Error{Code: CodeInternal}) {
			t.Errorf("a panic in mode %d: %v", mode, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrShutdown)
	if _, err := Do(ctx, blocking(nil), &Call{}); err != error(ErrShutdown) {
		t.Errorf("cause: %v", err)
	}
	ctx2, cancel2 := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel2()
	if _, err := Do(ctx2, blocking(nil), &Call{}); err != error(errDeadline) {
		t.Errorf("deadline: %v", err)
	}
	stream := HandleStream("s", func(_ context.Context, _ none, send func(int) error) error {
		for i := range 200 {
			if err := send(i); err != nil {
				return err
			}
		}
		return nil
	})
	v, err := Do(t.Context(), stream, &Call{})
	if list, lerr := v.AsList(); err != nil || lerr != nil || len(list) != 200 {
		t.Errorf("%d items, %v", len(list), err)
	}
}

func TestCallClient(t *testing.T) {
	c := &Call{}
	if _, err := c.CallClient(t.Context(), nil); !errors.Is(err, &Error{Code: CodeUnavailable}) {
		t.Errorf("nobody to call: %v", err)
	}
	c.Client = TargetFunc(func(b *Batch, c *Call) {
		c.Finish(b, String(c.Path[0].Name+string(c.Args.First().raw)), nil)
	})
	if v, err := c.CallClient(t.Context(), []PathPart{{Name: "hi"}}, Int(4)); err != nil || string(v.raw) != `"hi4"` {
		t.Errorf("%s, %v", v.raw, err)
	}
	// The caller's end ends the call to it.
	l := NewLink(nil)
	seen := make(chan *Error, 1)
	m := method(Concurrent, func(c *Call) (Value, error) { return c.CallClient(c, nil) })
	r := start(l, m, &Call{Key: "k", Client: TargetFunc(func(_ *Batch, c *Call) {
		c.Own()
		c.OnCancel(func(cause *Error) { seen <- cause })
		go l.Cancel([]byte("k"), ErrByAdmin)
	})}, "")
	if _, err := r.wait(t); err != ErrByAdmin {
		t.Error(err)
	}
	if cause := <-seen; cause != ErrByAdmin {
		t.Error(cause)
	}
	l.Close(ErrPeerGone, 20*time.Second)
}
