package kollabor

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// repeat is a reader of the same bytes n times.
type repeat struct {
	text []byte
	at   int
	n    int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.at == len(r.text) {
		if r.n--; r.n <= 0 {
			return 0, io.EOF
		}
		r.at = 0
	}
	n := copy(p, r.text[r.at:])
	r.at += n
	return n, nil
}

// discard is a Wire that takes everything.
type discard struct{ writes int }

func (d *discard) TryWrite(p []byte) (int, error) { d.writes++; return len(p), nil }
func (d *discard) Write(p []byte) (int, error)    { d.writes++; return len(p), nil }
func (d *discard) Close() error                   { return nil }

// The cost of one call on the reader, from bytes to bytes, without a socket.
func BenchmarkCall(b *testing.B) {
	for _, c := range []struct {
		name, method, params string
		batch                int
	}{
		{"echo", "echo", `{"text":"` + strings.Repeat("x", 100) + `"}`, 1},
		{"echo/64 per read", "echo", `{"text":"` + strings.Repeat("x", 100) + `"}`, 64},
		{"ping/64 per read", "ping", `{}`, 64},
		{"goroutine/64 per read", "demo.fail", `{"message":"x"}`, 64},
	} {
		b.Run(c.name, func(b *testing.B) {
			var text bytes.Buffer
			for i := range c.batch {
				fmt.Fprintf(&text, `{"action": "rpc_request", "request_id": "%032x", "method": "%s", "params": %s, "timeout": 30.0}`+"\n", i, c.method, c.params)
			}
			s := New(Config{Table: testTable(), Gate: &rpc.Gate{CallsPerLink: 1 << 30, Calls: 1 << 30}})
			w := new(discard)
			b.ReportAllocs()
			b.ResetTimer()
			err := s.Serve(b.Context(), Conn{Reader: &repeat{text: text.Bytes(), n: b.N/c.batch + 1}, Wire: w, Peer: everybody})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(w.writes)/float64(b.N), "writes/op")
		})
	}
}
