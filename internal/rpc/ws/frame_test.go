package ws

import (
	"bytes"
	"testing"
)

func TestAppendFrame(t *testing.T) {
	for _, c := range []struct {
		n    int
		head []byte // without a mask
	}{
		{0, []byte{0x81, 0}},
		{125, []byte{0x81, 125}},
		{126, []byte{0x81, 126, 0, 126}},
		{1<<16 - 1, []byte{0x81, 126, 0xff, 0xff}},
		{1 << 16, []byte{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}},
	} {
		payload := bytes.Repeat([]byte("0123456789a"), c.n/11+1)[:c.n]
		plain := AppendFrame([]byte("before"), OpText, payload, false)
		if want := append(append([]byte("before"), c.head...), payload...); !bytes.Equal(plain, want) {
			t.Errorf("%d bytes: %.40q, want %.40q", c.n, plain, want)
		}
		masked := AppendFrame(nil, OpText, payload, true)
		c.head[1] |= 0x80
		head, rest, ok := bytes.Cut(masked, c.head)
		if !ok || len(head) != 0 || len(rest) != 4+c.n {
			t.Fatalf("%d bytes, masked: %.40q", c.n, masked)
		}
		for i, b := range rest[4:] {
			if b^rest[i&3] != payload[i] {
				t.Fatalf("%d bytes, masked: byte %d is %#x", c.n, i, b)
			}
		}
	}
}

// TestMask compares with the definition, byte by byte, at each length around
// the eight bytes that are taken together.
func TestMask(t *testing.T) {
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	for n := range 40 {
		p := bytes.Repeat([]byte{0xa5}, n)
		Mask(p, key)
		for i, b := range p {
			if b != 0xa5^key[i&3] {
				t.Fatalf("%d bytes: byte %d is %#x", n, i, b)
			}
		}
	}
}
