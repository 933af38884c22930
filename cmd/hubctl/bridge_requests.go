package main

import (
	"bufio"
	"io"
	"net/http"
	"sync"
)

// requestLedger is that of HTTP: each request has its answer, in order.
type requestLedger struct {
	settled  func()
	in, out  *io.PipeWriter
	inEnded  chan struct{}
	outEnded chan struct{}
	requests chan *http.Request // whose heads have come

	mu       sync.Mutex
	due      int
	cut      bool // the last request has no end: there is nothing to wait for before that is told
	lost     bool // what comes cannot be read
	upgraded bool
	last     bool // the last answer was said to be one
}

// pipelined is how many requests may be on their way at once.
const pipelined = 1024

func newRequestLedger(settled func()) *requestLedger {
	l := &requestLedger{
		settled: settled, inEnded: make(chan struct{}), outEnded: make(chan struct{}), requests: make(chan *http.Request, pipelined),
	}
	in, w := io.Pipe()
	l.in = w
	out, w := io.Pipe()
	l.out = w
	go l.readRequests(in) // both end with their pipes
	go l.readAnswers(out)
	return l
}

func (l *requestLedger) asked(p []byte)    { _, _ = l.in.Write(p) }
func (l *requestLedger) answered(p []byte) { _, _ = l.out.Write(p) }

func (l *requestLedger) readRequests(in *io.PipeReader) {
	defer close(l.inEnded)
	defer io.Copy(io.Discard, in) // whoever writes does not wait
	defer close(l.requests)
	r := bufio.NewReader(in)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return // the hub says what is wrong with it
		}
		l.mu.Lock()
		l.due++
		l.mu.Unlock()
		l.requests <- req
		if req.Header.Get("Upgrade") != "" {
			return
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			l.mu.Lock()
			l.cut = true
			l.mu.Unlock()
			return
		}
	}
}

func (l *requestLedger) readAnswers(out *io.PipeReader) {
	defer close(l.outEnded)
	defer io.Copy(io.Discard, out)
	r := bufio.NewReader(out)
	for {
		if _, err := r.Peek(1); err != nil {
			return
		}
		req, ok := <-l.requests
		if !ok {
			req = &http.Request{Method: http.MethodGet} // an answer to what could not be read
		}
		resp, err := http.ReadResponse(r, req)
		for err == nil && resp.StatusCode/100 == 1 && resp.StatusCode != http.StatusSwitchingProtocols {
			resp, err = http.ReadResponse(r, req)
		}
		if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		l.mu.Lock()
		switch {
		case err == io.ErrUnexpectedEOF || err == io.EOF: // it is still due
		case err != nil:
			l.lost = true
		default:
			l.due = max(l.due-1, 0)
			l.last = resp.Close
			l.upgraded = resp.StatusCode == http.StatusSwitchingProtocols
		}
		over := err != nil || l.upgraded
		l.mu.Unlock()
		go l.settled() // not from here: who feeds this may hold what it needs
		if over {
			return
		}
	}
}

func (l *requestLedger) end() []byte {
	l.in.Close()
	<-l.inEnded
	return nil
}

func (l *requestLedger) owed() (due, stalled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || l.lost || l.upgraded {
		return 0, 0
	}
	return l.due, 0
}

func (l *requestLedger) abandon() []byte { return nil }

func (l *requestLedger) closed() (meant bool, err error) {
	l.out.Close()
	<-l.outEnded
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut && l.due > 0 {
		err = errCutInput
	}
	return l.last || l.upgraded, err
}
