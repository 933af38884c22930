package tests

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// patience bounds every wait. It is no measure of speed: it only turns a hang
// into a failure.
const patience = testkit.Patience

var (
	eventually = testkit.Eventually
	shortDir   = testkit.ShortDir
)

// daemon is a running hubd with a folder of its own.
type daemon struct {
	t      *testing.T
	dir    string // short: socket paths have at most 107 bytes
	socket string
	cmd    *exec.Cmd
	stderr *logBuffer
	exited chan struct{} // closed when the process has ended
	http   *http.Client  // over the socket
}

// startDaemon runs hubd --demo on a Unix socket and waits until it answers.
// The test fails if it does not end in good order afterwards.
func startDaemon(t *testing.T, flags ...string) *daemon {
	t.Helper()
	dir := shortDir(t)
	d := launchHub(t, dir, filepath.Join(dir, "state"), append([]string{"--demo"}, flags...)...)
	d.waitReady()
	return d
}

// launchHub starts hubd in dir with that state folder, and does not wait for
// it: it may be meant to fail.
func launchHub(t *testing.T, dir, state string, flags ...string) *daemon {
	t.Helper()
	programs(t)
	d := &daemon{t: t, dir: dir, socket: filepath.Join(dir, "h.sock"), stderr: new(logBuffer), exited: make(chan struct{})}
	args := append([]string{"--listen", "unix://" + d.socket, "--state", state}, flags...)
	d.cmd = exec.Command(filepath.Join(binDir, "hubd"), args...)
	d.cmd.Env = cleanEnv(dir)
	d.cmd.Stderr = d.stderr
	d.cmd.Stdout = d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.exited)
	}()
	t.Cleanup(d.stop)
	d.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		},
	}}
	return d
}

// cleanEnv is an environment in which nothing of the user's own hubd is found.
// What a test has set for tracing is passed on.
func cleanEnv(dir string) []string {
	env := []string{
		"PATH=" + binDir + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "XDG_STATE_HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "TMPDIR=" + dir,
		"GORACE=halt_on_error=1 exitcode=66",
	}
	for _, v := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_BSP_SCHEDULE_DELAY"} {
		if value := os.Getenv(v); value != "" {
			env = append(env, v+"="+value)
		}
	}
	return env
}

func (d *daemon) waitReady() {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if status, _, err := d.tryGet("/-/ready"); err == nil && status == http.StatusOK {
			return
		}
		select {
		case <-d.exited:
			d.t.Fatalf("hubd ended before it was ready: %v\n%s", d.cmd.ProcessState, d.stderr)
		case <-time.After(10 * time.Millisecond): // between two attempts
		}
	}
	d.t.Fatalf("hubd was not ready after %v\n%s", patience, d.stderr)
}

func (d *daemon) tryGet(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://hub"+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := d.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// signal sends sig and reports whether the process was still there.
func (d *daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Errorf("signal hubd: %v", err)
	}
}

// wait waits until the process has ended and returns its exit code.
func (d *daemon) wait() int {
	d.t.Helper()
	select {
	case <-d.exited:
	case <-time.After(patience):
		d.cmd.Process.Signal(syscall.SIGQUIT) // print the goroutines
		select {
		case <-d.exited:
		case <-time.After(5 * time.Second):
			d.cmd.Process.Kill()
			<-d.exited
		}
		d.t.Fatalf("hubd did not end within %v\n%s", patience, d.stderr)
	}
	return d.cmd.ProcessState.ExitCode()
}

// stop is the end of every test: SIGTERM must lead to exit code 0.
func (d *daemon) stop() {
	d.http.CloseIdleConnections()
	select {
	case <-d.exited: // the test has seen to it
	default:
		d.signal(syscall.SIGTERM)
		if code := d.wait(); code != 0 {
			d.t.Errorf("hubd ended with code %d after SIGTERM, want 0\n%s", code, d.stderr)
		}
	}
	if d.t.Failed() {
		d.t.Logf("hubd said:\n%s", d.stderr)
	}
}

// metric returns the sum of the series of a metric family whose labels contain
// every one of the given `name="value"` pairs, and whether there is any.
func (d *daemon) metric(family string, labels ...string) (sum float64, found bool) {
	d.t.Helper()
	status, body, err := d.tryGet("/metrics")
	if err != nil || status != http.StatusOK {
		d.t.Fatalf("GET /metrics: %d, %v", status, err)
	}
	return sumSeries(d.t, body, family, labels...)
}

func sumSeries(t *testing.T, body, family string, labels ...string) (sum float64, found bool) {
	t.Helper()
series:
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		name, rest, _ := strings.Cut(line, " ")
		set := ""
		if i := strings.IndexByte(line, '{'); i >= 0 && i < len(name) {
			end := strings.LastIndexByte(line, '}')
			name, set, rest = line[:i], line[i:end+1], strings.TrimSpace(line[end+1:])
		}
		if name != family {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(set, l) {
				continue series
			}
		}
		value, _, _ := strings.Cut(rest, " ")
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatalf("metric line %q: %v", line, err)
		}
		sum += v
		found = true
	}
	return sum, found
}

// status returns a value of /proc/PID/status in bytes ("VmRSS", "VmHWM").
func (d *daemon) status(key string) int64 {
	d.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), key+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				d.t.Fatalf("%s: %v", lines.Text(), err)
			}
			return kib << 10
		}
	}
	d.t.Fatalf("/proc/PID/status has no %s", key)
	return 0
}

// logBuffer collects what a process writes.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
