package tests

import (
	"bufio"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// programEnv makes the test binary run one of the programs of this file in the
// place of the tests.
const programEnv = "HUBD_TEST_PROGRAM"

// fullScreen is a program that draws on the whole screen: the size of its
// terminal, and all that was typed. It ends with status 7 when q is typed.
func fullScreen() int {
	state, err := term.MakeRaw(0)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer term.Restore(0, state)
	fmt.Print("\x1b[?1049h\x1b[?25l\x1b[?1h\x1b[?2004h")
	defer fmt.Print("\x1b[?2004l\x1b[?1l\x1b[?25h\x1b[?1049l")
	var mu sync.Mutex
	typed := ""
	drawnCols, drawnRows := 0, 0
	draw := func() {
		mu.Lock()
		defer mu.Unlock()
		cols, rows, _ := term.GetSize(0)
		drawnCols, drawnRows = cols, rows
		// A bare line feed goes down and not to the left, here.
		fmt.Printf("\x1b[2J\x1b[1;1H\x1b[32msize %dx%d\x1b[0m\x1b[2;1Htyped %s\nbelow\x1b[%d;1Hlast row", cols, rows, typed, rows)
	}
	draw()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			mu.Lock()
			cols, rows, _ := term.GetSize(0)
			same := cols == drawnCols && rows == drawnRows
			mu.Unlock()
			if !same { // as programs do that use ncurses
				draw()
			}
		}
	}()
	in := bufio.NewReader(os.Stdin)
	for {
		c, _, err := in.ReadRune()
		if err != nil {
			return 1
		}
		if c == 'q' {
			return 7
		}
		mu.Lock()
		typed += string(c)
		mu.Unlock()
		draw()
	}
}
