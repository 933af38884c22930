package filesvc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Calls that hold files open are bounded; who comes too much is told at once.
func TestTooManyOpenFiles(t *testing.T) {
	b := newBox(t, Options{})
	b.s.busy.Store(maxBusy)
	overloaded := &rpc.Error{Code: rpc.CodeOverloaded}
	for method, args := range map[string][]any{
		"file.download": {"src_path", "a.txt"}, "file.sha256": {"path", "a.txt"}, "file.paths": nil, "file.path_info": nil,
		"file.upload": {"src", pieces("x", 1), "dst_path", "x"},
	} {
		if _, err := b.call(method, args...); !errors.Is(err, overloaded) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if n := b.s.busy.Swap(0); n != maxBusy {
		t.Errorf("%d calls are counted, want %d", n, maxBusy)
	}
	if _, err := b.call("file.sha256", "path", "a.txt"); err != nil {
		t.Error(err)
	}
	if n := b.s.busy.Load(); n != 0 {
		t.Errorf("%d calls are still counted", n)
	}
}

// FuzzResolve looks for a path that leads out, and for hangs. Whatever resolve
// lets through, the root must let through, too.
func FuzzResolve(f *testing.F) {
	base := f.TempDir()
	root := filepath.Join(base, "root")
	for _, dir := range []string{filepath.Join(root, "a", "b"), filepath.Join(base, "out")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"l": "a/b", "a/up": "..", "a/b/out": "../../../out", "abs": filepath.Join(root, "a"), "bad": "/etc", "loop": "loop", "chain": "l/out",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			f.Fatal(err)
		}
	}
	s, err := Open(Options{Root: root})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	for _, seed := range []string{"a/b", "../out", "l/../..", "abs/up/l", "a/b/out/x", root + "/a", root + "x", "chain", "./..//a", "loop", "/", "", "../root/a", "a\x00"} {
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, path string, follow bool) {
		rel, err := s.resolve(path, follow)
		if err != nil {
			if strings.Contains(err.Error(), base) && !strings.Contains(path, base) {
				t.Errorf("%q: the error shows where the root is: %v", path, err)
			}
			return
		}
		if !filepath.IsLocal(rel) {
			t.Fatalf("%q leads out: %q", path, rel)
		}
		if _, err := s.root.Lstat(rel); err != nil && strings.Contains(err.Error(), "escapes") {
			t.Errorf("%q: %q is not inside: %v", path, rel, err)
		}
		if follow {
			if _, err := s.root.Stat(rel); err != nil && strings.Contains(err.Error(), "escapes") {
				t.Errorf("%q: %q is not followed to its end: %v", path, rel, err)
			}
		}
	})
}
