// Package storetest is the one test suite that every statesvc.Store has to pass.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc"
)

// Patience bounds every wait of the suite.
const Patience = 20 * time.Second

// Run runs the suite. newStore returns an empty store with default limits, save that a history of 1,000 events is enough;
// the suite closes it.
func Run(t *testing.T, newStore func(t *testing.T) statesvc.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, *H)
	}{
		{"PutGet", testPutGet},
		{"ValuesAreKeptByteForByte", testValues},
		{"BadKeys", testBadKeys},
		{"IfRevision", testIfRevision},
		{"Delete", testDelete},
		{"DeletePrefix", testDeletePrefix},
		{"Patch", testPatch},
		{"List", testList},
		{"Transaction", testTransaction},
		{"TransactionIsAtomic", testAtomic},
		{"TransactionReadsItsOwnWrites", testOwnWrites},
		{"CommitsInCallOrder", testOrder},
		{"CallerMayReuseMemory", testReuse},
		{"History", testHistory},
		{"GetAt", testGetAt},
		{"TTL", testTTL},
		{"Touch", testTouch},
		{"OwnerVanishes", testOwnerVanishes},
		{"OwnerClaimsInTime", testOwnerClaims},
		{"OwnerMustBeClaimed", testOwnerUnknown},
		{"WatchKey", testWatchKey},
		{"WatchResume", testWatchResume},
		{"WatchSnapshot", testWatchSnapshot},
		{"WatchFuture", testWatchFuture},
		{"WatchAtomic", testWatchAtomic},
		{"WatchIdleNeverCompacted", testWatchIdle},
		{"WatchManyWriters", testWatchMany},
		{"Compact", testCompact},
		{"Restore", testRestore},
		{"RestoreRefuses", testRestoreRefuses},
		{"RestoreOverwrites", testRestoreOverwrites},
		{"Snapshot", testSnapshot},
		{"Close", testClose},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStore(t)
			defer s.Close()
			tt.run(t, &H{T: t, Store: s})
		})
	}
}

// H waits for commits, so that a test reads like a list of calls.
type H struct {
	T *testing.T
	statesvc.Store
}

// Do commits and waits.
func (h *H) Do(tx *statesvc.Tx) (statesvc.Result, error) {
	h.T.Helper()
	type outcome struct {
		res statesvc.Result
		err error
	}
	done := make(chan outcome, 2)
	if err := h.Commit(tx, func(res statesvc.Result, err error) { done <- outcome{res, err} }); err != nil {
		return statesvc.Result{}, err
	}
	select {
	case o := <-done:
		return o.res, o.err
	case <-time.After(Patience):
		h.T.Fatal("commit was not answered")
		panic("unreachable")
	}
}

// Must is Do for what has to succeed.
func (h *H) Must(ops ...statesvc.Op) statesvc.Result {
	h.T.Helper()
	res, err := h.Do(&statesvc.Tx{Then: ops})
	if err != nil {
		h.T.Fatalf("commit: %v", err)
	}
	return res
}

// Put puts JSON text.
func Put(key, value string) statesvc.Op {
	return statesvc.Op{Kind: statesvc.OpPut, Key: key, Value: statesvc.Value{Data: []byte(value)}}
}

// Delete deletes a key.
func Delete(key string) statesvc.Op { return statesvc.Op{Kind: statesvc.OpDelete, Key: key} }

func (h *H) want(key, value string, revision uint64) *statesvc.Item {
	h.T.Helper()
	it, err := h.Get(key)
	if err != nil {
		h.T.Fatalf("get %s: %v", key, err)
	}
	if string(it.Value.Data) != value || it.Revision != revision || it.Key != key {
		h.T.Fatalf("get %s: got %q at %d, want %q at %d", key, it.Value.Data, it.Revision, value, revision)
	}
	return it
}

func (h *H) wantAbsent(key string) {
	h.T.Helper()
	it, err := h.Get(key)
	if _, ok := errors.AsType[*statesvc.NotFoundError](err); !ok {
		h.T.Fatalf("get %s: got %v, %v, want a NotFoundError", key, it, err)
	}
}

func (h *H) wantConflict(err error, key string, revision uint64) {
	h.T.Helper()
	c, ok := errors.AsType[*statesvc.ConflictError](err)
	if !ok || c.Key != key || c.Revision != revision {
		h.T.Fatalf("got %v, want a conflict on %s at %d", err, key, revision)
	}
}

func testPutGet(t *testing.T, h *H) {
	h.wantAbsent("a")
	before := time.Now().Add(-time.Second)
	if r := h.Must(Put("a", "1")); r.Revision != 1 || !r.Succeeded {
		t.Fatalf("first put: got %+v", r)
	}
	first := h.want("a", "1", 1)
	h.Must(Put("b", "2"))
	if r := h.Must(Put("a", "3")); r.Revision != 3 {
		t.Fatalf("third put: got %+v", r)
	}
	it := h.want("a", "3", 3)
	if it.Created != first.Created || it.Updated < first.Updated || it.Created < before.UnixNano() || it.Lease != nil {
		t.Fatalf("times: first %+v, then %+v", first, it)
	}
	if s := h.Stats(); s.Keys != 2 || s.Revision != 3 || s.Bytes != 4 || s.Commits != 3 {
		t.Fatalf("stats: %+v", s)
	}
	if i := h.Info(); i.Revision != 3 || i.Compacted != 0 || i.Ack == "" || i.Engine == "" {
		t.Fatalf("info: %+v", i)
	}
	if err := h.Ready(); err != nil {
		t.Fatal(err)
	}
}

func testValues(t *testing.T, h *H) {
	values := []statesvc.Value{
		{Data: []byte(`{"b":1.0, "a":  1e-07}`)},
		{Data: []byte{}},
		{Data: make([]byte, 4096), Encoding: 1}, // zeros must survive whatever the log does with them
		{Data: bytes.Repeat([]byte{0xff, 0}, 3000), Encoding: 7},
		{Data: []byte(strings.Repeat("x", 1<<20)), Encoding: 255},
	}
	for i, v := range values {
		key := fmt.Sprintf("v/%d", i)
		h.Must(statesvc.Op{Kind: statesvc.OpPut, Key: key, Value: v})
		it, err := h.Get(key)
		if err != nil || !bytes.Equal(it.Value.Data, v.Data) || it.Value.Encoding != v.Encoding {
			t.Fatalf("value %d came back different (%v)", i, err)
		}
	}
	_, err := h.Do(statesvc.OneOp(statesvc.Op{Kind: statesvc.OpPut, Key: "big", Value: statesvc.Value{Data: make([]byte, 1<<20+1)}}))
	if l, ok := errors.AsType[*statesvc.LimitError](err); !ok || l.Limit != statesvc.LimitValue {
		t.Fatalf("oversized value: got %v", err)
	}
}

func testBadKeys(t *testing.T, h *H) {
	for _, key := range []string{"", "a\x00b", "a\nb", "\x7f", "\xff", "a\xc3", "\u0085", strings.Repeat("k", 1025)} {
		for _, op := range []statesvc.Op{Put(key, "1"), Delete(key), {Kind: statesvc.OpGet, Key: key}, {Kind: statesvc.OpTouch, Key: key}} {
			if err := h.Commit(statesvc.OneOp(op), func(statesvc.Result, error) {}); err == nil {
				t.Errorf("op %d on key %.20q was accepted", op.Kind, key)
			}
		}
	}
	for _, key := range []string{"a", "ä/ö", "a b", strings.Repeat("k", 1024), "\U0001F600"} {
		h.Must(Put(key, "1"))
	}
}

func testIfRevision(t *testing.T, h *H) {
	cas := func(value string, rev uint64) (statesvc.Result, error) {
		op := Put("k", value)
		op.HasIf, op.If = true, rev
		return h.Do(statesvc.OneOp(op))
	}
	_, err := cas("1", 5)
	h.wantConflict(err, "k", 0)
	if r, err := cas("1", 0); err != nil || r.Revision != 1 {
		t.Fatal(r, err)
	}
	_, err = cas("2", 0)
	h.wantConflict(err, "k", 1)
	if r, err := cas("2", 1); err != nil || r.Revision != 2 {
		t.Fatal(r, err)
	}
	_, err = h.Do(statesvc.OneOp(statesvc.Op{Kind: statesvc.OpDelete, Key: "k", HasIf: true, If: 1}))
	h.wantConflict(err, "k", 2)
	h.want("k", "2", 2)
	if r, err := h.Do(statesvc.OneOp(statesvc.Op{Kind: statesvc.OpDelete, Key: "k", HasIf: true, If: 2})); err != nil || r.Results[0].Deleted != 1 {
		t.Fatal(r, err)
	}
	h.wantAbsent("k")
}

func testDelete(t *testing.T, h *H) {
	if r := h.Must(Delete("k")); r.Revision != 0 || r.Results[0].Deleted != 0 {
		t.Fatalf("nothing there: got %+v", r)
	}
	h.Must(Put("k", "1"))
	if r := h.Must(Delete("k")); r.Revision != 2 || r.Results[0].Deleted != 1 {
		t.Fatalf("got %+v", r)
	}
	if r := h.Must(Delete("k")); r.Revision != 2 || r.Results[0].Deleted != 0 {
		t.Fatalf("again: got %+v", r)
	}
	h.Must(Put("k", "2"))
	h.want("k", "2", 3)
}

func testDeletePrefix(t *testing.T, h *H) {
	for i := range 30 {
		h.Must(Put(fmt.Sprintf("p/%02d", i), "1"), Put(fmt.Sprintf("q/%02d", i), "1"))
	}
	h.Must(Put("p", "1"), Put("p0", "1"))
	r := h.Must(statesvc.Op{Kind: statesvc.OpDeletePrefix, Key: "p/"})
	if r.Results[0].Deleted != 30 || r.Revision != 32 {
		t.Fatalf("got %+v", r)
	}
	if l, _ := h.List(statesvc.ListOptions{Prefix: "p"}); len(l.Items) != 2 {
		t.Fatalf("left: %d", len(l.Items))
	}
	if r := h.Must(statesvc.Op{Kind: statesvc.OpDeletePrefix, Key: "p/"}); r.Results[0].Deleted != 0 || r.Revision != 32 {
		t.Fatalf("again: %+v", r)
	}
	// together with others in one transaction
	r = h.Must(Put("q/xx", "1"), Delete("q/00"), statesvc.Op{Kind: statesvc.OpDeletePrefix, Key: "q/"}, Put("q/01", "2"), Put("q/02", "2"), Delete("q/02"))
	if r.Results[2].Deleted != 30 {
		t.Fatalf("mixed: %+v", r.Results)
	}
	l, _ := h.List(statesvc.ListOptions{Prefix: "q/"})
	if len(l.Items) != 1 || l.Items[0].Key != "q/01" {
		t.Fatalf("left: %v", l.Items)
	}
	if r := h.Must(statesvc.Op{Kind: statesvc.OpDeletePrefix}); r.Results[0].Deleted != 3 || h.Stats().Keys != 0 || h.Stats().Bytes != 0 {
		t.Fatalf("everything: %+v, %+v", r, h.Stats())
	}
}

func testPatch(t *testing.T, h *H) {
	add := statesvc.Op{Kind: statesvc.OpPatch, Key: "k", Patch: func(old *statesvc.Item) (statesvc.Value, error) {
		return statesvc.Value{Data: append(bytes.Clone(old.Value.Data), '+'), Encoding: 3}, nil
	}}
	_, err := h.Do(statesvc.OneOp(add))
	if n, ok := errors.AsType[*statesvc.NotFoundError](err); !ok || n.Key != "k" {
		t.Fatalf("absent: got %v", err)
	}
	h.Must(Put("k", "1"))
	for range 3 {
		h.Must(add)
	}
	if it := h.want("k", "1+++", 4); it.Value.Encoding != 3 {
		t.Fatalf("encoding: %d", it.Value.Encoding)
	}
	boom := errors.New("boom")
	_, err = h.Do(statesvc.OneOp(statesvc.Op{Kind: statesvc.OpPatch, Key: "k", Patch: func(*statesvc.Item) (statesvc.Value, error) { return statesvc.Value{}, boom }}))
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	h.want("k", "1+++", 4)
}

func testList(t *testing.T, h *H) {
	for _, k := range []string{"b", "a/2", "a/1", "a/10", "c", "a"} {
		h.Must(Put(k, `"`+k+`"`))
	}
	keys := func(o statesvc.ListOptions) string {
		t.Helper()
		l, err := h.List(o)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, it := range l.Items {
			out = append(out, it.Key)
		}
		if l.More {
			out = append(out, "...")
		}
		if l.Revision != 6 {
			t.Fatalf("revision %d", l.Revision)
		}
		return strings.Join(out, " ")
	}
	for _, tt := range []struct {
		opts statesvc.ListOptions
		want string
	}{
		{statesvc.ListOptions{}, "a a/1 a/10 a/2 b c"},
		{statesvc.ListOptions{Prefix: "a/"}, "a/1 a/10 a/2"},
		{statesvc.ListOptions{Prefix: "a/", Limit: 2}, "a/1 a/10 ..."},
		{statesvc.ListOptions{Prefix: "a/", Limit: 3}, "a/1 a/10 a/2"},
		{statesvc.ListOptions{Prefix: "a/", After: "a/10"}, "a/2"},
		{statesvc.ListOptions{Prefix: "a/", After: "a/11"}, "a/2"},
		{statesvc.ListOptions{Prefix: "a/", After: "b"}, ""},
		{statesvc.ListOptions{Prefix: "b", After: "a"}, "b"},
		{statesvc.ListOptions{Limit: 1}, "a ..."},
		{statesvc.ListOptions{MaxBytes: 8}, "a a/1 ..."},
		{statesvc.ListOptions{MaxBytes: 8, KeysOnly: true}, "a a/1 a/10 a/2 ..."},
		{statesvc.ListOptions{Prefix: "x"}, ""},
	} {
		if got := keys(tt.opts); got != tt.want {
			t.Errorf("%+v: got %q, want %q", tt.opts, got, tt.want)
		}
	}
}

func testTransaction(t *testing.T, h *H) {
	h.Must(Put("a", "1"))
	equal := func(want string) func(*statesvc.Item) (bool, error) {
		return func(it *statesvc.Item) (bool, error) { return it != nil && string(it.Value.Data) == want, nil }
	}
	tx := &statesvc.Tx{
		If:   []statesvc.Condition{{Key: "a", Revision: 1}, {Key: "none"}, {Key: "a", Equal: equal("1")}},
		Then: []statesvc.Op{Put("b", "then"), {Kind: statesvc.OpGet, Key: "a"}},
		Else: []statesvc.Op{Put("b", "else"), {Kind: statesvc.OpGet, Key: "a"}, {Kind: statesvc.OpGet, Key: "none"}},
	}
	r, err := h.Do(tx)
	if err != nil || !r.Succeeded || r.Revision != 2 || len(r.Results) != 2 || string(r.Results[1].Item.Value.Data) != "1" {
		t.Fatalf("got %+v, %v", r, err)
	}
	h.Must(Put("a", "2"))
	r, err = h.Do(tx)
	if err != nil || r.Succeeded || r.Revision != 4 || len(r.Results) != 3 || string(r.Results[1].Item.Value.Data) != "2" || r.Results[2].Item != nil {
		t.Fatalf("got %+v, %v", r, err)
	}
	h.want("b", "else", 4)
	// reading takes no revision
	if r := h.Must(statesvc.Op{Kind: statesvc.OpGet, Key: "a"}); r.Revision != 4 || r.Results[0].Item.Revision != 3 {
		t.Fatalf("got %+v", r)
	}
	if r, err := h.Do(&statesvc.Tx{}); err != nil || !r.Succeeded || r.Revision != 4 {
		t.Fatalf("empty: got %+v, %v", r, err)
	}
	if h.Stats().Revision != 4 {
		t.Fatalf("revision %d", h.Stats().Revision)
	}
}

func testAtomic(t *testing.T, h *H) {
	h.Must(Put("a", "1"))
	bad := Put("c", "1")
	bad.HasIf, bad.If = true, 9
	_, err := h.Do(&statesvc.Tx{Then: []statesvc.Op{Put("a", "2"), Put("b", "2"), bad}})
	h.wantConflict(err, "c", 0)
	h.want("a", "1", 1)
	h.wantAbsent("b")
	if r := h.Must(Put("a", "3")); r.Revision != 2 {
		t.Fatalf("revision after a failed transaction: %d", r.Revision)
	}
}

func testOwnWrites(t *testing.T, h *H) {
	get := statesvc.Op{Kind: statesvc.OpGet, Key: "a"}
	r := h.Must(Put("a", "1"), get, Put("a", "2"), get, Delete("a"), get, Put("a", "3"))
	if r.Results[1].Item == nil || string(r.Results[1].Item.Value.Data) != "1" || string(r.Results[3].Item.Value.Data) != "2" || r.Results[5].Item != nil {
		t.Fatalf("got %+v", r.Results)
	}
	h.want("a", "3", 1)
	events, err := h.History("a", 0)
	if err != nil || len(events) != 1 || events[0].Type != statesvc.EventPut {
		t.Fatalf("events of one key in one transaction: %d, %v", len(events), err)
	}
	// appearing and vanishing within one transaction is nothing
	if r := h.Must(Put("x", "1"), Delete("x")); r.Revision != 1 {
		t.Fatalf("got %+v", r)
	}
	// more than a handful of keys takes another way
	var ops []statesvc.Op
	for i := range 40 {
		ops = append(ops, Put(fmt.Sprintf("m/%d", i%20), fmt.Sprint(i)))
	}
	h.Must(ops...)
	h.want("m/19", "39", 2)
}

func testOrder(t *testing.T, h *H) {
	const n = 500
	var mu sync.Mutex
	var order []int
	var revs []uint64
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		err := h.Commit(statesvc.OneOp(Put("k", fmt.Sprint(i))), func(r statesvc.Result, err error) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			order, revs = append(order, i), append(revs, r.Revision)
			if err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for i := range n {
		if order[i] != i || revs[i] != uint64(i+1) {
			t.Fatalf("answer %d is of put %d with revision %d", i, order[i], revs[i])
		}
	}
	h.want("k", fmt.Sprint(n-1), n)
}

func testReuse(t *testing.T, h *H) {
	buf := []byte(`"first"`)
	tx := statesvc.OneOp(statesvc.Op{Kind: statesvc.OpPut, Key: "k", Value: statesvc.Value{Data: buf}})
	done := make(chan error, 1)
	if err := h.Commit(tx, func(_ statesvc.Result, err error) { done <- err }); err != nil {
		t.Fatal(err)
	}
	copy(buf, "#######")
	tx.Then[0] = Delete("k")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	h.want("k", `"first"`, 1)
}

func testHistory(t *testing.T, h *H) {
	h.Must(Put("k", "1"))
	h.Must(Put("other", "x"))
	h.Must(Put("k", "2"))
	h.Must(Delete("k"))
	h.Must(Put("k", "3"), Put("l", "3"))
	events, err := h.History("k", 0)
	if err != nil {
		t.Fatal(err)
	}
	want := "put 1 0 1; put 3 1 2; delete 4 3 -; put 5 0 3; "
	if got := describe(events); got != want {
		t.Fatalf("got %s want %s", got, want)
	}
	if events, _ = h.History("k", 2); describe(events) != "delete 4 3 -; put 5 0 3; " {
		t.Fatalf("limited: %s", describe(events))
	}
	if events, err = h.History("none", 0); err != nil || len(events) != 0 {
		t.Fatal(events, err)
	}
	h.Must(Delete("l"))
	if events, _ = h.History("l", 0); describe(events) != "put 5 0 3; delete 6 5 -; " {
		t.Fatalf("of a deleted key: %s", describe(events))
	}
}

func describe(events []*statesvc.Event) string {
	var b strings.Builder
	for _, e := range events {
		value := "-"
		if e.Item != nil {
			value = string(e.Item.Value.Data)
		}
		fmt.Fprintf(&b, "%v %d %d %s; ", e.Type, e.Revision, e.Previous, value)
	}
	return b.String()
}

func testGetAt(t *testing.T, h *H) {
	h.Must(Put("k", "1"))
	h.Must(Put("other", "x"))
	h.Must(Put("k", "2"))
	h.Must(Delete("k"))
	h.Must(Put("k", "3"))
	want := []string{"", "1", "1", "2", "", "3"}
	for rev, value := range want {
		it, err := h.GetAt("k", uint64(rev))
		if value == "" {
			if _, ok := errors.AsType[*statesvc.NotFoundError](err); !ok {
				t.Errorf("at %d: got %v, %v, want absent", rev, it, err)
			}
			continue
		}
		if err != nil || string(it.Value.Data) != value {
			t.Errorf("at %d: got %v, %v, want %s", rev, it, err, value)
		}
	}
	if _, err := h.GetAt("k", 6); err == nil {
		t.Error("a future revision was read")
	}
}
