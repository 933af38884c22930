package main

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// termModes follows what a program does to a terminal, by its output, so that
// the terminal can be left as it was found: in the middle of a full-screen
// program, too. It knows the modes that outlive a program in practice.
//
// It can also leave out what asks the terminal a question. The answers are
// input, and nobody waits for those when output of the past is shown again.
type termModes struct {
	on     []int // private modes that are set, in order, but for those below
	hidden bool  // the cursor (mode 25 reset)
	nowrap bool  // mode 7 reset
	keypad bool  // application keypad
	drawn  bool  // line drawing characters
	style  bool  // colours and the like
	region bool  // a scroll region
	shape  bool  // the cursor's
	kitty  int   // keyboard modes pushed
	keys   bool  // modifyOtherKeys

	state escState
	seq   []byte // of the sequence that is being read
}

type escState uint8

const (
	ground  escState = iota
	escape           // after ESC
	charset          // after ESC (
	control          // after ESC [
	text             // after ESC ] P X ^ _, up to its end
	textEsc          // the same, after an ESC
)

// maxSequence is how long a sequence may be to be looked at.
const maxSequence = 4096

// usedModes are the private modes that are put back. Others are left alone:
// what they do is not known here.
var usedModes = []int{1, 5, 6, 9, 12, 47, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026, 2031, 2048}

// pass notes what p does. It returns p, or with quiet what is left of it
// without questions to the terminal; a sequence that is not complete is then
// held back.
func (m *termModes) pass(p []byte, quiet bool) []byte {
	var out []byte
	if quiet {
		out = make([]byte, 0, len(p))
	}
	for _, b := range p {
		ended := m.step(b)
		if !quiet {
			if ended {
				m.note()
				m.seq = m.seq[:0]
			}
			continue
		}
		switch {
		case m.state == ground && !ended:
			out = append(out, m.seq...)
			m.seq = m.seq[:0]
			out = append(out, b)
		case ended:
			m.note()
			if !m.asks() {
				out = append(out, m.seq...)
			}
			m.seq = m.seq[:0]
		case len(m.seq) >= maxSequence: // pictures and the like: no question is that long
			out = append(out, m.seq...)
			m.seq = m.seq[:0]
		}
	}
	if quiet {
		return out
	}
	return p
}

// step reads one byte and reports whether it ends a sequence, which is m.seq then.
func (m *termModes) step(b byte) (ended bool) {
	if m.state == ground && b != 0x1b {
		if b == 0x0e || b == 0x0f {
			m.drawn = b == 0x0e
		}
		return false
	}
	if len(m.seq) < maxSequence {
		m.seq = append(m.seq, b)
	}
	switch m.state {
	case ground:
		m.state = escape
		m.seq = append(m.seq[:0], b)
	case escape:
		switch b {
		case '[':
			m.state = control
		case ']', 'P', 'X', '^', '_':
			m.state = text
		case '(', ')', '*', '+', '#', '%', ' ':
			m.state = charset
		case 0x1b:
			m.seq = append(m.seq[:0], b)
		default:
			m.state = ground
			return true
		}
	case charset:
		m.state = ground
		return true
	case control:
		switch {
		case b >= 0x40 && b <= 0x7e:
			m.state = ground
			return true
		case b == 0x1b: // broken off
			m.state = escape
			m.seq = append(m.seq[:0], b)
		case b == 0x18, b == 0x1a:
			m.state = ground
			return true
		}
	case text:
		switch b {
		case 0x07, 0x18, 0x1a:
			m.state = ground
			return true
		case 0x1b:
			m.state = textEsc
		}
	case textEsc:
		if b == '\\' {
			m.state = ground
			return true
		}
		m.state = text
	}
	return false
}

// note takes in the sequence that has just ended.
func (m *termModes) note() {
	s := m.seq
	if len(s) < 2 {
		return
	}
	switch s[1] {
	case '=':
		m.keypad = true
	case '>':
		m.keypad = false
	case 'c': // a full reset
		*m = termModes{seq: m.seq}
	case '(':
		m.drawn = len(s) == 3 && s[2] == '0'
	case '[':
		m.noteControl(string(s[2:len(s)-1]), s[len(s)-1])
	}
}

func (m *termModes) noteControl(params string, final byte) {
	private, isPrivate := strings.CutPrefix(params, "?")
	switch {
	case isPrivate && (final == 'h' || final == 'l'):
		for p := range strings.SplitSeq(private, ";") {
			if n, err := strconv.Atoi(p); err == nil {
				m.set(n, final == 'h')
			}
		}
	case final == 'm' && strings.HasPrefix(params, ">"):
		m.keys = strings.HasPrefix(params, ">4;") && params != ">4;0"
	case final == 'm' && !strings.ContainsAny(params, "<=>?"):
		m.style = params != "" && strings.Trim(params, "0;") != ""
	case final == 'r' && !isPrivate:
		m.region = params != ""
	case final == 'q' && strings.HasSuffix(params, " "):
		m.shape = strings.Trim(params, "0 ") != ""
	case final == 'u' && strings.HasPrefix(params, ">"):
		m.kitty = min(m.kitty+1, 16)
	case final == 'u' && strings.HasPrefix(params, "<"):
		m.kitty = max(m.kitty-1, 0)
	case final == 'p' && params == "!": // a soft reset
		m.hidden, m.nowrap, m.keypad, m.drawn, m.style, m.region = false, false, false, false, false, false
	}
}

func (m *termModes) set(mode int, on bool) {
	switch mode {
	case 25:
		m.hidden = !on
		return
	case 7:
		m.nowrap = !on
		return
	}
	i := slices.Index(m.on, mode)
	switch {
	case on && i < 0 && slices.Contains(usedModes, mode):
		m.on = append(m.on, mode)
	case !on && i >= 0:
		m.on = slices.Delete(m.on, i, i+1)
	}
}

// asks reports whether the sequence that has just ended makes a terminal answer.
func (m *termModes) asks() bool {
	s := string(m.seq)
	switch {
	case strings.HasPrefix(s, "\x1b["):
		params, final := s[2:len(s)-1], s[len(s)-1]
		switch final {
		case 'c': // what are you
			return true
		case 'n': // status, cursor position
			return true
		case 'p': // is a mode set
			return strings.HasSuffix(params, "$")
		case 'q': // name and version
			return strings.HasPrefix(params, ">")
		case 'u': // keyboard modes
			return params == "?"
		case 'x': // parameters
			return true
		case 't': // window size and title
			n, err := strconv.Atoi(strings.SplitN(params, ";", 2)[0])
			return err == nil && n >= 11 && n <= 21
		}
	case strings.HasPrefix(s, "\x1b]"): // colours, clipboard
		return bytes.Contains(m.seq, []byte(";?"))
	case strings.HasPrefix(s, "\x1bP"): // capabilities, settings
		return strings.HasPrefix(s, "\x1bP+q") || strings.HasPrefix(s, "\x1bP$q")
	case s == "\x1bZ":
		return true
	}
	return false
}

// fullScreen reports whether the program draws on the other screen.
func (m *termModes) fullScreen() bool {
	return slices.ContainsFunc(m.on, func(mode int) bool { return mode == 47 || mode == 1047 || mode == 1049 })
}

// reset returns what puts the terminal back to where it was before the program.
func (m *termModes) reset() string {
	var b strings.Builder
	if m.state != ground {
		b.WriteString("\x18") // breaks a sequence off
	}
	for _, mode := range slices.Backward(m.on) {
		fmt.Fprintf(&b, "\x1b[?%dl", mode)
	}
	if m.nowrap {
		b.WriteString("\x1b[?7h")
	}
	if m.hidden {
		b.WriteString("\x1b[?25h")
	}
	if m.keypad {
		b.WriteString("\x1b>")
	}
	if m.drawn {
		b.WriteString("\x1b(B\x0f")
	}
	if m.region {
		b.WriteString("\x1b7\x1b[r\x1b8") // the cursor would go to the corner
	}
	if m.shape {
		b.WriteString("\x1b[0 q")
	}
	if m.keys {
		b.WriteString("\x1b[>4;0m")
	}
	if m.kitty > 0 {
		fmt.Fprintf(&b, "\x1b[<%du", m.kitty)
	}
	if m.style {
		b.WriteString("\x1b[0m")
	}
	return b.String()
}

// again returns what sets the modes again that reset has put back. What else
// was on the screen the program has to draw.
func (m *termModes) again() string {
	var b strings.Builder
	for _, mode := range m.on {
		fmt.Fprintf(&b, "\x1b[?%dh", mode)
	}
	if m.nowrap {
		b.WriteString("\x1b[?7l")
	}
	if m.hidden {
		b.WriteString("\x1b[?25l")
	}
	if m.keypad {
		b.WriteString("\x1b=")
	}
	return b.String()
}
