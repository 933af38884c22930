package main

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// pid is that of the hub.
func (m *machine) pid() int {
	pid, err := strconv.Atoi(m.property("hubd.service", "MainPID"))
	m.must(err)
	return pid
}

// restarted waits for another process than old that is ready.
func (m *machine) restarted(old int) {
	m.until("the hub is started again", func() bool {
		now := m.pid()
		return now != 0 && now != old && m.property("hubd.service", "ActiveState") == "active"
	})
}

// put writes the number i under its own key and returns the revision.
func (m *machine) put(c *client.Client, i int) uint64 {
	var r struct {
		Revision uint64 `json:"revision"`
	}
	if err := c.Call(m.ctx, "state.put", map[string]any{"key": fmt.Sprintf("n/%d", i), "value": i}, &r); err != nil {
		m.fatalf("put %d: %v", i, err)
	}
	return r.Revision
}

// holds checks that the numbers below n are there.
func (m *machine) holds(c *client.Client, n int) {
	for i := range n {
		var item struct {
			Value *int `json:"value"`
		}
		if err := c.Call(m.ctx, "state.get", map[string]any{"key": fmt.Sprintf("n/%d", i)}, &item); err != nil || item.Value == nil || *item.Value != i {
			m.errorf("key n/%d after the restart: %v", i, err)
			return
		}
	}
}

// watchdog: a hub that hangs is noticed and restarted, and the journal says
// what its goroutines were doing.
func watchdog(m *machine) {
	m.install()
	m.dropIn("WatchdogSec=2s")
	m.systemctl("start", "hubd.socket")
	c := m.client()
	for i := range 20 {
		m.put(c, i)
	}
	old := m.pid()
	// Three intervals without harm: the pings arrive.
	time.Sleep(6 * time.Second)
	m.expect("restarts of a hub that works", m.property("hubd.service", "NRestarts"), "0")
	if m.pid() != old {
		m.errorf("the hub that works was restarted")
	}

	k := knocking(1)
	k.answers(m)
	m.must(syscall.Kill(old, syscall.SIGSTOP))
	began := time.Now()
	m.restarted(old)
	took := time.Since(began)
	k.answers(m)
	k.end(m)
	m.figure("stopped hub restarted after %v with WatchdogSec=2s", took.Round(time.Millisecond))
	m.expect("restarts", m.property("hubd.service", "NRestarts"), "1")
	m.holds(m.client(), 20)
	journal := m.run("journalctl", "-u", "hubd", "--no-pager", "-o", "cat")
	for _, want := range []string{"Watchdog timeout", "goroutine ", "SIGABRT"} {
		if !strings.Contains(journal, want) {
			m.errorf("the journal has no %q", want)
		}
	}
}

// kills: the hub is killed again and again under a writer; every write that was
// acknowledged is there afterwards, and no connect is refused.
func kills(m *machine) {
	m.install()
	m.systemctl("start", "hubd.socket")
	k := knocking(2)
	k.answers(m)
	written, last := 0, uint64(0)
	var worst time.Duration
	for range 5 {
		c := m.client()
		for range 50 {
			if r := m.put(c, written); r <= last {
				m.errorf("revision %d after %d", r, last)
			} else {
				last = r
			}
			written++
		}
		old := m.pid()
		began := time.Now()
		m.must(syscall.Kill(old, syscall.SIGKILL))
		m.restarted(old)
		worst = max(worst, time.Since(began))
		c.Close()
	}
	c := m.client()
	m.holds(c, written)
	if r := m.put(c, written); r <= last {
		m.errorf("revision %d was used before the last kill: now %d", last, r)
	}
	m.figure("%d acknowledged writes over 5 kills, all there; started again after at most %v", written, worst.Round(time.Millisecond))
	k.end(m)
	m.expect("restarts", m.property("hubd.service", "NRestarts"), "5")
}

// crash: a crash of the Go runtime ends the process in a way that systemd
// restarts, although 2, the exit code that Go has for it, is that of usage errors.
func crash(m *machine) {
	m.install()
	m.systemctl("start", "hubd.socket", "hubd.service")
	old := m.pid()
	m.must(syscall.Kill(old, syscall.SIGABRT))
	m.restarted(old)
	m.expect("restarts", m.property("hubd.service", "NRestarts"), "1")
	m.run("hubctl", "ping", "-c1")
}
