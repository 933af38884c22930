package statesvc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestFolderRefusals(t *testing.T) {
	wantCode := func(t *testing.T, dir string, code int, part string) {
		t.Helper()
		_, err := openEngine(dir, Options{})
		if err == nil || ExitCode(err) != code || !strings.Contains(err.Error(), part) {
			t.Fatalf("got %v (code %d), want code %d and %q", err, ExitCode(err), code, part)
		}
	}
	remove := func(t *testing.T, name string) {
		t.Helper()
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	state := func(t *testing.T) string {
		t.Helper()
		dir := t.TempDir()
		e := mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 1}})
		work(t, e, 2, 50)
		e.journal.release(e.floor())
		if err := e.journal.snapshot(e, e.view.Load()); err != nil {
			t.Fatal(err)
		}
		crash(e)
		return dir
	}
	t.Run("second daemon", func(t *testing.T) {
		dir := t.TempDir()
		mustOpen(t, dir, Options{})
		wantCode(t, dir, ExitLocked, "in use")
	})
	t.Run("log missing", func(t *testing.T) {
		dir := state(t)
		remove(t, filepath.Join(dir, logName))
		wantCode(t, dir, ExitDamaged, "log is missing")
		if _, err := os.Stat(filepath.Join(dir, logName)); !errors.Is(err, fs.ErrNotExist) {
			t.Error("something was made over existing files")
		}
	})
	t.Run("segments missing", func(t *testing.T) {
		dir := state(t)
		segs, _ := listSegments(filepath.Join(dir, logName))
		for _, s := range segs {
			remove(t, s.path)
		}
		wantCode(t, dir, ExitDamaged, "log is missing")
	})
	t.Run("empty log file", func(t *testing.T) {
		dir := state(t)
		segs, _ := listSegments(filepath.Join(dir, logName))
		os.Truncate(segs[0].path, 0)
		wantCode(t, dir, ExitDamaged, segs[0].path)
	})
	t.Run("mark missing", func(t *testing.T) {
		dir := state(t)
		remove(t, filepath.Join(dir, markName))
		wantCode(t, dir, ExitDamaged, markName)
	})
	t.Run("mark unreadable", func(t *testing.T) {
		dir := state(t)
		os.WriteFile(filepath.Join(dir, markName), nil, 0o600)
		wantCode(t, dir, ExitDamaged, markName)
	})
	t.Run("newer format", func(t *testing.T) {
		dir := state(t)
		os.WriteFile(filepath.Join(dir, markName), []byte(`{"hubd_state_format":2,"id":"x"}`), 0o600)
		wantCode(t, dir, ExitDamaged, "newer version")
	})
	t.Run("newer snapshot", func(t *testing.T) {
		dir := state(t)
		snaps, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
		data, _ := os.ReadFile(snaps[0])
		data[blockHead+len(snapMagic)] = snapFormat + 1
		os.WriteFile(snaps[0], data, 0o600)
		wantCode(t, dir, ExitDamaged, "newer version")
	})
	t.Run("log of another store", func(t *testing.T) {
		dir, other := state(t), state(t)
		remove(t, filepath.Join(dir, logName))
		if err := os.Rename(filepath.Join(other, logName), filepath.Join(dir, logName)); err != nil {
			t.Fatal(err)
		}
		wantCode(t, dir, ExitDamaged, "another store")
	})
	t.Run("snapshot of another store", func(t *testing.T) {
		dir, other := state(t), state(t)
		mine, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap"))
		theirs, _ := filepath.Glob(filepath.Join(other, snapName, "*.snap"))
		data, _ := os.ReadFile(theirs[0])
		os.WriteFile(mine[0], data, 0o600)
		// The log still has everything, so the foreign file does no harm; alone it is refused.
		if e, err := openEngine(dir, Options{}); err == nil {
			crash(e)
		} else if ExitCode(err) != ExitDamaged {
			t.Fatal(err)
		}
	})
	t.Run("foreign files", func(t *testing.T) {
		dir := t.TempDir()
		os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("x"), 0o600)
		wantCode(t, dir, ExitUnusable, "thesis.txt")
	})
	t.Run("not a folder", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "file")
		os.WriteFile(name, []byte("x"), 0o600)
		wantCode(t, name, ExitUnusable, "not usable")
	})
	t.Run("read-only folder", func(t *testing.T) {
		dir := mountTmpfs(t, "16m")
		e := mustOpen(t, filepath.Join(dir, "state"), Options{})
		crash(e)
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Skipf("remount: %v", err)
		}
		wantCode(t, filepath.Join(dir, "state"), ExitUnusable, "read-only")
	})
	t.Run("crash while it was made", func(t *testing.T) {
		dir := t.TempDir()
		f, err := openFolder(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		f.create()
		j := newJournal(f, newEngine(Options{}).log)
		if err := j.create(); err != nil {
			t.Fatal(err)
		}
		shut(j.w)
		f.close()
		e := mustOpen(t, dir, Options{})
		mustPut(t, e, "k", "1")
	})
}

// mountTmpfs mounts a small file system, or skips.
func mountTmpfs(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small file system is needed and mount is not permitted: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// TestFullDisk is promise P6: it fills a small disk, goes on reading, and writes again when there is room, without a restart.
func TestFullDisk(t *testing.T) {
	dir := mountTmpfs(t, "16m")
	e := mustOpen(t, filepath.Join(dir, "state"), Options{SnapshotBytes: 1 << 30})
	value := strings.Repeat("x", 20_000)
	acked := map[string]uint64{}
	refused := 0
	deadline := time.Now().Add(20 * time.Second)
	for i := 0; refused < 25; i++ {
		key := fmt.Sprintf("k/%06d", i)
		r, err := do(t, e, OneOp(putOp(key, value)))
		if err == nil {
			acked[key] = r.Revision
			continue
		}
		if !errors.Is(err, ErrNoSpace) {
			t.Fatalf("put %d: %v", i, err)
		}
		refused++
		if _, err := e.Get("k/000000"); err != nil {
			t.Fatalf("read while full: %v", err)
		}
		if it, err := e.Get(key); err == nil {
			t.Fatalf("refused and there: %+v", it)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d refusals only", refused)
		}
	}
	if len(acked) < 100 || e.Ready() == nil {
		t.Fatalf("%d acknowledged, ready: %v", len(acked), e.Ready())
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Skipf("remount: %v", err)
	}
	for i := 0; ; i++ {
		r, err := do(t, e, OneOp(putOp("resumed", value)))
		if err == nil {
			acked["resumed"] = r.Revision
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
		time.Sleep(10 * time.Millisecond) // the refusal is remembered for a moment: see retryLog
	}
	if err := e.Ready(); err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		key := fmt.Sprintf("after/%d", i)
		acked[key] = mustPut(t, e, key, value)
	}
	crash(e)
	e = mustOpen(t, filepath.Join(dir, "state"), Options{})
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Fatalf("%s: %v, %v, want revision %d", key, it, err, rev)
		}
	}
	if e.Info().Revision != uint64(len(acked)) {
		t.Fatalf("revision %d for %d acknowledged writes", e.Info().Revision, len(acked))
	}
}

// TestStartOnFullDisk is promise P6 over a restart: with less room than a segment of the log takes, a store starts all the
// same, has everything that was ever acknowledged, refuses writes at worst, and takes them again when there is room.
func TestStartOnFullDisk(t *testing.T) {
	const kb = 1 << 10
	for _, free := range []int64{
		0, 64 * kb, segmentBytes / 2, segmentBytes - 512*kb, segmentBytes - 64*kb, segmentBytes - 32*kb, segmentBytes - 4*kb,
		segmentBytes + 8*kb, 2*segmentBytes - 4*kb,
	} {
		t.Run(fmt.Sprint(free), func(t *testing.T) { startOnFullDisk(t, free) })
	}
}

func startOnFullDisk(t *testing.T, free int64) {
	dir := mountTmpfs(t, "32m")
	state, ballast := filepath.Join(dir, "state"), filepath.Join(dir, "ballast")
	value := strings.Repeat("x", 20_000)
	acked := map[string]uint64{}
	e := mustOpen(t, state, Options{SnapshotBytes: 1 << 30})
	for i := range 20 {
		key := fmt.Sprintf("before/%d", i)
		acked[key] = mustPut(t, e, key, value)
	}
	crash(e)
	leave(t, ballast, free)
	e = mustOpen(t, state, Options{SnapshotBytes: 1 << 30})
	written, refused := 0, 0
	for i := 0; refused < 3 && written < 2000; i++ {
		key := fmt.Sprintf("full/%d", i)
		r, err := do(t, e, OneOp(putOp(key, value)))
		switch {
		case err == nil:
			acked[key] = r.Revision
			written++
		case errors.Is(err, ErrNoSpace):
			refused++
		default:
			t.Fatalf("put %d: %v", i, err)
		}
	}
	// The newest segment keeps the space that it had: most of the 4 MiB can still be written.
	if written < 150 || refused == 0 {
		t.Errorf("%d writes of 20 kB taken and %d refused, want some 170 and then refusals", written, refused)
	}
	checkAcked(t, e, acked)
	crash(e)
	e = mustOpen(t, state, Options{SnapshotBytes: 1 << 30}) // full to the last byte
	checkAcked(t, e, acked)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	// A write finds out that there is room, or the store does so by itself.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		r, err := do(t, e, OneOp(putOp("after", "1")))
		if err == nil {
			acked["after"] = r.Revision
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
	}
	if err := e.Ready(); err != nil {
		t.Errorf("it writes and is not ready: %v", err)
	}
	crash(e)
	e = mustOpen(t, state, Options{})
	checkAcked(t, e, acked)
}

// leave fills the disk with a file until that many bytes are free.
func leave(t *testing.T, ballast string, free int64) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(ballast), &s); err != nil {
		t.Fatal(err)
	}
	size := int64(s.Bavail)*s.Bsize - free
	if size < 0 {
		t.Fatalf("the disk has only %d bytes left", int64(s.Bavail)*s.Bsize)
	}
	if err := os.WriteFile(ballast, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// checkAcked compares what the store has with what it acknowledged.
func checkAcked(t *testing.T, e *engine, acked map[string]uint64) {
	t.Helper()
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Fatalf("%s: %v, %v, want revision %d", key, it, err, rev)
		}
	}
}

// TestFailingDisk is promise P6: it lets the n-th call of each operation on storage fail, once and from then on, for growing n. Never is
// something acknowledged that is not there after a restart, nor anything shown that vanishes.
func TestFailingDisk(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for _, op := range []string{"append", "appended", "truncate", "sync", "syncdir", "open", "snapshot.create", "snapshot.write", "snapshot.sync", "snapshot.rename"} {
			for _, persistent := range []bool{false, true} {
				for _, nth := range []int{1, 2, 7} {
					if thin > 1 && nth != 2 {
						continue
					}
					failingDisk(t, op, nth, persistent, errno)
				}
			}
		}
	}
}

func failingDisk(t *testing.T, op string, nth int, persistent bool, errno syscall.Errno) {
	t.Helper()
	name := fmt.Sprintf("%s #%d persistent=%v %v", op, nth, persistent, errno)
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	calls, armed := 0, false
	fail := func(o string) error {
		helper := op == "truncate" || op == "sync" || op == "open" || op == "syncdir"
		if helper && o == "append" && armed && calls == 0 { // these run only after a failure
			calls++
			return errno
		}
		if o != op || !armed {
			return nil
		}
		calls++
		at := nth
		if helper {
			at = nth + 1
		}
		if calls == at || persistent && calls > at {
			return errno
		}
		return nil
	}
	e.journal.f.faults = fail
	acked := map[string]uint64{}
	for i := range 5 {
		key := fmt.Sprintf("before/%d", i)
		acked[key] = mustPut(t, e, key, "1")
	}
	armed = true
	unknown := 0
	for i := range 12 {
		key := fmt.Sprintf("k/%d", i)
		r, err := do(t, e, OneOp(putOp(key, "v")))
		if err == nil {
			acked[key] = r.Revision
		} else {
			if u, ok := errors.AsType[*UnavailableError](err); ok && u.Unknown {
				unknown++
			} else if !ok && !errors.Is(err, ErrNoSpace) {
				t.Errorf("%s: put: %v", name, err)
			}
			if it, err := e.Get(key); err == nil {
				t.Errorf("%s: refused and visible: %+v", name, it)
			}
			e.journal.mu.Lock()
			e.journal.retry = time.Time{}
			e.journal.mu.Unlock()
		}
		if strings.HasPrefix(op, "snapshot") && i%4 == 3 {
			e.journal.snapshot(e, e.view.Load()) // may fail: nothing depends on it
		}
	}
	if !persistent && len(acked) < 12 {
		t.Errorf("%s: only %d of 17 writes succeeded after one failure", name, len(acked))
	}
	if persistent && (op == "append" || op == "appended") && (len(acked) != 5+nth-1 || e.Ready() == nil) {
		t.Errorf("%s: %d acknowledged, ready %v", name, len(acked), e.Ready())
	}
	crash(e)
	e, err := openEngine(dir, Options{})
	if err != nil {
		t.Errorf("%s: reopen: %v", name, err)
		return
	}
	defer crash(e)
	for key, rev := range acked {
		if it, err := e.Get(key); err != nil || it.Revision != rev {
			t.Errorf("%s: %s: %v, %v, want revision %d", name, key, it, err, rev)
		}
	}
	if extra := e.Stats().Keys - len(acked); extra < 0 || extra > unknown {
		t.Errorf("%s: %d keys that were refused are there, %d had an unknown fate", name, extra, unknown)
	}
}

func TestRestoreSurvivesCrashes(t *testing.T) {
	for _, at := range []string{"", "snapshot.sync", "snapshot.rename", "append", "appended"} {
		dir := t.TempDir()
		e := mustOpen(t, dir, Options{})
		work(t, e, 4, 30)
		want := dump(t, e)
		e.journal.f.faults = func(op string) error {
			if op == at {
				return syscall.EIO
			}
			return nil
		}
		_, err := e.Restore(t.Context(), func(yield func(*Item, error) bool) {
			yield(&Item{Key: "restored", Value: Value{Data: []byte("1")}, Revision: 9}, nil)
		}, RestoreOptions{Overwrite: true})
		if (err == nil) != (at == "") {
			t.Fatalf("%s: %v", at, err)
		}
		if err == nil {
			want = dump(t, e)
			if !strings.Contains(want, "restored=") || strings.Contains(want, "k/") {
				t.Fatalf("restored: %s", want)
			}
			mustPut(t, e, "more", "1")
			want = dump(t, e)
		}
		crash(e)
		// The name was not given yet: the log knows.
		if snaps, _ := filepath.Glob(filepath.Join(dir, snapName, "*.snap")); at == "" {
			os.Rename(snaps[0], snaps[0]+newSuffix)
		}
		e = mustOpen(t, dir, Options{})
		if got := dump(t, e); got != want {
			t.Errorf("%s: got %s want %s", at, got, want)
		}
	}
}
