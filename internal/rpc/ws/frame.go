package ws

import (
	"encoding/binary"
	"math/rand/v2"
)

// Opcodes of frames.
const (
	OpContinue = 0
	OpText     = 1
	OpClose    = 8 // from here on: control frames
)

// AppendFrame appends one unfragmented frame, masked if we are the client.
func AppendFrame(dst []byte, op byte, payload []byte, mask bool) []byte {
	var bit byte
	if mask {
		bit = 0x80
	}
	dst = append(dst, 0x80|op)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, bit|byte(n))
	case n < 1<<16:
		dst = append(dst, bit|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, bit|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	if !mask {
		return append(dst, payload...)
	}
	var key [4]byte
	binary.LittleEndian.PutUint32(key[:], rand.Uint32()) // hides nothing: it keeps proxies from taking payload for protocol
	dst = append(dst, key[:]...)
	from := len(dst)
	dst = append(dst, payload...)
	Mask(dst[from:], key)
	return dst
}

// Mask puts the mask of a client on a payload, or takes it off, eight bytes at
// a time.
func Mask(p []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
}
