package hub

import (
	"bufio"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A shutdown waits for those that have just come in, and not for silent ones.
func TestShutdownWaitsForUnansweredConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n unanswered
		took := func() time.Duration {
			began := time.Now()
			n.wait(time.Second)
			return time.Since(began)
		}
		if d := took(); d != 0 {
			t.Errorf("nobody there: waited %v", d)
		}
		silent := n.enter()
		time.Sleep(700 * time.Millisecond)
		if d := took(); d != 300*time.Millisecond {
			t.Errorf("a silent one that came 700 ms ago: waited %v", d)
		}
		if d := took(); d != 0 {
			t.Errorf("a silent one that came 1 s ago: waited %v", d)
		}
		silent()
		silent() // twice is once
		first, second := n.enter(), n.enter()
		go func() {
			time.Sleep(20 * time.Millisecond)
			first()
			time.Sleep(20 * time.Millisecond)
			second()
		}()
		if d := took(); d != 40*time.Millisecond {
			t.Errorf("two that are answered after 20 and 40 ms: waited %v", d)
		}
	})
}

// handedOver is a listening socket of its own for the same address: what a
// service manager hands to each hub that it starts.
func handedOver(t *testing.T, ln *net.UnixListener) net.Listener {
	t.Helper()
	f, err := ln.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Hubs follow each other on one socket while clients connect and call without
// pause: every one of them gets an answer, if only that the hub is stopping.
func TestRestartsLeaveNobodyWithoutAnswer(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "given.sock")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ln.SetUnlinkOnClose(false)

	var answered, silent atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Errorf("refused: %v", err)
					return
				}
				c.SetDeadline(time.Now().Add(patience))
				fmt.Fprint(c, `{"action":"rpc_request","request_id":"k","method":"ping","params":{}}`+"\n")
				if line, _ := bufio.NewReader(c).ReadString('\n'); line == "" {
					silent.Add(1)
				} else {
					answered.Add(1)
				}
				c.Close()
			}
		})
	}
	for range 15 {
		before := answered.Load()
		h := startHub(t, Options{Inherited: []net.Listener{handedOver(t, ln)}})
		eventually(t, "calls are answered", func() bool { return answered.Load() > before+50 })
		if err := h.stop(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	last := startHub(t, Options{Inherited: []net.Listener{handedOver(t, ln)}}) // answers those that wait
	clients.Wait()
	if err := last.stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d answered over 15 restarts", answered.Load())
	if n := silent.Load(); n > 0 {
		t.Errorf("%d of %d connections were closed without a word", n, n+answered.Load())
	}
}
