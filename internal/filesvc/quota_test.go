package filesvc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// quotaBox is a service over an empty folder with a quota of so many blocks.
func quotaBox(t *testing.T, blocks int64) (*box, *told) {
	t.Helper()
	root := t.TempDir()
	limits := new(told)
	b := newBox(t, Options{Root: root, Quota: blocks * block, OnLimit: limits.add})
	b.root = root
	return b, limits
}

// told has the limits that refused something.
type told struct {
	mu     sync.Mutex
	limits []string
}

func (l *told) add(limit string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = append(l.limits, limit)
}

// take returns them, and forgets them.
func (l *told) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := strings.Join(l.limits, " ")
	l.limits = nil
	return all
}

// full is whether err is that of the quota, with what it tells.
func full(err error) bool {
	e, ok := errors.AsType[*rpc.Error](err)
	return ok && e.Code == rpc.CodeTooLarge && strings.Contains(e.Message, "bytes in all") && strings.Contains(string(mustJSON(e.Data)), `"limit":"file_quota"`)
}

func (b *box) upload(name string, size int64, more ...any) error {
	_, err := b.call("file.upload", append([]any{"src", pieces(strings.Repeat("x", int(size)), 4096), "dst_path", name}, more...)...)
	return err
}

// check compares what the quota counts with what is there.
func (b *box) check(blocks int64) {
	b.t.Helper()
	if used, _ := b.s.Usage(); used != blocks*block {
		b.t.Errorf("%d bytes are counted, which is not %d blocks", used, blocks)
	}
	before, _ := b.s.Usage()
	b.s.quota.forget()
	if err := b.s.quota.refresh(b.t.Context(), 0); err != nil {
		b.t.Fatal(err)
	}
	if now, _ := b.s.Usage(); now != before {
		b.t.Errorf("%d bytes were counted, %d are there", before, now)
	}
}

// forget makes the next claim measure.
func (q *quota) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.measured = time.Time{}
}

// What comes, is replaced and goes through the service is counted as it does.
func TestQuotaCounts(t *testing.T) {
	for _, nameless := range []bool{true, false} {
		t.Run(fmt.Sprint("nameless ", nameless), func(t *testing.T) {
			b, limits := quotaBox(t, 20)
			b.s.nameless = b.s.nameless && nameless
			must := func(blocks int64, _ rpc.Value, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				b.check(blocks)
			}
			up := func(blocks int64, name string, size int64) {
				t.Helper()
				must(blocks, rpc.Value{}, b.upload(name, size))
			}
			call := func(blocks int64, method string, args ...any) {
				t.Helper()
				v, err := b.call(method, args...)
				must(blocks, v, err)
			}
			up(1, "empty", 0)
			up(2, "one", 1)
			up(5, "three", 2*block+1)
			up(3, "three", 1) // smaller than before
			up(10, "one", 8*block)
			call(11, "file.create_dir", "path", "a")
			call(14, "file.create_dir", "path", "a/b/c/d", "recurse", true)
			call(14, "file.create_dir", "path", "a/b/c/d", "recurse", true)
			call(15, "file.touch", "path", "a/b/new")
			call(15, "file.touch", "path", "a/b/new")
			if _, err := b.call("file.create_dir", "path", "no/such"); err == nil {
				t.Error("no error")
			}
			b.check(15)
			call(7, "file.delete", "path", "one")
			call(2, "file.delete", "path", "a", "recurse", true)
			if _, err := b.call("file.delete", "path", "a"); err == nil {
				t.Error("no error")
			}
			b.check(2)

			up(20, "big", 18*block)
			for what, try := range map[string]func() error{
				"upload":            func() error { return b.upload("more", 1) },
				"empty":             func() error { return b.upload("more", 0) },
				"announced":         func() error { return b.upload("more", block, "size", block) },
				"replaced, as both": func() error { return b.upload("empty", 1) },
				"touch":             func() error { _, err := b.call("file.touch", "path", "more"); return err },
				"folder":            func() error { _, err := b.call("file.create_dir", "path", "more"); return err },
			} {
				limits.take()
				if err := try(); !full(err) {
					t.Errorf("%s: %v", what, err)
				}
				if told := limits.take(); told != LimitQuota {
					t.Errorf("%s: told of %q", what, told)
				}
				b.check(20)
			}
			call(20, "file.touch", "path", "big")
			call(2, "file.delete", "path", "big")
			if err := b.upload("too much", 19*block); !full(err) {
				t.Errorf("%v", err)
			}
			b.check(2)
			if names := strings.Join(b.names("."), " "); names != "empty three" {
				t.Errorf("left: %s", names)
			}
		})
	}
}

// What others make and remove is noticed: at the latest before anything is refused.
func TestQuotaSeesWhatOthersChange(t *testing.T) {
	b, _ := quotaBox(t, 10)
	if err := b.upload("mine", 4*block); err != nil {
		t.Fatal(err)
	}
	b.write("theirs", strings.Repeat("x", 6*block))
	b.s.quota.forget() // as after measureEvery
	if err := b.upload("more", 1); !full(err) {
		t.Errorf("%v", err)
	}
	if err := os.Remove(filepath.Join(b.root, "theirs")); err != nil {
		t.Fatal(err)
	}
	b.s.quota.mu.Lock()
	b.s.quota.took = 0 // so that it may measure at once
	b.s.quota.mu.Unlock()
	if err := b.upload("more", 6*block); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	b.check(10)
}

// Uploads that run count with what they have so far, and no longer than they run.
func TestQuotaOfManyUploads(t *testing.T) {
	const uploads, each = 16, 40
	b, _ := quotaBox(t, 10*each) // ten of them fit
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for i := range uploads {
		wg.Go(func() {
			switch err := b.upload(fmt.Sprint(i), each*block); {
			case err == nil:
				mu.Lock()
				done++
				mu.Unlock()
			case !full(err):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done == 0 || done > 10 || len(b.names(".")) != done {
		t.Errorf("%d uploads were taken, %d files are there", done, len(b.names(".")))
	}
	b.check(int64(done) * each)

	// One name, many at once: one file is left, and it counts once.
	for range uploads {
		wg.Go(func() {
			if err := b.upload("0", block); err != nil && !full(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	used, _ := b.s.Usage()
	b.check(used / block)
}

// What does not fit is refused while it comes, not when it is there.
func TestQuotaRefusesWhileContentComes(t *testing.T) {
	b, _ := quotaBox(t, 64)
	end := errors.New("the source was asked for all of it")
	sent := 0
	var src *rpc.Reader
	src = rpc.NewReader(grants(func(n int) {
		for range n {
			if sent++; sent > 1000 {
				src.End(nil, rpc.AsError(t.Context(), end))
				return
			}
			src.Item(nil, rpc.TreeValue(rpc.Bytes{Data: bytes.Repeat([]byte("x"), block)}))
		}
	}))
	if _, err := b.call("file.upload", "src", src, "dst_path", "endless"); !full(err) {
		t.Errorf("%v", err)
	}
	b.check(0)
}

// A root with very deep folders, links and pipes is measured, and links are not followed.
func TestMeasureFollowsNothing(t *testing.T) {
	b, _ := quotaBox(t, 1000)
	deep := b.root
	for range 100 {
		deep = filepath.Join(deep, "d")
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"out": b.out, "self": ".", "file": filepath.Join(b.out, "secret")} {
		if err := os.Symlink(target, filepath.Join(b.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(b.root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.s.quota.forget()
	if err := b.s.quota.fits(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	b.check(104)
	if _, err := b.call("file.delete", "path", "d", "recurse", true); err != nil {
		t.Fatal(err)
	}
	b.check(4)
}

// What a crash has left of uploads is removed at the next start, but for what
// a living hub writes and what only looks similar.
func TestAbandonedUploadsAreRemoved(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	live, err := Open(Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	live.nameless = false
	writing, err := live.create(".")
	if err != nil {
		t.Fatal(err)
	}
	defer writing.close()
	for _, name := range []string{
		tempName + "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "dir/" + tempName + "22222222222222222222222222", tempName + "notes", tempName + "abcdefghijklmnopqrstuvwxyz",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(Options{Root: root, Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.tidying.Wait()
	without, err := Open(Options{Root: root}) // it looks only where files must have names
	if err != nil {
		t.Fatal(err)
	}
	defer without.Close()
	without.tidying.Wait()
	again := filepath.Join(root, "dir", tempName+"33333333333333333333333333")
	if err := os.WriteFile(again, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	without.tidy(t.Context())
	b := &box{t: t, s: s, root: root}
	want := strings.Join([]string{writing.name, tempName + "abcdefghijklmnopqrstuvwxyz", tempName + "notes", "dir"}, " ")
	if got := strings.Join(b.names("."), " "); got != want {
		t.Errorf("left: %s\nwant: %s", got, want)
	}
	if got := b.names("dir"); len(got) != 0 {
		t.Errorf("left in the folder: %v", got)
	}
	if used, _ := s.Usage(); used != 4*block {
		t.Errorf("%d bytes are counted", used)
	}
}
