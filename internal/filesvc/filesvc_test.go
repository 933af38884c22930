package filesvc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// box is a service whose root has a world around it that must not be reached.
type box struct {
	t     *testing.T
	s     *Service
	root  string
	out   string // a folder beside the root
	table *rpc.Table
}

func newBox(t *testing.T, o Options) *box {
	t.Helper()
	base := t.TempDir()
	b := &box{t: t, root: filepath.Join(base, "root"), out: filepath.Join(base, "outside")}
	for _, dir := range []string{b.root, b.out, filepath.Join(b.root, "dir", "deep"), filepath.Join(b.out, "sub")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.write("a.txt", "first")
	b.write("b.log", "second file")
	b.write(".hidden", "x")
	b.write("dir/c.txt", "third")
	b.write("dir/deep/d.txt", "fourth")
	if err := os.WriteFile(filepath.Join(b.out, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"out": b.out, "outfile": filepath.Join(b.out, "secret"), "up": "../outside", "loop": "loop",
		"in": "dir/deep", "abs": filepath.Join(b.root, "dir"), "dir/back": "..", "file": "a.txt", "dangling": "new.txt",
	} {
		if err := os.Symlink(target, filepath.Join(b.root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if o.Root == "" {
		o.Root = b.root
	}
	var err error
	if b.s, err = Open(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.s.Close() })
	b.table = rpc.NewTable()
	b.table.MustAdd(b.s.Methods()...)
	return b
}

func (b *box) write(name, content string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, name), []byte(content), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) read(name string) string {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.root, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

// names lists a folder of the root, temporary files included.
func (b *box) names(dir string) []string {
	b.t.Helper()
	list, err := os.ReadDir(filepath.Join(b.root, dir))
	if err != nil {
		b.t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// call makes one call with named arguments; a stream comes as an array.
func (b *box) call(method string, args ...any) (rpc.Value, error) {
	ctx, stop := context.WithTimeout(b.t.Context(), 20*time.Second)
	defer stop()
	return b.callIn(ctx, method, args...)
}

func (b *box) callIn(ctx context.Context, method string, args ...any) (rpc.Value, error) {
	var named []rpc.Named
	for i := 0; i+1 < len(args); i += 2 {
		v, err := rpc.Encode(args[i+1])
		if r, ok := args[i+1].(*rpc.Reader); ok {
			v, err = rpc.TreeValue(r), nil
		}
		if err != nil {
			b.t.Fatal(err)
		}
		named = append(named, rpc.Named{Name: args[i].(string), Value: v})
	}
	m := b.table.Lookup(method)
	if m == nil {
		b.t.Fatalf("no method %s", method)
	}
	return rpc.Do(ctx, m, &rpc.Call{Args: rpc.MixedArgs(nil, named), Peer: rpc.Local, Unary: true})
}

func (b *box) strings(v rpc.Value, err error) []string {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	list, err := v.AsList()
	if err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		s, err := e.AsString()
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func pieces(data string, size int) *rpc.Reader {
	var items []rpc.Value
	for len(data) > 0 {
		n := min(size, len(data))
		items = append(items, rpc.TreeValue(rpc.Bytes{Data: []byte(data[:n])}))
		data = data[n:]
	}
	return rpc.Items(items...)
}

// Whatever leads out of the root is refused, with the same error for what is
// there and what is not, and nothing outside is touched.
func TestNothingLeadsOut(t *testing.T) {
	b := newBox(t, Options{})
	before := tree(t, b.out)
	for _, path := range []string{
		"..", "../outside/secret", "../outside/nothing", "dir/../../outside/secret", b.out, b.out + "/secret", "/etc/passwd", "/",
		"out/secret", "out/nothing", "out", "outfile", "up/secret", "up", "dir/back/../outside/secret", "in/../../../outside/secret",
		"../root2/x", "../rootx", "dir/../..", "/..",
	} {
		want := "OSError: Permission denied: '" + path + "'"
		for method, args := range map[string][]any{
			"file.size": {"path", path}, "file.touch": {"path", path}, "file.create_dir": {"path", path, "recurse", true},
			"file.download": {"src_path", path}, "file.sha256": {"path", path}, "file.upload": {"src", pieces("x", 1), "dst_path", path},
			"file.paths": {"pattern", path}, "file.path_info": {"pattern", path},
		} {
			if _, err := b.call(method, args...); err == nil || err.Error() != want {
				t.Errorf("%s %s: %v", method, path, err)
			}
		}
		if path == "out" || path == "outfile" || path == "up" {
			continue // the link itself may be deleted
		}
		if _, err := b.call("file.delete", "path", path, "recurse", true); err == nil {
			t.Errorf("file.delete %s: no error", path)
		}
	}
	if after := tree(t, b.out); after != before {
		t.Errorf("the outside has changed:\n%s\n%s", before, after)
	}
}

// tree describes a folder: names, sizes, contents and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		fmt.Fprintln(&s, path, st.Mode(), st.Size(), st.ModTime().UnixNano())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

// A wildcard does not list behind a link that leads out.
func TestPatternsDoNotLeadOut(t *testing.T) {
	b := newBox(t, Options{})
	for _, pattern := range []string{"o*t/*", "u*/*", "*/secret", "out*/sub/*"} {
		for _, p := range b.strings(b.call("file.paths", "pattern", pattern)) {
			if strings.HasPrefix(p, "out") || strings.HasPrefix(p, "up") {
				t.Errorf("%s: %s", pattern, p)
			}
		}
	}
}

// Links and absolute paths that stay inside work.
func TestPathsInside(t *testing.T) {
	b := newBox(t, Options{})
	for path, want := range map[string]string{
		"a.txt": "first", "./a.txt": "first", "dir/../a.txt": "first", "file": "first", b.root + "/a.txt": "first",
		"../root/a.txt": "first", "in/d.txt": "fourth", "abs/c.txt": "third", "dir/back/a.txt": "first",
		"dir/back/dir/back/a.txt": "first", "in/../c.txt": "third", "dir//deep///d.txt": "fourth",
	} {
		v, err := b.call("file.download", "src_path", path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		list, _ := v.AsList()
		if len(list) != 1 {
			t.Errorf("%s: %d items", path, len(list))
			continue
		}
		if data, _ := list[0].AsBytes(); string(data) != want {
			t.Errorf("%s: %q, want %q", path, data, want)
		}
	}
}

// A root that is itself reached through a link is the same root.
func TestRootBehindLink(t *testing.T) {
	b := newBox(t, Options{})
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(b.root, link); err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{Root: link})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, path := range []string{link + "/a.txt", b.root + "/a.txt", "a.txt"} {
		if rel, err := s.resolve(path, true); err != nil || rel != "a.txt" {
			t.Errorf("%s: %q, %v", path, rel, err)
		}
	}
}

func TestErrorsAreThoseOfPython(t *testing.T) {
	b := newBox(t, Options{})
	if err := syscall.Mkfifo(filepath.Join(b.root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method string
		args   []any
		want   string
	}{
		{"file.size", []any{"path", "none"}, "FileNotFoundError: [Errno 2] No such file or directory: 'none'"},
		{"file.size", []any{"path", "it's"}, `FileNotFoundError: [Errno 2] No such file or directory: "it's"`},
		{"file.size", []any{"path", "a.txt/x"}, "NotADirectoryError: [Errno 20] Not a directory: 'a.txt/x'"},
		{"file.size", []any{"path", "loop"}, "OSError: [Errno 40] Too many levels of symbolic links: 'loop'"},
		{"file.size", []any{"path", strings.Repeat("x", 300)}, "OSError: [Errno 36] File name too long: '" + strings.Repeat("x", 300) + "'"},
		{"file.size", []any{"path", "a\x00b"}, "invalid_params: a path has no null byte"},
		{"file.download", []any{"src_path", "dir"}, "IsADirectoryError: [Errno 21] Is a directory: 'dir'"},
		{"file.download", []any{"src_path", "pipe"}, "OSError: [Errno 22] Invalid argument: 'pipe'"},
		{"file.download", []any{"src_path", "a.txt", "offset", -1}, "invalid_params: offset and length are not negative"},
		{"file.create_dir", []any{"path", "dir"}, "FileExistsError: [Errno 17] File exists: 'dir'"},
		{"file.create_dir", []any{"path", "x/y/z"}, "FileNotFoundError: [Errno 2] No such file or directory: 'x/y/z'"},
		{"file.create_dir", []any{"path", "a.txt", "recurse", true}, "FileExistsError: [Errno 17] File exists: 'a.txt'"},
		{"file.create_dir", []any{"path", "x", "mode", "rwx"}, `invalid_params: argument "mode": expected octal digits such as 755`},
		{"file.delete", []any{"path", "none"}, "FileNotFoundError: [Errno 2] No such file or directory: 'none'"},
		{"file.delete", []any{"path", "none", "recurse", true}, "FileNotFoundError: [Errno 2] No such file or directory: 'none'"},
		{"file.delete", []any{"path", "dir"}, "OSError: [Errno 39] Directory not empty: 'dir'"},
		{"file.delete", []any{"path", "", "recurse", true}, "OSError: Permission denied: ''"},
		{"file.delete", []any{"path", "dir/..", "recurse", true}, "OSError: Permission denied: 'dir/..'"},
		{"file.upload", []any{"src", pieces("x", 1), "dst_path", "dir"}, "IsADirectoryError: [Errno 21] Is a directory: 'dir'"},
		{"file.upload", []any{"src", pieces("x", 1), "dst_path", "new/"}, "IsADirectoryError: [Errno 21] Is a directory: 'new/'"},
		{"file.upload", []any{"src", pieces("x", 1), "dst_path", "no/new"}, "FileNotFoundError: [Errno 2] No such file or directory: 'no/new'"},
		{"file.upload", []any{"src", pieces("x", 1), "dst_path", "pipe"}, "OSError: [Errno 22] Invalid argument: 'pipe'"},
		{"file.upload", []any{"src", []int{1}, "dst_path", "x"}, "invalid_params: stream item: expected bytes, got a number"},
	} {
		_, err := b.call(c.method, c.args...)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s %v:\n%v\nwant %s", c.method, c.args, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), b.root) {
			t.Errorf("%s shows where the root is", c.method)
		}
	}
}

func TestPatterns(t *testing.T) {
	b := newBox(t, Options{})
	b.write("[x].txt", "")
	b.write(`back\slash.txt`, "")
	b.write("dir/e.log", "")
	for pattern, want := range map[string]string{
		"*.txt": `[x].txt a.txt back\slash.txt`, "?.*": "a.txt b.log", "[ab].*": "a.txt b.log", "[!a].*": "b.log", "*/*.txt": "abs/c.txt dir/c.txt in/d.txt",
		"dir": "dir/back dir/c.txt dir/deep dir/e.log", "dir/": "dir/back dir/c.txt dir/deep dir/e.log", "d*/d*": "dir/deep",
		"nothing*": "", "nothing": "", ".h*": ".hidden", "a.txt": "a.txt", "./a.*": "a.txt", "dir/../a.*": "a.txt", "**/c.txt": "abs/c.txt dir/c.txt",
		`back\*`: `back\slash.txt`, "[": "", "[]": "", "*/deep/*": "abs/deep/d.txt dir/deep/d.txt",
	} {
		got := strings.Join(b.strings(b.call("file.paths", "pattern", pattern)), " ")
		if got != want {
			t.Errorf("%s: %s, want %s", pattern, got, want)
		}
	}
	all := "[x].txt a.txt abs b.log back\\slash.txt dangling dir file in loop out outfile up"
	for _, args := range [][]any{nil, {"pattern", ""}, {"pattern", nil}, {"pattern", "."}, {"pattern", "*", "with_metadata", true}} {
		if got := strings.Join(b.strings(b.call("file.paths", args...)), " "); got != all {
			t.Errorf("%v: %s, want %s", args, got, all)
		}
	}
}

func TestPathInfo(t *testing.T) {
	b := newBox(t, Options{})
	at := time.Unix(1700000000, 250e6)
	if err := os.Chtimes(filepath.Join(b.root, "a.txt"), at, at); err != nil {
		t.Fatal(err)
	}
	v, err := b.call("file.path_info", "pattern", "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := v.JSON(); string(text) != `[{"path":"a.txt","size":5,"mtime":1700000000.25,"isfile":true}]` {
		t.Errorf("%s", text)
	}
	for _, p := range []string{"outfile", "dangling", "loop"} {
		v, err := b.call("file.path_info", "pattern", p[:len(p)-1]+"*")
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := v.JSON(); string(text) != `[{"path":"`+p+`","size":null,"mtime":null,"isfile":null}]` {
			t.Errorf("%s", text)
		}
	}
}

func TestManage(t *testing.T) {
	b := newBox(t, Options{})
	must := func(v rpc.Value, err error) {
		t.Helper()
		if err != nil || !v.IsNull() {
			t.Fatal(v, err)
		}
	}
	must(b.call("file.create_dir", "path", "new", "mode", "700"))
	if st, _ := os.Stat(filepath.Join(b.root, "new")); st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", st.Mode())
	}
	must(b.call("file.create_dir", "path", "new/x/y", "recurse", true))
	must(b.call("file.create_dir", "path", "new/x/y", "recurse", true))
	must(b.call("file.touch", "path", "new/x/f"))
	if got := b.read("new/x/f"); got != "" {
		t.Errorf("%q", got)
	}
	long := time.Unix(1, 0)
	os.Chtimes(filepath.Join(b.root, "a.txt"), long, long)
	must(b.call("file.touch", "path", "a.txt"))
	if st, _ := os.Stat(filepath.Join(b.root, "a.txt")); st.ModTime().Equal(long) || b.read("a.txt") != "first" {
		t.Errorf("touched: %v", st.ModTime())
	}
	must(b.call("file.delete", "path", "new", "recurse", true))
	must(b.call("file.delete", "path", "file"))
	must(b.call("file.delete", "path", "outfile"))
	must(b.call("file.delete", "path", "out", "recurse", true))
	must(b.call("file.delete", "path", "b.log"))
	if got := b.read("a.txt"); got != "first" {
		t.Error("deleting a link has deleted its file")
	}
	if data, err := os.ReadFile(filepath.Join(b.out, "secret")); err != nil || string(data) != "secret" {
		t.Error("deleting a link has deleted what it points to")
	}
	if names := b.names("."); slices.Contains(names, "new") || slices.Contains(names, "b.log") || slices.Contains(names, "out") {
		t.Errorf("left: %v", names)
	}
}

func TestDownloadInPieces(t *testing.T) {
	b := newBox(t, Options{})
	data := strings.Repeat("0123456789abcdef", 12500) // 200,000 bytes
	b.write("big", data)
	for _, c := range []struct{ offset, length, from, to int }{
		{0, -1, 0, 200000}, {5, -1, 5, 200000}, {5, 10, 5, 15}, {199999, 5, 199999, 200000}, {200000, -1, 200000, 200000},
		{1 << 40, 7, 200000, 200000}, {0, 0, 0, 0}, {65536, 65536, 65536, 131072},
	} {
		args := []any{"src_path", "big", "offset", c.offset}
		if c.length >= 0 {
			args = append(args, "length", c.length)
		}
		v, err := b.call("file.download", args...)
		if err != nil {
			t.Fatal(err)
		}
		list, _ := v.AsList()
		var got []byte
		for i, item := range list {
			data, _ := item.AsBytes()
			if len(data) != piece && i < len(list)-1 || len(data) == 0 {
				t.Errorf("item %d has %d bytes", i, len(data))
			}
			got = append(got, data...)
		}
		if string(got) != data[c.from:c.to] {
			t.Errorf("%+v: %d bytes", c, len(got))
		}
	}
	v, err := b.call("file.sha256", "path", "big")
	if want := fmt.Sprintf(`"%x"`, sha256.Sum256([]byte(data))); err != nil || string(mustJSON(v)) != want {
		t.Errorf("%s, %v", mustJSON(v), err)
	}
	if v, _ := b.call("file.size", "path", "big"); string(mustJSON(v)) != "200000" {
		t.Errorf("size %s", mustJSON(v))
	}
}

func mustJSON(v rpc.Value) []byte {
	text, err := v.JSON()
	if err != nil {
		panic(err)
	}
	return text
}

func TestUpload(t *testing.T) {
	for _, nameless := range []bool{true, false} {
		t.Run(fmt.Sprint("nameless ", nameless), func(t *testing.T) {
			b := newBox(t, Options{MaxUpload: 1 << 20})
			if nameless && !b.s.nameless {
				t.Skip("this file system has no files without a name")
			}
			b.s.nameless = nameless
			before := b.names(".")
			content := strings.Repeat("content", 10000)
			sum := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
			upload := func(dst string, src any, more ...any) (string, error) {
				v, err := b.call("file.upload", append([]any{"src", src, "dst_path", dst}, more...)...)
				if err != nil {
					return "", err
				}
				return v.AsString()
			}
			os.Chmod(filepath.Join(b.root, "a.txt"), 0o640)
			for dst, want := range map[string]string{"new": "new", "dir/new": "dir/new", "file": "a.txt", b.root + "/b.log": "b.log", "./in/x": "dir/deep/x"} {
				got, err := upload(dst, pieces(content, 8192), "sha256", strings.ToUpper(sum), "size", len(content))
				if err != nil || got != want || b.read(want) != content {
					t.Errorf("%s: %q, %v", dst, got, err)
				}
			}
			if st, _ := os.Stat(filepath.Join(b.root, "a.txt")); st.Mode().Perm() != 0o640 {
				t.Errorf("the permissions have become %v", st.Mode())
			}
			if _, err := upload("empty", []string{}); err != nil || b.read("empty") != "" {
				t.Error("an empty file", err)
			}
			if _, err := upload("text", []string{"YWJj", "ZA=="}); err != nil || b.read("text") != "abcd" {
				t.Error("base64", err)
			}

			// What fails leaves what was there, and nothing else.
			big := strings.Repeat("x", 1<<20+1)
			for name, try := range map[string]func() (string, error){
				"too large":           func() (string, error) { return upload("new", pieces(big, 65536)) },
				"too large announced": func() (string, error) { return upload("new", pieces("x", 1), "size", 1<<30) },
				"wrong digest":        func() (string, error) { return upload("new", pieces("other", 8192), "sha256", sum) },
				"wrong size":          func() (string, error) { return upload("new", pieces("other", 8192), "size", 6) },
				"bad item":            func() (string, error) { return upload("new", []any{"YWJj", 5}) },
			} {
				if _, err := try(); err == nil {
					t.Errorf("%s: no error", name)
				} else if name == "too large" && !errors.Is(err, &rpc.Error{Code: rpc.CodeTooLarge}) {
					t.Errorf("%s: %v", name, err)
				}
				if b.read("new") != content {
					t.Errorf("%s: the old content is gone", name)
				}
			}
			want := append(before, "empty", "new", "text")
			slices.Sort(want)
			if got := b.names("."); !slices.Equal(got, want) {
				t.Errorf("left: %v, want %v", got, want)
			}
		})
	}
}

// An upload is not seen before it is complete, and one that is cancelled never.
func TestUploadThatIsCancelled(t *testing.T) {
	for _, nameless := range []bool{true, false} {
		b := newBox(t, Options{})
		b.s.nameless = b.s.nameless && nameless
		before := b.names(".")
		taken := make(chan int, 100)
		src := rpc.NewReader(grants(func(n int) { taken <- n }))
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := b.callIn(ctx, "file.upload", "src", src, "dst_path", "a.txt")
			done <- err
		}()
		<-taken
		src.Item(nil, rpc.TreeValue(rpc.Bytes{Data: bytes.Repeat([]byte("x"), 100000)}))
		if got := b.read("a.txt"); got != "first" {
			t.Errorf("%.20q while the upload runs", got)
		}
		stop()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		deadline := time.Now().Add(20 * time.Second)
		for !slices.Equal(b.names("."), before) && time.Now().Before(deadline) {
			<-time.After(2 * time.Millisecond)
		}
		if got := b.names("."); !slices.Equal(got, before) || b.read("a.txt") != "first" {
			t.Errorf("left: %v", got)
		}
	}
}

type grants func(int)

func (f grants) Grant(n int)   { f(n) }
func (grants) Stop(*rpc.Error) {}

func TestOpenRefuses(t *testing.T) {
	for _, root := range []string{"relative", "/does/not/exist", "/dev/null"} {
		if s, err := Open(Options{Root: root}); err == nil {
			s.Close()
			t.Errorf("%s: no error", root)
		}
	}
}
