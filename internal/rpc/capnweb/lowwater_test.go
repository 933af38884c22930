package capnweb

import (
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc/capnweb/capnwebtest"
)

func TestLowWater(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	w := newLowWater(near)
	defer w.stop()
	level := func() (n int) {
		t.Helper()
		if err := w.raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT) }); err != nil {
			t.Fatal(err)
		}
		return max(n, 1) // 0 until it is set for the first time
	}
	// The timer is stopped after each wait: what it would do is called by hand.
	for _, step := range []struct {
		what       string
		owed, paid int64
		late       bool
		want       int
	}{
		{"nothing is owed", 0, 0, false, 1},
		{"too little to wait for", 7, 0, false, 1},
		{"eight releases", 8, 0, false, 128},
		{"many", 64, 10, false, 1024},
		{"very many", 5000, 20, false, 1024},
		{"little again", 3, 5000, false, 1},
		{"many, of a peer that does not pay", 64, 5000, true, 1024},
		{"it is not waited for again", 64, 5000, false, 1},
		{"nor at twice as much, less one", 127, 5000, false, 1},
		{"but then, once", 128, 5000, true, 1024},
		{"and later and later", 200, 5000, false, 1},
		{"who pays is waited for again", 64, 5400, false, 1024},
	} {
		w.wait(step.owed, step.paid)
		w.timer.Stop()
		if got := level(); got != step.want {
			t.Errorf("%s: %d, want %d", step.what, got, step.want)
		}
		if step.late {
			if w.expire(); level() != 1 {
				t.Errorf("%s: the wait goes on", step.what)
			}
		}
	}
	// What is held back comes in any case.
	w.wait(0, 6000)
	w.wait(64, 6000)
	if _, err := far.Write([]byte("few")); err != nil {
		t.Fatal(err)
	}
	near.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 10)
	if n, err := near.Read(buf); n != 3 || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if pipe, _ := net.Pipe(); newLowWater(pipe) != nil {
		t.Error("a pipe has no low-water mark")
	}
	var none *lowWater
	none.wait(100, 0)
	none.stop()
}

// TestPeerThatNeverReleases calls often over TCP and releases nothing: it is
// answered all the same.
func TestPeerThatNeverReleases(t *testing.T) {
	sv := New(Config{Table: capnwebtest.New().Table})
	hs := httptest.NewServer(sv)
	t.Cleanup(func() {
		sv.Close(t.Context())
		hs.Close()
	})
	c, err := Dial(t.Context(), strings.Replace(hs.URL, "http", "ws", 1), DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 500 {
		// Written by hand: the client's own tables know nothing of the ids.
		for _, m := range []string{fmt.Sprintf(`["push",["pipeline",0,["echo"],[%d]]]`, i), fmt.Sprintf(`["pull",%d]`, i+1)} {
			if err := c.sock.send(nil, []byte(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "all are answered", func() bool {
		sv.mu.Lock()
		defer sv.mu.Unlock()
		for _, s := range sv.sessions {
			owed, _ := s.unreleased()
			return owed == 500
		}
		return false
	})
}
