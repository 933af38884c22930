package ws

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipeConn is one end of a pipe whose descriptor can be asked for, as that of a
// socket: an attempt to write fails, as there, once the deadline is over.
type pipeConn struct {
	net.Conn
	mu       sync.Mutex
	deadline time.Time
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

func (c *pipeConn) SyscallConn() (syscall.RawConn, error) { return pipeRaw{c}, nil }

type pipeRaw struct{ c *pipeConn }

func (r pipeRaw) Control(func(uintptr)) error   { return nil }
func (r pipeRaw) Read(func(uintptr) bool) error { return nil }
func (r pipeRaw) Write(f func(uintptr) bool) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if !r.c.deadline.IsZero() && !time.Now().Before(r.c.deadline) {
		return errPast
	}
	f(^uintptr(0)) // no descriptor: EBADF, which is an error of the attempt
	return nil
}

var errPast = errors.New("i/o timeout")

// A pause after a large message does not end the connection.
func TestWriteLeavesNoDeadlineBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		w := WireOf(&pipeConn{Conn: near})
		go io.Copy(io.Discard, far)
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		if _, err := w.TryWrite([]byte("x")); err == errPast {
			t.Errorf("an attempt to write after a pause: %v", err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Errorf("a write after a pause: %v", err)
		}
	})
}

// A peer that takes a little again and again is not given up; one that takes
// nothing is, and the error says so.
func TestWriteWaitsForAPeerThatTakesSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		w := WireOf(&pipeConn{Conn: near})
		defer w.Close()
		go func() {
			some := make([]byte, 4<<10)
			for range 12 {
				time.Sleep(writeStall / 2)
				if _, err := io.ReadFull(far, some); err != nil {
					return
				}
			}
		}()
		if n, err := w.Write(make([]byte, 48<<10)); n != 48<<10 || err != nil {
			t.Errorf("%d bytes were taken: %v", n, err)
		}
		began := time.Now()
		if n, err := w.Write([]byte("x")); n != 0 || err != ErrStalled {
			t.Errorf("nobody reads: %d, %v", n, err)
		}
		if waited := time.Since(began); waited != writeStall {
			t.Errorf("it was given up after %v", waited)
		}
	})
}
