package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/testkit"
)

const patience = testkit.Patience

// echoServer sends each message back, and tells how its connections ended.
func echoServer(t *testing.T, limit int) (url string, ended chan error) {
	t.Helper()
	ended = make(chan error, 8)
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, Options{Limit: limit})
		if err != nil {
			ended <- err
			return
		}
		var buf []byte
		for {
			if buf, err = c.Next(buf); err != nil {
				break
			}
			if err = c.Send(c.Batch(), buf); err != nil {
				break
			}
		}
		c.End()
		ended <- err
	}))
	t.Cleanup(hs.Close)
	return "ws" + strings.TrimPrefix(hs.URL, "http"), ended
}

func TestMessagesOfEverySizeComeBack(t *testing.T) {
	url, ended := echoServer(t, 1<<20)
	c, err := Dial(t.Context(), url, "/", DialOptions{Options: Options{Limit: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	var buf []byte
	for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 1 << 20} {
		msg := bytes.Repeat([]byte("x"), size)
		if err := c.Send(nil, msg); err != nil {
			t.Fatal(err)
		}
		if buf, err = c.Next(buf); err != nil || !bytes.Equal(buf, msg) {
			t.Fatalf("%d bytes: got %d, %v", size, len(buf), err)
		}
	}
	c.Hangup(CloseNormal, strings.Repeat("ü", 200)) // longer than a close frame may be
	if _, err := c.Next(buf); !Regular(err) {
		t.Errorf("the answer to the close frame: %v", err)
	}
	if err := c.Send(nil, []byte("late")); err == nil {
		t.Error("a message was sent behind the close frame")
	}
	c.End()
	if err := <-ended; !Regular(err) {
		t.Errorf("the server's end: %v", err)
	}
}

// A length over the limit is refused as soon as it is announced: nothing of the
// message has to come.
func TestAnnouncedLengthIsRefused(t *testing.T) {
	url, ended := echoServer(t, 1000)
	for _, head := range []string{
		"\x81\xfe\x03\xe9\x00\x00\x00\x00",                                                                   // 1001 bytes
		"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",                                           // nearly 2^63
		"\x01\xfe\x03\x00\x00\x00\x00\x00" + strings.Repeat("a", 0x300) + "\x80\xfe\x03\x00\x00\x00\x00\x00", // in two fragments
	} {
		nc, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
		if err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(patience))
		io.WriteString(nc, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"+head)
		all, _ := io.ReadAll(nc)
		_, frames, _ := bytes.Cut(all, []byte("\r\n\r\n"))
		if len(frames) < 4 || frames[0] != 0x80|OpClose || binary.BigEndian.Uint16(frames[2:]) != CloseTooBig {
			t.Errorf("got %q, want a close frame with 1009", frames)
		}
		if err := <-ended; !errors.Is(err, ErrTooBig) {
			t.Errorf("the server's end: %v", err)
		}
		nc.Close()
	}
}

// Who sends a message that is too long hears so, and is not reset while it sends.
func TestTooLongMessageIsTakenToItsEnd(t *testing.T) {
	const limit = 4 << 20
	url, ended := echoServer(t, limit)
	for range 5 {
		c, _, err := websocket.Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Write(t.Context(), websocket.MessageText, make([]byte, limit+1)); err != nil {
			t.Errorf("sending: %v", err)
		}
		if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != CloseTooBig {
			t.Errorf("the sender's end: %v", err)
		}
		c.CloseNow()
		if err := <-ended; !errors.Is(err, ErrTooBig) {
			t.Errorf("the server's end: %v", err)
		}
	}
}

func TestDialRefusesOtherAddresses(t *testing.T) {
	for _, address := range []string{"http://127.0.0.1/x", "", "ws//x", "unix:x"} {
		if c, err := Dial(t.Context(), address, "/", DialOptions{Options: Options{Limit: 1}}); err == nil {
			c.Cut()
			t.Errorf("%q was dialled", address)
		}
	}
}

// FuzzFrameWatch compares the watch, fed in pieces, with one that is fed at once.
func FuzzFrameWatch(f *testing.F) {
	f.Add([]byte("\x81\x85\x00\x00\x00\x00hello\x89\x00"), 3)
	f.Add([]byte("\x01\xfe\x00\x80\x00\x00\x00\x00"), 1)
	f.Fuzz(func(t *testing.T, p []byte, piece int) {
		whole, parts := frameWatch{limit: 100}, frameWatch{limit: 100}
		want := whole.feed(p)
		got := true
		for rest := p; len(rest) > 0 && got; {
			n := min(max(piece%7, 1), len(rest))
			got = parts.feed(rest[:n])
			rest = rest[n:]
		}
		if got != want {
			t.Errorf("%x: at once %v, in pieces %v", p, want, got)
		}
	})
}

func TestLocate(t *testing.T) {
	for _, c := range []struct{ address, target, dialled string }{
		{"ws://h:1/p?q=1", "ws://h:1/p?q=1", "tcp a:1"},
		{"wss://h/p", "wss://h/p", "tcp a:1"},
		{"unix:///s.sock", "ws://localhost/end", "tcp a:1"},
		{"unix:///s.sock:/other", "ws://localhost/other", "tcp a:1"},
	} {
		dialled := ""
		target, open, err := Locate(c.address, "/end", func(_ context.Context, network, addr string) (net.Conn, error) {
			dialled = network + " " + addr
			near, far := net.Pipe()
			t.Cleanup(func() { near.Close(); far.Close() })
			return near, nil
		}, nil)
		if err != nil || target != c.target {
			t.Errorf("%s: %q, %v; want %q", c.address, target, err, c.target)
			continue
		}
		nc, err := open(t.Context(), "tcp", "a:1")
		if err != nil || dialled != c.dialled {
			t.Errorf("%s: dialled %q, %v", c.address, dialled, err)
		}
		if _, secure := nc.(*tls.Conn); secure != strings.HasPrefix(c.address, "wss") {
			t.Errorf("%s: is TLS: %t", c.address, secure)
		}
	}
	for _, bad := range []string{"http://h/", "h:1", "ws://%zz"} {
		if _, _, err := Locate(bad, "/end", nil, nil); err == nil {
			t.Errorf("%s is taken for an address", bad)
		}
	}
}
