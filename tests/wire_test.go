package tests

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// wire is a native connection without any client library: lines in, lines out.
type wire struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (d *daemon) dial() *wire {
	d.t.Helper()
	return dialWire(d.t, d.socket)
}

func dialWire(t *testing.T, socket string) *wire {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, c)
}

func newWire(t *testing.T, nc net.Conn) *wire {
	t.Cleanup(func() { nc.Close() })
	c := testkit.Conn{Conn: nc}
	return &wire{t: t, Conn: c, r: newLineReader(c)}
}

func newLineReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }

// send writes text as it is.
func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

// line reads one line, without its LF.
func (w *wire) line() string {
	w.t.Helper()
	s, err := w.r.ReadString('\n')
	if err != nil {
		w.t.Fatalf("read a line: %v (after %.200q)", err, s)
	}
	return strings.TrimSuffix(s, "\n")
}

// end reads to the end of the stream and returns what was left.
func (w *wire) end() string {
	w.t.Helper()
	b, err := io.ReadAll(w.r)
	if err != nil && !isReset(err) {
		w.t.Fatalf("read to the end: %v", err)
	}
	return string(b)
}

func isReset(err error) bool {
	return strings.Contains(err.Error(), "connection reset") // unread bytes of ours were dropped
}

// frame is what tests look at of any frame of the server.
type frame struct {
	Action    string          `json:"action"`
	Type      string          `json:"type"`
	RequestID json.RawMessage `json:"request_id"`
	Result    json.RawMessage `json:"result"`
	Data      json.RawMessage `json:"data"`
	Error     *string         `json:"error"`
	ErrorKind *string         `json:"error_kind"`
	Retry     string          `json:"retry"`
	Msg       string          `json:"msg"`
	Seq       uint64          `json:"seq"`
	line      string
}

func (f frame) id() string {
	var s string
	if json.Unmarshal(f.RequestID, &s) != nil {
		return string(f.RequestID)
	}
	return s
}

func (f frame) kind() string {
	if f.ErrorKind == nil {
		return ""
	}
	return *f.ErrorKind
}

func (f frame) text() string {
	if f.Error == nil {
		return ""
	}
	return *f.Error
}

// frame reads the next frame.
func (w *wire) frame() frame {
	w.t.Helper()
	f := frame{line: w.line()}
	// The standard decoder refuses NaN and Infinity, which the native wire carries.
	tame := strings.NewReplacer("-Infinity", "null", "Infinity", "null", "NaN", "null").Replace(f.line)
	if err := json.Unmarshal([]byte(tame), &f); err != nil {
		w.t.Fatalf("frame %.300q: %v", f.line, err)
	}
	return f
}

// request makes a call frame; params is JSON text.
func request(id, method, params string, more ...string) string {
	extra := ""
	if len(more) > 0 {
		extra = "," + strings.Join(more, ",")
	}
	return fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":%q,"params":%s%s}`+"\n", id, method, params, extra)
}

// call makes one call and returns its reply; frames of other calls must not be
// under way.
func (w *wire) call(id, method, params string, more ...string) frame {
	w.t.Helper()
	w.send(request(id, method, params, more...))
	f := w.frame()
	if f.Action != "rpc_reply" || f.id() != id {
		w.t.Fatalf("got %.300s, want the reply to %s", f.line, id)
	}
	return f
}

// result returns the exact bytes of the result of a reply.
func (w *wire) result(f frame) string {
	w.t.Helper()
	if f.Error != nil {
		w.t.Fatalf("got error %s: %s, want a result", f.kind(), f.text())
	}
	return rawMember(w.t, f.line, "result")
}

// rawMember cuts the bytes of a member out of a reply whose member order is
// that of the protocol: result is followed by error.
func rawMember(t *testing.T, line, name string) string {
	t.Helper()
	_, rest, ok := strings.Cut(line, `"`+name+`":`)
	i := strings.LastIndex(rest, `,"error":`)
	if !ok || i < 0 {
		t.Fatalf("no member %s followed by error in %.300s", name, line)
	}
	return strings.TrimSpace(rest[:i])
}
