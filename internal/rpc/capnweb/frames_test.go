package capnweb

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// rawFrame returns a masked frame.
func rawFrame(op byte, fin bool, payload string) []byte {
	b := ws.AppendFrame(nil, op, []byte(payload), true)
	if !fin {
		b[0] &^= 0x80
	}
	return b
}

// split runs in through frames, read in pieces, and returns the simple text
// messages and what was passed on.
func split(in []byte, piece int, limit int64) (texts []string, passed []byte, err error) {
	f := &frames{limit: limit, text: func(p []byte) { texts = append(texts, string(p)) }}
	f.fill = func(p []byte) (int, error) {
		if len(in) == 0 {
			return 0, io.EOF
		}
		n := copy(p[:min(len(p), piece)], in)
		in = in[n:]
		return n, nil
	}
	passed, err = io.ReadAll(f)
	return texts, passed, err
}

func TestFrames(t *testing.T) {
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	long := strings.Repeat("x", readBuffer)
	fits := strings.Repeat("y", readBuffer-8)
	unmasked := ws.AppendFrame(nil, ws.OpText, []byte("u"), false)
	reserved := rawFrame(ws.OpText, true, "r")
	reserved[0] |= 0x40
	for _, c := range []struct {
		name  string
		in    []byte
		texts []string // simple text messages; all other frames are passed on
		other []byte
	}{
		{"one", rawFrame(1, true, "[1]"), []string{"[1]"}, nil},
		{"empty", rawFrame(1, true, ""), []string{""}, nil},
		{"many", join(rawFrame(1, true, "a"), rawFrame(1, true, long[:200]), rawFrame(1, true, "b")), []string{"a", long[:200], "b"}, nil},
		{"ping between", join(rawFrame(1, true, "a"), rawFrame(9, true, "p"), rawFrame(1, true, "b")), []string{"a", "b"}, rawFrame(9, true, "p")},
		{"as large as the buffer", join(rawFrame(1, true, fits), rawFrame(1, true, "b")), []string{fits, "b"}, nil},
		{"larger", join(rawFrame(1, true, long), rawFrame(1, true, "b")), []string{"b"}, rawFrame(1, true, long)},
		{"binary", join(rawFrame(2, true, "x"), rawFrame(1, true, "b")), []string{"b"}, rawFrame(2, true, "x")},
		{"unmasked", unmasked, nil, unmasked},
		{"reserved bit", reserved, nil, reserved},
		{"fragments", join(rawFrame(1, false, "a"), rawFrame(9, true, "p"), rawFrame(0, false, "b"), rawFrame(0, true, "c"), rawFrame(1, true, "d")),
			[]string{"d"}, join(rawFrame(1, false, "a"), rawFrame(9, true, "p"), rawFrame(0, false, "b"), rawFrame(0, true, "c"))},
		{"text inside fragments is the library's to refuse", join(rawFrame(1, false, "a"), rawFrame(1, true, "b")), nil, join(rawFrame(1, false, "a"), rawFrame(1, true, "b"))},
		{"close", rawFrame(8, true, "\x03\xe8"), nil, rawFrame(8, true, "\x03\xe8")},
	} {
		for _, piece := range []int{1, 3, 100, 1 << 20} {
			texts, passed, err := split(c.in, piece, 1<<20)
			if err != nil || !slices.Equal(texts, c.texts) {
				t.Errorf("%s in pieces of %d: %.100q, %v", c.name, piece, texts, err)
			}
			// Masks are random: compare what the frames say.
			if got, want := frameTexts(passed), frameTexts(c.other); !slices.Equal(got, want) {
				t.Errorf("%s in pieces of %d: passed on %.100q, want %.100q", c.name, piece, got, want)
			}
		}
	}
}

// frameTexts returns the first byte and the payload of each frame.
func frameTexts(b []byte) (list []string) {
	for len(b) > 0 {
		h := parseHeader(b)
		if h.size == 0 || len(b) < h.size+h.length {
			return append(list, "cut off: "+string(b))
		}
		payload := bytes.Clone(b[h.size : h.size+h.length])
		if h.masked {
			ws.Mask(payload, [4]byte(b[h.size-4:]))
		}
		list = append(list, string(b[:1])+string(payload))
		b = b[h.size+h.length:]
	}
	return list
}

func TestFramesLimit(t *testing.T) {
	s := func(n int) string { return strings.Repeat("x", n) }
	endless := append([]byte{0x81, 0xff}, bytes.Repeat([]byte{0xff}, 12)...)
	for _, c := range []struct {
		name string
		in   [][]byte
		ok   bool
	}{
		{"small", [][]byte{rawFrame(1, true, s(10))}, true},
		{"at the limit", [][]byte{rawFrame(1, true, s(1000))}, true},
		{"over", [][]byte{rawFrame(1, true, s(1001))}, false},
		{"many small", [][]byte{rawFrame(1, true, s(900)), rawFrame(1, true, s(900))}, true},
		{"fragments at the limit", [][]byte{rawFrame(1, false, s(500)), rawFrame(9, true, s(100)), rawFrame(0, true, s(500))}, true},
		{"fragments over", [][]byte{rawFrame(1, false, s(500)), rawFrame(0, true, s(501))}, false},
		{"long form", [][]byte{rawFrame(1, true, s(70000))}, false},
		{"a length that no int holds", [][]byte{endless}, false},
	} {
		for _, piece := range []int{1, 3, 1 << 20} {
			if _, _, err := split(bytes.Join(c.in, nil), piece, 1000); (err == nil) != c.ok || err != nil && err != ErrTooBig {
				t.Errorf("%s in pieces of %d: %v", c.name, piece, err)
			}
		}
	}
}

// FuzzFrames checks that the way in which bytes arrive changes nothing.
func FuzzFrames(f *testing.F) {
	f.Add(append(rawFrame(1, true, "a"), rawFrame(1, false, "b")...))
	f.Add(append(rawFrame(9, true, "a"), rawFrame(2, true, "b")...))
	f.Fuzz(func(t *testing.T, in []byte) {
		texts, passed, err := split(in, len(in)+1, 1000)
		for _, piece := range []int{1, 7} {
			texts2, passed2, err2 := split(in, piece, 1000)
			if !slices.Equal(texts, texts2) || !bytes.Equal(passed, passed2) || err != err2 {
				t.Fatalf("in pieces of %d: %q %x %v, whole: %q %x %v", piece, texts2, passed2, err2, texts, passed, err)
			}
		}
	})
}
