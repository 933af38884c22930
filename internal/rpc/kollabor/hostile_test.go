package kollabor

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// Every bad line: what comes back in the command phase ("" nothing, "error" a
// complaint, "reply" an error reply), and why it is counted.
var badLines = []struct {
	name, line string
	answer     string
	id         any // of the answer; nil: it has none
	kind       string
	reason     frame.Reason
}{
	{"blank", "", "", nil, "", ""},
	{"blanks", " \t\r ", "", nil, "", ""},
	{"no JSON", "not json", "error", nil, "", frame.BadJSON},
	{"no JSON with an id", `{"action":"rpc_request","request_id":"i1","method":"echo","params":{bad}}`, "reply", "i1", "invalid_params", frame.BadJSON},
	{"cut off", `{"action":"rpc_request","request_id":"i2","method":"ec`, "reply", "i2", "invalid_params", frame.BadJSON},
	{"cut off before the id", `{"action":"rpc_request","requ`, "reply", "", "invalid_params", frame.BadJSON},
	{"broken before the id", `{"params":{bad},"request_id":"i3","action":"rpc_request"}`, "reply", "i3", "invalid_params", frame.BadJSON},
	{"an id inside of params only", `{"params":{"request_id":"no"},bad`, "error", nil, "", frame.BadJSON},
	{"two objects", `{"action":"ping"}{"action":"ping"}`, "error", nil, "", frame.BadJSON},
	{"array", "[]", "error", nil, "", frame.NotObject},
	{"string", `"x"`, "error", nil, "", frame.NotObject},
	{"null", "null", "error", nil, "", frame.NotObject},
	{"number", "3", "error", nil, "", frame.NotObject},
	{"bytes", "\xff\xfe", "error", nil, "", frame.BadUTF8},
	{"bytes in a call", "{\"action\":\"rpc_request\",\"request_id\":\"i4\",\"method\":\"echo\",\"params\":{\"a\":\"\xff\"}}", "reply", "i4", "invalid_params", frame.BadUTF8},
	{"overlong", "{\"a\":\"\xc0\x80\"}", "error", nil, "", frame.BadUTF8},
	{"a surrogate in UTF-8", "{\"a\":\"\xed\xa0\x80\"}", "error", nil, "", frame.BadUTF8},
	{"control character", "{\"action\":\"pi\x01ng\"}", "error", nil, "", frame.BadJSON},
	{"NUL", "\x00", "error", nil, "", frame.BadJSON},
	{"upper case", `{"Action":"ping"}`, "error", nil, "", frame.UnknownAction},
	{"unknown action", `{"action":"nope","request_id":"i5"}`, "error", "i5", "", frame.UnknownAction},
	{"no action", `{"no_action":1}`, "error", nil, "", frame.UnknownAction},
	{"empty", `{}`, "error", nil, "", frame.UnknownAction},
	{"action is a number", `{"action":5}`, "error", nil, "", frame.BadType},
	{"action is null", `{"action":null}`, "error", nil, "", frame.UnknownAction},
	{"input", `{"type":"input","text":"x"}`, "error", nil, "", frame.Misplaced},
	{"no request id", `{"action":"rpc_request","method":"echo"}`, "reply", "", "handler", frame.NoRequestID},
	{"no method", `{"action":"rpc_request","request_id":"i6"}`, "reply", "i6", "handler", frame.NoMethod},
	{"method is an array", `{"action":"rpc_request","request_id":"i7","method":["echo"]}`, "reply", "i7", "handler", frame.BadType},
	{"method is a number", `{"action":"rpc_request","request_id":"i8","method":5}`, "reply", "i8", "not_found", ""},
	{"method is empty", `{"action":"rpc_request","request_id":"i8","method":""}`, "reply", "i8", "not_found", ""},
	{"a long method", `{"action":"rpc_request","request_id":"i8","method":"` + strings.Repeat("m", 100000) + `"}`, "reply", "i8", "not_found", ""},
	{"two ids", `{"action":"rpc_request","request_id":"i9","request_id":"i10","method":"echo"}`, "reply", "i9", "invalid_params", frame.Duplicate},
	{"two params", `{"action":"rpc_request","request_id":"i11","method":"echo","params":1,"params":{}}`, "reply", "i11", "invalid_params", frame.Duplicate},
	{"two actions", `{"action":"ping","action":"ping"}`, "error", nil, "", frame.Duplicate},
	{"stream is a string", `{"action":"rpc_request","request_id":"i12","method":"echo","stream":"yes"}`, "reply", "i12", "invalid_params", frame.BadType},
	{"NaN as id", `{"action":"rpc_request","request_id":NaN,"method":"echo"}`, "reply", "", "invalid_params", frame.BadToken},
	{"NaN beside params", `{"action":"rpc_request","request_id":"i13","method":"echo","x":[NaN]}`, "reply", "i13", "invalid_params", frame.BadToken},
	{"surrogate in the method", `{"action":"rpc_request","request_id":"i14","method":"\ud800"}`, "reply", "i14", "invalid_params", frame.BadToken},
	{"a long id", `{"action":"rpc_request","request_id":"` + strings.Repeat("i", 255) + `","method":"echo"}`, "reply", strings.Repeat("i", 255), "invalid_params", frame.BadType},
	{"a very long id", `{"action":"rpc_request","request_id":"` + strings.Repeat("i", 5000) + `","method":"echo"}`, "reply", "", "invalid_params", frame.BadType},
	{"nested", `{"action":"rpc_request","request_id":"i15","method":"echo","params":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, "reply", "i15", "invalid_params", frame.OverLimit},
	{"nested objects, never closed", `{"action":"rpc_request","request_id":"i16","method":"echo","params":` + strings.Repeat(`{"a":`, 100000), "reply", "i16", "invalid_params", frame.OverLimit},
	{"digits", `{"action":"rpc_request","request_id":"i17","method":"echo","params":[` + strings.Repeat("9", 1001) + `]}`, "reply", "i17", "invalid_params", frame.OverLimit},
	{"credit without id", `{"action":"rpc_credit","n":1}`, "error", nil, "", frame.NoRequestID},
	{"credit of -1", `{"action":"rpc_credit","request_id":"x","n":-1}`, "error", "x", "", frame.BadType},
	{"credit of 1.5", `{"action":"rpc_credit","request_id":"x","n":1.5}`, "error", "x", "", frame.BadType},
	{"chunk without id", `{"action":"rpc_chunk","data":1}`, "error", nil, "", frame.NoRequestID},
	{"hello without version", `{"action":"hello"}`, "error", nil, "", frame.BadType},
	{"hello with a strange version", `{"action":"hello","version":"x"}`, "error", nil, "", frame.BadType},
}

func TestBadLines(t *testing.T) {
	for _, c := range badLines {
		t.Run(c.name, func(t *testing.T) {
			g := newGauge()
			p := dial(t, setup{cfg: Config{Observer: g}})
			p.send(c.line)
			if c.answer != "" {
				m := p.read()
				id, has := m["request_id"]
				switch c.answer {
				case "error":
					if m["type"] != "error" || m["msg"] == "" || has != (c.id != nil) || has && id != c.id {
						t.Errorf("answer %v", m)
					}
				case "reply":
					if m["action"] != "rpc_reply" || id != c.id || m["error_kind"] != c.kind || m["error"] == "" || m["error"] == nil {
						t.Errorf("answer %v", m)
					}
				}
			}
			p.quiet() // at most one frame, and the connection goes on
			if c.reason != "" && g.failures(c.reason) != 1 || c.reason == "" && len(g.failed) != 0 {
				t.Errorf("counted %v, want one %q", g.failed, c.reason)
			}
		})
	}
}

func TestBadLinesWhileAttached(t *testing.T) {
	for _, c := range badLines {
		if c.name == "input" {
			continue // that one is in its place
		}
		t.Run(c.name, func(t *testing.T) {
			g := newGauge()
			p := dial(t, setup{cfg: Config{Observer: g, Sessions: house{"demo": newRoom("demo")}}})
			p.send(`{"action":"attach"}`)
			p.read()
			p.send(c.line)
			if c.answer == "reply" {
				if m := p.read(); m["action"] != "rpc_reply" || m["request_id"] != c.id {
					t.Errorf("answer %v", m)
				}
			}
			p.quiet()
			if c.reason != "" && len(g.failed) != 1 {
				t.Errorf("counted %v", g.failed)
			}
		})
	}
}

func TestLineOverTheLimit(t *testing.T) {
	for _, c := range []struct {
		name, head string
		answer     string
	}{
		{"with an id", `{"action":"rpc_request","request_id":"big","method":"echo","params":{"pad":"`, `"request_id":"big"`},
		{"with a late id", `{"action":"rpc_request","params":{"pad":"`, `{"type":"error"`},
		{"without structure", `xxx`, `{"type":"error"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGauge()
			p := dial(t, setup{unix: true, cfg: Config{Observer: g, MaxLine: 1 << 20}})
			go func() {
				io.WriteString(p.conn, c.head+strings.Repeat("x", 1<<20)+`"}}`+"\n"+`{"action":"ping"}`+"\n")
			}()
			got, err := p.line()
			if err != nil || !strings.Contains(got, c.answer) {
				t.Fatalf("%s, %v", got, err)
			}
			if strings.Contains(c.answer, "big") && !strings.Contains(got, `"error_kind":"too_large"`) {
				t.Error(got)
			}
			if got, err := p.line(); err == nil {
				t.Errorf("the connection goes on: %s", got)
			}
			var long *frame.TooLongError
			if err := p.wait(); !errors.As(err, &long) {
				t.Error(err)
			}
			if g.failures(frame.TooLong) != 1 {
				t.Error(g.failed)
			}
		})
	}
}

// endless is a reader of a line that has no end.
type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.n += int64(len(p))
	return len(p), nil
}

func TestLineWithoutEnd(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e := new(endless)
	p := dial(t, setup{unix: true, conn: func(c *Conn) { c.Reader = e }})
	if m := p.read(); m["type"] != "error" {
		t.Error(m)
	}
	var long *frame.TooLongError
	if err := p.wait(); !errors.As(err, &long) {
		t.Error(err)
	}
	if e.n > 2*frame.MaxLine+128<<10 {
		t.Errorf("%d bytes were read", e.n)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 4*frame.MaxLine {
		t.Errorf("%d bytes were allocated for it", used)
	}
}

func TestStallAfterTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, setup{cfg: Config{MaxLine: 1000}})
		go io.WriteString(p.conn, strings.Repeat("x", 1500))
		p.patience = time.Minute
		p.read()
		p.wait() // although the rest never comes
	})
}

func TestFramesInPieces(t *testing.T) {
	p := dial(t, setup{})
	text := request("a", "echo", `{"k":"ü"}`) + "\n" + `  {"action":"ping"}  ` + "\r\n" + request("b", "echo", `[[]]`) + "\n"
	go func() {
		for i := range len(text) {
			p.conn.Write([]byte{text[i]})
		}
	}()
	p.want(result("a", `{"k":"ü"}`))
	p.want(`{"type":"pong","agent_id":"a1b2c3d4e5f6"}`)
	p.want(result("b", `[]`))
}

func TestLineFeedsInsideTokensAreBlanks(t *testing.T) {
	p := dial(t, setup{})
	p.send("{\"action\":\"rpc_request\",\r\"request_id\":\"r\",\"method\":\"echo\",\"params\":{\"a\":\r1}}")
	got, err := p.line()
	if err != nil || strings.ContainsAny(got, "\r\n") || !sameJSON(t, got, result("r", `{"a":1}`)) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHalfClose(t *testing.T) {
	g := newGauge()
	p := dial(t, setup{unix: true, cfg: Config{Observer: g}, conn: func(c *Conn) { c.Gone = func() bool { return false } }})
	io.WriteString(p.conn, request("s", "demo.sleep", `{"seconds":0.2}`)+"\n"+request("last", "echo", `{"no":"line feed"}`))
	p.conn.(interface{ CloseWrite() error }).CloseWrite()
	p.want(result("last", `{"no":"line feed"}`))
	p.want(result("s", "0.2"))
	if _, err := p.line(); err != io.EOF {
		t.Errorf("after the replies: %v", err)
	}
	if err := p.wait(); err != nil {
		t.Error(err)
	}
}

func TestFullCloseAfterHalf(t *testing.T) {
	gone := make(chan struct{})
	g := newGauge()
	p := dial(t, setup{unix: true, cfg: Config{Gate: &rpc.Gate{Observer: g}}, conn: func(c *Conn) {
		c.Gone = func() bool {
			select {
			case <-gone:
				return true
			default:
				return false
			}
		}
	}})
	p.send(request("s", "demo.sleep", `{"seconds":25}`))
	p.conn.(interface{ CloseWrite() error }).CloseWrite()
	close(gone)
	if err := p.wait(); err != nil {
		t.Error(err)
	}
	if g.done[rpc.CodeCancelled] != 1 {
		t.Error(g.done)
	}
}

func TestEndOfTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancelCause(t.Context())
		s := newTestServer(setup{})
		near, far := pipe()
		p := &peer{t: t, conn: far, r: newReader(far), ended: make(chan error, 1)}
		go func() {
			p.ended <- s.Serve(ctx, Conn{Reader: near, Wire: wire{near}, Peer: everybody, Session: "demo"})
		}()
		p.send(request("s", "demo.sleep", `{"seconds":25}`))
		synctest.Wait()
		stop(rpc.ErrShutdown)
		if m := p.read(); m["error_kind"] != "unavailable" {
			t.Error(m)
		}
		if _, err := p.line(); err != io.EOF {
			t.Error(err)
		}
		if err := p.wait(); !errors.Is(err, rpc.ErrShutdown) {
			t.Error(err)
		}
	})
}

// One hundred connections end abruptly in all states; nothing stays behind.
func TestAbruptCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGauge()
		r := newRoom("demo")
		s := newTestServer(setup{cfg: Config{Observer: g, Sessions: house{"demo": r}}})
		for i := range 100 {
			p := dialServer(t, s, setup{})
			switch i % 5 {
			case 0:
				p.send(`{"action":"attach"}`)
				p.read()
			case 1:
				p.send(request("s", "demo.sleep", `{"seconds":25}`))
			case 2:
				p.send(streamRequest("s", "demo.endless", `{}`))
				p.read()
			case 3:
				p.send(streamRequest("s", "demo.count", `{"n":10}`), credit("s", 1))
				p.read()
			case 4:
				io.WriteString(p.conn, `{"action":"rpc_requ`)
			}
			if err := p.close(); err != nil && !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("%d: %v", i, err)
			}
			if p.link.N() != 0 {
				t.Errorf("%d: %d calls are left", i, p.link.N())
			}
		}
		if r.count() != 0 || g.attached != 0 {
			t.Errorf("%d followers, %d attached", r.count(), g.attached)
		}
	})
}

func FuzzServer(f *testing.F) {
	for _, c := range badLines {
		f.Add([]byte(c.line + "\n"))
	}
	f.Add([]byte(`{"action":"attach"}` + "\n" + `{"type":"input","text":"x"}` + "\n" + `{"type":"detach"}` + "\n"))
	f.Add([]byte(streamRequest("s", "demo.count", `{"n":3}`) + "\n" + credit("s", 1) + "\n" + credit("s", 5) + "\n"))
	f.Add([]byte(request("s", "demo.sum", `{}`) + "\n" + chunk("s", 1, "1") + "\n" + `{"action":"rpc_end","request_id":"s"}` + "\n"))
	table := testTable()
	f.Fuzz(func(t *testing.T, input []byte) {
		var out bytes.Buffer
		s := New(Config{Table: table, Sessions: house{"demo": newRoom("demo")}, MaxLine: 1 << 16})
		s.Serve(t.Context(), Conn{Reader: bytes.NewReader(input), Wire: &sink{b: &out}, Peer: everybody, Session: "demo"})
		for line := range bytes.Lines(out.Bytes()) {
			var fr frame.Frame
			if err := frame.Parse(bytes.TrimSuffix(line, []byte("\n")), &fr); err != nil {
				t.Fatalf("%v in the answer %q", err, line)
			}
			if fr.Action == frame.Reply && !fr.ErrorKind.IsNull() && frame.Text(fr.Error) == "" {
				t.Fatalf("an error without a text: %s", line)
			}
		}
		if n := bytes.Count(out.Bytes(), []byte("\n")); n > 200+3*len(input) {
			t.Fatalf("%d lines for %d bytes", n, len(input))
		}
	})
}
