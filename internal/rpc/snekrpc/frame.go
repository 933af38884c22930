package snekrpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// DefaultMaxFrame is the most bytes of one message.
const DefaultMaxFrame = 16 << 20

// handshake is the message that asks for the codec; the answer is the same
// byte and the codec's name.
const handshake = 0x00

// ErrTooLong is the end of a connection whose peer announced a message over the limit.
var ErrTooLong = errors.New("message is over the limit")

// errChunk is the end of an HTTP tunnel whose peer does not write chunks.
var errChunk = errors.New("malformed chunk")

const (
	readBuffer = 4 << 10
	keepBuffer = 72 << 10 // the largest message buffer that an idle connection keeps
	growPiece  = 1 << 20  // a message buffer grows with what has arrived, not with what was announced
)

// reader cuts a byte stream into messages: length-prefixed ones, or HTTP chunks.
type reader struct {
	src     io.Reader
	chunked bool
	max     int
	share   *rpc.Share // of the memory of unfinished messages; may be nil

	buf  []byte // read ahead
	from int    // the first byte of buf that was not used
	msg  []byte // the last message
	done bool   // the final chunk was read
}

func newReader(src io.Reader, chunked bool, max int) *reader {
	if max <= 0 {
		max = DefaultMaxFrame
	}
	return &reader{src: src, chunked: chunked, max: max, share: rpc.ShareOf(src), buf: make([]byte, 0, readBuffer)}
}

// buffered reports whether there are bytes that were read and not used.
func (r *reader) buffered() bool { return r.from < len(r.buf) }

// ready reports whether next has a whole message without reading.
func (r *reader) ready() bool {
	b := r.buf[r.from:]
	if !r.chunked {
		return len(b) >= 4 && uint64(len(b)-4) >= uint64(binary.BigEndian.Uint32(b))
	}
	n := 0
	for i, c := range b {
		if c == '\n' {
			return n > 0 && len(b)-i > n+2
		}
		d, ok := hexDigit(c)
		if c == '\r' {
			continue
		}
		if !ok || n > r.max {
			return false
		}
		n = n<<4 | d
	}
	return false
}

// next returns the next message, which is valid until the next call. Frames of
// length 0 are no messages. io.EOF is the end between two messages, or the
// final chunk.
func (r *reader) next() ([]byte, error) {
	if cap(r.msg) > keepBuffer {
		r.msg = nil
	}
	defer func() {
		r.share.Hold(0)
		r.share.End()
	}()
	for {
		n, err := r.length()
		if err != nil {
			return nil, err
		}
		if n > r.max {
			return nil, fmt.Errorf("%w: %d bytes", ErrTooLong, n)
		}
		if n == 0 {
			continue
		}
		msg, err := r.body(n)
		if err != nil {
			return nil, cut(err)
		}
		if r.chunked {
			if err := r.lineEnd(); err != nil {
				return nil, cut(err)
			}
		}
		return msg, nil
	}
}

// cut turns the end of the stream inside a message into an error of its own.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fill makes at least one byte available.
func (r *reader) fill() error {
	if r.buffered() {
		return nil
	}
	r.buf, r.from = r.buf[:0], 0
	for range 100 {
		n, err := r.src.Read(r.buf[:cap(r.buf)])
		r.buf = r.buf[:n]
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

func (r *reader) byte() (byte, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	c := r.buf[r.from]
	r.from++
	return c, nil
}

// length reads the head of a message.
func (r *reader) length() (int, error) {
	if r.chunked {
		return r.chunkLength()
	}
	var head [4]byte
	for i := range head {
		if i > 0 {
			r.share.Begin(i)
		}
		c, err := r.byte()
		if err != nil {
			if i > 0 {
				err = cut(err)
			}
			return 0, err
		}
		head[i] = c
	}
	return int(binary.BigEndian.Uint32(head[:])), nil
}

// body reads n bytes.
func (r *reader) body(n int) ([]byte, error) {
	msg := r.msg[:0]
	for len(msg) < n {
		r.share.Begin(len(msg))
		if cap(msg) == len(msg) {
			size := min(n, max(2*len(msg), min(n, growPiece)))
			if !r.share.Hold(size) {
				return nil, rpc.ErrNoRoom
			}
			grown := make([]byte, len(msg), size)
			copy(grown, msg)
			msg = grown
		}
		if r.buffered() {
			k := min(n-len(msg), cap(msg)-len(msg), len(r.buf)-r.from)
			msg = append(msg, r.buf[r.from:r.from+k]...)
			r.from += k
			continue
		}
		want := min(n, cap(msg))
		if want-len(msg) < readBuffer {
			if err := r.fill(); err != nil {
				return nil, cut(err)
			}
			continue
		}
		k, err := r.src.Read(msg[len(msg):want])
		msg = msg[:len(msg)+k]
		if k == 0 && err != nil {
			return nil, cut(err)
		}
	}
	r.msg = msg
	return msg, nil
}

// chunkLength reads the line before a chunk. Extensions are ignored. The final
// chunk, and what follows it, is the end.
func (r *reader) chunkLength() (int, error) {
	if r.done {
		return 0, io.EOF
	}
	n, digits, line := 0, 0, 0
	inDigits := true
	for {
		c, err := r.byte()
		if err != nil {
			if line > 0 {
				err = cut(err)
			}
			return 0, err
		}
		if line++; line > 256 {
			return 0, errChunk
		}
		switch {
		case c == '\n':
			if digits == 0 {
				return 0, errChunk
			}
			if n == 0 {
				r.done = true
				return 0, io.EOF
			}
			return n, nil
		case c == '\r', !inDigits:
			inDigits = false
		case c == ';' || c == ' ' || c == '\t':
			if digits == 0 {
				return 0, errChunk
			}
			inDigits = false
		default:
			d, ok := hexDigit(c)
			if !ok {
				return 0, errChunk
			}
			if digits++; digits > 8 && n > 0 {
				return 0, fmt.Errorf("%w: chunk", ErrTooLong)
			}
			n = n<<4 | d
		}
	}
}

func hexDigit(c byte) (int, bool) {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0'), true
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10, true
	}
	return 0, false
}

// lineEnd reads what stands behind a chunk.
func (r *reader) lineEnd() error {
	c, err := r.byte()
	if err == nil && c == '\r' {
		c, err = r.byte()
	}
	if err == nil && c != '\n' {
		err = errChunk
	}
	return err
}

// beginFrame makes room for the head of a message at the end of dst; endFrame
// fills it in once the message stands behind it. from is where the head begins.
func beginFrame(dst []byte, chunked bool) []byte {
	if chunked {
		return append(dst, "00000000\r\n"...)
	}
	return append(dst, 0, 0, 0, 0)
}

// chunkHead is how many bytes beginFrame leaves for the head of a chunk.
const chunkHead = 10

// endFrame completes the message that begins at from and returns dst. Chunk
// lengths have as many digits as they need, as those of other peers.
func endFrame(dst []byte, from int, chunked bool) []byte {
	if !chunked {
		binary.BigEndian.PutUint32(dst[from:], uint32(len(dst)-from-4))
		return dst
	}
	n := len(dst) - from - chunkHead
	var head [chunkHead]byte
	h := strconv.AppendUint(head[:0], uint64(n), 16)
	for i, c := range h {
		if c >= 'a' {
			h[i] = c - 'a' + 'A'
		}
	}
	h = append(h, "\r\n"...)
	at := copy(dst[from:], h)
	copy(dst[from+at:], dst[from+chunkHead:])
	dst = dst[:from+at+n]
	return append(dst, "\r\n"...)
}
