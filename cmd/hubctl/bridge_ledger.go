package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// ledger keeps account of what was asked over a bridge and not answered, by the
// bytes of both directions. asked and end are called by one goroutine, answered by
// another one, the rest by any. What it does not understand counts for nothing.
type ledger interface {
	// asked takes bytes that stdin has sent.
	asked(p []byte)
	// answered takes bytes that the hub has sent.
	answered(p []byte)
	// end notes that stdin has ended. It returns what is to be sent after it.
	end() []byte
	// owed returns how many answers are due, and how many of them the hub cannot
	// give because the client has yet to send something.
	owed() (due, stalled int)
	// abandon returns what is to be sent so that those end.
	abandon() []byte
	// closed notes that the connection has ended. meant says that it was to, and
	// err is what this side has left undone.
	closed() (meant bool, err error)
}

// errCutInput is the end of stdin within a request.
var errCutInput = errors.New("stdin has ended within a request")

// newLedger returns that of a protocol, which may be "": then c, the first byte,
// tells, as it tells the hub. settled is called when something was answered that
// answered has not answered before it returned.
func newLedger(protocol string, c byte, settled func()) ledger {
	switch {
	case protocol == "krpc", protocol == "" && c >= 'A' && c <= 'Z':
		return newRequestLedger(settled)
	case protocol == "snekrpc", protocol == "" && (c <= 0x08 || c >= 0x0e && c <= 0x1f || c >= 0x7f && c != rpc.BOM[0]):
		return new(messageLedger)
	}
	return newLineLedger()
}

// messageLedger is that of snekrpc: one command after another, each with one
// answer, which may be a stream.
type messageLedger struct {
	mu       sync.Mutex
	in, out  messageHeads
	commands int  // that were not answered
	sending  bool // a stream of the client
	stream   bool // of the hub
	ends     bool // stdin has ended
}

// tags are the kinds of messages, as both codecs write them.
var tags = []string{"CommandMessage", "DataMessage", "ErrorMessage", "StreamStartMessage", "StreamEndMessage"}

// messageHeads cuts messages with a length before them, and keeps only how they begin.
type messageHeads struct {
	head []byte // length, then the first bytes of the message
	left uint32 // of the message
}

const messageHead = 40 // bytes in which the kind of a message is

// feed calls f with the kind of each message that has begun and can be told: one
// of tags, "handshake" or "".
func (m *messageHeads) feed(p []byte, f func(kind string)) {
	for len(p) > 0 {
		if len(m.head) < 4 {
			n := min(4-len(m.head), len(p))
			m.head = append(m.head, p[:n]...)
			p = p[n:]
			if len(m.head) == 4 {
				if m.left = binary.BigEndian.Uint32(m.head); m.left == 0 {
					m.head = m.head[:0]
				}
			}
			continue
		}
		n := min(int(m.left), len(p))
		m.head = append(m.head, p[:min(n, messageHead+4-len(m.head))]...)
		p, m.left = p[n:], m.left-uint32(n)
		if m.left == 0 {
			f(messageKind(m.head[4:]))
			m.head = m.head[:0]
		}
	}
}

func messageKind(head []byte) string {
	if len(head) > 0 && head[0] == 0 {
		return "handshake"
	}
	for _, tag := range tags {
		if i := bytes.Index(head, []byte(tag)); i > 0 && i <= 16 {
			return tag
		}
	}
	return ""
}

func (l *messageLedger) asked(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in.feed(p, func(kind string) {
		switch kind {
		case "StreamStartMessage":
			l.sending = true
		case "StreamEndMessage":
			l.sending = false
		case "CommandMessage", "handshake":
			l.commands++
		}
	})
}

func (l *messageLedger) answered(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.out.feed(p, func(kind string) {
		switch {
		case kind == "StreamStartMessage":
			l.stream = true
		case kind == "DataMessage" && l.stream:
		case l.commands > 0:
			l.stream = false
			l.commands--
		}
	})
}

func (l *messageLedger) end() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ends = true
	return nil
}

func (l *messageLedger) owed() (due, stalled int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends && l.sending { // the end of the stream cannot come: the hub is to know that
		return 0, 0
	}
	return l.commands, 0
}

func (l *messageLedger) abandon() []byte { return nil }

func (l *messageLedger) closed() (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ends && (l.sending && l.commands > 0 || len(l.in.head) > 0) {
		return false, errCutInput
	}
	return false, nil
}
