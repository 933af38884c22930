package statesvc

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// counted is work that counts how often it was done, and costs what it is told.
func counted(n *int, cost int) func(*Item, int) (string, int, error) {
	return func(it *Item, most int) (string, int, error) {
		if cost > most {
			return "", 0, errTooMuchWork
		}
		*n++
		return fmt.Sprintf("%d of %s", *n, it.Value.Data[:1]), cost, nil
	}
}

// TestWorkIsDoneAhead: the committer does nothing that was done already, a little of what was not, and the rest only
// while there is time for it.
func TestWorkIsDoneAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, Options{}, ServiceOptions{})
		large := strings.Repeat("a", 2*freeWork)
		mustPut(t, s.Store(), "large", large)
		mustPut(t, s.Store(), "small", "s")
		item := func(key string) *Item {
			it, err := s.Store().Get(key)
			if err != nil {
				t.Fatal(err)
			}
			return it
		}

		done := 0
		a, err := newAhead(s, "large", newAllowance(), counted(&done, 10*freeWork))
		if err != nil || done != 1 {
			t.Fatalf("done %d times ahead, %v", done, err)
		}
		if got, err := a.of(item("large")); got != "1 of a" || err != nil || done != 1 {
			t.Errorf("the same item: %q, %v, done %d times", got, err, done)
		}
		mustPut(t, s.Store(), "large", "b"+large)
		if got, err := a.of(item("large")); got != "2 of b" || err != nil {
			t.Errorf("another item: %q, %v", got, err)
		}

		// No time is left: what is much work is refused, what is little is done.
		s.late.spend(10 * burst)
		if _, err := a.of(item("large")); fault(err).Code != rpc.CodeOverloaded {
			t.Errorf("without time: %v", err)
		}
		left := newAllowance()
		little, err := newAhead(s, "small", left, counted(&done, freeWork/2))
		if err != nil || done != 2 {
			t.Errorf("a small value needs nothing ahead: done %d times, %v", done, err)
		}
		for i := range 3 { // together they are no longer little
			_, err := little.of(item("small"))
			if code := rpc.CodeOverloaded; (i == 2) != (err != nil) || err != nil && fault(err).Code != code {
				t.Errorf("little work, %d: %v", i+1, err)
			}
		}
		// The time comes back.
		time.Sleep(30 * burst)
		if _, err := a.of(item("large")); err != nil {
			t.Errorf("with time again: %v", err)
		}

		// One transaction cannot do without end ahead either.
		left = newAllowance()
		tooMuch := false
		for range 10 {
			_, err := newAhead(s, "large", left, counted(&done, maxWork/4))
			tooMuch = tooMuch || err == errTooMuchWork
		}
		if !tooMuch {
			t.Error("ten times a quarter of what is allowed was done")
		}
	})
}

// TestPatchesThatMeetOthers sends patches of large values that change the same value, and comparisons of it, without waiting
// for one another: each must see what those before it did, done ahead or not.
func TestPatchesThatMeetOthers(t *testing.T) {
	// Work takes no time on the clock of the bubble, so that none of it is refused on a slow machine.
	synctest.Test(t, patchesThatMeetOthers)
}

func patchesThatMeetOthers(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	var list strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&list, "%d,", i)
	}
	c.must("state.put", `{"key":"k","value":{"list":[`+strings.TrimSuffix(list.String(), ",")+`],"n":0}}`)
	const n = 20
	var replies []*reply
	for i := range n {
		_, r := c.start("state.patch", fmt.Sprintf(`{"key":"k","ops":[{"op":"test","path":"/n","value":%d},{"op":"replace","path":"/n","value":%d},{"op":"remove","path":"/list/0"}]}`, i, i+1))
		replies = append(replies, r)
		_, r = c.start("state.patch", fmt.Sprintf(`{"key":"k","merge":{"m%d":true}}`, i))
		replies = append(replies, r)
	}
	_, wrong := c.start("state.txn", `{"if":[{"key":"k","value":{"n":0}}],"then":[{"op":"delete","key":"k"}]}`)
	for i, r := range append(replies, wrong) {
		<-r.done
		if r.err != nil {
			t.Fatalf("call %d: %v", i, r.err)
		}
	}
	got := c.must("state.get", `{"key":"k"}`)
	for _, part := range []string{fmt.Sprintf(`{"list":[%d,`, n), fmt.Sprintf(`"n":%d,`, n), `"m0":true,`, fmt.Sprintf(`"m%d":true`, n-1)} {
		if !strings.Contains(got, part) {
			t.Errorf("%s is missing in %.60s ... %s", part, got, got[max(0, len(got)-200):])
		}
	}
	// A comparison with all of it, ahead and late.
	value := got[strings.Index(got, `{"list"`) : strings.LastIndex(got, `"revision"`)-1]
	for _, call := range []string{`{"if":[{"key":"k","value":%s}],"then":[{"op":"touch","key":"k","ttl":null}]}`} {
		if got := c.must("state.txn", fmt.Sprintf(call, value)); !strings.Contains(got, `"succeeded":true`) {
			t.Errorf("a comparison with what is there: %s", got)
		}
		_, first := c.start("state.touch", `{"key":"k","ttl":null}`)
		_, second := c.start("state.txn", fmt.Sprintf(call, value))
		<-first.done
		<-second.done
		if second.err != nil || !strings.Contains(stable(mustText(t, second.v)), `"succeeded":true`) {
			t.Errorf("a comparison after a change: %v %v", second.err, second.v)
		}
	}
}

func mustText(t *testing.T, v rpc.Value) string {
	t.Helper()
	text, err := v.AppendJSON(nil, rpc.Form{})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
