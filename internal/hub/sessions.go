package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	addr "github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/kollabor"
	"github.com/hubd-dev/hubd/internal/session"
)

// newSessions makes the registry of sessions. Each session has a socket of its
// own, because the attach frame of the native protocol names no session.
func (h *hub) newSessions() *session.Registry {
	return session.New(session.Options{
		Default: h.defaultSession(),
		Memory:  h.opts.Limits.SessionMemory,

		Ended: h.opts.Limits.SessionEnded, EndedBytes: h.opts.Limits.SessionEndedBytes,

		QueueBytes: h.opts.Limits.SessionQueue,

		Observer: sessionObserver{h},
		OnOpen: func(s *session.Session) error {
			if err := h.openSessionSocket(s); err != nil {
				return err
			}
			h.writePresence(s)
			return nil
		},
		OnClose: func(s *session.Session) {
			h.removePresence(s)
			h.closeSessionSocket(s)
		},
	})
}

// defaultSession is the session of the main socket.
func (h *hub) defaultSession() string {
	if h.opts.Demo {
		return "demo"
	}
	return "hub"
}

// sessionOf names the default session of c.
func (h *hub) sessionOf(c *conn) string {
	if c.listener.session != "" {
		return c.listener.session
	}
	return h.defaultSession()
}

// identity returns the name of the session that is the default one for call.
func (h *hub) identity(call *rpc.Call) string {
	if call != nil {
		if l := call.Link(); l != nil {
			if c, ok := l.Conn.(*conn); ok {
				return h.sessionOf(c)
			}
		}
	}
	return h.defaultSession()
}

// sessionCount returns how many sessions are open.
func (h *hub) sessionCount() int { return len(h.sessions.List()) }

// openSessionFolder makes the folder of the sessions' sockets: beside the
// first Unix listener, or in the state folder when there is none or it cannot
// be made there. Without it sessions have no sockets of their own.
func (h *hub) openSessionFolder() {
	folders := []string{filepath.Join(h.opts.State, "sessions")}
	for _, l := range h.listeners {
		if l.addr.network == "unix" {
			folders = append([]string{filepath.Join(filepath.Dir(l.addr.path), "sessions")}, folders...)
			break
		}
	}
	var problems error
	for _, dir := range folders {
		lk, err := lockSessions(h.ctx, dir)
		if err == nil {
			h.sessionDir, h.sessionLock = dir, lk
			break
		}
		problems = errors.Join(problems, err)
	}
	if problems != nil {
		h.log.Warn("sessions have no sockets of their own at their usual place", zap.String("place", h.sessionDir), zap.Error(problems))
	}
}

// lockSessions makes dir usable for this hub alone, and removes the sockets
// that another one has left there.
func lockSessions(ctx context.Context, dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	st, err := os.Lstat(dir)
	switch {
	case err != nil:
		return nil, err
	case !st.IsDir() || st.Mode().Perm()&0o077 != 0 || ownerOf(st) != os.Geteuid():
		return nil, fmt.Errorf("%s is no folder that this user alone can enter", dir)
	}
	lk, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		unlock(lk)
		return nil, err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".sock"); ok && session.ValidName(name) {
			// One that somebody else listens on stays, and that session goes without.
			_ = clearSocket(ctx, filepath.Join(dir, e.Name()))
		}
	}
	return lk, nil
}

// openSessionSocket listens on the socket of a session that has been opened.
func (h *hub) openSessionSocket(s *session.Session) error {
	if h.sessionDir == "" {
		return nil
	}
	path := filepath.Join(h.sessionDir, s.Name()+".sock")
	log := h.log.With(zap.String("session", s.Name()), zap.String("socket", path))
	if len(path) > addr.MaxSocket {
		log.Warn("session has no socket of its own: the path is too long")
		return nil
	}
	l := &listener{
		addr:    address{network: "unix", path: path, mode: 0o600, group: -1},
		session: s.Name(), done: make(chan struct{}),
	}
	if err := l.bind(h.ctx); err != nil {
		log.Warn("session has no socket of its own", zap.Error(err))
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		l.close()
		return rpc.ErrShutdown
	}
	h.listeners = append(h.listeners, l)
	h.accepting.Go(func() { h.accept(l) })
	return nil
}

// closeSessionSocket ends that when the session is closed.
func (h *hub) closeSessionSocket(s *session.Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, l := range h.listeners {
		if l.session == s.Name() {
			l.close()
			h.listeners = append(h.listeners[:i], h.listeners[i+1:]...)
			return
		}
	}
}

// sessionObserver tells metrics and log about sessions.
type sessionObserver struct{ h *hub }

func (o sessionObserver) Opened(s *session.Session) {
	o.h.log.Info("session opened", zap.String("session", s.Name()))
}

func (o sessionObserver) Closed(s *session.Session) {
	o.h.log.Info("session closed", zap.String("session", s.Name()))
}

func (o sessionObserver) Published(_ *session.Session, bytes int) {
	o.h.metrics.events.Inc()
	o.h.metrics.eventBytes.Add(float64(bytes))
}

func (o sessionObserver) Followed(*session.Session, *session.Follower) { o.h.metrics.followers.Inc() }

func (o sessionObserver) Left(*session.Session, *session.Follower) { o.h.metrics.followers.Dec() }

func (o sessionObserver) Dropped(_ *session.Session, f *session.Follower, n uint64) {
	o.h.metrics.drops.WithLabelValues(string(f.Info().Protocol), dropEvents).Add(float64(n))
}

func (o sessionObserver) Evicted(s *session.Session, n int) {
	o.h.metrics.evicted.Add(float64(n))
	o.h.log.Debug("session lost its oldest events: all sessions together keep too much", zap.String("session", s.Name()), zap.Int("events", n))
}

func (o sessionObserver) Input(*session.Session) { o.h.metrics.inputs.Inc() }

func (o sessionObserver) Prompt(_ *session.Session, outcome string) {
	o.h.metrics.prompts.WithLabelValues(outcome).Inc()
}

func (o sessionObserver) Message(_ *session.Session, duplicate bool) {
	result := "taken"
	if duplicate {
		result = "duplicate"
	}
	o.h.metrics.messages.WithLabelValues(result).Inc()
}

// nativeSessions shows the registry to the native protocol.
type nativeSessions struct{ h *hub }

func (n nativeSessions) Session(name string) kollabor.Session {
	s, ok := n.h.sessions.Get(name)
	if !ok {
		return nil
	}
	return nativeSession{s}
}

type nativeSession struct{ s *session.Session }

func (n nativeSession) Status() kollabor.Status {
	st := n.s.Status()
	return kollabor.Status{Name: st.Identity, State: st.State, Task: st.CurrentTask, Opened: n.s.Opened(), Epoch: n.s.Life().Epoch}
}

func (n nativeSession) Output(count int) []string {
	values := n.s.Output(count)
	lines := make([]string, 0, len(values))
	for _, v := range values {
		if line, err := v.AsString(); err == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

func (n nativeSession) Context(lines int) string { return n.s.Context(lines) }

func (n nativeSession) Follow(o kollabor.FollowOptions) (kollabor.Follower, error) {
	f, err := n.s.Follow(session.FollowOptions{
		ClientID: o.ClientID, Mode: o.Mode, SinceSeq: o.SinceSeq, Epoch: o.Epoch, Peer: o.Peer, Link: o.Link, Protocol: rpc.Kollabor,
	})
	if err != nil {
		return nil, err
	}
	return nativeFollower{f}, nil
}

func (n nativeSession) Deliver(by *rpc.Link, message rpc.Value) (rpc.Value, error) {
	d, err := n.s.Deliver(by, message)
	return d.ID, err
}

func (n nativeSession) SetRoster(by *rpc.Link, agents rpc.Value) error {
	return n.s.SetRoster(by, agents)
}

type nativeFollower struct{ f *session.Follower }

func (n nativeFollower) Next(ctx context.Context) (kollabor.Event, error) {
	e, err := n.f.Next(ctx)
	return kollabor.Event{Type: e.Type, JSON: e.JSON}, err
}

func (n nativeFollower) Input(text rpc.Value) error { return n.f.Input(text) }

func (n nativeFollower) Close() { n.f.Close() }
