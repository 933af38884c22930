package capnweb

import (
	"math/bits"
	"net"
	"sync"
	"syscall"
	"time"
)

// Of a low-water mark.
const (
	minOwed      = 8                // fewer releases are not waited for
	maxOwed      = 64               // more make no difference
	releaseBytes = 16               // less than any release has on the wire
	lowWaterWait = time.Millisecond // how long the kernel may hold bytes back
)

// lowWater spares a busy peer the wake-up of our reader at each of its small
// frames, which is charged to the peer's own write: while the peer owes
// releases for answers that it has not looked at yet, the kernel is told to
// report the socket as readable only when there are about as many bytes as
// those releases will have. A peer that has nothing left to do owes nothing,
// so nobody's answer waits for this; and a timer bounds it for peers that
// release late or never.
type lowWater struct {
	raw   syscall.RawConn
	timer *time.Timer

	mu    sync.Mutex
	level int   // what the kernel was told
	late  bool  // the timer has ended the last wait
	floor int64 // fewer releases owed are not waited for
	paid  int64 // releases up to the last wait
}

// newLowWater returns nil where the kernel knows no low-water mark.
func newLowWater(c net.Conn) *lowWater {
	sc, ok := c.(syscall.Conn)
	if !ok || c.LocalAddr() == nil || c.LocalAddr().Network() != "tcp" {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	w := &lowWater{raw: raw, level: 1, floor: minOwed}
	w.timer = time.AfterFunc(time.Hour, w.expire)
	w.timer.Stop()
	return w
}

// wait is called before the reader blocks. owed is how many answers the peer
// has not released, paid how many it has released in all.
func (w *lowWater) wait(owed, paid int64) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.late { // it does not pay at once: ask it for less, less often
		w.late = false
		w.floor = max(w.floor, 2*owed)
	} else {
		w.floor = max(w.floor-(paid-w.paid), minOwed)
	}
	w.paid = paid
	if owed < w.floor {
		if w.level > 1 {
			w.timer.Stop()
			w.setLocked(1)
		}
		return
	}
	w.timer.Reset(lowWaterWait)
	w.setLocked(1 << (bits.Len64(uint64(min(owed, maxOwed)*releaseBytes)) - 1))
}

// expire ends a wait that takes too long.
func (w *lowWater) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.level > 1 {
		w.late = true
		w.setLocked(1) // the kernel reports what it has held back
	}
}

// stop is called when nothing is read any more.
func (w *lowWater) stop() {
	if w != nil {
		w.timer.Stop()
	}
}

func (w *lowWater) setLocked(level int) {
	if level == w.level {
		return
	}
	var err error
	if e := w.raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, level)
	}); e == nil && err == nil {
		w.level = level
	}
}
