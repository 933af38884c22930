package hub

import (
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
)

// wsFrame is a masked frame; the mask is zero, which changes nothing.
func wsFrame(op byte, payload string) string {
	head := []byte{0x80 | op, 0x80 | 127}
	head = binary.BigEndian.AppendUint64(head, uint64(len(payload)))
	return string(append(head, 0, 0, 0, 0)) + payload
}

// readFrame returns the opcode and the length of the next frame, which must be whole.
func (w *wire) readFrame() (op byte, size int) {
	w.t.Helper()
	exactly := func(n int) []byte {
		p := make([]byte, n)
		if _, err := io.ReadFull(w.r, p); err != nil {
			w.t.Fatalf("the connection ended inside or before a frame: %v", err)
		}
		return p
	}
	head := exactly(2)
	if head[0]&0x80 == 0 || head[1]&0x80 != 0 {
		w.t.Fatalf("a fragment, or a masked frame: %x", head)
	}
	switch size = int(head[1]); size {
	case 126:
		size = int(binary.BigEndian.Uint16(exactly(2)))
	case 127:
		size = int(binary.BigEndian.Uint64(exactly(8)))
	}
	exactly(size)
	return head[0] & 0x0f, size
}

// A client that closes while a large answer is still on its way gets both: the
// answer, in one frame, and the answer to its close frame.
func TestCloseFrameIsAnsweredBehindTheQueue(t *testing.T) {
	const large = 8 << 20
	text := strings.Repeat("a", large)
	for path, messages := range map[string][]string{
		"/kkrpc":   {`{"t":"q","id":"1","op":"call","p":["echo"],"a":["` + text + `"]}`},
		"/capnweb": {`["push",["pipeline",0,["echo"],["` + text + `"]]]`, `["pull",1]`},
	} {
		t.Run(path, func(t *testing.T) {
			w := startHub(t, Options{}).dial()
			w.send("GET " + path + " HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
			resp, err := http.ReadResponse(w.r, nil)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatalf("%v, %v", resp, err)
			}
			for _, m := range messages {
				w.send(wsFrame(1, m))
			}
			w.send(wsFrame(8, ""))
			if op, size := w.readFrame(); op != 1 || size < large {
				t.Fatalf("frame %d of %d bytes", op, size)
			}
			if op, _ := w.readFrame(); op != 8 {
				t.Fatalf("frame %d, want the close frame", op)
			}
			if err := w.ended(); err != nil {
				t.Error(err)
			}
		})
	}
}
