package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/client"
)

// program is a running program and its pseudo-terminal.
type program struct {
	cmd  *exec.Cmd
	pty  *os.File
	done chan struct{} // closed when the program has ended

	written atomic.Int64 // bytes of output

	mu        sync.Mutex
	size      pty.Winsize // that it is to have
	redrawing bool        // it has another for a moment
}

// startProgram starts args on a new pseudo-terminal, as the leader of a session of its own.
func startProgram(args []string, session string, size *pty.Winsize) (*program, error) {
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // signals end it, with the time that it needs to clean up
	cmd.Env = programEnv(session)
	f, err := pty.StartWithSize(cmd, size)
	if err != nil {
		return nil, err
	}
	p := &program{cmd: cmd, pty: f, done: make(chan struct{}), size: *size}
	go func() {
		_ = cmd.Wait() // the status is in cmd.ProcessState
		close(p.done)
	}()
	return p, nil
}

// programEnv is the environment of the program: that of hubctl, with the name
// of the session and a terminal type where there is none.
func programEnv(session string) []string {
	var env []string
	terminal := false
	for _, v := range os.Environ() {
		switch name, value, _ := strings.Cut(v, "="); name {
		case detachedEnv, sessionEnv:
			continue
		case "TERM":
			terminal = value != "" && value != "dumb"
			if !terminal {
				continue
			}
		}
		env = append(env, v)
	}
	if !terminal {
		env = append(env, "TERM=xterm-256color")
	}
	return append(env, sessionEnv+"="+session)
}

// sessionEnv tells a program which session it runs in.
const sessionEnv = "HUBD_SESSION"

// afterlife is how long output is awaited after the program has ended, when
// something that it started still has the terminal.
const afterlife = 300 * time.Millisecond

// read hands on what is written to the terminal until it is closed, or the
// program has ended and nothing more comes.
func (p *program) read(take func([]byte)) {
	go func() { // ends with the program
		<-p.done
		_ = p.pty.SetReadDeadline(time.Now().Add(afterlife))
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := p.pty.Read(buf)
		if n > 0 {
			p.written.Add(int64(n))
			take(buf[:n])
		}
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && n > 0 {
			_ = p.pty.SetReadDeadline(time.Now().Add(afterlife))
			continue
		}
		return // EIO is how Linux says that nobody has the terminal any more
	}
}

// wait returns the status of the program when it has ended, as shells do.
func (p *program) wait() exitStatus {
	<-p.done
	p.pty.Close()
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitStatus{128 + int(ws.Signal())}
	}
	return exitStatus{p.cmd.ProcessState.ExitCode()}
}

// killedBy names the signal that ended the program; "" when it ended by itself.
func (p *program) killedBy() string {
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return unix.SignalName(ws.Signal())
	}
	return ""
}

// signal sends a signal to the program and its children.
func (p *program) signal(sig os.Signal) {
	select {
	case <-p.done:
	default:
		if s, ok := sig.(syscall.Signal); ok {
			_ = syscall.Kill(-p.cmd.Process.Pid, s) // one that has just ended needs no signal
		}
	}
}

// resize gives the terminal a size and reports whether that is new. To one
// that has it already the program is asked to draw anew: somebody looks at it
// who has not seen it.
func (p *program) resize(cols, rows uint16) (changed bool) {
	p.mu.Lock()
	if p.size.Cols == cols && p.size.Rows == rows {
		p.mu.Unlock()
		p.redraw()
		return false
	}
	defer p.mu.Unlock()
	p.size.Cols, p.size.Rows = cols, rows
	return pty.Setsize(p.pty, &p.size) == nil
}

// How long the terminal has another size for a redraw: long enough for
// programs to notice, and then until the program has drawn.
const (
	redrawMin = 100 * time.Millisecond
	redrawMax = 3 * time.Second
)

// redraw makes the program draw anew. Many do nothing when they are told of a
// size that they know, so the terminal gets a row less, and then its size again.
func (p *program) redraw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.redrawing {
		return
	}
	other := p.size
	if other.Rows > 1 {
		other.Rows--
	} else {
		other.Rows++
	}
	drawn := p.written.Load()
	if pty.Setsize(p.pty, &other) != nil {
		return
	}
	p.redrawing = true
	go func() { // ends after redrawMax
		began := time.Now()
		for wait := redrawMin; ; wait = redrawMin / 4 {
			select {
			case <-time.After(wait):
			case <-p.done:
				return
			}
			if p.written.Load() != drawn || time.Since(began) > redrawMax {
				break
			}
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.redrawing = false
		_ = pty.Setsize(p.pty, &p.size) // fails when the program has just ended
	}()
}

// forwardSignals passes on the signals that hubctl does not use itself.
func forwardSignals(p *program) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	end := make(chan struct{})
	go func() { // ends with stop
		for {
			select {
			case sig := <-signals:
				p.signal(sig)
			case <-end:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(end)
	}
}

// shareTerminal lets the terminal of hubctl be one of those of the program:
// what is typed goes there, and its size counts when it changes.
func (r *running) shareTerminal() {
	stdin, isFile := r.app.in.(*os.File)
	own := &ownTerminal{
		stop:   r.screen.suspend,
		resume: func() { r.screen.resume(); r.program.redraw() },
		end:    func() { r.screen.leave(nil) },
		spares: map[os.Signal]bool{syscall.SIGQUIT: true}, // see forwardSignals
	}
	out, outFile := fileOf(r.app.out)
	keyboard := isFile && r.app.inTTY && (r.app.outTTY || r.keys)
	switch {
	case keyboard && r.app.outTTY:
		own.fd, own.change = int(stdin.Fd()), rawMode
	case keyboard:
		own.fd, own.change = int(stdin.Fd()), rawInput
	case outFile && r.app.outTTY:
		own.fd, own.change = int(out.Fd()), passOutput
	default:
		return
	}
	r.app.takeTerminal(own)
	if keyboard {
		r.app.spawn(func() { r.typed(keyReader{stdin}) })
	}
	if !r.app.outTTY {
		return // it shows nothing
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, sizeSignals...)
	r.app.spawn(func() { // ends with the program
		window := *r.initial
		for {
			var again <-chan time.Time
			if r.tellSize(window) {
				again = time.After(tellAgain)
			}
			select {
			case <-again:
			case <-changed:
				if cols, rows, err := term.GetSize(own.fd); err == nil && cols > 0 && rows > 0 {
					window.Cols, window.Rows = uint16(cols), uint16(rows)
					r.resize(window.Cols, window.Rows)
				}
			case <-r.hubBack: // and has forgotten the size
			case <-r.program.done:
				signal.Stop(changed)
				return
			}
		}
	})
}

// tellAgain is how long after a failure the hub is told the size of the window again.
const tellAgain = time.Second

// tellSize tells the hub the size of this window, which counts again when
// followers with others have left. It reports whether that failed for a reason that
// passes: the hub is away, busy, or has yet to get the session back.
func (r *running) tellSize(window pty.Winsize) (again bool) {
	ctx, cancel := context.WithTimeout(context.Background(), sendLimit)
	defer cancel()
	err := r.client.Resize(ctx, r.session, int(window.Cols), int(window.Rows))
	switch client.KindOf(err) {
	case client.KindDisconnected, client.KindUnavailable, client.KindTimeout, client.KindOverloaded, client.KindNotFound:
		return err != nil
	}
	return false
}

// typed hands what is typed here to the program. It ends with stdin or with hubctl.
func (r *running) typed(keys io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := keys.Read(buf)
		if n > 0 {
			_, _ = r.program.pty.Write(buf[:n]) // a program that has ended takes no more
		}
		if err != nil {
			return
		}
	}
}

// resize gives the program's terminal a size; followers are told.
func (r *running) resize(cols, rows uint16) {
	if r.program.resize(cols, rows) {
		o := outlet{producer: r.producer}
		o.publish(context.Background(), map[string]any{"type": "resize", "cols": cols, "rows": rows})
	}
}

// inputLine hands what followers send to the program, in order. It begins
// before there is a program.
type inputLine struct {
	items chan client.Input
	end   chan struct{}
}

func newInputLine() *inputLine {
	return &inputLine{items: make(chan client.Input), end: make(chan struct{})}
}

// take is client.ProduceOptions.OnInput. It waits for a program that does not
// read, so that what it is sent remains in the hub, which has a limit for it.
func (l *inputLine) take(in client.Input) {
	select {
	case l.items <- in:
	case <-l.end:
	}
}

// signalOf reads what session.kill sends.
func signalOf(in client.Input) syscall.Signal {
	var item struct{ Signal string }
	_ = json.Unmarshal(in.JSON, &item) // what is no signal is none
	return unix.SignalNum(item.Signal)
}

func (l *inputLine) close() { close(l.end) }

// run ends with close.
func (l *inputLine) run(r *running) {
	for {
		select {
		case in := <-l.items:
			switch in.Type {
			case "input":
				_, _ = r.program.pty.Write([]byte(in.Text)) // a program that has ended takes no more
			case "signal":
				if sig := signalOf(in); sig != 0 {
					r.program.signal(sig)
				}
			case "resize":
				if in.Cols > 0 && in.Rows > 0 && in.Cols < 1<<16 && in.Rows < 1<<16 {
					r.resize(uint16(in.Cols), uint16(in.Rows))
				}
			}
		case <-l.end:
			return
		}
	}
}
