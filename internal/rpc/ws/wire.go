package ws

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// writeStall is how long a peer may take nothing, on connections that have no
// rule of their own about that.
const writeStall = 10 * time.Second

// writePiece is what is written under one deadline: little enough that a slow
// peer takes some of it in time.
const writePiece = 16 << 10

// ErrStalled ends a connection whose peer has taken nothing for writeStall.
var ErrStalled = errors.New("the other side has read nothing for 10 s")

// netWire is an rpc.Wire for connections that bring none of their own.
type netWire struct {
	net.Conn
	raw syscall.RawConn // nil where a write cannot be tried
}

// WireOf returns c as an rpc.Wire: its own, or one that tries writes and gives
// up on a peer that takes nothing.
func WireOf(c net.Conn) rpc.Wire {
	if w, ok := c.(rpc.Wire); ok {
		return w
	}
	w := &netWire{Conn: c}
	if sc, ok := c.(syscall.Conn); ok {
		w.raw, _ = sc.SyscallConn()
	}
	return w
}

// TryWrite makes one attempt that cannot block.
func (w *netWire) TryWrite(p []byte) (n int, err error) {
	if w.raw == nil {
		return 0, nil
	}
	werr := w.raw.Write(func(fd uintptr) bool {
		n, err = syscall.Write(int(fd), p)
		return true
	})
	if err == syscall.EAGAIN || err == syscall.EINTR {
		n, err = 0, nil
	}
	if werr != nil {
		err = werr
	}
	return max(n, 0), err
}

// Write blocks until all of p is taken, and fails when the peer takes nothing for
// writeStall. Its deadline ends with it: TryWrite has none.
func (w *netWire) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if err := w.SetWriteDeadline(time.Now().Add(writeStall)); err != nil {
			return n, err
		}
		k, err := w.Conn.Write(p[n:min(len(p), n+writePiece)])
		n += k
		if err != nil && (k == 0 || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return n, stalled(err)
		}
	}
	return n, w.SetWriteDeadline(time.Time{})
}

// stalled says of a deadline whose it was.
func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrStalled
	}
	return err
}

// frameWatch follows the frames of a peer by their headers alone, and refuses
// a message whose announced length is over the limit before any of it is read.
type frameWatch struct {
	limit int64
	head  [14]byte
	n     int
	skip  int64 // payload still to come
	total int64 // of the message so far
}

// feed takes what was read and reports whether it is within the limit. If not,
// skip is what is still to come of the frame that is over it.
func (w *frameWatch) feed(p []byte) bool {
	for len(p) > 0 {
		if w.skip > 0 {
			n := min(w.skip, int64(len(p)))
			w.skip -= n
			p = p[n:]
			continue
		}
		w.head[w.n] = p[0]
		w.n++
		p = p[1:]
		if w.n < 2 {
			continue
		}
		length, size := uint64(w.head[1]&0x7f), 2
		switch length {
		case 126:
			size = 4
		case 127:
			size = 10
		}
		if w.head[1]&0x80 != 0 {
			size += 4
		}
		if w.n < size {
			continue
		}
		switch length {
		case 126:
			length = uint64(binary.BigEndian.Uint16(w.head[2:]))
		case 127:
			length = binary.BigEndian.Uint64(w.head[2:])
		}
		w.n = 0
		w.skip = int64(min(length, math.MaxInt64))
		if w.skip > w.limit {
			w.skip -= int64(len(p))
			return false
		}
		switch op := w.head[0] & 0x0f; {
		case op >= 8: // control frames stand between those of a message
			continue
		case op != 0:
			w.total = 0
		}
		if w.total += w.skip; w.total > w.limit {
			w.skip -= int64(len(p))
			return false
		}
	}
	return true
}
