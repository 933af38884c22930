package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/tests/internal/vt"
)

// terminal is a program that somebody runs on a terminal of his own, and what
// he sees there.
type terminal struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	master *os.File
	tty    *os.File // the program's end, to look at its mode
	before unix.Termios
	screen *vt.Screen
	exited chan struct{}

	mu  sync.Mutex
	all strings.Builder // what was written, as it was
}

// onTerminal runs hubctl on a terminal of that size.
func onTerminal(t *testing.T, d *daemon, cols, rows int, args ...string) *terminal {
	t.Helper()
	programs(t)
	cmd := exec.Command(filepath.Join(binDir, "hubctl"), args...)
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "TERM=xterm-256color", "USER=ada")
	return commandOnTerminal(t, cmd, cols, rows)
}

// commandOnTerminal runs cmd, whose environment is set, on a terminal of that size.
func commandOnTerminal(t *testing.T, cmd *exec.Cmd, cols, rows int) *terminal {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	name := filepath.Base(cmd.Path) + " " + strings.Join(cmd.Args[1:], " ")
	x := &terminal{t: t, name: name, cmd: cmd, master: master, tty: tty, screen: vt.New(cols, rows), exited: make(chan struct{})}
	if err := pty.Setsize(master, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}); err != nil {
		t.Fatal(err)
	}
	x.before = x.mode()
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = tty, tty, tty
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = x.cmd.Wait() // looked at in wait
		close(x.exited)
	}()
	read := make(chan struct{})
	go func() { // ends when the terminal is closed
		defer close(read)
		buf := make([]byte, 32<<10)
		for {
			n, err := master.Read(buf)
			x.mu.Lock()
			x.all.Write(buf[:n])
			x.mu.Unlock()
			x.screen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		x.cmd.Process.Kill()
		<-x.exited
		tty.Close()
		master.Close()
		<-read
		if t.Failed() {
			t.Logf("%s shows:\n%s", x.name, x.screen.Text())
		}
	})
	return x
}

// mode returns the mode that the terminal is in.
func (x *terminal) mode() unix.Termios {
	x.t.Helper()
	conn, err := x.tty.SyscallConn()
	if err != nil {
		x.t.Fatal(err)
	}
	var mode *unix.Termios
	conn.Control(func(fd uintptr) { mode, err = unix.IoctlGetTermios(int(fd), unix.TCGETS) })
	if err != nil {
		x.t.Fatal(err)
	}
	return *mode
}

func (x *terminal) typeKeys(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

func (x *terminal) resize(cols, rows int) {
	x.t.Helper()
	x.screen.Resize(cols, rows)
	if err := pty.Setsize(x.master, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}); err != nil {
		x.t.Fatal(err)
	}
}

// sees waits until the screen shows all of that.
func (x *terminal) sees(texts ...string) {
	x.t.Helper()
	for _, text := range texts {
		for deadline := time.Now().Add(patience); !strings.Contains(x.screen.Text(), text); {
			if time.Now().After(deadline) {
				x.t.Fatalf("%s does not show %q within %v, but\n%s", x.name, text, patience, x.screen.Text())
			}
			select {
			case <-x.exited:
				time.Sleep(10 * time.Millisecond) // its last words
				if !strings.Contains(x.screen.Text(), text) {
					time.Sleep(200 * time.Millisecond)
				}
			case <-time.After(10 * time.Millisecond): // between two looks
			}
		}
	}
}

func (x *terminal) wrote() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all.String()
}

// left waits until the program has ended with that code, and has left the
// terminal as it was.
func (x *terminal) left(code int) {
	x.t.Helper()
	select {
	case <-x.exited:
	case <-time.After(patience):
		x.t.Fatalf("%s did not end within %v:\n%s", x.name, patience, x.screen.Text())
	}
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		x.t.Errorf("%s ended with code %d, want %d:\n%s", x.name, got, code, x.screen.Text())
	}
	if now := x.mode(); now != x.before {
		x.t.Errorf("%s left the terminal in another mode: %+v, was %+v", x.name, now, x.before)
	}
	eventually(x.t, x.name+" leaves the screen as it was", func() bool { return x.screen.Left() == "" })
}
