package client_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/hub"
)

// stopExampleHub ends the hub of the examples, if one was started.
var stopExampleHub = func() {}

// exampleSocket starts a hub for the examples and returns its socket.
var exampleSocket = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hubd")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	socket := filepath.Join(dir, "hub.sock")
	go func() {
		ended <- hub.Run(ctx, hub.Options{Listen: []string{"unix://" + socket}, State: filepath.Join(dir, "state"), Demo: true, LogLevel: "error"})
	}()
	stopExampleHub = func() {
		cancel()
		<-ended
		os.RemoveAll(dir)
	}
	c, err := client.WaitFor(ctx, socket, nil)
	if err != nil {
		return "", err
	}
	return socket, c.Close()
})

// exampleHub connects to the hub of the examples.
func exampleHub(ctx context.Context) (net.Conn, error) {
	socket, err := exampleSocket()
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "unix", socket)
}

func TestMain(m *testing.M) {
	code := m.Run()
	stopExampleHub()
	os.Exit(code)
}
