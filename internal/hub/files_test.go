package hub

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// Over Cap'n Web a file is a stream of bytes in both directions, and one that is
// given up half-way leaves nothing.
func TestFilesOverCapnweb(t *testing.T) {
	root := t.TempDir()
	h := startHub(t, Options{FileRoot: root})
	ctx := t.Context() // the race detector makes 8 MiB there and back slow
	c, err := capnweb.Dial(ctx, "unix://"+h.socket, capnweb.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<19) // 8 MiB
	src, err := (&rpc.File{Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}).Stream()
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Call(ctx, "file.upload", src, "up")
	if err != nil {
		t.Fatal(err)
	}
	if path, _ := v.AsString(); path != "up" {
		t.Errorf("stored as %q", path)
	}
	if v, err = c.Call(ctx, "file.download", "up"); err != nil {
		t.Fatal(err)
	}
	r, err := v.AsReader()
	if err != nil {
		t.Fatal(err)
	}
	var got []byte
	for item, err := range r.All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		piece, err := item.AsBytes()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, piece...)
	}
	if !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back", len(got))
	}

	wanted := make(chan struct{}, 100)
	half := rpc.NewReader(wants(func() {
		select {
		case wanted <- struct{}{}:
		default:
		}
	}))
	go c.Call(ctx, "file.upload", half, "half") // ends with the connection
	<-wanted
	half.Item(nil, rpc.TreeValue(rpc.Bytes{Data: data[:1<<16]}))
	eventually(t, "the upload runs", func() bool {
		return bytes.Contains(h.dial().call("hub.calls", `[]`).Result, []byte(`"file.upload"`))
	})
	c.Close()
	eventually(t, "the upload has ended", func() bool {
		return !bytes.Contains(h.dial().call("hub.calls", `[]`).Result, []byte(`"file.upload"`))
	})
	left, err := os.ReadDir(root)
	if err != nil || len(left) != 1 || left[0].Name() != "up" {
		t.Errorf("left: %v, %v", left, err)
	}
	if stored, _ := os.ReadFile(filepath.Join(root, "up")); !bytes.Equal(stored, data) {
		t.Error("the file differs")
	}
}

// The quota holds for every protocol, and each tells it in its own words.
func TestFileQuota(t *testing.T) {
	root := t.TempDir()
	h := startHub(t, Options{FileRoot: root, FileQuota: 64 << 10})
	w := h.dial()
	data := base64.StdEncoding.EncodeToString(make([]byte, 16<<10))
	if r := w.call("file.upload", fmt.Sprintf(`{"src": [%q, %q, %q], "dst_path": "n"}`, data, data, data)); string(r.Result) != `"n"` {
		t.Fatalf("%+v", r)
	}
	r := w.call("file.upload", fmt.Sprintf(`{"src": [%q, %q], "dst_path": "m"}`, data, data))
	if r.kind() != "too_large" || !bytes.Contains(r.ErrorData, []byte(`"limit":"file_quota"`)) || !bytes.Contains(r.ErrorData, []byte(`"quota":65536`)) {
		t.Errorf("%s %s", r.kind(), r.ErrorData)
	}
	status, body := h.ask("unix", h.socket, krpcUpload(`{"method": "file_upload", "params": ["__file__:1", "m"]}`, "x", strings.Repeat("x", 20<<10)))
	if status != 413 || !strings.Contains(body, "the hub's files may have 65536 bytes in all, and ") {
		t.Errorf("%d %s", status, body)
	}
	if got := h.sample(`hubd_rejected_total{limit="file_quota"}`); got != "2" {
		t.Errorf("counted %q", got)
	}
	if got := h.sample("hubd_file_quota_used_bytes"); got != "49152" {
		t.Errorf("%q bytes are shown", got)
	}
	if r := w.call("file.delete", `["n"]`); r.Error != nil {
		t.Errorf("%+v", r)
	}
	if r := w.call("file.upload", fmt.Sprintf(`{"src": [%q, %q], "dst_path": "m"}`, data, data)); string(r.Result) != `"m"` {
		t.Errorf("%+v", r)
	}
}

type wants func()

func (f wants) Grant(int)     { f() }
func (wants) Stop(*rpc.Error) {}
