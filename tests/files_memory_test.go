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
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/rpc/snekrpc"
)

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

// stream is content as the argument of a call.
func (c *content) stream() (*rpc.Reader, error) {
	return (&rpc.File{Size: c.left, Open: func() (io.ReadCloser, error) { return io.NopCloser(c), nil }}).Stream()
}

// fileClient moves files by one protocol.
type fileClient struct {
	name string
	up   func(ctx context.Context, c *content, name string) (stored string, err error)
	down func(ctx context.Context, name string, w io.Writer) error
}

// Files of any size pass through the hub, over each protocol that streams bytes
// and in both directions, while its memory hardly grows.
func TestFilesPassInBoundedMemory(t *testing.T) {
	t.Parallel()
	// A hub does with this much more than what it uses anyway, most of which is
	// what the collector lets grow before it runs. One that held a file in
	// memory, or let it pile up behind a slow side, would need more.
	const size, limit = 96 << 20, 80 << 20
	root := t.TempDir()
	d := startDaemon(t, "--file-root", root, "--listen", "tcp://127.0.0.1:0?auth=none")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	before := d.status("VmRSS")
	for _, c := range []fileClient{
		krpcFiles(d), nativeFiles(d), capnwebFiles(d), snekrpcFiles("unix://" + d.socket), snekrpcFiles("tcp://" + d.tcpAddress()),
	} {
		src := newContent(size)
		if stored, err := c.up(ctx, src, "big"); err != nil || stored != "big" {
			t.Errorf("%s: stored as %q, %v", c.name, stored, err)
			continue
		}
		down := sha256.New()
		if err := c.down(ctx, "big", down); err != nil || hex.EncodeToString(down.Sum(nil)) != src.digest() {
			t.Errorf("%s: what came back differs, %v", c.name, err)
		}
		if err := os.Remove(filepath.Join(root, "big")); err != nil {
			t.Error(err)
		}
		peak := d.status("VmHWM")
		t.Logf("%s: memory before %d MiB, peak %d MiB", c.name, before>>20, peak>>20)
		if peak-before > limit && !raceBuilt { // the race detector multiplies it
			t.Errorf("%s: memory grew from %d to %d MiB", c.name, before>>20, peak>>20)
			break
		}
	}
	left, err := os.ReadDir(filepath.Join(d.dir, "state", "spool"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}

// krpcFiles has each file told by demo.file_info, too.
func krpcFiles(d *daemon) fileClient {
	post := func(ctx context.Context, call string, src *content) (string, error) {
		head := "--B\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n" + call +
			"\r\n--B\r\nContent-Disposition: form-data; name=\"__file__:1\"; filename=\"big\"\r\n\r\n"
		body := io.MultiReader(strings.NewReader(head), src, strings.NewReader("\r\n--B--\r\n\r\n"))
		r, err := http.NewRequestWithContext(ctx, "POST", "http://hub/", body)
		if err != nil {
			return "", err
		}
		r.Header.Set("Content-Type", "multipart/form-data; boundary=B")
		resp, err := d.http.Do(r)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		return string(got), err
	}
	return fileClient{
		name: "krpc",
		up: func(ctx context.Context, src *content, name string) (string, error) {
			twin, size := newContent(src.left), src.left
			got, err := post(ctx, `{"method": "demo_file_info", "params": ["__file__:1"]}`, twin)
			if err == nil && got != fmt.Sprintf(`{"result": [{"name":"big","size":%d,"sha256":"%s"}]}`, size, twin.digest()) {
				err = fmt.Errorf("file_info: %s", got)
			}
			if err != nil {
				return "", err
			}
			got, err = post(ctx, `{"method": "file_upload", "params": ["__file__:1", "`+name+`"]}`, src)
			return strings.TrimSuffix(strings.TrimPrefix(got, `{"result": "`), `"}`), err
		},
		down: func(ctx context.Context, name string, w io.Writer) error {
			at := "http://hub/?json=" + url.QueryEscape(`{"method": "file_download", "params": ["`+name+`"]}`)
			r, err := http.NewRequestWithContext(ctx, "GET", at, nil)
			if err != nil {
				return err
			}
			resp, err := d.http.Do(r)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.Copy(w, resp.Body)
			return err
		},
	}
}

func nativeFiles(d *daemon) fileClient {
	return fileClient{
		name: "native",
		up: func(ctx context.Context, src *content, name string) (stored string, err error) {
			c, err := client.Dial(ctx, d.socket, nil)
			if err != nil {
				return "", err
			}
			defer c.Close()
			s, err := c.Open(ctx, "file.upload", map[string]any{"dst_path": name})
			if err != nil {
				return "", err
			}
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
			err = s.Result(&stored)
			return stored, err
		},
		down: func(ctx context.Context, name string, w io.Writer) error {
			c, err := client.Dial(ctx, d.socket, nil)
			if err != nil {
				return err
			}
			defer c.Close()
			for item, err := range c.Stream(ctx, "file.download", map[string]any{"src_path": name}) {
				if err != nil {
					return err
				}
				var text string
				if err := json.Unmarshal(item, &text); err != nil {
					return err
				}
				data, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return err
				}
				if _, err := w.Write(data); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func capnwebFiles(d *daemon) fileClient {
	call := func(ctx context.Context, method string, args ...any) (rpc.Value, func(), error) {
		c, err := capnweb.Dial(ctx, "unix://"+d.socket, capnweb.DialOptions{})
		if err != nil {
			return rpc.Value{}, func() {}, err
		}
		v, err := c.Call(ctx, method, args...)
		return v, func() { c.Close() }, err
	}
	return fileClient{
		name: "capnweb",
		up: func(ctx context.Context, src *content, name string) (string, error) {
			stream, err := src.stream()
			if err != nil {
				return "", err
			}
			v, end, err := call(ctx, "file.upload", stream, name)
			defer end()
			if err != nil {
				return "", err
			}
			return v.AsString()
		},
		down: func(ctx context.Context, name string, w io.Writer) error {
			v, end, err := call(ctx, "file.download", name)
			defer end()
			if err != nil {
				return err
			}
			r, err := v.AsReader()
			if err != nil {
				return err
			}
			for item, err := range r.All(ctx) {
				if err != nil {
					return err
				}
				if err := writeItem(w, item); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func snekrpcFiles(url string) fileClient {
	scheme, _, _ := strings.Cut(url, ":")
	call := func(ctx context.Context, r snekrpc.Request) (rpc.Value, error) {
		c, err := snekrpc.NewClient(snekrpc.ClientConfig{URL: url, Codec: "msgpack"})
		if err != nil {
			return rpc.Value{}, err
		}
		defer c.Close()
		return c.Call(ctx, r)
	}
	return fileClient{
		name: "snekrpc over " + scheme,
		up: func(ctx context.Context, src *content, name string) (string, error) {
			stream, err := src.stream()
			if err != nil {
				return "", err
			}
			v, err := call(ctx, snekrpc.Request{Service: "file", Command: "upload", Args: []rpc.Value{rpc.TreeValue(stream), rpc.String(name)}})
			if err != nil {
				return "", err
			}
			return v.AsString()
		},
		down: func(ctx context.Context, name string, w io.Writer) error {
			_, err := call(ctx, snekrpc.Request{
				Service: "file", Command: "download", Args: []rpc.Value{rpc.String(name)},
				Open: func() func(rpc.Value) error { return func(v rpc.Value) error { return writeItem(w, v) } },
			})
			return err
		},
	}
}

func writeItem(w io.Writer, item rpc.Value) error {
	data, err := item.AsBytes()
	if err == nil {
		_, err = w.Write(data)
	}
	return err
}
