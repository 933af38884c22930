package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// shellOnTerminal runs an interactive shell with job control.
func shellOnTerminal(t *testing.T, d *daemon) *terminal {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	programs(t)
	cmd := exec.Command(bash, "--norc", "--noprofile", "-i")
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "TERM=xterm-256color", "USER=ada", "PS1=shell> ",
		"PATH="+binDir+":"+os.Getenv("PATH"))
	x := commandOnTerminal(t, cmd, 100, 30)
	x.sees("shell>")
	return x
}

// hubctlOf returns the process of hubctl that the shell has started.
func (x *terminal) hubctlOf() (pid int) {
	x.t.Helper()
	eventually(x.t, "the shell has started hubctl", func() bool {
		shell := x.cmd.Process.Pid
		list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shell, shell))
		if err != nil {
			x.t.Skip(err)
		}
		for _, child := range strings.Fields(string(list)) {
			if exe, _ := os.Readlink("/proc/" + child + "/exe"); filepath.Base(exe) == "hubctl" {
				pid, _ = strconv.Atoi(child)
				return true
			}
		}
		return false
	})
	return pid
}

// isRaw reports whether keys reach programs one by one, without an echo.
func (x *terminal) isRaw() bool {
	mode := x.mode()
	return mode.Lflag&(syscall.ICANON|syscall.ECHO|syscall.ISIG) == 0
}

// fullScreenSession runs the full-screen program of these tests as a session.
func fullScreenSession(t *testing.T, d *daemon, session string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, talk, code := d.run("", "hubctl", "run", "-d", "--session", session, "--", "env", programEnv+"=fullscreen", self); code != 0 {
		t.Fatal(talk)
	}
	d.endSession(session)
}

// Whatever signal ends hubctl, the terminal is as it was: its mode, and the
// screen of a full-screen program.
func TestSignalsLeaveTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	fullScreenSession(t, d, "full")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []syscall.Signal{
		syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGTERM,
	} {
		code := 2 // of Go programs that die of a signal
		if sig == syscall.SIGTERM {
			code = 130
		}
		attach := onTerminal(t, d, 80, 24, "attach", "-i", "full")
		attach.sees("size 80x24")
		attach.cmd.Process.Signal(sig)
		attach.left(code)

		top := onTerminal(t, d, 80, 24, "top")
		top.sees("METHOD")
		top.cmd.Process.Signal(sig)
		if code == 130 { // that is how top is ended
			code = 0
		}
		top.left(code)

		if code == 2 && sig != syscall.SIGQUIT { // the others are for the program
			run := onTerminal(t, d, 80, 24, "run", "-s", "own", "--", "env", programEnv+"=fullscreen", self)
			run.sees("size 80x24")
			run.cmd.Process.Signal(sig)
			run.left(code)
			eventually(t, "the session is free again", func() bool {
				out, _, _ := d.run("", "hubctl", "call", "session.list", "-o", "yaml")
				return !strings.Contains(out, "fullscreen") || strings.Contains(out, "owner: null")
			})
		}
	}
}

// A program in the background publishes, and does not touch the terminal; in
// the foreground it has it.
func TestRunInTheBackground(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	x := shellOnTerminal(t, d)
	x.typeKeys("hubctl run -s bg -- sh -c 'echo published; exec cat' &\r")
	eventually(t, "output is published", func() bool {
		out, _, _ := d.run("", "hubctl", "call", "session.history", "session=bg")
		return strings.Contains(out, "published")
	})
	x.typeKeys("jobs\r")
	x.sees("Running")
	x.typeKeys("fg\r")
	eventually(t, "hubctl takes the terminal", x.isRaw)
	x.typeKeys("hello\r")
	x.sees("hello\nhello") // from the program's own terminal, and from cat
	x.typeKeys("\x04")
	eventually(t, "the shell has the terminal", func() bool { return strings.HasSuffix(strings.TrimSpace(x.screen.Text()), "shell>") })
	x.typeKeys("exit\r")
	x.left(0)
}

// A stop gives the terminal back, and going on takes it again, however the stop came.
func TestAttachIsStoppedAndGoesOn(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	fullScreenSession(t, d, "full")
	x := shellOnTerminal(t, d)
	x.typeKeys("hubctl attach -i full\r")
	x.sees("size 100x30", "typed")
	typed := ""
	for i, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGSTOP} {
		if err := syscall.Kill(x.hubctlOf(), sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGTSTP {
			x.sees("Stopped")
			if x.screen.Alternate() {
				t.Error("stopped, it leaves the program's screen")
			}
			x.typeKeys("echo still-$((40+2))\r")
			x.sees("still-42")
		}
		eventually(t, "the shell goes on", func() bool { return strings.Count(x.wrote(), "Stopped") > i })
		x.typeKeys("fg\r")
		eventually(t, "hubctl takes the terminal", x.isRaw)
		x.sees("size 100x30")
		typed += fmt.Sprint(i)
		x.typeKeys(fmt.Sprint(i)) // without Enter
		x.sees("typed " + typed)
	}
	x.typeKeys(detachKeys)
	x.sees("detached; session full goes on")
	x.typeKeys("exit\r")
	x.left(0)
}

// A stdout that is not the terminal: its reader may want the keyboard.
func TestAttachIntoAPipeLeavesTheKeyboard(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	x := shellOnTerminal(t, d)
	for i, command := range []string{"attach demo --json", "attach demo", "run -s job$i -- sleep 600"} {
		x.typeKeys(fmt.Sprintf("i=%d; hubctl %s | (read -r line </dev/tty; echo \"got $line\")\r", i, command))
		if strings.HasPrefix(command, "attach") {
			eventually(t, "it is attached", func() bool { return strings.Count(x.wrote(), "attached to demo") > i })
		} else {
			x.hubctlOf()
		}
		word := fmt.Sprintf("word%d", i)
		x.typeKeys(word + "\r")
		x.sees("got " + word)
		// Without its reader attach ends by itself, also where nothing is written;
		// a program goes on as in any pipe, and Ctrl-C means what it always means.
		if strings.HasPrefix(command, "run") {
			x.typeKeys("\x03")
			x.sees("^C")
		}
		x.typeKeys(fmt.Sprintf("echo over-$((%d+10))\r", i))
		x.sees(fmt.Sprintf("over-%d", i+10))
	}
	// The first line is enough for head.
	if _, talk, code := d.run("", "hubctl", "publish", "demo", "rendered=one"); code != 0 {
		t.Fatal(talk)
	}
	for i, command := range []string{
		"hubctl attach demo | head -1", "hubctl attach -i demo --json | head -1", "hubctl run -s yes -- yes y | head -1",
		"hubctl run -i -s yes -- yes y | head -1", "hubctl attach demo > file & sleep 0.2; kill %1; wait",
		"hubctl attach demo < /dev/null | head -1", "hubctl state watch --prefix x | true",
	} {
		x.typeKeys(fmt.Sprintf("%s; echo over-$((%d+20))\r", command, i))
		x.sees(fmt.Sprintf("over-%d", i+20))
	}
	x.typeKeys("stty -a | grep -o ' icanon'\r")
	x.sees(" icanon")
	x.typeKeys("exit\r")
	x.left(0)
}
