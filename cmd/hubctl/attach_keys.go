package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/client"
)

const ctrlC = 3

// keyboard sorts what is typed: to the session, to a question on the screen or
// to the command line. It is fed by one goroutine, which never waits for the
// hub, so that the detach keys always work.
type keyboard struct {
	t       *attaching
	ctx     context.Context
	cancel  context.CancelCauseFunc
	filter  keyFilter
	command byte // opens the command line; 0 for none

	mu   sync.Mutex
	line *lineInput // of the open command line; nil when it is closed

	sending sync.Mutex
	part    []byte // an unfinished character; guarded by sending
}

// read feeds what comes from stdin until it ends.
func (k *keyboard) read() {
	buf := make([]byte, 4096)
	for k.ctx.Err() == nil {
		n, err := k.t.app.in.Read(buf)
		if n > 0 && !k.feed(buf[:n]) {
			return
		}
		if err != nil {
			k.toSession(k.filter.rest(), true)
			k.t.sender.close()
			return
		}
	}
}

// feed takes what was typed. It returns false when that was the last.
func (k *keyboard) feed(p []byte) bool {
	for len(p) > 0 {
		if line := k.open(); line != nil {
			p = line.feed(p, k.command)
			continue
		}
		if k.t.prompts.waiting() {
			var detach bool
			if p, detach = k.answer(p); detach {
				k.cancel(errDetached)
				return false
			}
			continue
		}
		now, rest, opens := p, []byte(nil), false
		if k.command != 0 {
			if i := bytes.IndexByte(p, k.command); i >= 0 {
				now, rest, opens = p[:i], p[i+1:], true
			}
		}
		text, detach := k.filter.pass(now)
		if opens && !detach {
			text = append(bytes.Clone(text), k.filter.rest()...)
		}
		if !k.toSession(text, detach) {
			return false
		}
		if detach {
			k.cancel(errDetached)
			return false
		}
		if opens {
			k.openLine()
		}
		p = rest
	}
	return true
}

// answer gives keys to the question on the screen; those behind the one that
// answers it remain. The detach keys work here, too.
func (k *keyboard) answer(p []byte) (rest []byte, detach bool) {
	for i, key := range p {
		pass, detach := k.filter.pass(p[i : i+1])
		if detach {
			return nil, true
		}
		if slices.ContainsFunc(pass, k.t.prompts.key) {
			return p[i+1:], false
		}
		if k.command != 0 && key == k.command {
			k.openLine()
			return p[i+1:], false
		}
	}
	return nil, false
}

// toSession sends text on; all says that nothing will complete a character at
// its end. It returns false when the key was one that leaves.
func (k *keyboard) toSession(text []byte, all bool) bool {
	if !k.t.interactive || k.t.away.Load() {
		if bytes.IndexByte(text, ctrlC) >= 0 {
			k.cancel(errInterrupted)
			return false
		}
		if k.t.interactive && len(text) > 0 {
			k.t.screen.notice("not sent: the hub is away (Ctrl-C leaves)")
		}
		return true
	}
	k.sending.Lock()
	defer k.sending.Unlock()
	k.part = append(k.part, text...)
	whole := len(k.part) - unfinished(k.part)
	if all {
		whole = len(k.part)
	}
	if whole > 0 {
		if text := k.part[:whole]; utf8.Valid(text) {
			k.t.sender.send(string(text))
		} else {
			k.t.screen.notice("not sent: %v (a terminal or file in UTF-8 is needed)", errNotText)
		}
		k.part = append([]byte(nil), k.part[whole:]...)
	}
	return true
}

func (k *keyboard) open() *lineInput {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.line
}

// openLine opens the command line, which takes the keys from then on.
func (k *keyboard) openLine() {
	line := newLineInput()
	k.mu.Lock()
	k.line = line
	k.mu.Unlock()
	k.t.app.spawn(func() { // ends with the command line
		literal := k.t.commands.run(k.ctx, line)
		line.close()
		// The reader of the keyboard waits until the line is gone, so this is in
		// order: what was typed ahead is for the session.
		if literal {
			k.toSession([]byte{k.command}, true)
		}
		if rest := line.rest(); len(rest) > 0 {
			k.toSession(rest, true)
		}
		k.mu.Lock()
		k.line = nil
		k.mu.Unlock()
	})
}

// sender sends what was typed, in order, without holding the keyboard up. What
// comes while it waits for the hub is sent together.
type sender struct {
	t       *attaching
	mu      sync.Mutex
	pending []byte
	ended   bool
	more    chan struct{} // holds one
	done    chan struct{} // closed when all is sent
	unread  bool          // nobody took what was sent last; used by run only
}

// maxTyped bounds what waits to be sent: more than anybody types, enough for what is pasted.
const maxTyped = 1 << 20

// maxSend is how much is sent at once: the hub takes at most 256 KiB as JSON text.
const maxSend = 32 << 10

func newSender(t *attaching) *sender {
	return &sender{t: t, more: make(chan struct{}, 1), done: make(chan struct{})}
}

func (s *sender) send(text string) {
	s.mu.Lock()
	for len(s.pending)+len(text) > maxTyped && s.t.noTTY() { // a file is not typed: it can wait
		s.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
		s.mu.Lock()
	}
	full := len(s.pending)+len(text) > maxTyped
	if !full {
		s.pending = append(s.pending, text...)
	}
	s.mu.Unlock()
	poke(s.more)
	if full {
		s.t.screen.notice("input was not taken: the hub does not answer")
	}
}

// close says that no more follows.
func (s *sender) close() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	poke(s.more)
}

// run sends until ctx ends, or close.
func (s *sender) run(ctx context.Context, c *client.Client) {
	defer close(s.done)
	for {
		s.mu.Lock()
		n := min(len(s.pending), maxSend)
		if n < len(s.pending) {
			n -= unfinished(s.pending[:n])
		}
		text := string(s.pending[:n])
		s.pending = s.pending[n:]
		ended := s.ended
		s.mu.Unlock()
		if text == "" {
			if ended {
				return
			}
			select {
			case <-s.more:
				continue
			case <-ctx.Done():
				return
			}
		}
		limited, cancel := context.WithTimeout(ctx, sendLimit)
		delivered, err := sendInput(limited, c, s.t.session, text)
		cancel()
		if err == nil && !delivered && !s.unread {
			s.t.screen.notice("%s", nobodyReads(s.t.session))
		}
		s.unread = err == nil && !delivered
		if err != nil && ctx.Err() == nil {
			s.t.screen.notice("input was not taken: %s", messageOf(err))
		}
	}
}

// lineInput is what the command line reads its keys from. While a command runs
// Ctrl-C ends that, and other keys wait.
type lineInput struct {
	mu      sync.Mutex
	keys    []byte
	ended   bool
	literal bool               // the key that opens the command line was pressed again
	stop    context.CancelFunc // of the running command; nil while none runs
	more    chan struct{}      // holds one
}

func newLineInput() *lineInput { return &lineInput{more: make(chan struct{}, 1)} }

// feed takes keys, and returns what comes after the one that closes the line.
func (l *lineInput) feed(p []byte, closing byte) (rest []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		time.Sleep(time.Millisecond) // it is about to be closed
		return p
	}
	defer poke(l.more)
	for i, key := range p {
		switch {
		case closing != 0 && key == closing:
			l.literal, l.ended = l.stop == nil, true
			if l.stop != nil {
				l.stop()
			}
			return p[i+1:]
		case key == ctrlC && l.stop != nil:
			l.stop()
		case len(l.keys) < maxTyped:
			l.keys = append(l.keys, key)
		}
	}
	return nil
}

// Read gives the line editor one key after the other, so that what follows the
// end of a line remains here.
func (l *lineInput) Read(p []byte) (int, error) {
	for {
		l.mu.Lock()
		if len(l.keys) > 0 && len(p) > 0 {
			p[0] = l.keys[0]
			l.keys = l.keys[1:]
			l.mu.Unlock()
			return 1, nil
		}
		ended := l.ended
		l.mu.Unlock()
		if ended {
			return 0, io.EOF
		}
		<-l.more
	}
}

// running notes how the command that runs is ended; nil when none does.
func (l *lineInput) running(stop context.CancelFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stop = stop
}

// close ends the input; Read returns what is left and then io.EOF.
func (l *lineInput) close() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	poke(l.more)
}

// rest returns what was not read.
func (l *lineInput) rest() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.keys
	l.keys = nil
	return rest
}

// errLeft is how commands say that the command line is to be left.
var errLeft = errors.New("left")
