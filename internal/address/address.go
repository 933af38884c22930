// Package address reads the addresses of hubs, and knows where a hub is when
// nobody says so. The daemon and its clients share it, so that what one opens
// the others find.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MaxSocket is how many bytes the path of a Unix socket has at most: what fits
// into sun_path together with its NUL.
const MaxSocket = 107

// System is where a hub listens that runs as a service of the machine.
const System = "/run/hubd/hub.sock"

// Want says what an address looks like.
const Want = "expected unix:///PATH, tcp://HOST:PORT or tls://HOST:PORT"

// options are what may stand behind the ? of an address, in any of its forms.
var options = []string{"auth", "group", "mode", "protocols", "scopes"}

// URL is an address in its parts.
type URL struct {
	Network string     // "unix", "tcp", or "tls" for TCP with TLS
	Path    string     // the file of the socket, absolute, or host:port
	Query   url.Values // the options
}

// Format writes an address without options. What a URL has a meaning for is
// escaped in the path of a socket, so that Parse finds the same file.
func Format(network, path string) string {
	if network != "unix" {
		return network + "://" + path
	}
	var b strings.Builder
	b.WriteString("unix://")
	for _, c := range []byte(path) {
		if c < ' ' || c == 0x7f || c == '%' || c == '#' || c == '?' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Parse reads "unix:///path", "tcp://host:port" or "tls://host:port", each with
// options. It does not look at what the options say.
func Parse(text string) (URL, error) {
	scheme, rest, isURL := strings.Cut(text, "://")
	if !isURL || !slices.Contains([]string{"unix", "tcp", "tls"}, scheme) {
		return URL{}, errors.New(Want)
	}
	if strings.Contains(rest, "#") {
		return URL{}, errors.New("a # in a path is written %23")
	}
	u, err := url.Parse(text)
	if err != nil {
		if strings.Contains(rest, "%") {
			return URL{}, errors.New("a % in a path is written %25")
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return URL{}, err
	}
	if u.User != nil {
		return URL{}, errors.New("an address has no user and no password")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return URL{}, fmt.Errorf("query: %w", err)
	}
	for key := range query {
		switch {
		case slices.Contains(options, key):
		case scheme == "unix":
			return URL{}, fmt.Errorf("unknown option %q (a ? in a path is written %%3F)", key)
		default:
			return URL{}, fmt.Errorf("unknown option %q", key)
		}
	}
	a := URL{Network: scheme, Path: u.Host, Query: query}
	if scheme == "unix" {
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return URL{}, errors.New("a socket path is absolute, with three slashes: unix:///path/of.sock")
		}
		a.Path = u.Path
		return a, CheckSocket(a.Path)
	}
	if u.Path != "" && u.Path != "/" {
		return URL{}, errors.New("a TCP address has no path")
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return URL{}, fmt.Errorf("expected %s://HOST:PORT: %w", scheme, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return URL{}, fmt.Errorf("port %q is not a number up to 65535", port)
	}
	if host == "" {
		return URL{}, fmt.Errorf("host is missing; all addresses are 0.0.0.0:%d or [::]:%d", n, n)
	}
	return a, nil
}

// CheckSocket refuses the path of a Unix socket that the kernel would refuse
// with fewer words.
func CheckSocket(path string) error {
	switch {
	case len(path) > MaxSocket:
		return fmt.Errorf("path has %d bytes, a socket path has at most %d: a symbolic link to its folder makes it shorter", len(path), MaxSocket)
	case strings.ContainsRune(path, 0):
		return errors.New("a path has no NUL")
	}
	return nil
}

// IsHostPort reports whether text has the form HOST:PORT rather than that of a path.
func IsHostPort(text string) bool {
	if strings.Contains(text, "/") {
		return false
	}
	_, port, err := net.SplitHostPort(text)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// RuntimeDir returns the folder of this user for what lasts as long as the
// machine runs, "" when there is none: XDG_RUNTIME_DIR, else where systemd puts
// it, which su, sudo, cron and ssh do not always say.
func RuntimeDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	dir := "/run/user/" + strconv.Itoa(os.Geteuid())
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return dir
	}
	return ""
}

// Default returns the path of the socket that a hub of this user opens when its
// configuration says nothing: root's is that of the machine.
func Default() (string, error) {
	if os.Geteuid() == 0 {
		return System, nil
	}
	if dir := RuntimeDir(); dir != "" {
		return userSocket(dir), nil
	}
	return "", fmt.Errorf("no place for the socket: XDG_RUNTIME_DIR is not set and /run/user/%d is not there; give --listen unix:///path/of.sock", os.Geteuid())
}

// Find returns the path of the socket where a client of this user looks when
// nothing is said: that of the user's hub if it is there, else that of the
// machine's if it is there, else the one that Default returns.
func Find() string {
	user := ""
	if dir := RuntimeDir(); dir != "" {
		user = userSocket(dir)
	}
	switch {
	case user == "":
		return System
	case exists(user), os.Geteuid() != 0 && !exists(System):
		return user
	}
	return System
}

func userSocket(dir string) string { return filepath.Join(dir, "hubd", "hub.sock") }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
