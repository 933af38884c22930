package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"github.com/hubd-dev/hubd/internal/statesvc"
)

func testWatchKey(t *testing.T, h *H) {
	h.Must(Put("k", "0"))
	one := h.follow(statesvc.WatchOptions{Key: "k"})
	all := h.follow(statesvc.WatchOptions{})
	other := h.follow(statesvc.WatchOptions{Prefix: "x/"})
	if one.count != 1 || one.synced != 1 {
		t.Fatalf("synced %d times, at %d", one.count, one.synced)
	}
	h.Must(Put("k", "1"))
	h.Must(Put("kk", "2"))
	h.Must(Delete("k"))
	h.Must(Put("x/1", "3"))
	if got := describe(one.events(2)); got != "put 2 1 1; delete 4 2 -; " {
		t.Fatalf("got %s", got)
	}
	if got := describe(all.events(4)); got != "put 2 1 1; put 3 0 2; delete 4 2 -; put 5 0 3; " {
		t.Fatalf("got %s", got)
	}
	if got := describe(other.events(1)); got != "put 5 0 3; " {
		t.Fatalf("got %s", got)
	}
	if one.count != 1 {
		t.Fatalf("synced %d times", one.count)
	}
	one.w.Close()
	one.w.Close()
	if _, err := one.w.Next(1); !errors.Is(err, statesvc.ErrClosed) {
		t.Fatalf("after close: %v", err)
	}
	for _, o := range []statesvc.WatchOptions{{Key: "a", Prefix: "b"}, {Snapshot: true, Resume: true}, {Key: "\x00"}} {
		if _, err := h.Watch(o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}

func testWatchResume(t *testing.T, h *H) {
	for i := range 20 {
		h.Must(Put(fmt.Sprintf("k/%d", i%3), fmt.Sprint(i)))
	}
	for from := range uint64(21) {
		f := h.follow(statesvc.WatchOptions{Resume: true, From: from})
		if len(f.got) != int(20-from) || from < 20 && f.got[0].Revision != from+1 || f.synced != 20 || f.count != 1 || f.w.Revision() != 20 {
			t.Fatalf("from %d: %s, synced %d", from, describe(f.got), f.synced)
		}
		f.w.Close()
	}
	f := h.follow(statesvc.WatchOptions{Resume: true, From: 5, Key: "k/1"})
	h.Must(Put("k/2", "x"))
	h.Must(Put("k/1", "y"))
	f.events(6)
	for _, e := range f.got {
		if e.Key != "k/1" {
			t.Fatalf("foreign event %+v", e)
		}
	}
	// reading on from any event, as after a broken connection
	for _, e := range f.got {
		g := h.follow(statesvc.WatchOptions{Resume: true, From: e.Revision, Key: "k/1"})
		if len(g.got) > 0 && g.got[0].Revision <= e.Revision {
			t.Fatalf("repeated %+v", g.got[0])
		}
		g.w.Close()
	}
}

func testWatchSnapshot(t *testing.T, h *H) {
	for i := range 50 {
		h.Must(Put(fmt.Sprintf("s/%02d", i), "1"))
	}
	h.Must(Put("z", "1"))
	w, err := h.Watch(statesvc.WatchOptions{Prefix: "s/", Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b, err := w.Next(10)
	if err != nil || len(b.Items) != 10 || b.Synced || b.Idle || w.Revision() != 0 {
		t.Fatalf("first batch: %d items, %+v, %v", len(b.Items), b, err)
	}
	// what happens meanwhile is not in the snapshot and comes after it
	h.Must(Put("s/49", "2"))
	h.Must(Delete("s/48"))
	f := &follower{h: h, w: w, wake: make(chan struct{}, 1)}
	if err := f.drain(); err != nil {
		t.Fatal(err)
	}
	if len(f.items) != 40 || f.items[39].Key != "s/49" || string(f.items[39].Value.Data) != "1" || f.synced != 51 || f.count != 1 {
		t.Fatalf("snapshot: %s synced %d", f.keys(), f.synced)
	}
	if got := describe(f.got); got != "put 52 50 2; delete 53 49 -; " {
		t.Fatalf("then: %s", got)
	}
	one := h.follow(statesvc.WatchOptions{Key: "z", Snapshot: true})
	if one.keys() != "z@51 " || one.synced != 53 {
		t.Fatalf("one key: %s at %d", one.keys(), one.synced)
	}
	none := h.follow(statesvc.WatchOptions{Key: "none", Snapshot: true})
	if none.keys() != "" || none.synced != 53 || none.count != 1 {
		t.Fatalf("no key: %s at %d", none.keys(), none.synced)
	}
}

func testWatchFuture(t *testing.T, h *H) {
	h.Must(Put("k", "1"))
	f := h.follow(statesvc.WatchOptions{Resume: true, From: 4})
	if f.count != 1 || f.w.Revision() < 4 {
		t.Fatalf("synced %d times at %d", f.count, f.synced)
	}
	for i := range 5 {
		h.Must(Put("k", fmt.Sprint(i)))
	}
	if got := describe(f.events(2)); got != "put 5 4 3; put 6 5 4; " {
		t.Fatalf("got %s", got)
	}
}

func testWatchAtomic(t *testing.T, h *H) {
	var ops []statesvc.Op
	for i := range 100 {
		ops = append(ops, Put(fmt.Sprintf("a/%03d", i), "1"))
	}
	for range 3 {
		h.Must(ops...)
	}
	w, err := h.Watch(statesvc.WatchOptions{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for range 3 {
		b, err := w.Next(1)
		if err != nil || len(b.Events) != 100 || b.Events[0].Revision != b.Revision || b.Events[99].Revision != b.Revision {
			t.Fatalf("%d events, %v", len(b.Events), err)
		}
	}
}

func testWatchIdle(t *testing.T, h *H) {
	h.Must(Put("quiet", "1"))
	quiet := h.follow(statesvc.WatchOptions{Key: "quiet"})
	slow, err := h.Watch(statesvc.WatchOptions{Key: "quiet", Resume: true, From: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for i := range 50 {
		h.Must(Put("loud", fmt.Sprint(i)))
	}
	h.compact(51)
	// The one that had read everything missed nothing; the one that had not looked yet cannot know.
	h.Must(Put("quiet", "2"))
	if got := describe(quiet.events(1)); got != "put 52 1 2; " {
		t.Fatalf("got %s", got)
	}
	if quiet.w.Revision() != 52 {
		t.Fatalf("position %d", quiet.w.Revision())
	}
	_, err = slow.Next(10)
	wantCompacted(t, err, 51)
}

func wantCompacted(t *testing.T, err error, lowest uint64) {
	t.Helper()
	if c, ok := errors.AsType[*statesvc.CompactedError](err); !ok || c.Lowest != lowest {
		t.Fatalf("got %v, want compacted with lowest %d", err, lowest)
	}
}

func (h *H) compact(rev uint64) {
	h.T.Helper()
	done := make(chan error, 1)
	if err := h.Compact(rev, func(_ uint64, err error) { done <- err }); err != nil {
		h.T.Fatal(err)
	}
	if err := <-done; err != nil {
		h.T.Fatal(err)
	}
}

func testWatchMany(t *testing.T, h *H) {
	const writers, each = 8, 40
	followers := []*follower{
		h.follow(statesvc.WatchOptions{}), h.follow(statesvc.WatchOptions{Prefix: "w/"}), h.follow(statesvc.WatchOptions{Snapshot: true}),
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				h.Must(Put(fmt.Sprintf("w/%d", w), fmt.Sprint(i)))
			}
		})
	}
	for _, f := range followers {
		wg.Go(func() {
			for i, e := range f.events(writers * each) {
				if e.Revision != uint64(i+1) {
					t.Errorf("event %d has revision %d", i, e.Revision)
					return
				}
			}
		})
	}
	wg.Wait()
}

func testCompact(t *testing.T, h *H) {
	for i := range 10 {
		h.Must(Put("k", fmt.Sprint(i)), Put(fmt.Sprintf("k/%d", i), "1"))
	}
	h.compact(6)
	h.compact(3) // never goes back
	if i := h.Info(); i.Compacted != 6 {
		t.Fatalf("info: %+v", i)
	}
	_, err := h.Watch(statesvc.WatchOptions{Resume: true, From: 5})
	wantCompacted(t, err, 6)
	f := h.follow(statesvc.WatchOptions{Resume: true, From: 6, Key: "k"})
	if len(f.got) != 4 || f.got[0].Revision != 7 {
		t.Fatalf("got %s", describe(f.got))
	}
	_, err = h.GetAt("k", 5)
	wantCompacted(t, err, 6)
	if it, err := h.GetAt("k", 8); err != nil || string(it.Value.Data) != "7" {
		t.Fatal(it, err)
	}
	// written before, never since: still known
	if it, err := h.GetAt("k/2", 6); err != nil || it.Revision != 3 {
		t.Fatal(it, err)
	}
	if events, err := h.History("k", 0); err != nil || len(events) != 4 {
		t.Fatal(len(events), err)
	}
	if err := h.Compact(11, func(_ uint64, err error) {
		if err == nil {
			t.Error("compacted beyond the newest revision")
		}
	}); err != nil {
		t.Logf("refused at once: %v", err)
	}
	h.compact(10)
	h.want("k", "9", 10)
	h.Must(Put("k", "x"))
	h.want("k", "x", 11)
}

func items(list []*statesvc.Item) iter.Seq2[*statesvc.Item, error] {
	return func(yield func(*statesvc.Item, error) bool) {
		for _, it := range list {
			if !yield(it, nil) {
				return
			}
		}
	}
}

func backup() []*statesvc.Item {
	return []*statesvc.Item{
		{Key: "a", Value: statesvc.Value{Data: []byte("1")}, Revision: 3, Created: 100, Updated: 300},
		{Key: "b", Value: statesvc.Value{Data: []byte{1, 2}, Encoding: 9}, Revision: 7, Created: 200, Updated: 700},
	}
}

func testRestore(t *testing.T, h *H) {
	r, err := h.Restore(context.Background(), items(backup()), statesvc.RestoreOptions{Revision: 20})
	if err != nil || r.Revision != 20 || r.Keys != 2 {
		t.Fatal(r, err)
	}
	it := h.want("a", "1", 3)
	if it.Created != 100 || it.Updated != 300 {
		t.Fatalf("times: %+v", it)
	}
	if it, err := h.Get("b"); err != nil || it.Value.Encoding != 9 {
		t.Fatal(it, err)
	}
	if r := h.Must(Put("c", "1")); r.Revision != 21 {
		t.Fatalf("next revision %d", r.Revision)
	}
	_, err = h.Watch(statesvc.WatchOptions{Resume: true, From: 7})
	wantCompacted(t, err, 20)
}

func testRestoreRefuses(t *testing.T, h *H) {
	boom := errors.New("boom")
	_, err := h.Restore(context.Background(), func(yield func(*statesvc.Item, error) bool) {
		_ = yield(backup()[0], nil) && yield(nil, boom)
	}, statesvc.RestoreOptions{})
	if !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	bad := backup()
	bad[1].Key = "\x00"
	if _, err := h.Restore(context.Background(), items(bad), statesvc.RestoreOptions{}); err == nil {
		t.Fatal("a bad key was restored")
	}
	h.wantAbsent("a")
	h.Must(Put("k", "1"))
	if _, err := h.Restore(context.Background(), items(backup()), statesvc.RestoreOptions{}); !errors.Is(err, statesvc.ErrNotEmpty) {
		t.Fatalf("got %v", err)
	}
	h.Must(Delete("k"))
	// Empty again, but its revisions were seen.
	if _, err := h.Restore(context.Background(), items(backup()), statesvc.RestoreOptions{}); !errors.Is(err, statesvc.ErrNotEmpty) {
		t.Fatalf("got %v", err)
	}
}

func testRestoreOverwrites(t *testing.T, h *H) {
	for i := range 30 {
		h.Must(Put(fmt.Sprintf("old/%d", i), "1"))
	}
	f := h.follow(statesvc.WatchOptions{})
	r, err := h.Restore(context.Background(), items(backup()), statesvc.RestoreOptions{Overwrite: true, Revision: 20})
	if err != nil || r.Revision != 31 || r.Keys != 2 {
		t.Fatal(r, err)
	}
	wantCompacted(t, f.next(), 31)
	h.wantAbsent("old/1")
	h.want("a", "1", 31)
	if s := h.Stats(); s.Keys != 2 || s.Bytes != 5 {
		t.Fatalf("stats: %+v", s)
	}
	g := h.follow(statesvc.WatchOptions{Snapshot: true})
	h.Must(Put("a", "2"))
	if got := describe(g.events(1)); got != "put 32 31 2; " || len(g.items) != 2 {
		t.Fatalf("got %s", got)
	}
}

func testSnapshot(t *testing.T, h *H) {
	for i := range 100 {
		h.Must(Put(fmt.Sprintf("k/%03d", i), "1"))
	}
	s := h.Snapshot()
	h.Must(statesvc.Op{Kind: statesvc.OpDeletePrefix})
	n := 0
	for it := range s.Items {
		if it.Key != fmt.Sprintf("k/%03d", n) || string(it.Value.Data) != "1" {
			t.Fatalf("item %d is %s", n, it.Key)
		}
		n++
	}
	if n != 100 || s.Keys != 100 || s.Revision != 100 || s.Bytes != 600 {
		t.Fatalf("%d items, %+v", n, s)
	}
	for range s.Items {
		break // stopping early is fine
	}
}

func testClose(t *testing.T, h *H) {
	f := h.follow(statesvc.WatchOptions{})
	answered := make(chan error, 100)
	for i := range 100 {
		if err := h.Commit(statesvc.OneOp(Put("k", fmt.Sprint(i))), func(_ statesvc.Result, err error) { answered <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := <-answered; err != nil {
			t.Fatalf("accepted and not committed: %v", err)
		}
	}
	if err := h.Commit(statesvc.OneOp(Put("k", "x")), func(statesvc.Result, error) { t.Error("done after close") }); !errors.Is(err, statesvc.ErrClosed) {
		t.Fatalf("commit after close: %v", err)
	}
	var err error
	for err == nil { // events that were there may still be delivered
		_, err = f.w.Next(100)
	}
	if !errors.Is(err, statesvc.ErrClosed) {
		t.Fatalf("watch after close: %v", err)
	}
	if !errors.Is(h.Ready(), statesvc.ErrClosed) || h.Close() != nil {
		t.Fatal("not closed")
	}
}
