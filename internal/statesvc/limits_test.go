package statesvc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestLimits(t *testing.T) {
	e := newEngine(Options{})
	_ = e
	s := OpenMemory(Options{Limits: Limits{Total: 10_000, Queue: 4, Ops: 8, TxBytes: 4000}}).(*engine)
	defer s.Close()
	if _, err := do(t, s, OneOp(putOp("a", strings.Repeat("x", 3000)))); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		_, err := do(t, s, OneOp(putOp(fmt.Sprint(i), strings.Repeat("x", 3000))))
		if l, ok := errors.AsType[*LimitError](err); ok && l.Limit == LimitTotal {
			break
		}
		if i == 9 {
			t.Fatal("the total has no limit")
		}
	}
	if _, err := do(t, s, OneOp(Op{Kind: OpDelete, Key: "a"})); err != nil {
		t.Fatalf("deleting when full: %v", err)
	}
	mustPut(t, s, "0", "small")
	wantLimit := func(name string, err error) {
		t.Helper()
		if l, ok := errors.AsType[*LimitError](err); !ok || l.Limit != LimitTransaction {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := do(t, s, &Tx{Then: make([]Op, 9)})
	wantLimit("operations", err)
	_, err = do(t, s, OneOp(putOp("b", strings.Repeat("x", 5000))))
	wantLimit("bytes", err)
	// A committer that is busy: the queue has an end, and room again later.
	hold, held := make(chan struct{}), make(chan struct{})
	if err := s.enqueueWork(func() { close(held); <-hold }); err != nil {
		t.Fatal(err)
	}
	<-held
	answers := make(chan error, 10)
	accepted := 0
	for range 10 {
		if err := s.Commit(OneOp(Op{Kind: OpGet, Key: "a"}), func(_ Result, err error) { answers <- err }); err == nil {
			accepted++
		} else if !errors.Is(err, ErrOverloaded) {
			t.Fatal(err)
		}
	}
	if accepted != 3 { // the work is the fourth
		t.Errorf("%d accepted", accepted)
	}
	close(hold)
	for range accepted {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	mustPut(t, s, "0", "again")
	if st := s.Stats(); st.Queue > 1 || st.Refused == 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestHistoryLimits(t *testing.T) {
	s := OpenMemory(Options{Limits: Limits{HistoryEvents: 10, HistoryBytes: 5000}}).(*engine)
	defer s.Close()
	for i := range 100 {
		mustPut(t, s, "k", fmt.Sprint(i))
	}
	if st := s.Stats(); st.HistoryEvents != 10 || st.Compacted != 90 {
		t.Fatalf("by count: %+v", st)
	}
	mustPut(t, s, "k", strings.Repeat("x", 4000))
	if st := s.Stats(); st.HistoryBytes > 5000 || st.HistoryEvents > 9 {
		t.Fatalf("by bytes: %+v", st)
	}
	mustPut(t, s, "k", strings.Repeat("x", 9000))
	if st := s.Stats(); st.HistoryEvents != 1 || st.Compacted != 101 {
		t.Fatalf("one large event: %+v", st)
	}
	w, err := s.Watch(WatchOptions{Snapshot: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		mustPut(t, s, "k", fmt.Sprint(i))
	}
	if _, err := w.Next(1); err == nil {
		t.Error("a snapshot that history has passed was delivered")
	}
	// A form that was kept with an event goes when the event is old.
	ev := s.hist.at(s.hist.newest()).events[0]
	ev.SetEncoded("x")
	if ev.Encoded() != "x" {
		t.Error("not kept")
	}
}

func TestEncodedFormsAreDropped(t *testing.T) {
	s := OpenMemory(Options{}).(*engine)
	defer s.Close()
	mustPut(t, s, "k", "1")
	events, _ := s.History("k", 1)
	events[0].SetEncoded("form")
	fill(t, s, 1, 1)
	if events[0].Encoded() != "form" {
		t.Fatal("dropped at once")
	}
	for i := range encodedCommits + 1 {
		mustPut(t, s, "other", fmt.Sprint(i))
	}
	if events[0].Encoded() != nil {
		t.Fatal("kept for ever")
	}
}

func FuzzRecord(f *testing.F) {
	now := time.Unix(1_700_000_000, 0)
	it := newItem("key", Value{Data: []byte("value"), Encoding: 1})
	it.Lease = newLease(now, time.Minute, "owner")
	c := &commit{rev: 7, time: now.UnixNano(), events: []*Event{{Type: EventPut, Key: "key", Item: it}, {Type: EventDelete, Key: "gone", Previous: 3}}}
	f.Add(appendCommit(nil, c))
	f.Add(appendCompact(appendReset(nil, 5), 9))
	f.Add(binary.AppendUvarint([]byte{entryCommit, 1, 2}, 1<<60))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := readRecord(body, now)
		if err != nil {
			return
		}
		var again []byte
		for _, en := range entries {
			switch en.kind {
			case entryCommit:
				again = appendCommit(again, en.commit)
			case entryCompact:
				again = appendCompact(again, en.rev)
			case entryReset:
				again = appendReset(again, en.rev)
			}
		}
		if _, err := readRecord(again, now); err != nil {
			t.Fatalf("written again it cannot be read: %v", err)
		}
	})
}
