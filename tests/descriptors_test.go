package tests

import (
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A hub that has no descriptor left goes on serving those who are connected,
// tries again with growing pauses instead of spinning, and takes those who wait
// when there are descriptors again.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.call("first", "math.add", "[1,2]")
	w.SetDeadline(time.Now().Add(6 * patience))
	// Metrics over a connection that is there already.
	scrape := func(family string) int {
		t.Helper()
		n, _ := d.metric(family)
		return int(n)
	}
	scrape("hubd_accept_errors_total")

	pid := d.cmd.Process.Pid
	open, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	var normal unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &normal); err != nil {
		t.Skipf("cannot look at the limits of another process: %v", err)
	}
	none := unix.Rlimit{Cur: uint64(len(open)), Max: normal.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
		t.Skipf("cannot set the limits of another process: %v", err)
	}
	used := processorTime(t, pid)
	began := time.Now()

	// More than there is room for below the limit, wherever holes are.
	const late = 40
	answers := make(chan string, late)
	leave := make(chan struct{}) // until then they stay
	for range late {
		go func() {
			c, err := net.Dial("unix", d.socket)
			if err != nil {
				answers <- err.Error()
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(4 * patience))
			io.WriteString(c, request("late", "math.add", "[1,2]"))
			buf := make([]byte, 512)
			n, err := c.Read(buf)
			if err != nil {
				answers <- err.Error()
				return
			}
			answers <- string(buf[:n])
			<-leave
		}()
	}
	const errors = 9 // 5 ms, 10 ms, ... 640 ms, 1 s
	calls := 0
	eventually(t, "some attempts to accept have failed", func() bool {
		if answer := w.call("next"+strconv.Itoa(calls), "math.add", "[1,2]"); w.result(answer) != "3" {
			t.Fatalf("who is connected got %s", answer.line)
		}
		calls++
		return scrape("hubd_accept_errors_total") >= errors
	})
	took := time.Since(began)
	if least := 1275 * time.Millisecond; took < least { // the pauses between nine failures; a busy machine takes longer
		t.Errorf("%d attempts in %v: that is spinning", errors, took)
	}
	t.Logf("%d attempts to accept in %v, in which the hub used %v of processor time and answered %d calls",
		scrape("hubd_accept_errors_total"), took.Round(time.Millisecond), processorTime(t, pid)-used, calls)

	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &normal, nil); err != nil {
		t.Fatal(err)
	}
	defer close(leave)
	for range late {
		if answer := <-answers; !strings.Contains(answer, `"result":3`) {
			t.Errorf("who waited got %q", answer)
		}
	}
	if status, _, err := d.tryGet("/-/ready"); err != nil || status != http.StatusOK {
		t.Errorf("afterwards: %d, %v", status, err)
	}
}

// processorTime returns what a process has used.
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("/proc/PID/stat: %s", text)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks a second, everywhere
}
