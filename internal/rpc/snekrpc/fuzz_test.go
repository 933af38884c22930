package snekrpc

import (
	"bytes"
	"io"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// seeds adds the messages of all captures, and some that no peer sends.
func seeds(f *testing.F, cd codec) {
	f.Add([]byte{})
	for k := commandMsg; k <= endMsg; k++ {
		f.Add(appendMark(nil, cd, k))
	}
	for _, text := range []string{
		`["CommandMessage","a","b",[["Argument",1],["StreamArgument"]],{"k":["Argument",{"x":[1.5,null,true,"é\ud800"]}]}]`,
		`["DataMessage",[[[[[[[[1e400]]]]]]]]]`, `["ErrorMessage","a","b","c"]`, `{"a":1}`, `[]`, `[1]`,
	} {
		v := rpc.RawString(text)
		if b, err := cd.value(nil, v); err == nil {
			f.Add(b)
		}
	}
	f.Add(bytes.Repeat([]byte{0x91}, 1000))
	f.Add(bytes.Repeat([]byte{0x81}, 1000))
	f.Add([]byte("\x92\xabDataMessage\xd6\xff\x67\x76\x01\x25"))
	f.Add([]byte("\x92\xabDataMessage\xc9\x00\x00\x00\x02\x05ab"))
	f.Add([]byte("\x92\xabDataMessage\x82\x01\x02\xc4\x01\x00\xc0"))
}

// decoded is the property of both decoders: what is taken can be written again
// and then means the same; the tag agrees with the quick look.
func decoded(t *testing.T, cd codec, data []byte) {
	var m message
	if err := cd.decode(data, &m); err != nil {
		if _, ok := err.(*wireError); !ok {
			t.Fatalf("%T: %v", err, err)
		}
		return
	}
	if k := cd.kind(data); k != m.kind && k != noKind {
		t.Fatalf("kind %d, decoded %d", k, m.kind)
	}
	for _, to := range []codec{jsonCodec{}, msgpackCodec{}} {
		var out []byte
		var err error
		switch m.kind {
		case dataMsg:
			out, err = appendData(nil, to, m.value)
		case commandMsg:
			out, err = appendCommand(nil, to, &m)
		case errorMsg:
			out = appendError(nil, to, m.name, m.text)
		default:
			out = appendMark(nil, to, m.kind)
		}
		if err != nil {
			continue // what the other codec cannot carry
		}
		var again message
		if err := to.decode(out, &again); err != nil {
			t.Fatalf("%s wrote %q, which it does not read: %v", to.name(), out, err)
		}
		if again.kind != m.kind || len(again.args) != len(m.args) || len(again.named) > len(m.named) || again.streams() > m.streams() {
			t.Fatalf("%+v became %+v", m, again)
		}
	}
}

func FuzzJSON(f *testing.F) {
	seeds(f, jsonCodec{})
	f.Fuzz(func(t *testing.T, data []byte) { decoded(t, jsonCodec{}, data) })
}

func FuzzMsgpack(f *testing.F) {
	seeds(f, msgpackCodec{})
	f.Fuzz(func(t *testing.T, data []byte) { decoded(t, msgpackCodec{}, data) })
}

// FuzzFrames cuts any bytes into messages, read in pieces of any size: the
// messages do not depend on the pieces.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02[]"), false, uint8(1))
	f.Add([]byte("1\r\n\x00\r\n5;x=y\r\nhello\r\n0\r\n\r\n"), true, uint8(3))
	f.Add([]byte("\xff\xff\xff\xff"), false, uint8(2))
	f.Add([]byte("FFFFFFFFFFFF\r\n"), true, uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, chunked bool, piece uint8) {
		const limit = 1 << 10
		whole, werr := cutAll(newReader(bytes.NewReader(data), chunked, limit))
		s := &script{}
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(piece)%17+1)
			s.pieces = append(s.pieces, append([]byte(nil), rest[:n]...))
			rest = rest[n:]
		}
		parts, perr := cutAll(newReader(s, chunked, limit))
		if len(whole) != len(parts) || (werr == io.EOF) != (perr == io.EOF) {
			t.Fatalf("%d messages and %v, in pieces %d and %v", len(whole), werr, len(parts), perr)
		}
		for i := range whole {
			if !bytes.Equal(whole[i], parts[i]) {
				t.Fatalf("message %d: %q and %q", i, whole[i], parts[i])
			}
			if len(whole[i]) == 0 || len(whole[i]) > limit {
				t.Fatalf("message of %d bytes", len(whole[i]))
			}
		}
	})
}

func cutAll(r *reader) (list [][]byte, err error) {
	for {
		r.ready() // must not disturb
		msg, err := r.next()
		if err != nil {
			return list, err
		}
		list = append(list, append([]byte(nil), msg...))
	}
}
