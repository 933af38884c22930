// Package testkit has what the tests of many packages need alike: waiting for
// something, a folder for sockets, connections that cannot hang for ever.
package testkit

import (
	"net"
	"os"
	"testing"
	"time"
)

// Patience bounds every single wait of a test. It is no measure of speed: it
// only turns a hang into a failure, on a machine that is busy with other things.
const Patience = 30 * time.Second

// Eventually waits until f is true, which it asks again and again.
func Eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !f(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		<-time.After(2 * time.Millisecond) // between two looks
	}
}

// ShortDir is t.TempDir with a path that leaves room for sockets, whose paths
// have at most 107 bytes.
func ShortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hubd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Conn is a connection each of whose reads and writes ends after Patience. One
// deadline for all of them would make a test fail that is only slow.
type Conn struct{ net.Conn }

func (c Conn) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(Patience))
	return c.Conn.Read(p)
}

func (c Conn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(Patience))
	return c.Conn.Write(p)
}

// CloseWrite ends the sending direction, where the connection can do that.
func (c Conn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
