package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/client"
)

func TestHelloComesFirst(t *testing.T) {
	first := make(chan line, 8)
	h := newFake(t, func(c *fakeConn, f line) {
		first <- f
		if f.Action == "rpc_request" {
			c.reply(f, "1")
		}
	})
	c := h.connect(client.Options{Token: "secret", Identity: "probe"})
	if err := c.Call(t.Context(), "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	f := wait(t, first)
	if f.Action != "hello" || f.Version != 1 || f.Token != "secret" || f.Identity != "probe" || len(f.Features) == 0 {
		t.Errorf("first line: %s", f.text)
	}
	if s := c.Server(); s.Software != "hubd/test" || s.Identity != "main" || s.Version != 1 || len(s.Features) != 2 {
		t.Errorf("server: %+v", s)
	}
}

func TestHelloWithoutAnswerTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go io.Copy(io.Discard, theirs)
		_, err := client.Dial(t.Context(), "", &client.Options{Dialer: func(context.Context) (net.Conn, error) { return ours, nil }})
		e := wantKind(t, err, client.KindTimeout)
		if !strings.Contains(e.Message, "greeting") {
			t.Errorf("message: %s", e.Message)
		}
	})
}

// A hub that does not like the greeting says so and may or may not hang up.
func TestRefusalAtHelloIsTold(t *testing.T) {
	for _, hangUp := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				buf := make([]byte, 4096)
				theirs.Read(buf)
				io.WriteString(theirs, `{"type":"error","msg":"hello: the door is shut","error_kind":"unauthenticated"}`+"\n")
				if !hangUp {
					theirs.Read(buf)
				}
			}()
			began := time.Now()
			_, err := client.Dial(t.Context(), "", &client.Options{Dialer: func(context.Context) (net.Conn, error) { return ours, nil }})
			e := wantKind(t, err, client.KindUnauthenticated)
			if e.Message != "hello: the door is shut" || time.Since(began) != 0 {
				t.Errorf("after %v: %s", time.Since(began), e.Message)
			}
		})
	}
}

func TestCallsRunAtTheSameTimeAndAnswersComeInAnyOrder(t *testing.T) {
	const n = 50
	var mu sync.Mutex
	var waiting []line
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action != "rpc_request" {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		waiting = append(waiting, f)
		if len(waiting) == n { // none is answered before all are there
			for i := len(waiting) - 1; i >= 0; i-- {
				c.reply(waiting[i], string(waiting[i].Params))
			}
		}
	})
	c := h.connect(client.Options{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var got struct{ I int }
			if err := c.Call(t.Context(), "echo", map[string]int{"I": i}, &got); err != nil {
				t.Error(err)
			} else if got.I != i {
				t.Errorf("call %d got the answer of call %d", i, got.I)
			}
		})
	}
	wg.Wait()
}

func TestValuesComeBackAsTheyWentIn(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			_, params, _ := strings.Cut(f.text, `"params":`)
			c.reply(f, strings.TrimSuffix(params, "}"))
		}
	})
	c := h.connect(client.Options{})
	for _, text := range []string{
		`{"x":1.0,"y":1e-07,"z":9223372036854775809}`, `["\ud800",1234567890123456789012345678901234567890]`, `{}`, `[[]]`, `null`, `"x"`,
	} {
		got, err := c.CallRaw(t.Context(), "echo", json.RawMessage(text))
		if err != nil || string(got) != text {
			t.Errorf("%s came back as %s, %v", text, got, err)
		}
	}
	// Line feeds inside params would break the line: they become blanks.
	got, err := c.CallRaw(t.Context(), "echo", json.RawMessage("{\n \"a\": [1,\r\n2]\n}"))
	if err != nil || strings.ContainsAny(string(got), "\r\n") || !json.Valid(got) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestNonFiniteNumbers(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.reply(f, `{"x":NaN,"y":[Infinity,-Infinity],"s":"NaN"}`)
		}
	})
	c := h.connect(client.Options{})
	raw, err := c.CallRaw(t.Context(), "m", nil)
	if err != nil || string(raw) != `{"x":NaN,"y":[Infinity,-Infinity],"s":"NaN"}` {
		t.Errorf("raw: %s, %v", raw, err)
	}
	var got struct {
		X *float64
		Y []*float64
		S string
	}
	if err := c.Call(t.Context(), "m", nil, &got); err != nil || got.X != nil || len(got.Y) != 2 || got.Y[0] != nil || got.S != "NaN" {
		t.Errorf("decoded: %+v, %v", got, err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	tests := []struct {
		kind, text, more string
		want             client.Error
		is               error
	}{
		{"not_found", "method not found: m", `,"retry":"safe"`, client.Error{Kind: client.KindNotFound, Retry: client.RetrySafe}, nil},
		{"handler", "it's broken", "", client.Error{Kind: client.KindHandler, Retry: client.RetryUnknown}, nil},
		{"conflict", "no", `,"error_data":{"key":"k","revision":7},"retry":"safe"`, client.Error{Kind: client.KindConflict, Retry: client.RetrySafe, Data: json.RawMessage(`{"key":"k","revision":7}`)}, &client.Error{Kind: client.KindConflict}},
		{"timeout", "late", `,"retry":"unknown"`, client.Error{Kind: client.KindTimeout, Retry: client.RetryUnknown}, context.DeadlineExceeded},
		{"cancelled", "by an administrator", `,"retry":"unknown"`, client.Error{Kind: client.KindCancelled, Retry: client.RetryUnknown}, nil},
		{"brand_new", "something", "", client.Error{Kind: "brand_new", Retry: client.RetryUnknown}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			h := newFake(t, func(c *fakeConn, f line) {
				if f.Action == "rpc_request" {
					c.fail(f, tt.kind, tt.text, tt.more)
				}
			})
			err := h.connect(client.Options{}).Call(t.Context(), "m", nil, nil)
			e := wantKind(t, err, tt.want.Kind)
			if e.Message != tt.text || e.Retry != tt.want.Retry || string(e.Data) != string(tt.want.Data) || e.Method != "m" {
				t.Errorf("got %+v", e)
			}
			text := "m: " + tt.text
			if e.NoMethod() {
				text = tt.text
			}
			if e.Error() != text {
				t.Errorf("text: %s", e.Error())
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("errors.Is(err, %v) is false", tt.is)
			}
			if errors.Is(err, context.Canceled) {
				t.Error("a call cancelled by the hub is no context.Canceled")
			}
			if got := e.NoMethod(); got != (tt.kind == "not_found") {
				t.Errorf("NoMethod is %v", got)
			}
		})
	}
}

// An error reply with an error_kind and no text is an error all the same, one
// with neither is none.
func TestReplyWithoutErrorText(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		switch f.Method {
		case "kind":
			c.fail(f, "overloaded", "", "")
		case "bare":
			c.say(`{"action":"rpc_reply","request_id":%q}`, f.RequestID)
		}
	})
	c := h.connect(client.Options{})
	wantKind(t, c.Call(t.Context(), "kind", nil, nil), client.KindOverloaded)
	got, err := c.CallRaw(t.Context(), "bare", nil)
	if err != nil || string(got) != "null" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestDeadlineTravels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var timeouts []string
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				mu.Lock()
				text := "none"
				if f.Timeout != nil {
					text = strconv.FormatFloat(*f.Timeout, 'g', -1, 64)
				}
				timeouts = append(timeouts, text)
				mu.Unlock()
				c.reply(f, "null")
			}
		})
		c := h.connect(client.Options{})
		c.Call(t.Context(), "m", nil, nil)
		c.Call(t.Context(), "m", nil, nil, client.WithTimeout(90*time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		c.Call(ctx, "m", nil, nil)
		c.Call(ctx, "m", nil, nil, client.WithTimeout(time.Second))
		c.Call(ctx, "m", nil, nil, client.WithTimeout(time.Minute))
		mu.Lock()
		defer mu.Unlock()
		if got, want := strings.Join(timeouts, " "), "none 90 1.5 1 1.5"; got != want {
			t.Errorf("timeouts on the wire: %s, want %s", got, want)
		}
		c.Close()
		h.close()
	})
}

func TestEndedContextCancelsTheCallInTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancels := make(chan string, 4)
		ids := make(chan string, 4)
		h := newFake(t, func(c *fakeConn, f line) {
			switch f.Action {
			case "rpc_request":
				ids <- f.RequestID
			case "rpc_cancel":
				cancels <- f.RequestID
				c.fail(f, "cancelled", "cancelled by the caller", "") // too late: nobody waits
			}
		})
		c := h.connect(client.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		err := c.Call(ctx, "m", nil, nil)
		e := wantKind(t, err, client.KindTimeout)
		if !errors.Is(err, context.DeadlineExceeded) || e.Retry != client.RetryUnknown {
			t.Errorf("got %+v", e)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("gave up after %v", took)
		}
		if id, cancelled := <-ids, <-cancels; id != cancelled {
			t.Errorf("call %s, cancelled %s", id, cancelled)
		}
		ctx2, cancel2 := context.WithCancel(t.Context())
		go func() {
			<-ids
			cancel2()
		}()
		err = c.Call(ctx2, "m", nil, nil)
		wantKind(t, err, client.KindCancelled)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v is no context.Canceled", err)
		}
		<-cancels
		c.Close()
		h.close()
	})
}

func TestRequestThatIsTooLarge(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.reply(f, strconv.Itoa(len(f.text)))
		}
	})
	c := h.connect(client.Options{})
	e := wantKind(t, c.Call(t.Context(), "m", strings.Repeat("x", 16<<20), nil), client.KindTooLarge)
	if e.Retry != client.RetrySafe {
		t.Errorf("retry: %s", e.Retry)
	}
	var n int
	if err := c.Call(t.Context(), "m", strings.Repeat("x", 15<<20), &n); err != nil || n < 15<<20 {
		t.Errorf("15 MiB: %d, %v", n, err)
	}
}

func TestBadParamsAreNotSent(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			t.Errorf("sent: %s", f.text)
		}
	})
	c := h.connect(client.Options{})
	wantKind(t, c.Call(t.Context(), "m", json.RawMessage(`{"a":`), nil), client.KindInvalidParams)
	wantKind(t, c.Call(t.Context(), "m", math.NaN(), nil), client.KindInvalidParams)
	wantKind(t, c.Call(t.Context(), "m", make(chan int), nil), client.KindInvalidParams)
	_, err := c.Open(t.Context(), "m", make(chan int))
	wantKind(t, err, client.KindInvalidParams)
}

func TestResultThatDoesNotFit(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.reply(f, `"text"`)
		}
	})
	var n int
	wantKind(t, h.connect(client.Options{}).Call(t.Context(), "m", nil, &n), client.KindMalformed)
}

func TestLinesThatAreNoFramesEndTheConnection(t *testing.T) {
	for _, text := range []string{"hello", "[]", `{"action":7}`, `{"action":"rpc_reply","request_id":"1"`, "\xff\xfe"} {
		t.Run(text, func(t *testing.T) {
			h := newFake(t, func(c *fakeConn, f line) {
				if f.Action == "rpc_request" {
					c.say("%s", text)
				}
			})
			c := h.connect(client.Options{Reconnect: -1})
			e := wantKind(t, c.Call(t.Context(), "m", nil, nil), client.KindDisconnected)
			if e.Retry != client.RetryUnknown {
				t.Errorf("retry: %s", e.Retry)
			}
		})
	}
}

func TestUnknownFramesAndIDsAreIgnored(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action != "rpc_request" {
			return
		}
		for _, text := range []string{
			``, `   `, `{}`, `{"type":"heartbeat"}`, `{"action":"dance","request_id":"1"}`, `{"type":"error","msg":"a bad line"}`,
			`{"action":"rpc_reply","request_id":"77","result":1}`, `{"action":"rpc_reply","request_id":"18446744073709551999"}`,
			`{"action":"rpc_reply","request_id":{"a":1},"result":1}`, `{"action":"rpc_reply","result":1}`,
			`{"action":"rpc_chunk","request_id":"77","seq":1,"data":1}`, `{"action":"rpc_credit","request_id":"77","n":1}`,
			fmt.Sprintf(`{"action":"rpc_chunk","request_id":%q,"seq":1,"data":1}`, f.RequestID), // a plain call
			fmt.Sprintf(`{"action":"rpc_credit","request_id":%q,"n":5}`, f.RequestID),
			`{"action":"rpc_cancel","request_id":"9"}`, `{"type":"hello","version":9,"server":"x/y"}`,
		} {
			c.say("%s", text)
		}
		c.reply(f, `"fine"`)
	})
	c := h.connect(client.Options{})
	var got string
	if err := c.Call(t.Context(), "m", nil, &got); err != nil || got != "fine" {
		t.Errorf("got %q, %v", got, err)
	}
	if s := c.Server(); s.Version != 1 {
		t.Errorf("a second hello was taken: %+v", s)
	}
}

func TestErrorFrameWithAnIDFailsThatCall(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.say(`{"type":"error","msg":"what is that?","request_id":%q}`, f.RequestID)
		}
	})
	e := wantKind(t, h.connect(client.Options{}).Call(t.Context(), "m", nil, nil), client.KindMalformed)
	if e.Message != "what is that?" {
		t.Errorf("message: %s", e.Message)
	}
}

func TestAnswerThatIsTooLargeFailsItsCallOnly(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		switch f.Method {
		case "huge":
			c.reply(f, `"`+strings.Repeat("x", 17<<20)+`"`)
		case "small":
			c.reply(f, "1")
		}
	})
	c := h.connect(client.Options{Reconnect: -1})
	wantKind(t, c.Call(t.Context(), "huge", nil, nil), client.KindTooLarge)
	if err := c.Call(t.Context(), "small", nil, nil); err != nil {
		t.Error(err)
	}
}

func TestCloseFailsWhatIsInFlight(t *testing.T) {
	started := make(chan bool, 1)
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			started <- true
		}
	})
	c := h.connect(client.Options{})
	failed := make(chan error, 1)
	go func() { failed <- c.Call(t.Context(), "m", nil, nil) }()
	wait(t, started)
	c.Close()
	if err := wait(t, failed); !errors.Is(err, client.ErrClosed) {
		t.Errorf("in flight: %v", err)
	}
	if err := c.Call(t.Context(), "m", nil, nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
	c.Close()
}

func TestConnectionComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, nil)
		h.on = func(c *fakeConn, f line) {
			switch {
			case f.Action != "rpc_request":
			case c.n == 0:
				c.Conn.Close() // in the middle of the call
			default:
				c.reply(f, strconv.Itoa(c.n))
			}
		}
		h.refuse = func(n int) error {
			if n >= 1 && n < 4 {
				return syscall.ECONNREFUSED
			}
			return nil
		}
		c := h.connect(client.Options{})
		// It may have run: only the caller knows whether to call again.
		e := wantKind(t, c.Call(t.Context(), "put", nil, nil), client.KindDisconnected)
		if e.Retry != client.RetryUnknown {
			t.Errorf("retry: %s", e.Retry)
		}
		var n int
		if err := c.Call(t.Context(), "get", nil, &n); err != nil || n != 4 {
			t.Errorf("after the restart: connection %d, %v", n, err)
		}
		c.Close()
		h.close()
	})
}

func TestIdempotentCallIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {
			switch {
			case f.Action != "rpc_request":
			case c.n < 2:
				c.Conn.Close()
			default:
				c.reply(f, "true")
			}
		})
		c := h.connect(client.Options{})
		if err := c.Call(t.Context(), "get", nil, nil, client.Idempotent()); err != nil {
			t.Error(err)
		}
		c.Close()
		h.close()
	})
}

func TestIdempotentCallIsNotMadeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				c.Conn.Close()
			}
		})
		c := h.connect(client.Options{})
		wantKind(t, c.Call(t.Context(), "deadly", nil, nil, client.Idempotent()), client.KindDisconnected)
		h.mu.Lock()
		if h.dials > 5 {
			t.Errorf("%d connections for one call", h.dials)
		}
		h.mu.Unlock()
		c.Close()
		h.close()
	})
}

func TestReconnectGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				c.Conn.Close()
			}
		})
		h.refuse = func(n int) error {
			if n > 0 {
				return syscall.ENOENT
			}
			return nil
		}
		c := h.connect(client.Options{Reconnect: 3 * time.Second})
		c.Call(t.Context(), "m", nil, nil)
		began := time.Now()
		err := c.Call(t.Context(), "m", nil, nil)
		wantKind(t, err, client.KindDisconnected)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("gave up after %v", took)
		}
		if !errors.Is(err, syscall.ENOENT) {
			t.Errorf("the reason is lost: %v", err)
		}
		// A context ends the wait earlier.
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		wantKind(t, c.Call(ctx, "m", nil, nil), client.KindTimeout)
		c.Close()
		h.close()
	})
}

func TestWaitForAHubThatStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {})
		h.refuse = func(n int) error {
			if n < 5 {
				return syscall.ENOENT
			}
			return nil
		}
		c, err := client.WaitFor(t.Context(), "", &client.Options{Dialer: h.dial})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		h.refuse = func(int) error { return syscall.ECONNREFUSED }
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		_, err = client.WaitFor(ctx, "", &client.Options{Dialer: h.dial})
		wantKind(t, err, client.KindTimeout)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the last reason is lost: %v", err)
		}
		h.refuse = func(int) error { return syscall.EACCES }
		_, err = client.WaitFor(t.Context(), "", &client.Options{Dialer: h.dial})
		wantKind(t, err, client.KindDisconnected)
		if !errors.Is(err, syscall.EACCES) {
			t.Errorf("a refusal is waited for: %v", err)
		}
		h.close()
	})
}
