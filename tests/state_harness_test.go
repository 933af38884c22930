package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// startHub runs hubd in dir with that state folder and waits until it answers.
func startHub(t *testing.T, dir, state string) *daemon {
	t.Helper()
	d := launchHub(t, dir, state)
	d.waitReady()
	return d
}

// kill ends the process at once, with no chance to tidy up.
func (d *daemon) kill() {
	d.t.Helper()
	d.signal(syscall.SIGKILL)
	d.wait()
	d.http.CloseIdleConnections()
}

// endSession ends the runner of a detached session with the test: both it and its program would go on without the hub.
func (d *daemon) endSession(name string) {
	d.t.Helper()
	out, talk, _ := d.run("", "hubctl", "call", "session.info", "session="+name)
	m := regexp.MustCompile(`"pid": *(\d+)`).FindStringSubmatch(out)
	if m == nil {
		d.t.Fatalf("session %s has no owner: %s%s", name, out, talk)
	}
	pid, _ := strconv.Atoi(m[1])
	d.t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // it may have ended
}

// run runs a program to its end and returns what it wrote and its exit code.
func (d *daemon) run(stdin string, args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, args[0]), args[1:]...)
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "NO_COLOR=1")
	cmd.Stdin = strings.NewReader(stdin)
	var out, talk strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	if ctx.Err() != nil {
		d.t.Fatalf("%v did not end within %v", args, patience)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

// tryWire is a native connection whose errors are returned, for goroutines and
// for daemons that get killed.
type tryWire struct {
	net.Conn
	r *bufio.Reader
}

func tryDial(socket string) (*tryWire, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	w := testkit.Conn{Conn: c}
	return &tryWire{w, newLineReader(w)}, nil
}

// redial connects as soon as somebody listens, or until stop is closed.
func redial(socket string, stop <-chan struct{}) *tryWire {
	for {
		if w, err := tryDial(socket); err == nil {
			return w
		}
		select {
		case <-stop:
			return nil
		case <-time.After(5 * time.Millisecond): // between two attempts
		}
	}
}

func (w *tryWire) write(text string) error {
	_, err := io.WriteString(w, text)
	return err
}

func (w *tryWire) next() (f frame, err error) {
	line, err := w.r.ReadString('\n')
	if err != nil {
		return f, err
	}
	err = json.Unmarshal([]byte(line), &f)
	f.line = line
	return f, err
}

// change is an event of state.watch, or a marker.
type change struct {
	Type     string          `json:"type"`
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Revision uint64          `json:"revision"`
	Previous uint64          `json:"previous_revision"`
}

func (c change) String() string {
	return fmt.Sprintf("%s %s=%s at %d after %d", c.Type, c.Key, c.Value, c.Revision, c.Previous)
}

// isMark tells markers from changes.
func (c change) isMark() bool { return c.Type == "synced" || c.Type == "progress" }

// history reads every change that the hub remembers, over a connection of its own.
func (d *daemon) history() []change {
	d.t.Helper()
	w := d.dial()
	defer w.Close()
	w.send(request("h", "state.watch", `{"from_revision":0}`, `"stream":true`))
	var all []change
	for {
		f := w.frame()
		if f.Action != "rpc_chunk" {
			d.t.Fatalf("the watch of everything ended: %s", f.line)
		}
		var c change
		if err := json.Unmarshal(f.Data, &c); err != nil {
			d.t.Fatal(err)
		}
		if c.isMark() {
			return all
		}
		all = append(all, c)
	}
}

// revision is the newest one.
func (d *daemon) revision() uint64 {
	d.t.Helper()
	w := d.dial()
	defer w.Close()
	var info struct{ Revision uint64 }
	if err := json.Unmarshal([]byte(w.result(w.call("i", "state.info", "{}"))), &info); err != nil {
		d.t.Fatal(err)
	}
	return info.Revision
}

// put stores a value through raw frames and returns the revision.
func (w *wire) put(key, value string) uint64 {
	w.t.Helper()
	text := w.result(w.call("p", "state.put", fmt.Sprintf(`{"key":%q,"value":%s}`, key, value)))
	var r struct{ Revision uint64 }
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		w.t.Fatalf("%s: %v", text, err)
	}
	return r.Revision
}
