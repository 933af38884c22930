package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// listener is one address on which connections are accepted.
type listener struct {
	addr    address // as configured; hostport has the real port
	net     net.Listener
	session string // the default session of its connections; "" is the hub's
	metrics bool   // serves /metrics alone

	lock   *os.File    // of a Unix socket; nil for inherited sockets
	socket fs.FileInfo // what was bound, so that nothing else is removed

	once sync.Once
	done chan struct{} // closed when no more connections are taken
}

// String returns the address as a URL.
func (l *listener) String() string { return l.addr.String() }

// transport is the label of metrics: unix or tcp.
func (l *listener) transport() string { return l.addr.network }

// listen opens a configured address.
func listen(ctx context.Context, a address) (*listener, error) {
	if a.network == "unix" {
		return listenUnix(ctx, a)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", a.hostport)
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", a, err)
	}
	a.hostport = ln.Addr().String()
	return &listener{addr: a, net: ln, done: make(chan struct{})}, nil
}

// listenUnix binds a Unix socket. The lock comes first: whoever holds it may
// look at what is in the way, and remove it if nobody answers there.
func listenUnix(ctx context.Context, a address) (*listener, error) {
	dir := filepath.Dir(a.path)
	if err := socketFolder(dir, a); err != nil {
		return nil, err
	}
	lk, err := lock(a.path + ".lock")
	if err != nil {
		return nil, err
	}
	l := &listener{addr: a, lock: lk, done: make(chan struct{})}
	if err := l.bind(ctx); err != nil {
		unlock(lk)
		return nil, err
	}
	return l, nil
}

func (l *listener) bind(ctx context.Context) error {
	path := l.addr.path
	if err := clearSocket(ctx, path); err != nil {
		return err
	}
	// The mode of the socket's inode, set before bind, is the mode of the
	// file from its first moment on: no umask, no window.
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var e error
		err := c.Control(func(fd uintptr) { e = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, e)
	}}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen %s: %w", l.addr, err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	l.net = ln
	if l.addr.group >= 0 {
		err = os.Lchown(path, -1, l.addr.group)
	}
	if err == nil && l.addr.mode != 0o600 {
		err = os.Chmod(path, os.FileMode(l.addr.mode))
	}
	if err == nil {
		l.socket, err = os.Lstat(path)
	}
	if err == nil {
		l.addr.group = groupOf(l.socket)
	}
	if err != nil {
		ln.Close()
		os.Remove(path)
		return fmt.Errorf("listen %s: %w", l.addr, err)
	}
	return nil
}

// socketFolder makes the folder of a socket, or checks the one that is there.
func socketFolder(dir string, a address) error {
	st, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return fmt.Errorf("listen %s: %w", a, err)
		}
		// Those who may use the socket must be able to reach it.
		mode := os.FileMode(0o700)
		if a.mode&0o070 != 0 {
			mode |= 0o050
		}
		if a.mode&0o007 != 0 {
			mode |= 0o005
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("listen %s: %w", a, err)
		}
		if a.group >= 0 {
			if err := os.Chown(dir, -1, a.group); err != nil {
				return fmt.Errorf("listen %s: %w", a, err)
			}
		}
		if mode != 0o700 {
			if err := os.Chmod(dir, mode); err != nil {
				return fmt.Errorf("listen %s: %w", a, err)
			}
		}
		st, err = os.Stat(dir)
	}
	switch {
	case err != nil:
		return fmt.Errorf("listen %s: %w", a, err)
	case !st.IsDir():
		return &ConfigError{[]error{fmt.Errorf("listen %s: %s is not a folder", a, dir)}}
	case st.Mode().Perm()&0o002 != 0 && st.Mode()&os.ModeSticky == 0:
		return &ConfigError{[]error{fmt.Errorf("listen %s: everybody can write to %s; a socket there could be replaced", a, dir)}}
	}
	return nil
}

// clearSocket removes a socket that a hub left behind. A socket that answers
// is not touched, nor is anything that is no socket.
func clearSocket(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket == 0 {
		return &ConfigError{[]error{fmt.Errorf("listen unix://%s: there is something that is no socket", path)}}
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		c.Close()
		return &RunningError{Path: path, Why: "the socket answers"}
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrDeadlineExceeded):
		return &RunningError{Path: path, Why: "somebody listens there, but takes no connection"}
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("listen unix://%s: %w", path, err)
	}
	return os.Remove(path)
}

// close stops accepting. The socket file is removed if it is still the one
// that was bound.
func (l *listener) close() {
	l.once.Do(func() {
		close(l.done)
		if l.socket != nil {
			if st, err := os.Lstat(l.addr.path); err == nil && os.SameFile(st, l.socket) {
				os.Remove(l.addr.path)
			}
		}
		l.net.Close()
		if l.lock != nil {
			unlock(l.lock)
		}
	})
}

// inherit joins the sockets of the service manager with the configured
// addresses: one that is configured takes the options of its URL, the others
// have the default ones. It returns the addresses that are left to be opened.
func inherit(inherited []net.Listener, configured []address) (ls []*listener, rest []address, err error) {
	rest = append(rest, configured...)
	for _, ln := range inherited {
		l := &listener{net: ln, done: make(chan struct{})}
		switch at := ln.Addr().(type) {
		case *net.UnixAddr:
			if !filepath.IsAbs(at.Name) {
				return nil, nil, fmt.Errorf("inherited socket %q has no path; abstract sockets have no permissions", at.Name)
			}
			l.addr = address{network: "unix", path: at.Name, group: -1, mode: 0o600}
			if st, e := os.Stat(at.Name); e == nil {
				l.addr.mode, l.addr.group = uint32(st.Mode().Perm()), groupOf(st)
			}
			ln.(*net.UnixListener).SetUnlinkOnClose(false)
		case *net.TCPAddr:
			l.addr = address{network: "tcp", hostport: at.String(), auth: authToken}
		default:
			return nil, nil, fmt.Errorf("inherited socket %s is neither Unix nor TCP", ln.Addr())
		}
		for i, a := range rest {
			if a.network == l.addr.network && (a.network == "unix" && a.path == l.addr.path || a.network == "tcp" && sameTCP(a.hostport, l.addr.hostport)) {
				bound := l.addr
				l.addr = a
				l.addr.mode, l.addr.group, l.addr.hostport = bound.mode, bound.group, bound.hostport
				rest = append(rest[:i], rest[i+1:]...)
				break
			}
		}
		ls = append(ls, l)
	}
	return ls, rest, nil
}

// sameTCP compares a configured address with a bound one.
func sameTCP(configured, bound string) bool {
	if a, err := net.ResolveTCPAddr("tcp", configured); err == nil {
		return a.String() == bound
	}
	return configured == bound
}

// accept takes connections until l is closed. It does no work itself: the
// queue of the socket must never fill up.
func (h *hub) accept(l *listener) {
	const shortest, longest = 5 * time.Millisecond, time.Second
	var pause time.Duration
	for {
		c, err := l.net.Accept()
		if err == nil {
			pause = 0
			h.admit(l, c)
			continue
		}
		select {
		case <-l.done:
			return
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			h.log.Error("listener was closed", zap.Stringer("listener", l), zap.Error(err))
			return
		}
		// Out of descriptors or memory, most likely: without a pause this
		// loop would take the processor that others need to give some back.
		pause = min(max(2*pause, shortest), longest)
		h.metrics.acceptErrors.Inc()
		h.log.Warn("cannot accept connections", zap.Stringer("listener", l), zap.Error(err), zap.Duration("pause", pause))
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-l.done:
			t.Stop()
			return
		}
	}
}

// listenerNames lists the addresses, for hub.info.
func (h *hub) listenerNames() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := []string{}
	for _, l := range h.listeners {
		if !l.metrics && l.session == "" {
			names = append(names, l.String())
		}
	}
	return names
}
