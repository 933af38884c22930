package hub

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/trust"
)

// The methods about tokens: token.* for administrators, authenticate for
// clients whose protocol has no place for a token.

func (h *hub) tokenMethods() []*rpc.Method {
	h.table.Describe("token", "Tokens, with which peers on TCP say who they are.")
	h.table.Describe("authenticate", "Say who calls, by a token.")
	return []*rpc.Method{
		rpc.Handle("token.create", h.createToken, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Make a token and return it. It is shown this once: the hub keeps only a hash of it.")),
		rpc.Handle("token.list", h.listTokens, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("List the tokens by name, without their secrets.")),
		rpc.Handle("token.revoke", h.revokeToken, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Revoke a token by its name or id. Connections that use it may do nothing from then on.")),

		rpc.Handle("authenticate", h.authenticateCall, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead), rpc.Open(),
			rpc.Returns(rpc.Type{Kind: rpc.KindObject}),
			rpc.Doc("Say who calls, by a token. In Cap'n Web the result is the methods again, with what the token permits; "+
				"elsewhere later calls of the connection have that, and the result says what it is.")),
	}
}

// tokenInfo is a token as administrators see it.
type tokenInfo struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Scopes  []string `json:"scopes"`
	Methods []string `json:"methods"` // patterns; none: all methods
	Created string   `json:"created"`
	Expires *string  `json:"expires"` // null: never
	Used    *string  `json:"used"`    // to the hour; null: never
	Expired bool     `json:"expired"`
}

func tokenInfoOf(t trust.Token) tokenInfo {
	return tokenInfo{
		ID: t.ID, Name: t.Name, Scopes: strings.Split(t.Scopes.String(), ","), Methods: append([]string{}, t.Methods...),
		Created: *stampOf(t.Created), Expires: stampOf(t.Expires), Used: stampOf(t.Used), Expired: t.Expired(time.Now()),
	}
}

// stampOf writes a time; nil for the zero one.
func stampOf(at time.Time) *string {
	if at.IsZero() {
		return nil
	}
	return new(at.UTC().Format(time.RFC3339))
}

type newToken struct {
	tokenInfo
	Token string `json:"token"`
}

func (h *hub) createToken(ctx context.Context, in struct {
	Name    string   `rpc:"name" doc:"what it is for, such as the program that uses it"`
	Scopes  []string `rpc:"scopes" default:"[\"read\",\"call\"]" doc:"some of read, call, provide, admin"`
	Methods []string `rpc:"methods" default:"[]" doc:"names of methods, or beginnings with a *; none: all"`
	TTL     float64  `rpc:"ttl" default:"0" doc:"seconds until it expires; 0: never"`
}) (newToken, error) {
	c := rpc.From(ctx)
	scopes, ok := rpc.ParseScope(strings.Join(in.Scopes, ","))
	if !ok {
		return newToken{}, rpc.Errorf(rpc.CodeInvalidParams, "scopes: expected some of read, call, provide, admin")
	}
	t := trust.Token{Name: in.Name, Scopes: scopes, Methods: in.Methods}
	const longest = 100 * 365 * 24 * 3600.0
	switch {
	case in.TTL == 0:
	case in.TTL >= 1 && in.TTL <= longest:
		t.Expires = time.Now().Add(time.Duration(in.TTL) * time.Second)
	default:
		return newToken{}, rpc.Errorf(rpc.CodeInvalidParams, "ttl: expected seconds, from 1 to a hundred years")
	}
	if c != nil && c.Peer != nil && !t.Within(c.Peer.Scopes, c.Peer.Methods) {
		return newToken{}, rpc.Errorf(rpc.CodePermissionDenied, "a token cannot permit more than is permitted to who makes it")
	}
	whole, made, err := h.tokens.Create(t)
	switch {
	case errors.Is(err, trust.ErrTaken):
		return newToken{}, rpc.Errorf(rpc.CodeConflict, "there is a token of that name")
	case errors.Is(err, trust.ErrFull):
		return newToken{}, rpc.Errorf(rpc.CodeOverloaded, "%s", err.Error())
	case err != nil && made.ID == "":
		return newToken{}, rpc.Errorf(rpc.CodeInvalidParams, "%s", err.Error())
	case err != nil:
		h.log.Error("token is not kept", zap.Error(err))
		return newToken{}, rpc.Errorf(rpc.CodeUnavailable, "the token could not be kept")
	}
	h.log.Info("token created", zap.String("id", made.ID), zap.String("name", made.Name), zap.String("scopes", made.Scopes.String()),
		zap.String("by", callerName(c)))
	return newToken{tokenInfoOf(made), whole}, nil
}

func (h *hub) listTokens(context.Context, struct{}) ([]tokenInfo, error) {
	list := []tokenInfo{}
	for _, t := range h.tokens.List() {
		list = append(list, tokenInfoOf(t))
	}
	return list, nil
}

func (h *hub) revokeToken(ctx context.Context, in struct {
	Which string `rpc:"token" doc:"name or id"`
}) (tokenInfo, error) {
	gone, ok, err := h.tokens.Revoke(in.Which)
	switch {
	case err != nil:
		h.log.Error("token is not revoked", zap.Error(err))
		return tokenInfo{}, rpc.Errorf(rpc.CodeUnavailable, "the change could not be kept: the token is still good")
	case !ok:
		return tokenInfo{}, rpc.Errorf(rpc.CodeNotFound, "no token %q", rpc.CleanText(in.Which, 64))
	}
	ended := h.endGrants()
	h.log.Info("token revoked", zap.String("id", gone.ID), zap.String("name", gone.Name), zap.Int("calls_ended", ended),
		zap.String("by", callerName(rpc.From(ctx))))
	return tokenInfoOf(gone), nil
}

// errRevoked ends the calls that a permission was taken from while they ran, who
// knows how far.
var errRevoked = &rpc.Error{Code: rpc.CodeUnauthenticated, Message: rpc.ErrRevoked.Message}

// endGrants ends the calls whose permission is gone. What they have begun, such
// as a watch, would go on telling for as long as its caller listens.
func (h *hub) endGrants() (ended int) {
	h.eachCall(func(_ *conn, call *rpc.Call) {
		if call.Peer != nil && !call.Peer.Grant.Holds() && !call.Settled() {
			call.Cancel(errRevoked)
			ended++
		}
	})
	h.native.Expel()
	h.expelProviders()
	return ended
}

// callerName says who called, for the log.
func callerName(c *rpc.Call) string {
	switch {
	case c == nil:
		return "hub"
	case c.Peer != nil && c.Peer.Name != "":
		return c.Peer.Name
	case c.Link() != nil:
		if at, ok := c.Link().Conn.(*conn); ok {
			return at.peerName()
		}
	}
	return "unknown"
}

// authenticateCall is the method authenticate.
func (h *hub) authenticateCall(ctx context.Context, in struct {
	Token string `rpc:"token" doc:"as token.create has returned it"`
}) (rpc.Value, error) {
	call := rpc.From(ctx)
	var c *conn
	if l := call.Link(); l != nil {
		c, _ = l.Conn.(*conn)
	}
	if c == nil {
		return rpc.Value{}, rpc.Errorf(rpc.CodeUnavailable, "there is no connection to authenticate")
	}
	p, err := h.authenticate(c, in.Token)
	if err != nil {
		if endsConnection(err) {
			c.Close()
		}
		return rpc.Value{}, err
	}
	if call.Protocol == rpc.Capnweb { // whoever holds the object may; the session stays who it was
		return rpc.TreeValue(capnweb.NewMain(h.table, p)), nil
	}
	call.Link().SetPeer(p)
	c.peer.Store(p)
	return rpc.Encode(struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}{p.Name, strings.Split(p.Scopes.String(), ",")})
}
