package capnweb

import (
	"encoding/binary"
	"errors"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

const (
	readBuffer = 8 << 10 // of a connection; what does not fit is the library's
	maxHeader  = 14
)

// ErrTooBig ends a session whose peer has announced a message over the limit.
var ErrTooBig = errors.New("announced message is too long")

// frames splits what a client sends. Simple text frames (a whole, masked text
// message that fits the buffer) go to text; all others are passed on to the
// library, byte for byte. A message whose announced length is over the limit
// is refused before any of it is read.
type frames struct {
	limit int64
	text  func(payload []byte)              // borrows payload
	fill  func(p []byte) (n int, err error) // reads from the connection
	share *rpc.Share                        // of the memory of unfinished messages; may be nil

	buf      []byte
	from, to int   // what of buf is not handled yet
	left     int64 // what is still to come of the frame that is passed on
	total    int64 // of the fragmented message so far
	parts    bool  // a fragmented message has begun
}

// Read returns bytes of frames that are not simple text frames, each from its header on.
func (f *frames) Read(p []byte) (int, error) {
	for {
		if f.left > 0 {
			return f.pass(p)
		}
		h := parseHeader(f.buf[f.from:f.to])
		if h.size == 0 {
			if err := f.more(); err != nil {
				return 0, err
			}
			continue
		}
		if err := f.account(h); err != nil {
			f.left = int64(h.size) + int64(h.length) - int64(f.to-f.from)
			return 0, err
		}
		if !h.simpleText() || f.parts || h.size+h.length > readBuffer {
			f.left = int64(h.size + h.length)
			if h.op < ws.OpClose {
				f.parts = !h.fin
			}
			continue
		}
		for f.to-f.from < h.size+h.length {
			if err := f.more(); err != nil {
				return 0, err
			}
		}
		payload := f.buf[f.from+h.size : f.from+h.size+h.length]
		ws.Mask(payload, [4]byte(f.buf[f.from+h.size-4:]))
		f.from += h.size + h.length
		f.text(payload)
	}
}

// pass hands bytes of the present frame on.
func (f *frames) pass(p []byte) (n int, err error) {
	p = p[:min(int64(len(p)), f.left)]
	if f.from < f.to {
		n = copy(p, f.buf[f.from:f.to])
		f.from += n
	} else {
		n, err = f.fill(p)
	}
	f.left -= int64(n)
	return n, err
}

// more reads behind what is in the buffer; there is room when less than an
// simple text frame is.
func (f *frames) more() error {
	if f.buf == nil {
		f.buf = make([]byte, readBuffer)
	}
	if f.from > 0 {
		f.to = copy(f.buf, f.buf[f.from:f.to])
		f.from = 0
	}
	switch { // a message in parts is watched over by who puts it together
	case f.parts:
	case f.to > 0:
		f.share.Begin(f.to)
	default:
		f.share.End()
	}
	n, err := f.fill(f.buf[f.to:])
	f.to += n
	if n > 0 {
		return nil // an error comes again
	}
	return err
}

// account checks the length that a header announces.
func (f *frames) account(h header) error {
	if h.length < 0 || int64(h.length) > f.limit {
		return ErrTooBig
	}
	if h.op >= ws.OpClose { // control frames stand between those of a message
		return nil
	}
	if h.op != ws.OpContinue {
		f.total = 0
	}
	if f.total += int64(h.length); f.total > f.limit {
		return ErrTooBig
	}
	return nil
}

// header is the head of a frame.
type header struct {
	size   int // of the head; 0 when it is not complete
	length int // of the payload; negative when no int holds it
	op     byte
	fin    bool
	plain  bool // no reserved bit is set
	masked bool
}

func (h header) simpleText() bool { return h.op == ws.OpText && h.fin && h.plain && h.masked }

func parseHeader(b []byte) (h header) {
	if len(b) < 2 {
		return header{}
	}
	h.op, h.fin, h.plain, h.masked = b[0]&0x0f, b[0]&0x80 != 0, b[0]&0x70 == 0, b[1]&0x80 != 0
	h.size, h.length = 2, int(b[1]&0x7f)
	long := h.length
	switch long {
	case 126:
		h.size = 4
	case 127:
		h.size = 10
	}
	if h.masked {
		h.size += 4
	}
	if len(b) < h.size {
		return header{}
	}
	switch long {
	case 126:
		h.length = int(binary.BigEndian.Uint16(b[2:]))
	case 127:
		h.length = int(int64(binary.BigEndian.Uint64(b[2:])))
	}
	return h
}
