package client

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// wire lets an Outbox write to a connection. A socket is first tried without
// blocking, so that a call costs no switch to another goroutine.
type wire struct {
	net.Conn
	raw syscall.RawConn // nil where the connection has none
}

func newWire(nc net.Conn) *wire {
	w := &wire{Conn: nc}
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

// Dial connects to a, once, and says nothing. config is for tls:// and may be nil.
func (a Address) Dial(ctx context.Context, config *tls.Config) (net.Conn, error) {
	var d net.Dialer
	if a.Network == "tls" {
		secure := tls.Dialer{NetDialer: &d, Config: config}
		return secure.DialContext(ctx, "tcp", a.Path)
	}
	return d.DialContext(ctx, a.Network, a.Path)
}
