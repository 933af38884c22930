package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Input that no client should send. The rule: at most one frame in answer, a
// count by reason, and the connection (or at least every other one) goes on.

func TestBadLines(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	tests := []struct {
		name, line string
		id         string // of the error reply; with kind
		kind       string
		msg        bool // an error frame without call
		reason     string
	}{
		{name: "not JSON", line: `hello`, msg: true, reason: "json"},
		{name: "half a frame", line: `{"action":"rpc_request","request_id":"h1","method":`, id: "h1", kind: "*", reason: "json"},
		{name: "two values", line: `{} {}`, msg: true, reason: "json"},
		{name: "an array", line: `[]`, msg: true, reason: "not_object"},
		{name: "a string", line: `"x"`, msg: true, reason: "not_object"},
		{name: "null", line: `null`, msg: true, reason: "not_object"},
		{name: "a number", line: `3`, msg: true, reason: "not_object"},
		{name: "invalid UTF-8", line: "{\"action\":\"ping\",\"x\":\"\xff\xfe\"}", msg: true, reason: "utf8"},
		{name: "invalid UTF-8 in params", line: "{\"action\":\"rpc_request\",\"request_id\":\"u1\",\"method\":\"echo\",\"params\":{\"x\":\"\xc3\"}}", id: "u1", kind: "*", reason: "utf8"},
		{name: "no request_id", line: `{"action":"rpc_request","method":"echo","params":{}}`, id: "", kind: "handler", reason: "no_request_id"},
		{name: "no method", line: `{"action":"rpc_request","request_id":"m1","params":{}}`, id: "m1", kind: "handler", reason: "no_method"},
		{name: "an unknown action", line: `{"action":"dance"}`, msg: true, reason: "unknown_action"},
		{name: "neither action nor type", line: `{}`, msg: true, reason: "unknown_action"},
		{name: "an action that is a number", line: `{"action":7}`, msg: true, reason: "type"},
		{name: "stream that is no boolean", line: `{"action":"rpc_request","request_id":"s1","method":"echo","stream":"yes"}`, id: "s1", kind: "*", reason: "type"},
		{name: "a member twice", line: `{"action":"rpc_request","request_id":"d1","request_id":"d2","method":"echo"}`, id: "d1", kind: "*", reason: "duplicate_key"},
		{name: "NaN in the envelope", line: `{"action":"rpc_request","request_id":"n1","method":"echo","seq":NaN}`, id: "n1", kind: "*", reason: ""},
		{name: "nested 257 deep", line: `{"action":"rpc_request","request_id":"l1","method":"echo","params":` + strings.Repeat("[", 257) + strings.Repeat("]", 257) + `}`, id: "l1", kind: "*", reason: "limit"},
		{name: "nested 100,000 deep", line: `{"action":"rpc_request","request_id":"l2","method":"echo","params":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, id: "l2", kind: "*", reason: "limit"},
		{name: "objects nested 100,000 deep", line: `{"action":"rpc_request","request_id":"l3","method":"echo","params":` + strings.Repeat(`{"a":`, 100000) + "1" + strings.Repeat("}", 100001), id: "l3", kind: "*", reason: "limit"},
		{name: "only opening brackets", line: strings.Repeat("[", 100000), msg: true, reason: "limit"},
		{name: "a number of 1,001 digits", line: `{"action":"rpc_request","request_id":"l4","method":"echo","params":[` + strings.Repeat("9", 1001) + `]}`, id: "l4", kind: "*", reason: "limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := dialWire(t, d.socket)
			before, _ := d.metric("hubd_failed_frames_total", `protocol="kollabor"`, reasonLabel(tt.reason))
			w.send(tt.line + "\n")
			f := w.frame()
			switch {
			case tt.msg && (f.Type != "error" || f.Msg == ""):
				t.Errorf("got %.300s, want an error frame with msg", f.line)
			case !tt.msg && (f.Action != "rpc_reply" || f.id() != tt.id || f.text() == "" || f.kind() == "" || tt.kind != "*" && f.kind() != tt.kind):
				t.Errorf("got %.300s, want an error reply to %q of kind %q", f.line, tt.id, tt.kind)
			}
			// One frame, not two, and the connection goes on.
			if got := w.result(w.call("after", "math.add", "[1,2]")); got != "3" {
				t.Errorf("afterwards: got %s, want 3", got)
			}
			eventually(t, "counted as "+tt.reason, func() bool {
				after, _ := d.metric("hubd_failed_frames_total", `protocol="kollabor"`, reasonLabel(tt.reason))
				return after == before+1
			})
		})
	}
}

// reasonLabel matches one reason, or any.
func reasonLabel(reason string) string {
	if reason == "" {
		return "reason="
	}
	return fmt.Sprintf("reason=%q", reason)
}

func TestBadLinesAreSilentWhereTheyMeanNothing(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send("\n\r\n  \t \n")
	if got := w.result(w.call("a", "math.add", "[1,2]")); got != "3" {
		t.Errorf("after blank lines: got %s, want 3", got)
	}
	// In the attached phase other frames are ignored.
	w.send(`{"action":"attach","mode":"readonly","client_id":"t"}` + "\n")
	if f := w.frame(); f.Type != "attach_ack" {
		t.Fatalf("got %s, want attach_ack", f.line)
	}
	w.send(`{"action":"ping"}` + "\nnonsense\n[]\n" + `{"type":"dance"}` + "\n")
	w.send(request("b", "math.add", "[1,2]"))
	for {
		f := w.frame()
		if f.Type != "" && f.Type != "error" && f.Type != "pong" {
			continue // an event of the session
		}
		if f.id() != "b" || w.result(f) != "3" {
			t.Errorf("got %.300s, want the reply 3 to b and nothing before", f.line)
		}
		break
	}
}

// An over-long line whose beginning shows a request id is answered. Then at
// most as many bytes again are skipped in search of its end.
func TestLineOverTheLimit(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)

	t.Run("the next line is read when the end comes soon", func(t *testing.T) {
		w := dialWire(t, d.socket)
		go func() {
			io.WriteString(w, `{"action":"rpc_request","request_id":"long","method":"echo","params":"`)
			io.WriteString(w, strings.Repeat("x", 17<<20))
			io.WriteString(w, "\"}\n"+request("next", "math.add", "[1,2]"))
		}()
		f := w.frame()
		if f.id() != "long" || f.kind() == "" || f.text() == "" {
			t.Fatalf("got %.300s, want an error reply to long", f.line)
		}
		// The contract closes the connection after the line's end was looked
		// for; a server that goes on with the next line is as good.
		rest := w.end2(f)
		if rest != "" && !strings.Contains(rest, `"result":3`) {
			t.Errorf("afterwards came %.300q, want the next reply or the end", rest)
		}
	})

	t.Run("one without end closes its connection only", func(t *testing.T) {
		w := dialWire(t, d.socket)
		io.WriteString(w, `{"action":"rpc_request","request_id":"endless","method":"echo","params":"`)
		sent, err := pour(w, 64<<20)
		if err == nil {
			t.Fatalf("the hub took %d bytes without a line feed", sent)
		}
		if sent > 40<<20 {
			t.Errorf("the hub took %d bytes of one line, want twice 16 MiB at most", sent)
		}
		other := dialWire(t, d.socket)
		if got := other.result(other.call("o", "math.add", "[1,2]")); got != "3" {
			t.Errorf("another connection: got %s, want 3", got)
		}
		if n, _ := d.metric("hubd_failed_frames_total", `protocol="kollabor"`, `reason="too_long"`); n < 1 {
			t.Errorf("failed frames for too_long: %v, want at least 1", n)
		}
	})
}

// end2 reads what follows, to the end or to the next complete frame.
func (w *wire) end2(frame) string {
	s, err := w.r.ReadString('\n')
	if err != nil && err != io.EOF && !isReset(err) {
		w.t.Fatalf("read on: %v", err)
	}
	return s
}

// pour writes up to n bytes that hold no line feed, and returns how many were
// taken before the other side closed.
func pour(w *wire, n int) (sent int, err error) {
	block := bytes.Repeat([]byte("x"), 64<<10)
	for sent < n {
		m, err := w.Write(block)
		sent += m
		if err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				w.t.Fatalf("after %d bytes the hub neither reads nor closes", sent)
			}
			return sent, err
		}
	}
	return sent, nil
}

// Eight peers send lines that never end, others nest without limit, one stops
// in the middle of a frame; an uninvolved client is served all the time and the
// memory stays within bounds.
func TestBadInputMemoryStaysBounded(t *testing.T) {
	d := startDaemon(t)
	d.dial().call("warm", "echo", `{}`)
	before := d.status("VmRSS")

	stop := make(chan struct{})
	var served int
	var bystander sync.WaitGroup
	w := d.dial()
	bystander.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			id := fmt.Sprint("b", served)
			io.WriteString(w, request(id, "math.add", "[1,2]"))
			line, err := w.r.ReadString('\n')
			if err != nil || !strings.Contains(line, `"result":3`) {
				t.Errorf("the bystander got %q, %v", line, err)
				return
			}
			served++
		}
	})

	var attackers sync.WaitGroup
	for i := range 8 {
		attackers.Go(func() {
			c, err := net.Dial("unix", d.socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			go io.Copy(io.Discard, c)
			c.SetDeadline(time.Now().Add(3 * patience))
			block := bytes.Repeat([]byte{"x["[i%2]}, 64<<10)
			for range 64 << 20 / len(block) {
				if _, err := c.Write(block); err != nil {
					if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("attacker %d: %v, want to be disconnected", i, err)
					}
					return
				}
			}
			t.Errorf("attacker %d sent 64 MiB without a line feed", i)
		})
	}
	half := dialWire(t, d.socket)
	half.send(`{"action":"rpc_request","request_id":"half","params":{"x":"` + strings.Repeat("h", 1<<20))
	attackers.Wait()
	close(stop)
	bystander.Wait()
	if served == 0 {
		t.Error("the bystander was not served once")
	}

	// The sum of all unfinished lines is limited to 64 MiB; the rest is what
	// the garbage collector keeps around. The race detector multiplies both.
	limit := int64(256 << 20)
	if raceBuilt {
		limit *= 6
	}
	if peak := d.status("VmHWM"); peak-before > limit {
		t.Errorf("memory grew from %d to %d MiB, want at most %d MiB more", before>>20, peak>>20, limit>>20)
	} else {
		t.Logf("memory before %d MiB, peak %d MiB; the bystander was served %d times", before>>20, peak>>20, served)
	}
}
