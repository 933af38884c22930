package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The output of a program as events: {"type":"stream_chunk","chunk":TEXT,
// "tty":true}, bytes for a terminal as they are. Where they are not UTF-8 the
// chunk shows U+FFFD and "bytes" has all of them in base64.

const (
	maxChunk     = 16 << 10             // bytes of one event
	maxOddChunk  = 8 << 10              // where they are not UTF-8
	maxPending   = 256 << 10            // bytes that wait to become events
	chunkPace    = 4 * time.Millisecond // between two events, unless there is much
	unfinishedAt = time.Second          // after that the rest of a character does not come
)

// chunkEvent makes an event of bytes for a terminal.
func chunkEvent(p []byte) json.RawMessage {
	event := struct {
		Type  string `json:"type"`
		Chunk string `json:"chunk"`
		Bytes string `json:"bytes,omitempty"`
		TTY   bool   `json:"tty"`
	}{Type: "stream_chunk", Chunk: string(p), TTY: true}
	if !utf8.Valid(p) {
		event.Chunk = strings.ToValidUTF8(event.Chunk, "\uFFFD")
		event.Bytes = base64.StdEncoding.EncodeToString(p)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(event) // strings and a bool: it cannot fail
	return b.Bytes()
}

// chunker gathers what a program writes and cuts it into pieces that are worth
// an event: what comes within a moment is one piece, and no piece ends within
// a character, unless its rest does not come within unfinishedAt: then the
// program writes another encoding.
type chunker struct {
	mu      sync.Mutex
	pending []byte
	ended   bool
	changed chan struct{} // holds one: pending or ended is new
	room    chan struct{} // holds one: pending is shorter
	last    time.Time     // of the last piece; used by next only
}

func newChunker() *chunker {
	return &chunker{changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// write adds output. It waits while too much waits.
func (c *chunker) write(p []byte) {
	for len(p) > 0 {
		c.mu.Lock()
		n := min(len(p), maxPending-len(c.pending))
		c.pending = append(c.pending, p[:n]...)
		c.mu.Unlock()
		p = p[n:]
		if n > 0 {
			poke(c.changed)
		}
		if len(p) > 0 {
			<-c.room
		}
	}
}

// end says that no output follows.
func (c *chunker) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	poke(c.changed)
}

// next waits for the next piece; nil is the end.
func (c *chunker) next() []byte {
	stale := false // the character at the end remained unfinished
	for {
		c.mu.Lock()
		n := len(c.pending)
		if n == 0 && c.ended {
			c.mu.Unlock()
			return nil
		}
		wait := chunkPace - time.Since(c.last)
		switch {
		case n == 0:
			c.mu.Unlock()
			<-c.changed
			stale = false
			continue
		case wait > 0 && n < maxChunk && !c.ended:
			c.mu.Unlock()
			time.Sleep(wait)
			continue
		}
		n = min(n, maxChunk)
		whole := n - unfinished(c.pending[:n])
		if whole == 0 && !stale && !c.ended {
			c.mu.Unlock()
			select {
			case <-c.changed:
			case <-time.After(unfinishedAt):
				stale = true
			}
			continue
		}
		if whole > 0 {
			n = whole
		}
		if n > maxOddChunk && !utf8.Valid(c.pending[:n]) {
			n = maxOddChunk
			if whole = n - unfinished(c.pending[:n]); whole > 0 {
				n = whole
			}
		}
		piece := bytes.Clone(c.pending[:n])
		c.pending = append(c.pending[:0], c.pending[n:]...)
		c.mu.Unlock()
		poke(c.room)
		c.last = time.Now()
		return piece
	}
}

// poke fills a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// unfinished returns how many bytes at the end of p begin a character that
// goes on in the next read.
func unfinished(p []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(p); n++ {
		if c := p[len(p)-n]; utf8.RuneStart(c) {
			if !utf8.FullRune(p[len(p)-n:]) {
				return n
			}
			break
		}
	}
	return 0
}
