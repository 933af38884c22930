package kkrpc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// BenchmarkReceive is the hub's own work for one call: parse, run echo, encode.
func BenchmarkReceive(b *testing.B) {
	text := strings.Repeat("x", 100)
	for name, msg := range map[string]string{
		"classic": `{"id":"4b46-16f3-34e7-62c2","method":"echo","args":["` + text + `"],"type":"request","version":"json"}`,
		"compact": `{"t":"q","id":"4b46-16f3-34e7-62c2","op":"call","p":["echo"],"a":[{"__kkrpc_next_arg__":"value","v":"` + text + `"}]}`,
	} {
		b.Run(name, func(b *testing.B) {
			d := newDemo()
			n := 0
			s := newSession(sendFunc(func([]byte) { n++ }), rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{}, false)
			batch := new(rpc.Batch)
			batch.Begin()
			b.ReportAllocs()
			for b.Loop() {
				s.Receive(batch, []byte(msg))
			}
			if n != b.N {
				b.Errorf("%d answers to %d calls", n, b.N)
			}
		})
	}
}

// BenchmarkEcho is a round trip with the package's own client at the other end.
func BenchmarkEcho(b *testing.B) {
	for _, dialect := range []Dialect{Classic, Compact} {
		b.Run(fmt.Sprint("websocket", dialect), func(b *testing.B) {
			d := newDemo()
			url, _, _ := serveDemo(b, d, Config{})
			c, err := Dial(b.Context(), url, Options{Dialect: dialect})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.SetParallelism(32)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := c.Call(b.Context(), "echo", "x"); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
