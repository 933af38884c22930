package hub

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/kollabor"
	"github.com/hubd-dev/hubd/internal/trust"
)

// tokenFile is where the tokens are kept, inside the state folder.
const tokenFile = "tokens.json"

// How often one address may present what is no token: a burst, then one each.
const (
	attemptBurst     = 10
	attemptEvery     = 6 * time.Second
	attemptAddresses = 1024
)

// flushTokens is how often the times at which tokens were last used are kept.
const flushTokens = 10 * time.Minute

// openTokens reads the tokens and keeps their file up to date until the hub ends.
func (h *hub) openTokens() error {
	store, err := trust.Open(filepath.Join(h.opts.State, tokenFile))
	if _, damaged := errors.AsType[*trust.DamagedError](err); damaged {
		return err
	}
	if err != nil {
		return &StateError{Dir: h.opts.State, Err: err}
	}
	h.tokens = store
	h.background.Go(func() {
		t := time.NewTicker(flushTokens)
		defer t.Stop()
		for over := false; !over; {
			select {
			case <-t.C:
			case <-h.ctx.Done():
				over = true
			}
			if err := store.Flush(); err != nil {
				h.log.Error("the times at which tokens were used are not kept", zap.Error(err))
			}
		}
	})
	return nil
}

// firstToken tells how to get in where nobody can yet: on TCP alone, with no
// token. The socket of the default session, in the state folder, lets the owner in.
func (h *hub) firstToken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	way := ""
	for _, l := range h.listeners {
		a := l.addr
		switch {
		case l.session == h.defaultSession():
			way = a.path
		case l.session == "" && (a.network == "unix" || a.auth != authToken && !l.metrics):
			return
		case l.session == "" && !l.metrics && a.tls && h.opts.TLSClientCA != "" && len(h.live.Load().clients) > 0:
			return // with a certificate
		}
	}
	if h.tokens.Len() > 0 {
		return
	}
	if way == "" {
		h.log.Warn("no usable credentials: there is no token yet, and no Unix socket to make one through")
		return
	}
	h.log.Warn("no usable credentials: there is no token yet", zap.String("fix", "hubctl --socket "+way+" token create NAME"))
}

// errTooManyAttempts answers a token that is none, from an address that has
// presented too many of them. Its connection is closed.
var errTooManyAttempts = &rpc.Error{
	Code: rpc.CodeUnauthenticated, Message: "the token is not valid; too many attempts", Ran: rpc.RanNo,
}

// errTooManyConnections answers a good token whose owner has as many
// connections as one may have. This one is closed.
var errTooManyConnections = &rpc.Error{Code: rpc.CodeOverloaded, Message: "too many connections of this user", Ran: rpc.RanNo}

// endsConnection reports whether an error of authenticate asks for the end of
// the connection.
func endsConnection(err error) bool { return err == errTooManyAttempts || err == errTooManyConnections }

// authenticate says who the peer of c is by the token that it presents, for
// any protocol and in any place of it. The peer is to be used for the calls that
// the token came with or that follow; c itself no longer counts among those that
// must still say who they are.
//
// A good token always passes: whoever shares an address with somebody who
// guesses is not shut out. The error is an *rpc.Error that says no more than a
// stranger may know; see endsConnection.
func (h *hub) authenticate(c *conn, token string) (*rpc.Peer, error) {
	t, grant, err := h.tokens.Check(token)
	if err != nil {
		return nil, h.refuseToken(c, err)
	}
	p := &rpc.Peer{UID: -1, GID: -1, PID: -1, Name: t.Name, Scopes: t.Scopes, Methods: t.Methods, Grant: grant,
		By: rpc.ByToken, Source: "hubctl token create --scopes"}
	if base := c.base; base != nil {
		p.UID, p.GID, p.PID = base.UID, base.GID, base.PID
	}
	if a := c.listener.addr; a.network == "tcp" && a.scopes != 0 {
		p.Scopes &= a.scopes
		p.Source += ", or scopes= of the listener"
	}
	if !h.open.authenticated(c, p) {
		h.metrics.rejected(limitConnectionsUID)
		return nil, errTooManyConnections
	}
	return p, nil
}

// refuseToken counts and logs a token that is not taken.
func (h *hub) refuseToken(c *conn, why error) *rpc.Error {
	h.metrics.authFailures.Inc()
	h.audit.attempt(c, why)
	if !h.attempts.Allow(c.origin()) {
		h.metrics.rejected(limitAttempts)
		return errTooManyAttempts
	}
	e := &rpc.Error{Code: rpc.CodeUnauthenticated, Message: trust.ErrInvalid.Error(), Ran: rpc.RanNo}
	if errors.Is(why, trust.ErrExpired) {
		e.Message = trust.ErrExpired.Error()
	}
	return e
}

// authenticateHello is what the native protocol asks about the token of a hello.
func (h *hub) authenticateHello(k *kollabor.Conn, token string) (*rpc.Peer, error) {
	c := k.Wire.(*conn) // serveKollabor has put it there
	p, err := h.authenticate(c, token)
	if endsConnection(err) {
		c.Close()
	}
	return p, err
}

// origin is what failures and denials are counted under: the user of a Unix
// socket, the address of a TCP peer, without the half of an IPv6 address that
// its owner chooses freely.
func (c *conn) origin() string {
	if c.base != nil && c.base.UID >= 0 {
		return "uid " + strconv.Itoa(c.base.UID)
	}
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is6() && !ip.IsLoopback() {
		if net, err := ip.WithZone("").Prefix(64); err == nil {
			return net.String()
		}
	}
	return ip.String()
}
