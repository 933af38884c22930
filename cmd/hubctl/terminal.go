package main

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// ownTerminal is the terminal that hubctl runs on while its modes are changed.
// They are put back however the program ends, but by SIGKILL, and while it is
// stopped. They are changed only while the program is in the foreground: to
// one in the background the terminal belongs to somebody else, and the kernel
// stops it when it tries.
type ownTerminal struct {
	fd     int
	change func(fd int) (undo func(), err error)
	stop   func()             // before the program stops; may be nil
	resume func()             // when it goes on, and when it comes to the foreground; may be nil
	end    func()             // before it ends; may be nil
	spares map[os.Signal]bool // signals that are meant for somebody else

	mu   sync.Mutex
	undo func() // nil while the modes are those that were found
	left bool
}

// fatalSignals end a Go program without a deferred call. Those that its run
// function takes (SIGINT, SIGTERM, SIGHUP) are not among them.
var fatalSignals = []os.Signal{
	syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGILL, syscall.SIGTRAP, syscall.SIGSYS,
	syscall.SIGBUS, syscall.SIGFPE, syscall.SIGSEGV,
}

// lookForeground is how often a program in the background looks whether it is in the foreground.
const lookForeground = 200 * time.Millisecond

// takeTerminal changes the modes of a terminal until a.leave.
func (a *app) takeTerminal(o *ownTerminal) {
	signals := make(chan os.Signal, 8)
	// A pipe without a reader is then an error of Write, not the end.
	list := []os.Signal{syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGPIPE}
	for _, sig := range fatalSignals {
		if !o.spares[sig] {
			list = append(list, sig)
		}
	}
	signal.Notify(signals, list...)
	a.keep(o.leave)
	o.take()
	a.spawn(func() { o.watch(signals) }) // ends with the program
}

// watch follows job control and signals that end the program.
func (o *ownTerminal) watch(signals chan os.Signal) {
	look := time.NewTicker(lookForeground)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			o.mu.Lock()
			waits := o.undo == nil && !o.left
			o.mu.Unlock()
			if waits && inForeground(o.fd) {
				o.goOn()
			}
		case sig := <-signals:
			switch sig {
			case syscall.SIGPIPE:
			case syscall.SIGTSTP:
				o.giveWhile(o.stop)
				_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) // SIGCONT follows
			case syscall.SIGCONT:
				o.goOn()
			default:
				o.leave()
				signal.Reset(sig)
				_ = syscall.Kill(os.Getpid(), sig.(syscall.Signal))
				time.Sleep(time.Second) // it does not come back from that
				os.Exit(2)
			}
		}
	}
}

// goOn takes the terminal again: after a stop its modes are those of the shell.
func (o *ownTerminal) goOn() {
	if o.take() && o.resume != nil {
		o.resume()
	}
}

// take changes the modes if that is due and allowed. It reports whether the
// program is not about to end.
func (o *ownTerminal) take() (lives bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.left {
		return false
	}
	if inForeground(o.fd) {
		// What was found first is put back, where a stop was not announced (SIGSTOP).
		if undo, err := o.change(o.fd); err == nil && o.undo == nil {
			o.undo = undo
		}
	}
	return true
}

// giveWhile lets tidy clean the screen, which must not take long, and puts the
// modes back.
func (o *ownTerminal) giveWhile(tidy func()) {
	if tidy != nil {
		done := make(chan struct{})
		go func() { // ends with tidy; a terminal that takes nothing may hold it up for ever
			defer close(done)
			tidy()
		}()
		select {
		case <-done:
		case <-time.After(time.Second):
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.undo != nil && inForeground(o.fd) {
		o.undo()
	}
	o.undo = nil
}

// leave gives the terminal back for good.
func (o *ownTerminal) leave() {
	o.mu.Lock()
	over := o.left
	o.left = true
	o.mu.Unlock()
	if !over {
		o.giveWhile(o.end)
	}
}

// rawMode makes a terminal pass keys and output as they are.
func rawMode(fd int) (undo func(), err error) {
	state, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, state) }, nil // a terminal that is gone needs no state
}

// inForeground reports whether the program may change the modes of the terminal
// and read from it. One that is not its controlling terminal always lets it.
func inForeground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

// keyReader reads from a terminal while the program is in the foreground. In
// the background it waits: reading would stop the program.
type keyReader struct{ f *os.File }

func (r keyReader) Read(p []byte) (int, error) {
	fd := int(r.f.Fd())
	for {
		for !inForeground(fd) {
			time.Sleep(lookForeground)
		}
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil && inForeground(fd) {
			return r.f.Read(p)
		}
		if err != nil && err != unix.EINTR {
			return 0, err
		}
	}
}
