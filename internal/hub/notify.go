package hub

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// What the service manager is told, in the words of sd_notify: READY=1 and
// RELOADING=1 in run.go, WATCHDOG=1 in watchdog.go, and here a line of numbers
// for "systemctl status" and the extensions for more time while the hub drains.

const (
	// statusEvery is how often the line of numbers is made anew.
	statusEvery = 10 * time.Second
	// extendEvery is how often more time is asked for. Each extension is good for
	// several times that, so that a busy machine does not miss one.
	extendEvery = 2 * time.Second
)

func (h *hub) notify(state string) {
	if h.opts.Notify != nil {
		h.opts.Notify(state)
	}
}

// statusLine says in one line what the hub does.
func (h *hub) statusLine() string {
	s := h.store.Stats()
	line := fmt.Sprintf("%s: %d connections, %d calls in flight, %d answered, %d sessions, %d keys at revision %d",
		phaseNames[h.phase.Load()], len(h.connections()), h.gate.InFlight(), h.answered.Load(), h.sessionCount(), s.Keys, s.Revision)
	if err := h.service.Ready(); err != nil && h.phase.Load() == ready {
		line += ", the state takes no writes"
	}
	return line
}

// keepStatus tells the line of numbers whenever it has changed.
func (h *hub) keepStatus() {
	if h.opts.Notify == nil {
		return
	}
	h.background.Go(func() {
		t := time.NewTicker(statusEvery)
		defer t.Stop()
		for last := ""; ; {
			select {
			case <-h.ctx.Done():
				return
			case <-t.C:
			}
			if line := h.statusLine(); line != last && h.phase.Load() == ready {
				h.notify("STATUS=" + line)
				last = line
			}
		}
	})
}

// extendStopTimeout tells that the hub is stopping, and asks for time until the function
// it returns is called: again and again, so that a hub that hangs meanwhile
// gets none. The last extension covers the steps after the drain.
func (h *hub) extendStopTimeout() (last func()) {
	extension := func(first string, d time.Duration) {
		h.notify(strings.TrimSpace(fmt.Sprintf("%s\nSTATUS=%s\nEXTEND_TIMEOUT_USEC=%d", first, h.statusLine(), d.Microseconds())))
	}
	extension("STOPPING=1", 5*extendEvery)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(extendEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				extension("", 5*extendEvery)
			}
		}
	}()
	return func() {
		cancel()
		<-done
		extension("", 3*closing+extendEvery)
	}
}
