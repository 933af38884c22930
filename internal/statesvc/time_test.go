package statesvc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestExpiryIsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := OpenMemory(Options{}).(*engine)
		defer s.Close()
		w, err := s.Watch(WatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for i, ttl := range []time.Duration{3 * time.Second, time.Hour, 90 * time.Minute, 2 * time.Second} {
			op := putOp(fmt.Sprintf("k/%d", i), "1")
			op.TTL = ttl
			if _, err := do(t, s, OneOp(op)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := do(t, s, OneOp(Op{Kind: OpTouch, Key: "k/1", TTL: 2 * time.Hour})); err != nil {
			t.Fatal(err)
		}
		s.Claim("c")
		op := putOp("p", "1")
		op.Owner, op.TTL = "c", 10*time.Hour
		if _, err := do(t, s, OneOp(op)); err != nil {
			t.Fatal(err)
		}
		s.Release("c", time.Minute)
		time.Sleep(59 * time.Second)
		if !s.Claim("c") {
			t.Fatal("gone before its time")
		}
		s.Release("c", 3*time.Hour)
		if _, err := w.Next(100); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if s.Stats().Keys != 0 || s.Stats().Owners != 0 || s.Stats().Leases != 0 || s.Stats().Expired != 5 {
			t.Errorf("left: %+v", s.Stats())
		}
		want := map[string]time.Duration{
			"k/0": 3 * time.Second, "k/3": 2 * time.Second, "k/2": 90 * time.Minute, "k/1": 2 * time.Hour, "p": 3*time.Hour + 59*time.Second,
		}
		for key, after := range want {
			events, err := s.History(key, 1)
			if err != nil || len(events) != 1 || events[0].Type != EventExpire {
				t.Fatalf("%s: %v %v", key, events, err)
			}
			if at := time.Unix(0, events[0].Time).Sub(start); at != after {
				t.Errorf("%s expired after %v, want %v", key, at, after)
			}
		}
	})
}

// TestLeasesSurviveARestart: the rest of a time limit goes on, and ephemeral keys wait for their owners.
func TestLeasesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	opts := Options{OwnerGrace: 300 * time.Millisecond}
	e := mustOpen(t, dir, opts)
	e.Claim("comes back")
	e.Claim("stays away")
	for key, owner := range map[string]string{"a": "comes back", "b": "stays away"} {
		op := putOp(key, "1")
		op.Owner = owner
		if _, err := do(t, e, OneOp(op)); err != nil {
			t.Fatal(err)
		}
	}
	op := putOp("timed", "1")
	op.TTL = time.Hour
	if _, err := do(t, e, OneOp(op)); err != nil {
		t.Fatal(err)
	}
	crash(e)
	e = mustOpen(t, dir, opts)
	wake := make(chan struct{}, 1)
	w, err := e.Watch(WatchOptions{Wake: func() { wake <- struct{}{} }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Next(1); err != nil {
		t.Fatal(err)
	}
	if !e.Claim("comes back") {
		t.Error("owner is not known after the restart")
	}
	it, err := e.Get("timed")
	if err != nil {
		t.Fatal(err)
	}
	if left, ok := it.TTL(); !ok || left > time.Hour || left < 50*time.Minute {
		t.Errorf("time left: %v", left)
	}
	select {
	case <-wake:
	case <-time.After(20 * time.Second):
		t.Fatal("nothing expired")
	}
	b, err := w.Next(10)
	if err != nil || len(b.Events) != 1 || b.Events[0].Key != "b" || b.Events[0].Type != EventExpire {
		t.Fatalf("%+v, %v", b.Events, err)
	}
	if _, err := e.Get("a"); err != nil {
		t.Error(err)
	}
	// The wall clock is all that connects two runs; whatever it says, nothing lives longer than its whole time.
	now := time.Now()
	if l := revivedLease(now, time.Minute, now.Add(24*time.Hour).UnixNano(), ""); l.Deadline.Sub(now) != time.Minute {
		t.Errorf("clock set back: %v left", l.Deadline.Sub(now))
	}
	if l := revivedLease(now, time.Minute, now.Add(-24*time.Hour).UnixNano(), ""); l.Deadline.Sub(now) != 0 {
		t.Errorf("clock set forward: %v left", l.Deadline.Sub(now))
	}
}

const straceEnv = "STATESVC_STRACE_PUTS"

// TestEachPutIsSynced counts system calls: n puts one after the other need at least n syncs. With injected failures of the
// real calls, nothing that was acknowledged may be missing.
func TestEachPutIsSynced(t *testing.T) {
	if os.Getenv(straceEnv) != "" {
		straceChild()
		return
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("system calls cannot be counted: %v", err)
	}
	run := func(args ...string) (acked int, trace string, err error) {
		dir := t.TempDir()
		out := filepath.Join(dir, "trace")
		args = append(append([]string{"-f", "-o", out}, args...), os.Args[0], "-test.run=^TestEachPutIsSynced$")
		cmd := exec.Command(strace, args...)
		cmd.Env = append(os.Environ(), straceEnv+"="+filepath.Join(dir, "state"))
		said, err := cmd.CombinedOutput()
		text, _ := os.ReadFile(out)
		acked = strings.Count(string(said), "acked\n")
		if err != nil && acked == 0 {
			return 0, string(text), fmt.Errorf("%w: %s", err, said)
		}
		e, err := openEngine(filepath.Join(dir, "state"), Options{})
		if err != nil {
			return acked, string(text), fmt.Errorf("reopen: %w", err)
		}
		defer crash(e)
		if keys := e.Stats().Keys; keys < acked {
			t.Errorf("%v: %d acknowledged, %d there", args, acked, keys)
		}
		return acked, string(text), nil
	}
	acked, trace, err := run("-e", "trace=fsync,fdatasync")
	if err != nil {
		t.Skipf("strace does not work here: %v", err)
	}
	if syncs := strings.Count(trace, "fdatasync("); acked != 50 || syncs < 50 {
		t.Errorf("%d puts acknowledged with %d syncs", acked, syncs)
	}
	for _, inject := range []string{"fdatasync:error=EIO:when=5", "fdatasync:error=EIO:when=9+", "write,pwrite64:error=ENOSPC:when=40+"} {
		acked, trace, err := run("-e", "trace=fsync,fdatasync,write,pwrite64", "-e", "inject="+inject)
		if err != nil {
			t.Logf("%s: %v", inject, err) // writes to standard output fail as well, or the store could not be made
		}
		t.Logf("%s: %d acknowledged, %d calls failed", inject, acked, strings.Count(trace, "(INJECTED)"))
	}
}

func straceChild() {
	e, err := openEngine(os.Getenv(straceEnv), Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := range 50 {
		done := make(chan error, 1)
		if err := e.Commit(OneOp(putOp(fmt.Sprintf("k/%d", i), "1")), func(_ Result, err error) { done <- err }); err != nil {
			continue
		}
		if <-done == nil {
			os.Stdout.WriteString("acked\n")
		}
	}
	os.Exit(0)
}
