package rpc

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// rejections counts refusals by limit.
type rejections struct {
	mu sync.Mutex
	n  map[string]int
}

func (r *rejections) Done(*Call, *Error, time.Duration) {}
func (r *rejections) Slow(*Call, time.Duration)         {}
func (r *rejections) Late(*Call)                        {}
func (r *rejections) Panic(*Call, any, []byte)          {}
func (r *rejections) Rejected(limit string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n[limit]++
}

// roomTest is a gate with room for one large call, and a method that runs
// until it is told to end.
type roomTest struct {
	gate    *Gate
	counts  *rejections
	method  *Method
	mu      sync.Mutex
	started []string
	end     map[string]chan struct{}
	answers map[string]string // code, by id
}

const largeCall = 1 << 20

func newRoomTest() *roomTest {
	r := &roomTest{counts: &rejections{n: map[string]int{}}, end: map[string]chan struct{}{}, answers: map[string]string{}}
	r.gate = &Gate{Observer: r.counts, RequestMemory: largeCall, Slow: -1, Deadline: -1}
	r.method = NewMethod(&Method{Name: "hold", Scope: ScopeCall}, func(c *Call) (Value, error) {
		id := c.Key
		r.mu.Lock()
		r.started = append(r.started, id)
		end := r.endLocked(id)
		r.mu.Unlock()
		select {
		case <-end:
		case <-c.Done():
		}
		return Value{}, nil
	})
	return r
}

func (r *roomTest) endLocked(id string) chan struct{} {
	if r.end[id] == nil {
		r.end[id] = make(chan struct{})
	}
	return r.end[id]
}

func (r *roomTest) finish(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.endLocked(id))
}

// roomReply notes the outcome of a call.
type roomReply struct {
	r  *roomTest
	id string
}

func (a roomReply) set(code string) {
	a.r.mu.Lock()
	defer a.r.mu.Unlock()
	if old := a.r.answers[a.id]; old != "" {
		code = old + "+" + code
	}
	a.r.answers[a.id] = code
}
func (a roomReply) Result(*Batch, *Call, Value)           { a.set("ok") }
func (a roomReply) Error(_ *Batch, _ *Call, e *Error)     { a.set(string(e.Code)) }
func (a roomReply) Open(_ *Batch, c *Call, s Source) Sink { return Collect(c, s) }
func (a roomReply) Own()                                  {}

func (r *roomTest) link() *Link { return NewLink(r.gate) }

func (r *roomTest) call(l *Link, id string, bytes int) {
	c := &Call{
		Args: ListArgs(RawString(`"` + strings.Repeat("x", bytes) + `"`)), Peer: Local, Protocol: Kollabor,
		Reply: roomReply{r, id}, Key: id,
	}
	var b Batch
	b.Begin()
	l.Start(&b, r.method, c)
	b.Flush()
	synctest.Wait()
}

func (r *roomTest) check(t *testing.T, when, started string, answers map[string]string) {
	t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := strings.Join(r.started, " "); got != started {
		t.Errorf("%s: started %q, want %q", when, got, started)
	}
	if len(r.answers) != len(answers) {
		t.Errorf("%s: answers %v, want %v", when, r.answers, answers)
	}
	for id, want := range answers {
		if r.answers[id] != want {
			t.Errorf("%s: %s was answered %q, want %q", when, id, r.answers[id], want)
		}
	}
}

func (r *roomTest) over(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if m, n := r.gate.Memory(), r.gate.InFlight(); m != 0 || n != 0 {
		t.Errorf("left over: %d bytes of running calls, %d calls", m, n)
	}
}

// A large call that finds no room for its arguments is refused at once; small
// ones pass, and the next large one when there is room again. A cancel gives room back, too.
func TestLargeCallsNeedRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoomTest()
		a, b := r.link(), r.link()
		r.call(a, "a1", largeCall)
		r.call(b, "b1", 17<<10)
		r.call(b, "b2", 1)
		r.call(a, "a1", 17<<10)
		r.check(t, "full", "a1 b2", map[string]string{"b1": "overloaded", "a1": "duplicate"})
		if n := r.counts.n[LimitRequestMemory]; n != 1 {
			t.Errorf("counted %d times: %v", n, r.counts.n)
		}
		a.Cancel([]byte("a1"), ErrCancelled)
		r.call(b, "b3", 128<<10)
		r.check(t, "cancelled", "a1 b2 b3", map[string]string{"b1": "overloaded", "a1": "duplicate+cancelled"})
		r.finish("b2")
		r.finish("b3")
		r.over(t)
	})
}

// A process that is short of memory takes what costs next to nothing.
func TestScarceMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoomTest()
		l := r.link()
		light := NewMethod(&Method{Name: "light", Run: Inline, Scope: ScopeRead}, func(*Call) (Value, error) { return Value{}, nil })
		admin := NewMethod(&Method{Name: "admin", Scope: ScopeAdmin}, func(*Call) (Value, error) { return Value{}, nil })
		start := func(m *Method, id string, bytes int) {
			r.method = m
			r.call(l, id, bytes)
		}
		heavy := r.method
		r.gate.SetScarce(true)
		start(heavy, "heavy", 1)
		start(light, "light", 1)
		start(light, "large", 20<<10)
		start(admin, "admin", 1)
		r.gate.SetScarce(false)
		start(light, "again", 20<<10)
		r.check(t, "after all", "", map[string]string{
			"heavy": "overloaded", "light": "ok", "large": "overloaded", "admin": "ok", "again": "ok"})
		if n := r.counts.n[LimitMemory]; n != 2 {
			t.Errorf("counted %v", r.counts.n)
		}
		r.over(t)
	})
}
