package hub

import (
	"net"
	"testing"
)

// TestWriteAfterClose closes a connection whose peer has taken a part of what
// was written: a later, smaller write must not be told about that part.
func TestWriteAfterClose(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := newConn(new(hub), new(listener), near)
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, 64<<20)
	n, err := c.TryWrite(large)
	if n == 0 || n == len(large) || err != nil {
		t.Fatalf("the first attempt took %d of %d bytes: %v", n, len(large), err)
	}
	near.Close()
	for _, write := range []func([]byte) (int, error){c.TryWrite, c.Write} {
		if n, err := write(large[:10]); n != 0 || err == nil {
			t.Errorf("after the end %d bytes were taken: %v", n, err)
		}
	}
}
