package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// However the command line is left, it opens again, empty, and what is typed
// in between goes to the session.
func TestCommandLineOpensAgain(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	x := onTerminal(t, d, 100, 40, "attach", "-i", "demo")
	x.sees("attached to demo")
	for i, way := range []string{"\x04", "call echo {\"before\":%d}\r\x04", "half a line" + commandKey, "\x03", "\r", "half\x1b[D" + commandKey, "\x1b[A\x15\x04"} {
		x.typeKeys(commandKey)
		if strings.Contains(way, "%d") {
			way = fmt.Sprintf(way, i)
		}
		x.typeKeys(way)
		x.typeKeys(fmt.Sprintf("word%d", i))
		x.sees(fmt.Sprintf("word%d", i)) // the session shows what it was sent
		x.typeKeys(fmt.Sprintf("%scall echo {\"n\":%d}\r\r", commandKey, 100+i))
		x.sees(fmt.Sprintf(`"n": %d`, 100+i))
		x.typeKeys(fmt.Sprintf("end%d", i))
		x.sees(fmt.Sprintf("end%d", i)) // the command line is closed
	}
	x.typeKeys(commandKey + "\x04closed")
	x.sees("closed")
	x.typeKeys(commandKey + "\x1b[A") // the history goes on
	x.sees(`hubd> call echo {"n":106}`)
	x.typeKeys("\x03left")
	x.sees("> left")
	x.typeKeys(commandKey + "detach\r")
	x.left(0)
}

// Once the terminal is handed back nothing of the session is written, however
// much the program writes.
func TestNothingIsWrittenAfterDetaching(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	d.hubctl("run", "-s", "busy", "--", "sh", "-c", `printf '\033[?1049h'; while :; do printf 'OUTPUT\r\n'; done`)
	eventually(t, "the program writes", func() bool {
		_, _, code := d.run("", "hubctl", "call", "session.info", "session=busy")
		return code == 0
	})
	for range 8 {
		x := onTerminal(t, d, 80, 24, "attach", "busy")
		eventually(t, "output comes", func() bool { return strings.Contains(x.wrote(), "OUTPUT") })
		x.typeKeys(commandKey)
		eventually(t, "the command line opens", func() bool { return strings.Contains(x.wrote(), "hubd> ") })
		x.typeKeys("detach\r")
		x.left(0)
		eventually(t, "it says so", func() bool { return strings.Contains(x.wrote(), "detached; session busy goes on") })
		_, after, _ := strings.Cut(x.wrote(), "hubd> ")
		if strings.Contains(after, "OUTPUT") || x.screen.Alternate() {
			t.Fatalf("after the command line was opened it writes %q", after[:min(len(after), 2000)])
		}
	}
}

// The hub's own session is not taken over by a program.
func TestRunRefusesTheSessionOfTheHub(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, flags := range []string{"", "-d"} {
		_, talk, code := d.run("", strings.Fields("hubctl run "+flags+" -s demo -- true")...)
		if code != 4 || !strings.Contains(talk, "session demo belongs to the hub") || !strings.Contains(talk, "another --session") {
			t.Errorf("run %s: code %d, %q", flags, code, talk)
		}
	}
}

// A program that has ended while the hub is away waits for it, detached for a
// long time: SIGTERM ends that at once.
func TestSigtermEndsTheWaitForTheHub(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := startHub(t, dir, filepath.Join(dir, "state"))
	gate := filepath.Join(dir, "gate")
	if _, talk, code := d.run("", "hubctl", "run", "-d", "-s", "job", "--", "sh", "-c",
		fmt.Sprintf("echo $$ $PPID > %s.new; mv %[1]s.new %[1]s.pids; while [ ! -e %[1]s ]; do sleep 0.02; done; exit 3", gate)); code != 0 {
		t.Fatal(talk)
	}
	var program, hubctl int
	eventually(t, "the program runs", func() bool {
		text, err := os.ReadFile(gate + ".pids")
		if err != nil {
			return false
		}
		_, err = fmt.Sscan(string(text), &program, &hubctl)
		return err == nil
	})
	t.Cleanup(func() { _ = syscall.Kill(hubctl, syscall.SIGKILL) })
	d.kill()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the program has ended", func() bool { return gone(program) })
	if gone(hubctl) {
		t.Fatal("hubctl does not wait for the hub")
	}
	eventually(t, "hubctl ends", func() bool {
		_ = syscall.Kill(hubctl, syscall.SIGTERM) // until it has noticed the end of its program, the signal is for that
		return gone(hubctl)
	})
}

// gone reports whether a process has ended.
func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(text), ") Z ")
}
