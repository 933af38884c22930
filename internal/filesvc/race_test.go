package filesvc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// While somebody swaps a folder of the root for a link to the outside and back,
// as fast as it goes, no method reads, writes, lists or deletes anything there.
func TestNothingLeadsOutInARace(t *testing.T) {
	b := newBox(t, Options{Quota: 1 << 30})
	if err := os.WriteFile(filepath.Join(b.out, "f"), []byte("SECRET"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := tree(t, b.out)
	real, link := filepath.Join(b.root, "swap"), filepath.Join(b.root, "link")
	if err := os.Mkdir(real, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.out, link); err != nil {
		t.Fatal(err)
	}
	b.write("swap/f", "inside")

	var stop atomic.Bool
	var swaps atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			if err := unix.Renameat2(unix.AT_FDCWD, real, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE); err != nil {
				t.Error("swapping: ", err)
				return
			}
			swaps.Add(1)
		}
	})
	// Each of these works while the folder is one, and is refused while it is a link.
	calls := map[string]func() (rpc.Value, error){
		"download":  func() (rpc.Value, error) { return b.call("file.download", "src_path", "swap/f") },
		"sha256":    func() (rpc.Value, error) { return b.call("file.sha256", "path", "swap/f") },
		"size":      func() (rpc.Value, error) { return b.call("file.size", "path", "swap/f") },
		"paths":     func() (rpc.Value, error) { return b.call("file.paths", "pattern", "s*p/*") },
		"folder":    func() (rpc.Value, error) { return b.call("file.paths", "pattern", "swap") },
		"path_info": func() (rpc.Value, error) { return b.call("file.path_info", "pattern", "swap/*") },
		"touch":     func() (rpc.Value, error) { return b.call("file.touch", "path", "swap/touched") },
		"mkdir":     func() (rpc.Value, error) { return b.call("file.create_dir", "path", "swap/a/b", "recurse", true) },
		"delete":    func() (rpc.Value, error) { return b.call("file.delete", "path", "swap/a", "recurse", true) },
		"upload": func() (rpc.Value, error) {
			return b.call("file.upload", "src", pieces("inside", 3), "dst_path", "swap/f")
		},
		"secret": func() (rpc.Value, error) { return b.call("file.delete", "path", "swap/secret") },
	}
	done := map[string]int{}
	end := time.Now().Add(1500 * time.Millisecond)
	for time.Now().Before(end) || swaps.Load() < 100 && !t.Failed() {
		for name, call := range calls {
			v, err := call()
			if err == nil {
				done[name]++
			} else if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeHandler {
				t.Errorf("%s: %v", name, err)
			}
			text := string(mustJSON(v))
			if strings.Contains(text, "secret") || strings.Contains(text, "sub") || strings.Contains(text, "U0VDUkVU") { // base64 of SECRET
				t.Fatalf("%s shows what is outside: %s", name, text)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	if after := tree(t, b.out); after != before {
		t.Errorf("the outside has changed:\n%s\n%s", before, after)
	}
	if done["download"] == 0 || done["upload"] == 0 {
		t.Errorf("in %d swaps only these worked: %v", swaps.Load(), done)
	}
}

// Pipes, sockets and devices are no files: nothing waits for them.
func TestWhatIsNoFileIsRefusedAtOnce(t *testing.T) {
	b := newBox(t, Options{})
	if err := unix.Mkfifo(filepath.Join(b.root, "pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	names := []string{"pipe"}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(b.root, "socket")}); err == nil { // the path may be too long
		names = append(names, "socket")
	}
	if err := unix.Mknod(filepath.Join(b.root, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err == nil { // root may
		names = append(names, "null")
	}
	for _, name := range names {
		for what, call := range map[string]func() (rpc.Value, error){
			"download": func() (rpc.Value, error) { return b.call("file.download", "src_path", name) },
			"sha256":   func() (rpc.Value, error) { return b.call("file.sha256", "path", name) },
			"upload":   func() (rpc.Value, error) { return b.call("file.upload", "src", pieces("x", 1), "dst_path", name) },
			"touch":    func() (rpc.Value, error) { return b.call("file.touch", "path", name) },
			"folder":   func() (rpc.Value, error) { return b.call("file.create_dir", "path", name+"/x") },
		} {
			if _, err := call(); err == nil || !strings.Contains(err.Error(), "Error: [Errno ") {
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
		if v, err := b.call("file.path_info", "pattern", name); err != nil || !strings.Contains(string(mustJSON(v)), `"isfile":false`) {
			t.Errorf("path_info of %s: %s, %v", name, mustJSON(v), err)
		}
		if _, err := b.call("file.delete", "path", name); err != nil {
			t.Error(err)
		}
	}
}

// Names that are no UTF-8 are shown with replacement characters; they hinder
// nothing, and go with their folder.
func TestNamesThatAreNoText(t *testing.T) {
	b := newBox(t, Options{Quota: 1 << 20})
	if err := os.Mkdir(filepath.Join(b.root, "odd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.root, "odd", "a\xff\xfe"), []byte("x"), 0o600); err != nil {
		t.Skip("this file system has no such names: ", err)
	}
	v, err := b.call("file.path_info", "pattern", "odd/*")
	if text := string(mustJSON(v)); err != nil || !strings.Contains(text, `"path":"odd/a`) || !strings.Contains(text, `"size":1`) {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := b.call("file.delete", "path", "odd", "recurse", true); err != nil {
		t.Error(err)
	}
	if strings.Contains(strings.Join(b.names("."), " "), "odd") {
		t.Error("it is still there")
	}
}
