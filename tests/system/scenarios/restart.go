package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// knock is a client that connects and calls in a tight loop until stop is
// closed, as impatient programs do.
type knock struct {
	connects, refused, answered atomic.Int64
	told                        atomic.Int64 // to come again, since the hub stops
	cut                         atomic.Int64 // accepted and closed without an answer
	worst                       atomic.Int64 // nanoseconds of one connect and call
	odd                         atomic.Pointer[string]

	stop chan struct{}
	wg   sync.WaitGroup
}

// knocking starts n of them.
func knocking(n int) *knock {
	k := &knock{stop: make(chan struct{})}
	for range n {
		k.wg.Go(func() {
			for {
				select {
				case <-k.stop:
					return
				default:
					k.once()
				}
			}
		})
	}
	return k
}

func (k *knock) once() {
	began := time.Now()
	k.connects.Add(1)
	c, err := net.Dial("unix", socket)
	if err != nil {
		k.refused.Add(1)
		k.note(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprint(c, `{"action":"rpc_request","request_id":"k","method":"ping","params":{}}`+"\n")
	line, err := bufio.NewReader(c).ReadString('\n')
	switch {
	case err != nil:
		k.cut.Add(1)
	case strings.Contains(line, `"status":"ok"`):
		k.answered.Add(1)
	case strings.Contains(line, `"unavailable"`) || strings.Contains(line, `"goodbye"`):
		k.told.Add(1)
	default:
		k.note(fmt.Errorf("answer %.200s", line))
	}
	took := time.Since(began).Nanoseconds()
	for old := k.worst.Load(); took > old && !k.worst.CompareAndSwap(old, took); old = k.worst.Load() {
	}
}

func (k *knock) note(err error) {
	text := err.Error()
	k.odd.Store(&text)
}

// end stops them and says how it was.
func (k *knock) end(m *machine) {
	close(k.stop)
	k.wg.Wait()
	m.figure("%d connects, %d refused, %d answered, %d told to come again, %d cut off, worst %v", k.connects.Load(), k.refused.Load(),
		k.answered.Load(), k.told.Load(), k.cut.Load(), time.Duration(k.worst.Load()).Round(time.Millisecond))
	if odd := k.odd.Load(); odd != nil {
		m.errorf("something odd: %s", *odd)
	}
	if k.refused.Load() != 0 || k.answered.Load() == 0 {
		m.errorf("%d of %d connects were refused, %d answered", k.refused.Load(), k.connects.Load(), k.answered.Load())
	}
}

// unharmed is for restarts in good order: whoever came in got an answer.
func (k *knock) unharmed(m *machine) {
	if n := k.cut.Load(); n > 0 {
		m.errorf("%d connections were accepted and closed without an answer", n)
	}
}

// answers waits until the hub has answered some more.
func (k *knock) answers(m *machine) {
	before := k.answered.Load()
	m.until("answers", func() bool { return k.answered.Load() > before+20 })
}

// restarts: five of them while clients connect without pause; none is refused,
// since the socket stays with systemd.
func restarts(m *machine) {
	m.install()
	m.systemctl("start", "hubd.socket")
	k := knocking(4)
	k.answers(m)
	seen := map[string]bool{}
	for range 5 {
		seen[m.property("hubd.service", "MainPID")] = true
		m.systemctl("restart", "hubd.service")
		k.answers(m)
	}
	seen[m.property("hubd.service", "MainPID")] = true
	k.end(m)
	k.unharmed(m)
	if len(seen) != 6 {
		m.errorf("%d processes served, expected 6", len(seen))
	}
	m.expect("the result", m.property("hubd.service", "Result"), "success")
}

// drain: a call that runs when the hub is told to stop is answered, although
// it takes longer than the unit allows: the hub asks for more time.
func drain(m *machine) {
	m.install()
	m.dropIn("ExecStart=\nExecStart=/usr/bin/hubd --demo --limits-drain 30s\nTimeoutStopSec=2s\nWatchdogSec=1s")
	m.systemctl("start", "hubd.socket")
	c := m.client()
	var slept float64
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- c.Call(m.ctx, "demo.sleep", map[string]any{"seconds": 6}, &slept) }()
	m.until("the call runs", func() bool { return m.metric(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	pid := m.property("hubd.service", "MainPID")
	m.systemctl("stop", "hubd.service")
	if err := <-done; err != nil || slept != 6 {
		m.errorf("the call that ran: %v, %v", slept, err)
	}
	m.figure("a call of 6 s was answered after %v, with TimeoutStopSec=2s and WatchdogSec=1s", time.Since(began).Round(time.Millisecond))
	m.expect("the result", m.property("hubd.service", "Result"), "success")
	if again := m.property("hubd.service", "MainPID"); again == pid {
		m.errorf("process %s still runs", pid)
	}
}
