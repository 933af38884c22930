package client

import (
	"context"
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

// dialSocket connects to a, once.
func dialSocket(ctx context.Context, a Address) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, a.Network, a.Path)
}
