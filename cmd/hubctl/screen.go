package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// screen is what an attachment writes to: the session's output, and talk. While
// the command line is open it has the terminal for itself: output waits, and
// with it, in the hub, the session's further events; talk is kept for later.
// Once it is left, or ctx has ended, nothing of the session is written any more.
type screen struct {
	ctx     context.Context
	mu      sync.Mutex
	freed   sync.Cond // of mu: held, stopped or left has changed, or ctx has ended
	held    bool      // by the command line
	stopped bool      // the process is, or will be in a moment
	left    bool
	later   []string // talk
	modes   termModes
	tty     bool       // out is a terminal, whose modes are followed
	width   func() int // of that terminal

	out, err io.Writer
}

// errScreenLeft is what show returns when it has written nothing.
var errScreenLeft = errors.New("the screen is left")

func newScreen(ctx context.Context, out, err io.Writer, tty bool) *screen {
	s := &screen{ctx: ctx, out: out, err: err, tty: tty}
	s.freed.L = &s.mu
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.freed.Broadcast()
	})
	return s
}

// show runs f, which writes to the screen, when nobody holds it.
func (s *screen) show(f func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (s.held || s.stopped) && !s.left && s.ctx.Err() == nil {
		s.freed.Wait()
	}
	if s.left || s.ctx.Err() != nil {
		return errScreenLeft
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
	if s.held && !s.left {
		s.later = append(s.later, text)
		return
	}
	s.talk(text)
}

// talk writes a line of talk: in the bottom row while a full-screen program has
// the terminal, until that draws there again.
func (s *screen) talk(text string) { s.plain("hubctl: " + text) }

func (s *screen) plain(text string) {
	text = oneLine(text)
	if s.held || !s.modes.fullScreen() {
		fmt.Fprintln(s.err, text)
		return
	}
	if s.width != nil {
		text = clip(text, s.width())
	}
	fmt.Fprintf(s.out, "\x1b7\x1b[999;1H\x1b[0;7m%s\x1b[0m\x1b[K\x1b8", text)
}

// hold takes the screen for the caller, out of the hands of a full-screen
// program, too. It reports whether there is one.
func (s *screen) hold() (fullScreen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = true
	if s.tty && !s.left {
		fmt.Fprint(s.out, s.modes.reset())
	}
	return s.modes.fullScreen()
}

// holder is what the holder of the screen writes to.
type holder struct{ s *screen }

func (h holder) Write(p []byte) (int, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.s.left {
		return len(p), nil
	}
	return h.s.out.Write(p)
}

// release gives it back.
func (s *screen) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = false
	s.sayLater()
	if s.tty && !s.left && s.ctx.Err() == nil {
		fmt.Fprint(s.out, s.modes.again())
	}
	s.freed.Broadcast()
}

func (s *screen) sayLater() {
	for _, text := range s.later {
		s.talk(text)
	}
	s.later = nil
}

// suspend puts the terminal back before the process is stopped; resume undoes it.
func (s *screen) suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.tty && !s.left {
		fmt.Fprint(s.out, s.modes.reset())
	}
}

func (s *screen) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped && s.tty && !s.held && !s.left {
		fmt.Fprint(s.out, s.modes.again())
	}
	s.stopped = false
	s.freed.Broadcast()
}

// leave ends the output for good, and puts the terminal back to where it was
// before the session's program. last may write the last of it.
func (s *screen) leave(last func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return
	}
	if last != nil && !s.held {
		_ = last() // a terminal that is gone is told of elsewhere
	}
	s.left = true
	if s.tty {
		fmt.Fprint(s.out, s.modes.reset())
		s.modes = termModes{}
	}
	s.sayLater()
	s.freed.Broadcast()
}
