package client

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// SystemSocket is where a hub listens that runs as a service of the machine.
const SystemSocket = "/run/hubd/hub.sock"

// Address says where a hub is: Network and Path as net.Dial takes them.
type Address struct {
	Network string // "unix", "tcp", or "tls" for TCP with TLS
	Path    string // the file of the socket, or host:port
}

// String returns a as a URL.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix://" + a.Path
	}
	return a.Network + "://" + a.Path
}

// ParseAddress reads "unix:///path", "tcp://host:port", "tls://host:port" or
// the path of a Unix socket. Query parameters, as hubd's --listen takes them, are ignored.
func ParseAddress(s string) (Address, error) {
	scheme, _, isURL := strings.Cut(s, "://")
	if !isURL {
		if s == "" {
			return Address{}, fmt.Errorf("the address is empty")
		}
		path, ok := strings.CutPrefix(s, "unix:")
		if !ok {
			path = s
		}
		path, err := filepath.Abs(path)
		if err != nil {
			return Address{}, err
		}
		return Address{"unix", path}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return Address{}, fmt.Errorf("address %q is no URL", s)
	}
	switch scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return Address{}, fmt.Errorf("address %q: want unix:///path, with three slashes", s)
		}
		return Address{"unix", filepath.Clean(u.Path)}, nil
	case "tcp", "tls":
		if u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" {
			return Address{}, fmt.Errorf("address %q: want %s://host:port", s, scheme)
		}
		return Address{scheme, u.Host}, nil
	}
	return Address{}, fmt.Errorf("address %q: want unix:///path, tcp://host:port or tls://host:port", s)
}

// DefaultAddress returns where the hub is found when nothing is said: the
// variable HUBD_SOCKET, the socket of this user's hub if it is there, else the
// socket of the machine's hub.
func DefaultAddress() (Address, error) {
	if s := os.Getenv("HUBD_SOCKET"); s != "" {
		a, err := ParseAddress(s)
		if err != nil {
			return a, fmt.Errorf("HUBD_SOCKET: %w", err)
		}
		return a, nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		user := filepath.Join(dir, "hubd", "hub.sock")
		if _, err := os.Lstat(user); err == nil || os.Geteuid() != 0 && !exists(SystemSocket) {
			return Address{"unix", user}, nil
		}
	}
	return Address{"unix", SystemSocket}, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
