package memdisk

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestCrashLosesWhatWasNotSynced makes sure that the disk forgets what it should.
func TestCrashLosesWhatWasNotSynced(t *testing.T) {
	d := New()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(d.Mkdir("/state"))           // 1
	f, err := d.Create("/state/a")     // 2
	check(err)                         //
	_, err = f.Write([]byte("first"))  // 3
	check(err)                         //
	check(f.Sync())                    // 4
	_, err = f.Write([]byte("second")) // 5
	check(err)
	check(d.SyncDir("/state"))             // 6
	check(d.SyncDir("/"))                  // 7
	check(d.Rename("/state/a", "state/b")) // 8
	ops := d.Ops()
	if len(ops) != 8 {
		t.Fatalf("%d changes: %v", len(ops), ops)
	}
	for _, c := range []struct {
		n    int
		l    Loss
		want string
	}{
		{5, LoseNothing, "/state/a=firstsecond"},
		{5, LoseUnsynced, ""}, // not even the folder has its name
		{7, LoseUnsynced, "/state/a=first"},
		{8, LoseNothing, "/state/b=firstsecond"},
		{8, LoseUnsynced, "/state/a=first"},
	} {
		var got []string
		for name, data := range At(ops, c.n, c.l, rand.New(rand.NewPCG(1, 1))).Files() {
			got = append(got, name+"="+string(data))
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("after %d changes, losing %v: %q, want %q", c.n, c.l, s, c.want)
		}
	}
	torn := map[string]bool{}
	for seed := range uint64(50) {
		torn[string(At(ops, 5, TearLast, rand.New(rand.NewPCG(seed, 1))).Files()["/state/a"])] = true
	}
	if len(torn) != len("second") || !torn["first"] || torn["firstsecond"] {
		t.Errorf("torn writes left %v", torn)
	}
}

// TestCapacityAndFailures: writes beyond the capacity fail with ENOSPC after what fits, and injected errors reach the caller.
func TestCapacityAndFailures(t *testing.T) {
	d := New()
	d.SetCapacity(10)
	f, err := d.Create("/a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Write([]byte("0123456")); n != 7 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := f.Write([]byte("789abc")); n != 3 || !errors.Is(err, syscall.ENOSPC) || d.Used() != 10 {
		t.Fatal(n, err, d.Used())
	}
	if err := f.Allocate(11); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	fail, met := NthCall("sync", 2, false, syscall.EIO)
	d.Fail(fail)
	if err := errors.Join(f.Sync()); err != nil || met() {
		t.Fatal(err)
	}
	if err := f.Sync(); !errors.Is(err, syscall.EIO) || !met() {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}
