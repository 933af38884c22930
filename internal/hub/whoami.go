package hub

import (
	"context"
	"os/user"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// whoami is what hub.whoami tells callers about themselves.
type whoami struct {
	Peer     string   `json:"peer"`     // as lists and logs name it
	By       string   `json:"by"`       // how that was found out: user, token, certificate, nobody or hub
	Name     string   `json:"name"`     // of the token or the certificate; "" for none
	User     string   `json:"user"`     // as the kernel tells; "" when it does not
	UID      *int     `json:"uid"`      // null when the kernel does not tell
	PID      *int     `json:"pid"`      // null when the kernel does not tell
	Scopes   []string `json:"scopes"`   // what the caller may do
	Methods  []string `json:"methods"`  // patterns that narrow the scopes; none: all methods
	Source   string   `json:"source"`   // what gives the scopes
	Expires  *string  `json:"expires"`  // when that ends by itself; null: never
	Listener string   `json:"listener"` // that the connection came by
	Protocol string   `json:"protocol"`
}

// whoamiMethod is hub.whoami. It is open: it says nothing but what the caller is.
func (h *hub) whoamiMethod() *rpc.Method {
	return rpc.Handle("hub.whoami", h.whoami, rpc.Needs(rpc.ScopeRead), rpc.Open(),
		rpc.Doc("Say who the hub takes the caller for, what that permits, and what gives these scopes. Everybody may ask."))
}

func (h *hub) whoami(ctx context.Context, _ struct{}) (whoami, error) {
	w := whoami{Scopes: []string{}, Methods: []string{}}
	call := rpc.From(ctx)
	if call == nil || call.Peer == nil {
		return w, nil
	}
	p := call.Peer
	w.By, w.Name, w.Source, w.Protocol = string(p.By), p.Name, p.Source, string(call.Protocol)
	if l := call.Link(); l != nil {
		if c, ok := l.Conn.(*conn); ok {
			w.Listener = c.listener.String()
		}
	}
	w.Peer = callerName(call)
	if p.UID >= 0 {
		w.UID = new(p.UID)
		if u, err := user.LookupId(strconv.Itoa(p.UID)); err == nil {
			w.User = u.Username
		}
	}
	if p.PID > 0 {
		w.PID = new(p.PID)
	}
	if p.Scopes != 0 && p.Grant.Holds() {
		w.Scopes = strings.Split(p.Scopes.String(), ",")
	}
	w.Methods = append(w.Methods, p.Methods...)
	if at := p.Grant.Until(); !at.IsZero() {
		w.Expires = stampOf(at)
	}
	return w, nil
}
