package snekrpc

import (
	"fmt"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// careless serves connections as Python's server does: it answers a command
// with a stream at once, without reading the stream, and then each message of
// it with an error of its own. echo returns its argument.
func careless(t *testing.T) (url string, accepted *atomic.Int32) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skipf("no socket at %s: %v", path, err)
	}
	t.Cleanup(func() { l.Close() })
	accepted = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				in := newReader(c, false, 0)
				for {
					msg, err := in.next()
					if err != nil {
						return
					}
					out := beginFrame(nil, false)
					var m message
					switch {
					case msg[0] == handshake:
						out = append(append(out, handshake), codecJSON...)
					case jsonCodec{}.decode(msg, &m) == nil && m.kind == commandMsg && m.streams() == 0:
						if out, err = appendData(out, jsonCodec{}, m.args[0].value); err != nil {
							return
						}
					case m.kind == commandMsg:
						out = appendError(out, jsonCodec{}, "ValueError", "refused")
					default:
						out = appendError(out, jsonCodec{}, nameMessage, "stray")
					}
					if _, err := c.Write(endFrame(out, 0, false)); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "unix://" + path, accepted
}

// The answers to what a server left of a stream are nobody else's, and cost no connection.
func TestRealign(t *testing.T) {
	url, accepted := careless(t)
	client, err := NewClient(ClientConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for i := range 20 {
		items := make([]rpc.Value, 10*i)
		for k := range items {
			items[k] = rpc.Int(int64(k))
		}
		_, err := client.Call(t.Context(), Request{Service: "x", Command: "y", Args: []rpc.Value{rpc.TreeValue(rpc.Items(items...))}})
		if e, ok := err.(*rpc.Error); !ok || e.Name != nameRemote || e.Message != "ValueError: refused" {
			t.Fatalf("%d items: %v", len(items), err)
		}
		eventually(t, "the connection is given back", func() bool {
			client.mu.Lock()
			defer client.mu.Unlock()
			return client.open == 0
		})
		v, err := client.Call(t.Context(), Request{Service: "echo", Command: "echo", Args: []rpc.Value{rpc.Int(int64(i))}})
		if text, e := v.JSON(); err != nil || e != nil || string(text) != fmt.Sprint(i) {
			t.Fatalf("after %d items: %s, %v", len(items), text, err)
		}
	}
	if n := accepted.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
