// Command hubctl talks to a running hubd: it calls methods, follows streams and
// sessions, and shows what the hub does.
//
// Rules of its interface: data goes to stdout and nothing else does; talk goes
// to stderr. An error is one line that begins with "hubctl: ", followed by a
// line that begins with "hint: " where something can be done about it. Exit
// codes are those of "hubctl help exit-codes".
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/internal/stdout"
)

func main() {
	os.Exit(run(os.Args[1:], standard()))
}

// console is what the program reads from and writes to.
type console struct {
	in       io.Reader
	out, err io.Writer
	inTTY    bool
	outTTY   bool
	errTTY   bool
	getenv   func(string) string
}

func standard() console {
	stderr := os.Stderr
	if os.Getenv(detachedEnv) != "" {
		stderr = reportFile()
	}
	con := console{
		in: os.Stdin, out: os.Stdout, err: stderr,
		inTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		outTTY: term.IsTerminal(int(os.Stdout.Fd())),
		errTTY: term.IsTerminal(int(stderr.Fd())),
		getenv: os.Getenv,
	}
	if con.outTTY {
		con.out = &visible{w: os.Stdout}
	} else {
		con.out = &stdout.Writer{W: os.Stdout}
	}
	if con.errTTY {
		con.err = &visible{w: stderr}
	}
	return con
}

// flush writes what the writers for terminals have held back.
func (c *console) flush() {
	for _, w := range []io.Writer{c.out, c.err} {
		if v, ok := w.(*visible); ok {
			v.flush()
		}
	}
}

// errInterrupted is the cause of the context when a signal ended the program.
var errInterrupted = errors.New("interrupted")

// endLimit is how long the program may take to end after a signal.
const endLimit = time.Second

// run is the whole program without os.Exit, so that tests can call it.
func run(args []string, con console) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	a := &app{console: con, args: args, cancel: cancel}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	done := make(chan struct{})
	defer close(done)
	go func() { // ends with run
		var late <-chan time.Time
		for n := 0; ; n++ {
			select {
			case sig := <-signals:
				if take := a.signals.Load(); take != nil {
					(*take)(sig)
					n--
					continue
				}
			case <-late:
			case <-done:
				return
			}
			if n > 0 { // it takes too long: a second signal, or it waits for what no context ends, such as stdin
				a.leave()
				os.Exit(exitInterrupted)
			}
			cancel(errInterrupted)
			late = time.After(endLimit)
		}
	}()
	defer a.leaveOnPanic()
	root := newRoot(a)
	if isCompletion(args) {
		root.SetOut(newCandidates(a.out, args))
	}
	err := a.generate(ctx, root, args)
	if err == nil {
		takeNumbers(root, args)
		err = root.ExecuteContext(ctx)
	}
	if a.client != nil {
		a.client.Close()
	}
	a.leave()
	if out, ok := a.out.(*stdout.Writer); ok && err == nil {
		err = out.Err()
	}
	defer a.flush()
	return a.report(ctx, err)
}

// errUnread is the cause of the context when nobody reads stdout any more.
var errUnread = fmt.Errorf("nobody reads stdout: %w", syscall.EPIPE)

// endUnread ends the program when stdout is a pipe whose reader has gone, for
// commands that may wait long before they write the next time.
func (a *app) endUnread() {
	out, ok := fileOf(a.out)
	if !ok {
		return
	}
	info, err := out.Stat()
	if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return
	}
	fd := int(out.Fd())
	a.spawn(func() { // ends with the reader or with the program
		for {
			polled := []unix.PollFd{{Fd: int32(fd)}}
			_, err := unix.Poll(polled, -1)
			if err != nil && err != unix.EINTR {
				return
			}
			if polled[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
				a.cancel(errUnread)
				return
			}
		}
	})
}

// divert lets take have the signals that would otherwise end the program; nil
// ends that.
func (a *app) divert(take func(os.Signal)) {
	if take == nil {
		a.signals.Store(nil)
		return
	}
	a.signals.Store(&take)
}

// onLeave is what must be undone however the program ends: the terminal's mode.
type onLeave struct {
	undo atomic.Pointer[func()]
}

// leave undoes once what was set with keep.
func (o *onLeave) leave() {
	if f := o.undo.Swap(nil); f != nil {
		(*f)()
	}
}

func (o *onLeave) keep(undo func()) { o.undo.Store(&undo) }

// spawn runs f in a goroutine whose panic, too, leaves the terminal as it was.
func (o *onLeave) spawn(f func()) {
	go func() {
		defer o.leaveOnPanic()
		f()
	}()
}

// leaveOnPanic is deferred. It lets the panic go on.
func (o *onLeave) leaveOnPanic() {
	if r := recover(); r != nil {
		o.leave()
		panic(r)
	}
}
