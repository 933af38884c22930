package statesvc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRepairCutsTheLog(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	for i := range 10 {
		mustPut(t, e, "k"+string(rune('0'+i)), "1")
	}
	crash(e)
	path := logFiles(t, dir)[0]
	at := logRecords(t, dir)[6].Offset
	flip(t, path, at+36, 0xff)
	if _, err := openEngine(dir, Options{}); ExitCode(err) != ExitDamaged || !strings.Contains(err.Error(), "hubd state repair") {
		t.Fatalf("open: %v", err)
	}
	for _, apply := range []bool{false, true} {
		rep, err := Repair(nil, dir, apply)
		if err != nil || rep.Damage == nil || rep.File != path || rep.Offset != at || rep.Records != 3 || rep.Revision != 6 {
			t.Fatalf("apply=%v: %+v, %v", apply, rep, err)
		}
		if apply && len(rep.Kept) != 1 {
			t.Fatalf("kept: %v", rep.Kept)
		}
	}
	e = mustOpen(t, dir, Options{})
	if i := e.Info(); i.Revision != 6 || e.Stats().Keys != 6 {
		t.Fatalf("repaired: %+v", i)
	}
	mustPut(t, e, "new", "1")
	crash(e)
	if rep, err := Repair(nil, dir, true); err != nil || rep.Damage != nil || rep.Revision != 7 {
		t.Fatalf("nothing to do: %+v, %v", rep, err)
	}
}

func TestRepairFallsBackToASnapshot(t *testing.T) {
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	work(t, e, 1, 40)
	if err := e.journal.snapshot(e, e.view.Load()); err != nil {
		t.Fatal(err)
	}
	rev := e.Info().Revision
	keys := e.Stats().Keys
	crash(e)
	if err := os.RemoveAll(filepath.Join(dir, logName)); err != nil {
		t.Fatal(err)
	}
	rep, err := Repair(nil, dir, true)
	if err != nil || !rep.Snapshot || rep.Revision != rev {
		t.Fatalf("%+v, %v", rep, err)
	}
	e = mustOpen(t, dir, Options{})
	if e.Stats().Keys != keys || mustPut(t, e, "new", "1") != rev+1 {
		t.Fatalf("%+v", e.Stats())
	}
	crash(e)
	mustOpen(t, dir, Options{})
	if _, err := Repair(nil, dir, false); ExitCode(err) != ExitLocked {
		t.Fatalf("in use: %v", err)
	}
}
