package statesvc

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The grace of an owner that has left goes on over restarts; that of one that
// was there until the end begins with the first start after it, once.
func TestRestartDoesNotBeginAGraceAnew(t *testing.T) {
	const grace = time.Hour
	dir := t.TempDir()
	open := func() *engine {
		e, err := openEngine(dir, Options{OwnerGrace: grace})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	deadline := func(e *engine, name string) time.Time {
		e.leases.mu.Lock()
		defer e.leases.mu.Unlock()
		if e.leases.owners[name] == nil {
			t.Fatalf("%s is not known", name)
		}
		return e.leases.owners[name].deadline.Round(0)
	}
	e := open()
	for _, name := range []string{"left", "stays", "back"} {
		e.Claim(name)
		done := make(chan error, 1)
		if err := e.Commit(OneOp(Op{Kind: OpPut, Key: name, Value: Value{Data: []byte("1")}, Owner: name}), func(_ Result, err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	e.Release("left", grace)
	e.Release("back", grace)
	e.Claim("back")
	left := deadline(e, "left")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}

	started := time.Now().Round(0)
	e = open()
	if got := deadline(e, "left"); got.After(left.Add(time.Millisecond)) {
		t.Errorf("the grace of the one that left ends %v later than before the restart", got.Sub(left))
	}
	for _, name := range []string{"stays", "back"} {
		if got := deadline(e, name); got.Before(started.Add(grace)) {
			t.Errorf("%s, which was there until the end, has %v less than the grace", name, started.Add(grace).Sub(got))
		}
	}
	stays := deadline(e, "stays")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	e = open()
	if got := deadline(e, "stays"); got.After(stays.Add(time.Millisecond)) {
		t.Errorf("a second restart gives %v more", got.Sub(stays))
	}
	for _, name := range []string{"left", "stays", "back"} {
		e.Release(name, 0)
	}
	for e.view.Load().tree.Len() > 0 {
		time.Sleep(time.Millisecond)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, absentName)); !os.IsNotExist(err) {
		t.Errorf("when all keys are gone the file is still there: %v", err)
	}

	// What cannot be read says nothing of anybody, and keeps nobody from starting.
	if err := os.WriteFile(filepath.Join(dir, absentName), []byte("no json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open().Close(); err != nil {
		t.Fatal(err)
	}
}
