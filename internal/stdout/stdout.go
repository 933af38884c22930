// Package stdout is the standard output of programs that tell when what they
// print is lost, wherever in them it was printed.
package stdout

import (
	"errors"
	"io"
	"sync"
	"syscall"
)

// Writer writes to another writer and keeps the first error.
type Writer struct {
	W io.Writer

	mu  sync.Mutex
	err error
}

func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.W.Write(p)
	if err != nil {
		w.mu.Lock()
		if w.err == nil {
			w.err = err
		}
		w.mu.Unlock()
	}
	return n, err
}

// Err returns the first error of a write. A reader that has gone is none: it has
// what it wanted.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, syscall.EPIPE) {
		return nil
	}
	return w.err
}
