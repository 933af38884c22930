// Package vt is as much of a terminal as the tests need: it shows what a
// program writes as rows of text, and knows the modes that a program has to
// put back.
package vt

import (
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Screen is a terminal. Its methods may be called from any goroutine.
type Screen struct {
	mu         sync.Mutex
	cols, rows int
	cells      [][]rune
	x, y       int
	main       *saved // what the alternate screen covers; nil when that is not shown
	kept       [2]int // the cursor, as ESC 7 left it
	hidden     bool
	modes      map[int]bool
	sgr        bool
	strange    []string // sequences that it does not know
	input      []byte   // that is not complete
}

type saved struct {
	cells [][]rune
	x, y  int
}

// New returns an empty screen.
func New(cols, rows int) *Screen {
	s := &Screen{cols: cols, rows: rows, modes: map[int]bool{}}
	s.cells = s.blank()
	return s
}

func (s *Screen) blank() [][]rune {
	cells := make([][]rune, s.rows)
	for i := range cells {
		cells[i] = blankRow(s.cols)
	}
	return cells
}

func blankRow(n int) []rune { return []rune(strings.Repeat(" ", n)) }

// Resize gives the screen another size. It is empty then, but for the other
// screen: who draws full screens draws anew.
func (s *Screen) Resize(cols, rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cols, s.rows = cols, rows
	s.cells = s.blank()
	s.x, s.y = 0, 0
	if s.main != nil {
		s.main = &saved{cells: s.blank()}
	}
}

// Text returns the rows without the blanks at their ends.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []string
	for _, r := range s.cells {
		rows = append(rows, strings.TrimRight(string(r), " "))
	}
	return strings.TrimRight(strings.Join(rows, "\n"), "\n")
}

// Alternate reports whether the alternate screen is shown.
func (s *Screen) Alternate() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.main != nil
}

// Left names what a program has left switched on; "" is as it should be.
func (s *Screen) Left() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []string
	if s.main != nil {
		left = append(left, "alternate screen")
	}
	if s.hidden {
		left = append(left, "hidden cursor")
	}
	if s.sgr {
		left = append(left, "colours")
	}
	for mode, on := range s.modes {
		if on {
			left = append(left, "mode "+strconv.Itoa(mode))
		}
	}
	return strings.Join(left, ", ")
}

// Strange returns the sequences that were not understood.
func (s *Screen) Strange() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.strange
}

// Write shows output.
func (s *Screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.input = append(s.input, p...)
	for len(s.input) > 0 {
		n := s.take(s.input)
		if n == 0 {
			break
		}
		s.input = s.input[n:]
	}
	return len(p), nil
}

// take shows one character or sequence and returns its length; 0 when it is not complete.
func (s *Screen) take(p []byte) int {
	switch c := p[0]; {
	case c == 0x1b:
		return s.sequence(p)
	case c == '\r':
		s.x = 0
		return 1
	case c == '\n':
		s.down()
		return 1
	case c == '\b':
		s.x = max(0, s.x-1)
		return 1
	case c < ' ' || c == 0x7f:
		return 1
	}
	if !utf8.FullRune(p) {
		return 0
	}
	r, n := utf8.DecodeRune(p)
	if s.x == s.cols {
		s.x = 0
		s.down()
	}
	s.cells[s.y][s.x] = r
	s.x++
	return n
}

func (s *Screen) down() {
	if s.y < s.rows-1 {
		s.y++
		return
	}
	s.cells = append(s.cells[1:], blankRow(s.cols))
}

func (s *Screen) sequence(p []byte) int {
	if len(p) < 2 {
		return 0
	}
	switch p[1] {
	case '[':
		for i := 2; i < len(p); i++ {
			if p[i] >= 0x40 && p[i] <= 0x7e {
				s.control(string(p[2:i]), p[i])
				return i + 1
			}
		}
		return 0
	case ']':
		for i := 2; i < len(p); i++ {
			if p[i] == 0x07 {
				return i + 1
			}
		}
		return 0
	case '(', ')':
		if len(p) < 3 {
			return 0
		}
		return 3
	}
	switch p[1] {
	case '7':
		s.kept = [2]int{s.x, s.y}
	case '8':
		s.x, s.y = s.kept[0], s.kept[1]
	}
	return 2
}

func (s *Screen) control(params string, final byte) {
	if private, ok := strings.CutPrefix(params, "?"); ok && (final == 'h' || final == 'l') {
		for m := range strings.SplitSeq(private, ";") {
			n, _ := strconv.Atoi(m)
			s.mode(n, final == 'h')
		}
		return
	}
	var n []int
	for t := range strings.SplitSeq(params, ";") {
		v, err := strconv.Atoi(t)
		if err != nil {
			v = 0
		}
		n = append(n, v)
	}
	at := func(i int) int { // of a count from 1
		if i < len(n) && n[i] > 0 {
			return n[i]
		}
		return 1
	}
	switch final {
	case 'H', 'f':
		s.y, s.x = min(at(0), s.rows)-1, min(at(1), s.cols)-1
	case 'A':
		s.y = max(0, s.y-at(0))
	case 'B':
		s.y = min(s.rows-1, s.y+at(0))
	case 'C':
		s.x = min(s.cols-1, s.x+at(0))
	case 'D':
		s.x = max(0, s.x-at(0))
	case 'J':
		from := s.y + 1
		if n[0] == 2 {
			from = 0
		} else {
			s.clear(s.y, s.x)
		}
		for y := from; y < s.rows; y++ {
			s.clear(y, 0)
		}
	case 'K':
		s.clear(s.y, s.x)
	case 'm':
		s.sgr = strings.Trim(params, "0;") != ""
	default:
		s.strange = append(s.strange, params+string(final))
	}
}

func (s *Screen) clear(y, from int) {
	for x := from; x < s.cols; x++ {
		s.cells[y][x] = ' '
	}
}

func (s *Screen) mode(n int, on bool) {
	switch n {
	case 25:
		s.hidden = !on
	case 1049:
		switch {
		case on && s.main == nil:
			s.main = &saved{s.cells, s.x, s.y}
			s.cells = s.blank()
		case !on && s.main != nil:
			s.cells, s.x, s.y = s.main.cells, s.main.x, s.main.y
			s.main = nil
		}
	default:
		s.modes[n] = on
	}
}
