package hub

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Ways in which a request presents a token. It uses one of them: two tokens
// would make two peers.
//
//	Authorization: Bearer TOKEN
//	Sec-WebSocket-Protocol: hubd, hubd.bearer.TOKEN     pages cannot set the header above
//	/path?token=TOKEN                                   only with http.query_token
const (
	bearerProtocol = "hubd.bearer." // of a WebSocket, followed by the token
	queryToken     = "token"
)

const twoTokens = "two tokens in one request" // for the audit log

// admitRequest decides on whose behalf the calls of a request run and tells
// the connection, which serves one request after another. It answers and
// returns false when the request presents what is no token.
func (h *hub) admitRequest(w http.ResponseWriter, r *http.Request, c *conn) bool {
	before := c.peer.Swap(c.base)
	c.presented = false
	if c.listener.metrics && c.listener.addr.auth == authNone {
		return true // a token that a scraper sends anyway is not looked at
	}
	token, found, ok := h.presented(w, r)
	switch {
	case !ok:
		h.audit.request(c, twoTokens)
		w.Header().Del("Sec-Websocket-Protocol")
		http.Error(w, "more than one token", http.StatusBadRequest)
		return false
	case !found && before != c.base && !h.open.belongs(c, c.base):
		h.tooManyConnections(w)
		return false
	case !found:
		return true
	}
	p, err := h.authenticate(c, token)
	if err != nil {
		w.Header().Del("Sec-Websocket-Protocol")
		w.Header().Set("WWW-Authenticate", `Bearer realm="hubd", error="invalid_token"`)
		status := http.StatusUnauthorized
		if endsConnection(err) {
			w.Header().Set("Connection", "close")
			status = http.StatusTooManyRequests
		}
		http.Error(w, rpc.AsError(r.Context(), err).Text(), status)
		return false
	}
	c.peer.Store(p)
	c.presented = true
	return true
}

// tooManyConnections answers a request without a token on a connection that
// served one with a token before, when there is no place for it any more.
func (h *hub) tooManyConnections(w http.ResponseWriter) {
	h.metrics.rejected(limitConnectionsUID)
	w.Header().Set("Connection", "close")
	http.Error(w, errTooManyConnections.Message, http.StatusTooManyRequests)
}

// presented takes the token out of a request, so that nothing behind it can
// tell or log it. ok is false when there is more than one.
func (h *hub) presented(w http.ResponseWriter, r *http.Request) (token string, found, ok bool) {
	n := 0
	take := func(t string) {
		token = t
		n++
	}
	for _, value := range r.Header["Authorization"] {
		if scheme, rest, _ := strings.Cut(value, " "); strings.EqualFold(scheme, "Bearer") {
			take(strings.TrimSpace(rest))
		}
	}
	r.Header.Del("Authorization")
	for _, t := range takeProtocols(w, r) {
		take(t)
	}
	if h.opts.QueryToken && strings.Contains(r.URL.RawQuery, queryToken) {
		if query, err := url.ParseQuery(r.URL.RawQuery); err == nil && query.Has(queryToken) {
			for _, t := range query[queryToken] {
				take(t)
			}
			query.Del(queryToken)
			r.URL.RawQuery = query.Encode()
			r.RequestURI = r.URL.RequestURI()
		}
	}
	return token, n > 0, n < 2
}

// takeProtocols takes the tokens out of the WebSocket protocols that a client
// offers. A browser gives up unless the answer names one of those that it has
// offered: another one if there is any, so that the token is not sent back.
func takeProtocols(w http.ResponseWriter, r *http.Request) (tokens []string) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return nil
	}
	var others []string
	answer := ""
	for _, line := range r.Header["Sec-Websocket-Protocol"] {
		for p := range strings.SplitSeq(line, ",") {
			p = strings.TrimSpace(p)
			if token, ok := strings.CutPrefix(p, bearerProtocol); ok {
				tokens, answer = append(tokens, token), p
			} else if p != "" {
				others = append(others, p)
			}
		}
	}
	if tokens == nil {
		return nil
	}
	r.Header.Del("Sec-Websocket-Protocol")
	if len(others) > 0 {
		r.Header.Set("Sec-Websocket-Protocol", strings.Join(others, ", "))
		answer = others[0]
	}
	w.Header().Set("Sec-Websocket-Protocol", answer)
	return tokens
}
