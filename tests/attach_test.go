package tests

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	detachKeys = "\x10\x11" // Ctrl-P Ctrl-Q
	commandKey = "\x1c"     // Ctrl-\
)

// Two people watch one full-screen program, one of them types. It outlives
// their terminals and the hub.
func TestFullScreenProgramInASession(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)

	starter := onTerminal(t, d, 80, 24, "run", "-d", "--session", "full", "--", "env", programEnv+"=fullscreen", self)
	starter.sees("session full runs")
	d.endSession("full")
	starter.left(0)

	ada := onTerminal(t, d, 80, 24, "attach", "-i", "full")
	bob := onTerminal(t, d, 80, 24, "attach", "full")
	ada.sees("size 80x24", "typed", "last row")
	bob.sees("size 80x24", "last row")

	ada.typeKeys("abc")
	ada.sees("typed abc")
	bob.sees("typed abc")
	// A bare line feed must not be made a new line of.
	ada.sees("\n         below")

	bob.typeKeys("not for the program")
	bob.screen.Resize(90, 28) // his terminal is larger than the session's
	ada.resize(90, 28)
	ada.sees("size 90x28", "typed abc")
	bob.sees("size 90x28", "typed abc")
	if rows := strings.Split(ada.screen.Text(), "\n"); len(rows) != 28 || rows[27] != "last row" {
		t.Errorf("the last row is not at the bottom:\n%s", ada.screen.Text())
	}

	ada.typeKeys(detachKeys)
	ada.left(0)
	ada.sees("detached; session full goes on")

	d.signal(syscall.SIGTERM) // a restart in good order
	d.wait()
	d = startHub(t, dir, state)
	eve := onTerminal(t, d, 90, 28, "attach", "--interactive", "full")
	eve.sees("size 90x28", "typed abc", "last row")
	eve.typeKeys("d")
	eve.sees("typed abcd")
	bob.sees("typed abcd") // came back by itself

	d.kill() // and a crash
	startHub(t, dir, state)
	eventually(t, "eve is back", func() bool { return strings.Contains(eve.wrote(), "back after") })
	eve.typeKeys("é")
	eve.sees("typed abcdé")
	bob.sees("typed abcdé")

	eve.typeKeys(commandKey)
	eve.sees("hubd>")
	eve.typeKeys("who\r")
	eve.sees("(here)", "readonly")
	if eve.screen.Alternate() {
		t.Error("the command line is on the program's screen")
	}
	eve.typeKeys("\r")
	eve.sees("typed abcdé", "last row")

	eve.typeKeys("q")
	eve.sees("its program ended with status 7")
	eve.left(0)
	bob.sees("its program ended with status 7")
	bob.left(0)
	for _, x := range []*terminal{ada, bob, eve} {
		if s := x.screen.Strange(); len(s) > 0 {
			t.Errorf("%s wrote sequences that are not the program's: %q", x.name, s)
		}
	}
}
