package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// keysInStore starts a hub, stores n keys and kills it.
func keysInStore(t *testing.T, dir, state string, n int) {
	t.Helper()
	d := startHub(t, dir, state)
	w := d.dial()
	for i := range n {
		w.put(fmt.Sprintf("key/%d", i), fmt.Sprintf(`"value %d of many"`, i))
	}
	d.kill()
}

// refusal starts a hub that must not start, and returns what it said.
func refusal(t *testing.T, dir, state string, code int) string {
	t.Helper()
	d := launchHub(t, dir, state)
	got := d.wait()
	said := d.stderr.String()
	if got != code {
		t.Fatalf("exit code %d, want %d\n%s", got, code, said)
	}
	return said
}

func wantIn(t *testing.T, said string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(said, part) {
			t.Errorf("the message lacks %q:\n%s", part, said)
		}
	}
}

func TestStateSecondDaemonIsRefused(t *testing.T) {
	t.Parallel()
	dir, other := shortDir(t), shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)
	wantIn(t, refusal(t, other, state, 3), state)
	if d.dial().put("a", "1") == 0 {
		t.Error("the first one stores nothing any more")
	}
}

// logFile returns the only file of the log.
func logFile(t *testing.T, state string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(state, "store", "log", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the log has the files %v (%v), want one", files, err)
	}
	return files[0]
}

func TestStateDamageIsRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	keysInStore(t, dir, state, 50)
	file := logFile(t, state)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("value 20 of many"))
	if at < 0 {
		t.Fatal("the log does not hold the value as it was put")
	}
	damaged := bytes.Clone(whole)
	damaged[at] ^= 0x20
	if err := os.WriteFile(file, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	said := refusal(t, dir, state, 4)
	wantIn(t, said, filepath.Base(file), "offset")
	var offset int
	_, rest, _ := strings.Cut(said, "offset ")
	if _, err := fmt.Sscanf(rest, "%d", &offset); err != nil || offset <= 0 || offset > at {
		t.Errorf("the message names offset %d (%v), the damage is at %d:\n%s", offset, err, at, said)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, damaged) {
		t.Errorf("the file was changed (%v)", err)
	}
	// What was damaged is mended: everything is there again.
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	d := startHub(t, dir, state)
	if n := len(d.history()); n != 50 {
		t.Errorf("%d changes are there again, want 50", n)
	}
}

// A write that was interrupted in the middle was acknowledged to nobody.
func TestStateTornTailIsCut(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	keysInStore(t, dir, state, 20)
	file := logFile(t, state)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(whole, []byte("value 19 of many"))
	if at < 0 {
		t.Fatal("the log does not hold the value as it was put")
	}
	if err := os.WriteFile(file, whole[:at+3], 0o600); err != nil {
		t.Fatal(err)
	}
	d := startHub(t, dir, state)
	if n := len(d.history()); n != 19 {
		t.Errorf("%d changes are left, want 19", n)
	}
	w := d.dial()
	var stats struct {
		Torn int64 `json:"torn_bytes"`
	}
	if err := json.Unmarshal([]byte(w.result(w.call("s", "state.stats", "{}"))), &stats); err != nil || stats.Torn <= 0 {
		t.Errorf("state.stats tells of %d bytes that were cut (%v), want some", stats.Torn, err)
	}
	if revision := w.put("after", "1"); revision != 20 {
		t.Errorf("the next write has revision %d, want 20", revision)
	}
}

func TestStateNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	keysInStore(t, dir, state, 3)
	file := filepath.Join(state, "store", "store.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(text, []byte(`"hubd_state_format":2`), []byte(`"hubd_state_format":99`), 1)
	if bytes.Equal(newer, text) {
		t.Fatalf("store.json has no format 2: %s", text)
	}
	if err := os.WriteFile(file, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	wantIn(t, refusal(t, dir, state, 4), "99", "newer")
}

func TestStateFolderThatIsNone(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	if err := os.WriteFile(state, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantIn(t, refusal(t, dir, state, 5), state)
}

// mountTmpfs mounts a small file system for the length of the test.
func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("skipped: only root can mount a file system")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("skipped: a file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
			syscall.Unmount(dir, syscall.MNT_DETACH)
		}
	})
}

func TestStateFolderReadOnly(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	if os.Geteuid() != 0 { // to root no folder is closed
		if err := os.Mkdir(state, 0o500); err != nil {
			t.Fatal(err)
		}
	} else {
		mountTmpfs(t, state, "size=1m,mode=0700")
		if err := syscall.Mount("", state, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=1m"); err != nil {
			t.Skipf("skipped: cannot make the file system read-only: %v", err)
		}
	}
	wantIn(t, refusal(t, dir, state, 5), state)
}

// TestStateDiskFull is promise P6: a full disk refuses writes and nothing else.
func TestStateDiskFull(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	disk := filepath.Join(dir, "disk")
	mountTmpfs(t, disk, "size=16m,mode=0700")
	state := filepath.Join(disk, "state")
	ballast := filepath.Join(disk, "ballast")
	d := startHub(t, dir, state)
	if err := os.WriteFile(ballast, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	w := d.dial()
	value := func(i int) string { return `"` + strings.Repeat(fmt.Sprintf("%07d.", i), 8<<10) + `"` } // 64 KiB
	put := func(i int) frame {
		return w.call("p", "state.put", fmt.Sprintf(`{"key":"k%d","value":%s}`, i, value(i)))
	}
	stored := map[int]uint64{}
	refused := 0
	for i := 0; refused < 25; i++ {
		if i > 1000 {
			t.Fatalf("the disk of 16 MiB took %d values of 64 KiB", len(stored))
		}
		f := put(i)
		if f.Error == nil {
			var r struct{ Revision uint64 }
			if err := json.Unmarshal(f.Result, &r); err != nil {
				t.Fatal(err)
			}
			stored[i] = r.Revision
			continue
		}
		refused++
		if f.kind() != "unavailable" || f.Retry != "safe" {
			t.Fatalf("refusal %d: kind %s, retry %q (%s), want unavailable and safe", refused, f.kind(), f.Retry, f.text())
		}
	}
	if len(stored) == 0 {
		t.Fatal("nothing was stored before the disk was full")
	}
	t.Logf("%d values stored, then %d refusals", len(stored), refused)
	check := func() {
		t.Helper()
		for i, revision := range stored {
			f := w.call("g", "state.get", fmt.Sprintf(`{"key":"k%d"}`, i))
			if got := w.result(f); !strings.Contains(got, value(i)) || !strings.Contains(got, fmt.Sprintf(`"revision":%d,`, revision)) {
				t.Fatalf("k%d: got %.100s..., want its value at revision %d", i, got, revision)
			}
		}
	}
	check()
	if status, body, err := d.tryGet("/-/ready"); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("/-/ready while writes are refused: %d %s (%v), want 503", status, body, err)
	}
	if status, _, err := d.tryGet("/-/healthy"); err != nil || status != http.StatusOK {
		t.Errorf("/-/healthy while writes are refused: %d (%v), want 200", status, err)
	}
	// There is room again: no restart is needed.
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	next := 2000
	eventually(t, "writes are taken again", func() bool {
		f := put(next)
		if f.Error != nil {
			return false
		}
		var r struct{ Revision uint64 }
		json.Unmarshal(f.Result, &r)
		stored[next] = r.Revision
		return true
	})
	d.waitReady()
	check()
	d.kill()
	// The next start finds less room than a segment of the log takes. It starts all the same.
	var free syscall.Statfs_t
	if err := syscall.Statfs(disk, &free); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, int64(free.Bavail)*free.Bsize), 0o600); err != nil {
		t.Fatal(err)
	}
	d = launchHub(t, dir, state)
	eventually(t, "the hub answers on a full disk", func() bool {
		status, _, err := d.tryGet("/-/healthy")
		return err == nil && status == http.StatusOK
	})
	w = d.dial()
	check()
	refused = 0
	for i := 3000; refused < 3; i++ {
		f := put(i)
		if f.Error == nil { // into what the newest segment has left
			var r struct{ Revision uint64 }
			if err := json.Unmarshal(f.Result, &r); err != nil {
				t.Fatal(err)
			}
			stored[i] = r.Revision
			continue
		}
		refused++
		if f.kind() != "unavailable" || f.Retry != "safe" {
			t.Fatalf("refusal %d: kind %s, retry %q (%s), want unavailable and safe", refused, f.kind(), f.Retry, f.text())
		}
	}
	check()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	next = 5000
	eventually(t, "writes are taken again", func() bool { return put(next).Error == nil })
	d.waitReady()
	check()
	d.signal(syscall.SIGTERM)
	d.wait() // before the file system goes
}
