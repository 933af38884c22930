package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// wire lets an Outbox write to a connection. A socket is first tried without
// blocking, so that a call costs no switch to another goroutine.
type wire struct {
	net.Conn
	raw   syscall.RawConn // nil where the connection has none
	heard *atomic.Bool    // set when the other side has taken much
}

func newWire(nc net.Conn, heard *atomic.Bool) *wire {
	w := &wire{Conn: nc, heard: heard}
	if sc, ok := nc.(syscall.Conn); ok {
		w.raw, _ = sc.SyscallConn()
	}
	return w
}

// TryWrite makes one attempt that cannot block.
func (w *wire) TryWrite(p []byte) (n int, err error) {
	if w.raw == nil {
		return 0, nil
	}
	var failed error
	err = w.raw.Write(func(fd uintptr) bool {
		n, failed = syscall.Write(int(fd), p)
		return true
	})
	if err != nil {
		return 0, err
	}
	if failed != nil {
		n = 0
		if errors.Is(failed, syscall.EAGAIN) || errors.Is(failed, syscall.EINTR) {
			failed = nil
		}
	}
	return n, failed
}

// portion is how much the other side must have taken to have shown that it is
// there. What is less may lie in buffers of the system.
const portion = 256 << 10

// Write blocks until all of p is taken.
func (w *wire) Write(p []byte) (n int, err error) {
	for len(p) > portion {
		k, err := w.Conn.Write(p[:portion])
		if n += k; err != nil {
			return n, err
		}
		w.heard.Store(true)
		p = p[portion:]
	}
	k, err := w.Conn.Write(p)
	return n + k, err
}

// listener reads from a connection and notes that something came.
type listener struct {
	net.Conn
	heard *atomic.Bool
}

func (l listener) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if n > 0 {
		l.heard.Store(true)
	}
	return n, err
}

// A hub that is stopped, or a machine that has vanished, ends no connection.
// After quiet without a word from the hub it is asked for one; after so many
// questions without an answer the connection is given up.
const (
	quiet     = 10 * time.Second
	questions = 3
)

// guard ends the connection when the hub no longer answers. It counts its own
// looks and no time, so that a client that was stopped itself asks first.
func (c *conn) guard() {
	t := time.NewTicker(quiet)
	defer t.Stop()
	asked := 0
	for {
		select {
		case <-c.over:
			return
		case <-t.C:
		}
		if c.heard.Swap(false) {
			asked = 0
			continue
		}
		if asked == questions {
			c.close(errSilent)
			return
		}
		asked++
		c.out.Append(nil, frame.AppendPing)
	}
}

// errSilent is why a connection is given up.
var errSilent = fmt.Errorf("the hub does not answer: nothing came for %v", (questions+1)*quiet)

// Dial connects to a, once, and says nothing. config is for tls:// and may be nil.
func (a Address) Dial(ctx context.Context, config *tls.Config) (net.Conn, error) {
	var d net.Dialer
	if a.Network == "tls" {
		secure := tls.Dialer{NetDialer: &d, Config: config}
		return secure.DialContext(ctx, "tcp", a.Path)
	}
	return d.DialContext(ctx, a.Network, a.Path)
}
