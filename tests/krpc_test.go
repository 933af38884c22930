package tests

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// TestInteropKrpcPython runs the checks of interop/krpc, one subtest each,
// against one daemon.
func TestInteropKrpcPython(t *testing.T) {
	t.Parallel()
	python := needPython(t)
	script := filepath.Join("interop", "krpc", "check.py")
	list, err := pythonCommand(t.Context(), python, script, "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--file-root", t.TempDir())
	at := d.tcpAddress()
	names := strings.Fields(string(list))
	if len(names) == 0 {
		t.Fatal("there is no check")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, err := pythonCommand(ctx, python, script, at, d.socket, name).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "ok "+name) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// content yields bytes that never repeat in the same place of a block, and
// takes their digest.
type content struct {
	left int64
	n    uint32
	sum  hash.Hash
}

func newContent(size int64) *content { return &content{left: size, sum: sha256.New()} }

func (c *content) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), c.left)]
	for i := range p {
		c.n = c.n*1664525 + 1013904223
		p[i] = byte(c.n >> 24)
	}
	c.left -= int64(len(p))
	c.sum.Write(p)
	return len(p), nil
}

func (c *content) digest() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// Files of any size pass through the hub, over two protocols and in both
// directions, while its memory hardly grows.
func TestFilesPassInBoundedMemory(t *testing.T) {
	t.Parallel()
	const size = 128 << 20
	root := t.TempDir()
	d := startDaemon(t, "--file-root", root)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	before := d.status("VmRSS")

	// krpc: a file of a call, told and stored.
	for _, c := range []struct{ call, want string }{
		{`{"method": "demo_file_info", "params": ["__file__:1"]}`, `[{"name":"big","size":134217728,"sha256":"%s"}]`},
		{`{"method": "file_upload", "params": ["__file__:1", "krpc"]}`, `"krpc"`},
	} {
		src := newContent(size)
		head := "--B\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n" + c.call +
			"\r\n--B\r\nContent-Disposition: form-data; name=\"__file__:1\"; filename=\"big\"\r\n\r\n"
		body := io.MultiReader(strings.NewReader(head), src, strings.NewReader("\r\n--B--\r\n\r\n"))
		r, _ := http.NewRequestWithContext(ctx, "POST", "http://hub/", body)
		r.Header.Set("Content-Type", "multipart/form-data; boundary=B")
		resp, err := d.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		want := c.want
		if strings.Contains(want, "%s") {
			want = fmt.Sprintf(want, src.digest())
		}
		if want = `{"result": ` + want + `}`; err != nil || string(got) != want {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	// krpc: a result that is a file.
	resp, err := d.http.Get("http://hub/?json=" + url.QueryEscape(`{"method": "file_download", "params": ["krpc"]}`))
	if err != nil {
		t.Fatal(err)
	}
	down := sha256.New()
	n, err := io.Copy(down, resp.Body)
	resp.Body.Close()
	want := newContent(size)
	io.Copy(io.Discard, want)
	if err != nil || n != size || hex.EncodeToString(down.Sum(nil)) != want.digest() {
		t.Errorf("download over krpc: %d bytes, %v", n, err)
	}

	// The native protocol.
	c, err := client.Dial(ctx, d.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Open(ctx, "file.upload", map[string]any{"dst_path": "native"})
	if err != nil {
		t.Fatal(err)
	}
	src := newContent(size)
	buf := make([]byte, 48<<10)
	for {
		n, err := src.Read(buf)
		if err == io.EOF {
			break
		}
		if err := s.Send(buf[:n]); err != nil {
			break // Result says why
		}
	}
	var stored string
	if err := s.Result(&stored); err != nil || stored != "native" {
		t.Fatalf("%q, %v", stored, err)
	}
	sum := sha256.New()
	for item, err := range c.Stream(ctx, "file.download", map[string]any{"src_path": "native"}) {
		if err != nil {
			t.Fatal(err)
		}
		var text string
		if err := json.Unmarshal(item, &text); err != nil {
			t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		sum.Write(data)
	}
	if hex.EncodeToString(sum.Sum(nil)) != src.digest() {
		t.Error("download over the native protocol differs")
	}

	// About half of this is what the collector lets grow before it runs; a hub
	// that held one file in memory would need twice as much.
	limit := int64(96 << 20)
	if raceBuilt {
		limit *= 4
	}
	if peak := d.status("VmHWM"); peak-before > limit {
		t.Errorf("memory grew from %d to %d MiB", before>>20, peak>>20)
	} else {
		t.Logf("memory before %d MiB, peak %d MiB", before>>20, peak>>20)
	}
	left, err := os.ReadDir(filepath.Join(d.dir, "state", "spool"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}
