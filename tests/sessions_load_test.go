package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// One follower never reads: the others get every event, it gets a gap, and the
// hub keeps no more than its bounds. The full size, 100 followers at 10,000
// events per second, is in HUBD_TEST_FOLLOWERS and HUBD_TEST_EVENTS.
func TestManyFollowersOneStalled(t *testing.T) {
	t.Parallel()
	followers, events := 20, 12000 // more than the log of a session holds
	fmt.Sscan(os.Getenv("HUBD_TEST_FOLLOWERS"), &followers)
	fmt.Sscan(os.Getenv("HUBD_TEST_EVENTS"), &events)
	d := startDaemon(t, "--limits-write-stall", "10m") // else who does not read is closed after 10 s
	stalled := d.dial()
	stalled.send(`{"action":"hello","version":1}` + "\n" + `{"action":"attach","session":"demo"}` + "\n")
	stalled.frame()
	if ack := stalled.frame(); ack.Type != "attach_ack" {
		t.Fatalf("got %s", ack.line)
	}

	var failed atomic.Pointer[string]
	fail := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		failed.CompareAndSwap(nil, &text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	places := make([]atomic.Uint64, followers-1)
	var wg sync.WaitGroup
	for i := range places {
		c, err := client.Dial(ctx, d.socket, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		wg.Go(func() {
			last := uint64(0)
			for e, err := range c.Attach(ctx, "demo", nil) {
				if err != nil {
					fail("follower %d after event %d: %v", i, last, err)
					return
				}
				if e.Seq != last+1 || e.Type != "output" {
					fail("follower %d: %s after event %d", i, e.JSON, last)
					return
				}
				last = e.Seq
				places[i].Store(last)
				if last == uint64(events) {
					return
				}
			}
		})
	}
	asking := d.dial()
	eventually(t, "all follow", func() bool { return followersOf(asking, "demo") == followers })
	slowest := func() uint64 {
		least := uint64(events)
		for i := range places {
			least = min(least, places[i].Load())
		}
		return least
	}
	ok := func() bool { return failed.Load() == nil }

	publisher, err := client.Dial(ctx, d.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	stream, err := publisher.Open(ctx, "session.publish", map[string]string{"session": "demo"})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 1000)
	began := time.Now()
	for n := range events {
		// Those that read must not fall behind because this machine is busy.
		for n%100 == 0 && uint64(n) > slowest()+2000 && ok() {
			time.Sleep(time.Millisecond)
		}
		if err := stream.Send(map[string]string{"type": "output", "rendered": text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Result(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every follower has every event", func() bool { return slowest() == uint64(events) || !ok() })
	took := time.Since(began)
	kept, _ := d.metric("hubd_session_memory_bytes")
	t.Logf("%d events to %d followers in %v: %.0f events/s, %.0f deliveries/s; kept %.0f bytes, resident %d MiB at most",
		events, followers, took, float64(events)/took.Seconds(), float64(events)*float64(followers-1)/took.Seconds(), kept, d.status("VmHWM")>>20)
	if text := failed.Load(); text != nil {
		t.Fatal(*text)
	}
	cancel()
	wg.Wait()
	if kept > 8<<20+64<<10 { // 4 MiB of the ring, 4 MiB of the log
		t.Errorf("the session keeps %.0f bytes", kept)
	}

	// Now it reads: some events, a gap, and the latest, in order.
	last, gaps := uint64(0), 0
	for last < uint64(events) {
		f := stalled.frame()
		switch f.Type {
		case "heartbeat":
		case "gap":
			var gap struct{ Dropped uint64 }
			json.Unmarshal([]byte(f.line), &gap)
			if f.Seq != last+gap.Dropped || gap.Dropped == 0 {
				t.Fatalf("%s after event %d", f.line, last)
			}
			last = f.Seq
			gaps++
		default:
			if f.Seq != last+1 {
				t.Fatalf("event %d after %d", f.Seq, last)
			}
			last = f.Seq
		}
	}
	if gaps == 0 {
		t.Error("the stalled follower lost nothing: the test did not stall it")
	}
	if drops, _ := d.metric("hubd_drops_total", `reason="slow_follower"`); drops == 0 {
		t.Error("the lost events were not counted")
	}
}

// followersOf asks how many follow a session.
func followersOf(w *wire, session string) int {
	w.t.Helper()
	var info struct{ Followers []json.RawMessage }
	json.Unmarshal([]byte(w.result(w.call("i", "session.info", fmt.Sprintf(`{"session":%q}`, session)))), &info)
	return len(info.Followers)
}

// A thousand followers that vanish leave nothing behind.
func TestAbruptClosesLeaveNothing(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	followers := func() int { return followersOf(w, "demo") }
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.cmd.Process.Pid))
		if err != nil {
			t.Skipf("no /proc: %v", err)
		}
		return len(entries)
	}
	goroutines := func() float64 {
		n, found := d.metric("go_goroutines")
		if !found {
			t.Fatal("there is no go_goroutines")
		}
		return n
	}
	connect := func(i int) net.Conn {
		c, err := net.Dial("unix", d.socket)
		if err != nil {
			t.Fatal(err)
		}
		lines := []string{`{"action":"attach","mode":"interactive"}`, `{"type":"input","text":"x"}`}
		switch i % 4 {
		case 1: // with calls that run
			lines = append(lines, strings.TrimSuffix(request("s", "demo.sleep", `{"seconds":600}`, `"timeout":600`), "\n"))
		case 2: // as a stream of another kind
			lines = []string{strings.TrimSuffix(request("f", "session.follow", `{"session":"demo"}`, `"stream":true`), "\n")}
		case 3: // in the middle of a line
			lines = append(lines, `{"type":"inp`)
		}
		if _, err := io.WriteString(c, strings.TrimSuffix(strings.Join(lines, "\n")+"\n", map[bool]string{true: "\n"}[i%4 == 3])); err != nil {
			t.Fatal(err)
		}
		return c
	}
	w.call("warm", "echo", `{}`)
	goroutines()
	fds, routines := descriptors(), goroutines()
	for range 10 {
		var conns []net.Conn
		for i := range 100 {
			conns = append(conns, connect(i))
		}
		eventually(t, "all follow", func() bool { return followers() == 100 })
		for _, c := range conns {
			c.Close()
		}
		eventually(t, "nobody follows", func() bool { return followers() == 0 })
	}
	eventually(t, "descriptors are given back", func() bool { return descriptors() <= fds })
	eventually(t, "goroutines have ended", func() bool { return goroutines() <= routines })
	eventually(t, "calls have ended", func() bool {
		n, _ := d.metric("hubd_calls_in_flight")
		return n == 0
	})
}

// A flood of events does not keep a reply waiting behind more than what the
// connection may have queued, and a flood of calls does not keep events back.
func TestFloodsDoNotStarve(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	stop := make(chan struct{})
	var floods sync.WaitGroup
	defer floods.Wait()
	var once sync.Once
	end := func() { once.Do(func() { close(stop) }) }
	defer end()

	w := d.dial()
	w.send(`{"action":"hello","version":1}` + "\n" + `{"action":"attach","session":"demo","mode":"interactive"}` + "\n")
	w.frame()
	w.frame()

	// Two publish all the time, more than a connection carries.
	publishing, err := client.Dial(t.Context(), d.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer publishing.Close()
	var published atomic.Int64
	for range 2 {
		floods.Go(func() {
			event := map[string]any{"session": "demo", "event": map[string]string{"type": "output", "rendered": strings.Repeat("y", 4000)}}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := publishing.Call(context.Background(), "session.publish", event, nil); err != nil {
					return
				}
				published.Add(1)
				runtime.Gosched()
			}
		})
	}
	eventually(t, "events flow", func() bool { return published.Load() > 500 })
	const bound = 4 << 20 // the outbox takes events up to 1 MiB, and the socket its buffers
	for i := range 50 {
		id := fmt.Sprint("c", i)
		var head uint64
		mark := d.dial() // where the session is when the call is made
		var info struct{ Seq uint64 }
		json.Unmarshal([]byte(mark.result(mark.call("i", "session.info", `{"session":"demo"}`))), &info)
		head = info.Seq
		mark.Close()
		w.send(request(id, "echo", `{"n":`+fmt.Sprint(i)+`}`))
		behind, events := 0, 0
		for {
			f := w.frame()
			if f.Action == "rpc_reply" {
				if f.id() != id {
					t.Fatalf("reply to %s, want %s", f.id(), id)
				}
				break
			}
			if events++; f.Type == "output" && f.Seq > head {
				behind += len(f.line)
			}
		}
		if behind > bound {
			t.Errorf("call %d: %d bytes of later events came before the reply", i, behind)
		}
	}
	end()
	floods.Wait()

	// Now calls, as many as the connection takes, and one event after the other.
	var calls, replies atomic.Int64
	calling := make(chan struct{})
	floods.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-calling:
				return
			default:
			}
			if calls.Load()-replies.Load() > 2000 { // the hub refuses more than 4,096
				runtime.Gosched()
				continue
			}
			if _, err := io.WriteString(w, request(fmt.Sprint("f", i), "echo", `{"x":"0123456789"}`)); err != nil {
				return
			}
			calls.Add(1)
		}
	})
	seen := make(chan uint64, 1)
	floods.Go(func() {
		for {
			line, err := w.r.ReadString('\n')
			if err != nil {
				return
			}
			if strings.Contains(line, `"rpc_reply"`) {
				if !strings.Contains(line, `"error":null`) {
					t.Errorf("refused: %s", line)
				}
				replies.Add(1)
				continue
			}
			var e struct {
				Type string
				Mark uint64
			}
			if json.Unmarshal([]byte(line), &e) == nil && e.Type == "mark" {
				select {
				case seen <- e.Mark:
				case <-calling:
					return
				}
			}
		}
	})
	eventually(t, "calls are answered", func() bool { return replies.Load() > 2000 })
	other := d.dial()
	for n := range uint64(20) {
		before := replies.Load()
		other.call("p", "session.publish", fmt.Sprintf(`{"session":"demo","event":{"type":"mark","mark":%d}}`, n))
		select {
		case got := <-seen:
			if got != n {
				t.Fatalf("event %d, want %d", got, n)
			}
		case <-time.After(patience):
			t.Fatalf("event %d did not come within %v, though %d replies did", n, patience, replies.Load()-before)
		}
	}
	close(calling)
	w.Close()
}
