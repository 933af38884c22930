package main

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// screen is what an attachment writes to: the session's output, and talk. While
// the command line is open it has the terminal for itself: output waits, and
// with it, in the hub, the session's further events; talk is kept for later.
type screen struct {
	mu    sync.Mutex
	freed sync.Cond // of mu: held or over has changed
	held  bool
	over  bool     // nothing is held any more
	later []string // talk
	modes termModes
	tty   bool       // out is a terminal, whose modes are followed
	width func() int // of that terminal

	out, err io.Writer
}

func newScreen(ctx context.Context, out, err io.Writer, tty bool) *screen {
	s := &screen{out: out, err: err, tty: tty}
	s.freed.L = &s.mu
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.over = true
		s.mu.Unlock()
		s.freed.Broadcast()
	})
	return s
}

// show runs f, which writes to the screen, when nobody holds it.
func (s *screen) show(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.held && !s.over {
		s.freed.Wait()
	}
	return f()
}

// terminal writes output of a program on a terminal of its own; past says that
// it is old, so that what it asks is not to be answered. It runs within show.
func (s *screen) terminal(p []byte, past bool) error {
	if s.tty {
		p = s.modes.pass(p, past)
	}
	_, err := s.out.Write(p)
	return err
}

// notice writes a line of talk.
func (s *screen) notice(format string, args ...any) {
	text := oneLine(fmt.Sprintf(format, args...))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held && !s.over {
		s.later = append(s.later, text)
		return
	}
	s.talk(text)
}

// talk writes a line of talk: in the bottom row while a full-screen program has
// the terminal, until that draws there again.
func (s *screen) talk(text string) { s.plain("hubctl: " + text) }

func (s *screen) plain(text string) {
	if s.held || !s.modes.fullScreen() {
		fmt.Fprintln(s.err, text)
		return
	}
	if line := []rune(text); s.width != nil && len(line) > s.width() {
		text = string(line[:s.width()])
	}
	fmt.Fprintf(s.out, "\x1b7\x1b[999;1H\x1b[0;7m%s\x1b[0m\x1b[K\x1b8", text)
}

// hold takes the screen for the caller, out of the hands of a full-screen
// program, too. It reports whether there is one.
func (s *screen) hold() (fullScreen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	if s.tty {
		fmt.Fprint(s.out, s.modes.reset())
	}
	return s.modes.fullScreen()
}

// release gives it back.
func (s *screen) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	for _, text := range s.later {
		s.talk(text)
	}
	s.later = nil
	if s.tty && !s.over {
		fmt.Fprint(s.out, s.modes.again())
	}
	s.freed.Broadcast()
}

// leave puts the terminal back to where it was before the session's program.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tty {
		fmt.Fprint(s.out, s.modes.reset())
		s.modes = termModes{}
	}
}
