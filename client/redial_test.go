package client_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// A client that calls nothing comes back with its identity, however long the
// hub was away, and at a pace that spares it.
func TestIdleClientComesBackByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		hellos := make(chan line, 10)
		h := newFake(t, func(c *fakeConn, f line) {
			switch {
			case f.Action == "hello":
				hellos <- f
			case f.Method == "leave":
				away.Store(true)
				c.Conn.Close()
			case f.Action == "rpc_request":
				c.reply(f, "1")
			}
		})
		var attempts atomic.Int64
		h.refuse = func(int) error {
			attempts.Add(1)
			if away.Load() {
				return syscall.ENOENT
			}
			return nil
		}
		c := h.connect(client.Options{Name: "idler"})
		first := <-hellos
		wantKind(t, c.Call(t.Context(), "leave", nil, nil), client.KindDisconnected)
		time.Sleep(24 * time.Hour)
		if dials := attempts.Load(); dials < 24*3600/4 || dials > 24*3600 {
			t.Errorf("%d attempts in a day", dials)
		}
		away.Store(false)
		time.Sleep(5 * time.Second)
		select {
		case again := <-hellos:
			if again.Identity == "" || again.Identity != first.Identity {
				t.Errorf("it was %q and came back as %q", first.Identity, again.Identity)
			}
		default:
			t.Error("the client did not come back")
		}
		c.Close()
		h.close()
	})
}

// A hub that ends each connection at once is not beset.
func TestConnectionsThatBreakAtOnceAreMadeEverMoreSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) { c.Conn.Close() })
		var dials atomic.Int64
		h.refuse = func(int) error { dials.Add(1); return nil }
		c := h.connect(client.Options{})
		time.Sleep(time.Minute)
		if n := dials.Load(); n > 70 || n < 10 {
			t.Errorf("%d attempts in a minute", n)
		}
		c.Close()
		h.close()
	})
}

// A hub that is there and does nothing, such as one that is stopped, ends a call
// that has no deadline.
func TestCallWithoutDeadlineEndsWhenTheHubIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				time.AfterFunc(time.Hour, func() {
					if !c.frozen.Load() {
						c.reply(f, "1")
					}
				})
			}
		})
		c := h.connect(client.Options{})
		if err := c.Call(context.Background(), "slow", nil, nil); err != nil {
			t.Errorf("a hub that answers after an hour: %v", err)
		}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { h.frozen.Store(true) })
		err := c.Call(context.Background(), "slow", nil, nil)
		e := wantKind(t, err, client.KindDisconnected)
		if took := time.Since(began); took > 2*time.Minute || !strings.Contains(e.Message, "does not answer") {
			t.Errorf("after %v: %v", took, err)
		}
		c.Close()
		h.close()
	})
}

// What the hub refused before it ran is repeated after a pause, within the
// context of the call; what may have run is not.
func TestRefusedCallsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		until := time.Now().Add(4 * time.Second)
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action != "rpc_request" {
				return
			}
			calls.Add(1)
			switch {
			case f.Method == "gone" && f.Stream || f.Method == "gone":
				c.fail(f, "unavailable", "its provider has left", `,"retry":"unknown"`)
			case time.Now().Before(until) || f.Method == "never":
				c.fail(f, "unavailable", "the hub is shutting down", `,"retry":"safe"`)
			case f.Stream:
				c.chunk(f, 1, "7")
				c.reply(f, "null")
			default:
				c.reply(f, "1")
			}
		})
		c := h.connect(client.Options{})
		if err := c.Call(t.Context(), "m", nil, nil); err != nil {
			t.Errorf("a hub that restarts: %v", err)
		}
		until = time.Now().Add(4 * time.Second)
		for item, err := range c.Stream(t.Context(), "s", nil) {
			if err != nil || string(item) != "7" {
				t.Errorf("a stream of a hub that restarts: %s, %v", item, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := c.Call(ctx, "never", nil, nil)
		if e := wantKind(t, err, client.KindTimeout); !strings.Contains(e.Message, "shutting down") || time.Since(began) != time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		began = time.Now()
		wantKind(t, c.Call(t.Context(), "never", nil, nil), client.KindUnavailable)
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("gave up after %v", took)
		}
		calls.Store(0)
		wantKind(t, c.Call(t.Context(), "gone", nil, nil), client.KindUnavailable)
		if n := calls.Load(); n != 1 {
			t.Errorf("a call that may have run was made %d times", n)
		}
		wantKind(t, c.Call(t.Context(), "gone", nil, nil, client.Idempotent()), client.KindUnavailable)
		if n := calls.Load(); n < 4 {
			t.Errorf("an idempotent call was made %d times", n-1)
		}
		c.Close()
		h.close()
	})
}

// A read that met a break may be made again, and is; another method is not.
func TestReadsThatMeetABreakAreSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" && calls.Add(1) == 1 {
				c.Conn.Close()
			} else if f.Action == "rpc_request" {
				c.reply(f, "1")
			}
		})
		c := h.connect(client.Options{})
		if err := c.Call(t.Context(), "state.get", nil, nil); err != nil || calls.Load() != 2 {
			t.Errorf("%v after %d calls", err, calls.Load())
		}
		calls.Store(0)
		if e := wantKind(t, c.Call(t.Context(), "state.put", nil, nil), client.KindDisconnected); e.Retry != client.RetryUnknown {
			t.Errorf("a write is %s", e.Retry)
		}
		c.Close()
		h.close()
		h = newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				c.Conn.Close()
			}
		})
		c = h.connect(client.Options{Reconnect: -1})
		if e := wantKind(t, c.Call(t.Context(), "session.list", nil, nil), client.KindDisconnected); e.Retry != client.RetrySafe {
			t.Errorf("a read is %s", e.Retry)
		}
		c.Close()
		h.close()
	})
}

// The error of a broken connection says why it broke, not that this side has
// closed its socket since.
func TestBrokenConnectionKeepsItsCause(t *testing.T) {
	cause := errors.New("the cable is cut")
	h := newFake(t, func(c *fakeConn, f line) {})
	c := h.connectThrough(client.Options{Reconnect: -1}, func(nc net.Conn) net.Conn { return &cutConn{Conn: nc, cause: cause} })
	err := c.Call(t.Context(), "m", nil, nil)
	for c.Call(t.Context(), "m", nil, nil) == nil {
	}
	err = errors.Join(err, c.Call(t.Context(), "m", nil, nil))
	if !errors.Is(err, cause) || strings.Contains(err.Error(), "use of closed") || strings.Contains(err.Error(), "closed pipe") {
		t.Errorf("got %v", err)
	}
}

// cutConn takes the greeting and then fails to write.
type cutConn struct {
	net.Conn
	cause  error
	writes int
}

func (c *cutConn) Write(p []byte) (int, error) {
	if c.writes++; c.writes > 1 {
		return 0, c.cause
	}
	return c.Conn.Write(p)
}
