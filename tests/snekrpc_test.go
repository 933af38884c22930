package tests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/snekrpc"
)

// snekrpc against the real daemon: JSON with a client in plain Python,
// MessagePack with the Go client, on each of the three transports.

// bulk is how many bytes a large file has: less where the race detector makes
// each of them slow.
var bulk = func() int {
	if raceBuilt {
		return 8 << 20
	}
	return 64 << 20
}()

// snekrpcDaemon starts a hub with files and returns its addresses.
func snekrpcDaemon(t *testing.T) (root string, urls []string) {
	t.Helper()
	root = shortDir(t)
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--file-root", root)
	at := d.tcpAddress()
	return root, []string{"unix://" + d.socket, "tcp://" + at, "http://" + at}
}

// TestInteropSnekrpcPython runs the checks of interop/snekrpc.
func TestInteropSnekrpcPython(t *testing.T) {
	t.Parallel()
	python := needPython(t)
	script := filepath.Join("interop", "snekrpc", "check.py")
	list, err := pythonCommand(t.Context(), python, script, "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	root, urls := snekrpcDaemon(t)
	names := strings.Fields(string(list))
	if len(names) == 0 {
		t.Fatal("there is no check")
	}
	for _, url := range urls {
		scheme, _, _ := strings.Cut(url, ":")
		t.Run(scheme, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			out, err := pythonCommand(ctx, python, script, "--root", root, "--mib", strconv.Itoa(bulk>>20), url).CombinedOutput()
			for _, name := range names {
				if !strings.Contains(string(out), "ok "+name+"\n") {
					t.Errorf("%s did not pass", name)
				}
			}
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Large files go up and come down, and 20 MiB through a stream in both directions,
// in pieces of bytes.
func TestSnekrpcFilesAndStreams(t *testing.T) {
	t.Parallel()
	root, urls := snekrpcDaemon(t)
	data := make([]byte, bulk)
	rand.NewChaCha8([32]byte{1}).Read(data)
	want := sha256.Sum256(data)
	for _, url := range urls {
		for _, codec := range []string{"msgpack", "json"} {
			scheme, _, _ := strings.Cut(url, ":")
			t.Run(scheme+" "+codec, func(t *testing.T) {
				client, err := snekrpc.NewClient(snekrpc.ClientConfig{URL: url, Codec: codec})
				if err != nil {
					t.Fatal(err)
				}
				defer client.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				name := scheme + "-" + codec
				if v, err := client.Call(ctx, snekrpc.Request{
					Service: "file", Command: "upload", Args: []rpc.Value{rpc.TreeValue(pieces(ctx, data, 1<<20)), rpc.String(name)},
				}); err != nil {
					t.Fatal(v, err)
				}
				stored, err := os.ReadFile(filepath.Join(root, name))
				if err != nil || sha256.Sum256(stored) != want {
					t.Fatalf("%d bytes were stored, %v", len(stored), err)
				}
				down := sha256.New()
				if _, err := client.Call(ctx, snekrpc.Request{
					Service: "file", Command: "download", Named: []rpc.Named{{Name: "src_path", Value: rpc.String(name)}},
					Open: func() func(rpc.Value) error {
						return func(v rpc.Value) error {
							b, err := v.AsBytes()
							down.Write(b)
							return err
						}
					},
				}); err != nil || [32]byte(down.Sum(nil)) != want {
					t.Errorf("download: %x, %v", down.Sum(nil), err)
				}
				if err := os.Remove(filepath.Join(root, name)); err != nil {
					t.Error(err)
				}
				if codec == "json" {
					return // there bytes are text, and upper would turn them into other bytes
				}
				part, n := data[:min(20<<20, bulk)], 0
				if _, err := client.Call(ctx, snekrpc.Request{
					Service: "demo", Command: "upper", Args: []rpc.Value{rpc.TreeValue(pieces(ctx, part, 64<<10))},
					Open: func() func(rpc.Value) error {
						return func(v rpc.Value) error {
							b, err := v.AsBytes()
							if err == nil && !bytes.Equal(b, upperASCII(part[n:n+len(b)])) {
								err = fmt.Errorf("the item at %d differs", n)
							}
							n += len(b)
							return err
						}
					},
				}); err != nil || n != len(part) {
					t.Errorf("upper: %d bytes, %v", n, err)
				}
			})
		}
	}
}

func upperASCII(p []byte) []byte {
	out := bytes.Clone(p)
	for i, c := range out {
		if c >= 'a' && c <= 'z' {
			out[i] = c - 'a' + 'A'
		}
	}
	return out
}

// pieces is a stream of data in pieces of that size, each sent when it is wanted.
func pieces(ctx context.Context, data []byte, size int) *rpc.Reader {
	credit := make(creditSource, 1<<16)
	r := rpc.NewReader(credit)
	go func() {
		for len(data) > 0 {
			select {
			case <-credit:
			case <-ctx.Done():
				r.End(nil, rpc.ErrCancelled)
				return
			}
			room := make(chan struct{})
			r.OnRoom(0, func() { close(room) })
			<-room
			n := min(size, len(data))
			r.Item(nil, rpc.TreeValue(rpc.Bytes{Data: data[:n]}))
			data = data[n:]
		}
		r.End(nil, nil)
	}()
	return r
}

// creditSource counts the items that a reader wants.
type creditSource chan struct{}

func (c creditSource) Grant(n int) {
	for range n {
		c <- struct{}{}
	}
}
func (creditSource) Stop(*rpc.Error) {}

// 64 clients at once, on all transports and with both codecs.
func TestSnekrpcParallelClients(t *testing.T) {
	t.Parallel()
	_, urls := snekrpcDaemon(t)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			client, err := snekrpc.NewClient(snekrpc.ClientConfig{URL: urls[i%3], Codec: []string{"msgpack", "json"}[i/3%2]})
			if err != nil {
				t.Error(err)
				return
			}
			defer client.Close()
			for k := range 50 {
				v, err := client.Call(t.Context(), snekrpc.Request{Service: "math", Command: "add", Args: []rpc.Value{rpc.Int(int64(i)), rpc.Int(int64(k))}})
				if n, e := v.AsInt(); err != nil || e != nil || n != int64(i+k) {
					t.Errorf("%d + %d = %d, %v %v", i, k, n, err, e)
					return
				}
			}
			v, err := client.Call(t.Context(), snekrpc.Request{Service: "demo", Command: "count", Args: []rpc.Value{rpc.Int(300)}})
			if list, e := v.AsList(); err != nil || e != nil || len(list) != 300 {
				t.Errorf("%d items, %v %v", len(list), err, e)
			}
		})
	}
	wg.Wait()
}
