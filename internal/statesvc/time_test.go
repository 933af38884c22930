package statesvc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
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

// TestEachPutIsSynced is promise P1 call by call: n puts one after the other need at least n syncs. It is promise P6 as
// well: the n-th call of each kind fails, once or from then on, and nothing that was acknowledged may be missing, nor may
// the store refuse to start afterwards.
func TestEachPutIsSynced(t *testing.T) {
	if os.Getenv(straceEnv) != "" {
		straceChild()
		return
	}
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("system calls cannot be counted: %v", err)
	}
	run := func(args ...string) (acked int, trace string, err error) {
		dir := t.TempDir()
		out := filepath.Join(dir, "trace")
		args = append(append([]string{"-f", "-o", out}, args...), os.Args[0], "-test.run=^TestEachPutIsSynced$")
		ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		cmd := exec.CommandContext(ctx, strace, args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the child as well
		cmd.Cancel = func() error {
			t.Errorf("%v: hangs", args)
			return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		cmd.Env = append(os.Environ(), straceEnv+"="+filepath.Join(dir, "state"))
		said, err := cmd.CombinedOutput()
		text, _ := os.ReadFile(out)
		acked = strings.Count(string(said), "acked\n")
		if err != nil && acked == 0 {
			err = fmt.Errorf("%w: %s", err, said)
		} else {
			err = nil
		}
		e, oerr := openEngine(filepath.Join(dir, "state"), Options{})
		if oerr != nil {
			t.Errorf("%v: %d acknowledged, reopen: %v", args, acked, oerr)
			return acked, string(text), err
		}
		defer crash(e)
		if keys := e.Stats().Keys; keys < acked {
			t.Errorf("%v: %d acknowledged, %d there", args, acked, keys)
		}
		return acked, string(text), err
	}
	acked, trace, err := run("-e", "trace=fsync,fdatasync")
	if err != nil {
		t.Skipf("strace does not work here: %v", err)
	}
	if syncs := strings.Count(trace, "fdatasync("); acked != 50 || syncs < 50 {
		t.Errorf("%d puts acknowledged with %d syncs", acked, syncs)
	}
	runs, failed, refused := 0, 0, 0
	inject := func(what string) (calls int) {
		acked, trace, err := run("-e", "trace=fsync,fdatasync,write,pwrite64,renameat,renameat2,ftruncate,fallocate,mkdirat", "-e", "inject="+what)
		if err != nil {
			refused++ // to make the store
		}
		calls = strings.Count(trace, "(INJECTED)")
		runs, failed = runs+1, failed+calls
		t.Logf("%s: %d acknowledged, %d calls failed, %.120v", what, acked, calls, err)
		return calls
	}
	inject("write,pwrite64:error=ENOSPC:when=40+")
	for _, calls := range []string{"fdatasync", "fsync", "write,pwrite64", "renameat,renameat2", "ftruncate", "fallocate", "mkdirat"} {
		for n := 1; n <= 10 && (thin == 1 || n <= 2); n++ {
			before := refused
			if inject(fmt.Sprintf("%s:error=EIO:when=%d", calls, n)) == 0 {
				break // there is no n-th
			}
			if calls == "fsync" && n == 1 && refused == before {
				t.Error("a store was made whose folder could not be synced")
			}
			if n%4 == 1 {
				inject(fmt.Sprintf("%s:error=EIO:when=%d+", calls, n))
			}
		}
	}
	t.Logf("%d runs, %d calls failed, %d times the store could not be made", runs, failed, refused)
	if failed < runs/2 {
		t.Error("too few calls failed: the test shows little")
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
