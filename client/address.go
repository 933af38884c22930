package client

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubd-dev/hubd/internal/address"
)

// SystemSocket is where a hub listens that runs as a service of the machine.
const SystemSocket = address.System

// Address says where a hub is: Network and Path as net.Dial takes them.
type Address struct {
	Network string // "unix", "tcp", or "tls" for TCP with TLS
	Path    string // the file of the socket, or host:port
}

// String returns a as a URL, which ParseAddress reads.
func (a Address) String() string { return address.Format(a.Network, a.Path) }

// ParseAddress reads "unix:///path", "tcp://host:port", "tls://host:port" or
// the path of a Unix socket, which is taken as it is. The options of a URL, as
// hubd's --listen takes them, are ignored.
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(s)
	if err != nil {
		return Address{}, fmt.Errorf("address %q: %w", s, err)
	}
	return a, nil
}

func parseAddress(s string) (Address, error) {
	if !strings.Contains(s, "://") {
		path := strings.TrimPrefix(s, "unix:")
		switch scheme, rest, _ := strings.Cut(s, ":"); {
		case path == "":
			return Address{}, errors.New(address.Want)
		case address.IsHostPort(path):
			return Address{}, fmt.Errorf("for a TCP port it is tcp://%s, or tls://%[1]s with TLS; for a file ./%[1]s", path)
		case (scheme == "tcp" || scheme == "tls") && address.IsHostPort(rest):
			return Address{}, fmt.Errorf("it is %s://%s, with two slashes", scheme, rest)
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return Address{}, err
		}
		return Address{"unix", path}, address.CheckSocket(path)
	}
	u, err := address.Parse(s)
	if err != nil {
		return Address{}, err
	}
	if u.Network == "unix" {
		u.Path = filepath.Clean(u.Path)
	}
	return Address{u.Network, u.Path}, nil
}

// DefaultAddress returns where the hub is found when nothing is said: the
// variable HUBD_SOCKET, the socket of this user's hub if it is there, else the
// socket of the machine's hub. hubd opens its socket where this looks.
func DefaultAddress() (Address, error) {
	if s := os.Getenv("HUBD_SOCKET"); s != "" {
		a, err := ParseAddress(s)
		if err != nil {
			return a, fmt.Errorf("HUBD_SOCKET: %w", err)
		}
		return a, nil
	}
	path := address.Find()
	if err := address.CheckSocket(path); err != nil {
		return Address{}, fmt.Errorf("XDG_RUNTIME_DIR: %s: %w", path, err)
	}
	return Address{"unix", path}, nil
}
