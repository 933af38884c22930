package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A small window shrinks the program while it is there, and no longer, however
// its follower leaves.
func TestSmallWindowCountsWhileItIsThere(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)
	owner := onTerminal(t, d, 100, 30, "run", "-s", "vim", "--", "env", programEnv+"=fullscreen", self)
	owner.sees("size 100x30")
	for _, leave := range []func(x *terminal){
		func(x *terminal) { x.typeKeys(detachKeys); x.left(0) },
		func(x *terminal) { x.cmd.Process.Signal(syscall.SIGKILL); <-x.exited },
	} {
		follower := onTerminal(t, d, 80, 20, "attach", "-i", "vim")
		follower.sees("size 80x20")
		owner.sees("size 80x20")
		leave(follower)
		owner.sees("size 100x30")
	}

	// Also after a restart of the hub, which forgets who has which window.
	d.signal(syscall.SIGTERM)
	d.wait()
	d = startHub(t, dir, state)
	follower := onTerminal(t, d, 80, 20, "attach", "-i", "vim")
	owner.sees("size 80x20")
	follower.typeKeys(detachKeys)
	follower.left(0)
	owner.sees("size 100x30")
	owner.resize(90, 25)
	owner.sees("size 90x25")
	owner.typeKeys("q")
	owner.left(7)
}

// Who attaches to a program that draws only when its size changes sees it, with
// a window of the same size and read-only, too, though nothing is replayed.
func TestNewFollowersSeeAFullScreenProgram(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)
	// What it has drawn at first is soon no longer kept.
	script := `(for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; printf '\033[5;50H.'; done) & exec env ` + programEnv + `=fullscreen "$0"`
	if _, talk, code := d.run("", "hubctl", "run", "-d", "-s", "top", "--size", "80x24", "--ring", "2", "--", "sh", "-c", script, self); code != 0 {
		t.Fatal(talk)
	}
	d.endSession("top")
	eventually(t, "the first frame is gone", func() bool {
		out, _, _ := d.run("", "hubctl", "call", "session.history", "session=top", "-o", "jsonl")
		return out != "" && !strings.Contains(out, "last row") && strings.Count(out, "5;50H") == 2
	})
	for range 2 {
		for _, flags := range [][]string{{"attach", "top"}, {"attach", "-i", "top"}, {"attach", "-i", "top"}} {
			x := onTerminal(t, d, 80, 24, flags...)
			x.sees("size 80x24", "last row")
			x.typeKeys(detachKeys)
			x.left(0)
		}
		d.signal(syscall.SIGTERM)
		d.wait()
		d = startHub(t, dir, state)
		eventually(t, "the program is back", func() bool {
			out, _, _ := d.run("", "hubctl", "call", "session.info", "session=top", "-o", "jsonl")
			return !strings.Contains(out, `"owner":null`)
		})
	}
}
