package hub

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// guard refuses what web pages of other origins, or behind other names, send
// to TCP listeners: before routing and on every path. A Unix socket cannot be
// reached by a page, so any Host is fine there. Then it finds out on whose
// behalf the request comes.
func (h *hub) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := connOf(r)
		c.serving.Store(true)
		c.inHead.Store(false)
		defer c.serving.Store(false)
		page := false
		if c.listener.addr.network == "tcp" {
			live := h.live.Load()
			if !hostAllowed(r, c, live.hosts) {
				h.metrics.drop(protocolHTTP, dropHost)
				h.audit.request(c, dropHost)
				http.Error(w, "this name does not belong to the hub", http.StatusMisdirectedRequest)
				return
			}
			if !originAllowed(r, live.origins) {
				h.metrics.drop(protocolHTTP, dropOrigin)
				h.audit.request(c, dropOrigin)
				http.Error(w, "pages of this origin are not allowed", http.StatusForbidden)
				return
			}
			if cors(w, r, live.origins) {
				return
			}
			page = byPage(r) && !h.web.isFile(r)
		}
		r = h.steady(r, c)
		if !h.admitRequest(w, r, c) {
			return
		}
		if page && c.listener.addr.auth == authUID && c.peer.Load() == c.base {
			h.audit.request(c, "a page without a token")
			unauthenticated(w) // the user of a browser is not the author of the page
			return
		}
		if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
			w.Header().Set("Connection", "close") // nobody reads it
			w.Header().Set("Accept-Encoding", "identity")
			http.Error(w, "bodies with a Content-Encoding are not taken: send it as it is", http.StatusUnsupportedMediaType)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed reports whether the Host header names the listener. The server
// has already refused an HTTP/1.1 request without Host, or with two.
func hostAllowed(r *http.Request, c *conn, allowed []string) bool {
	if r.Host == "" {
		return !r.ProtoAtLeast(1, 1)
	}
	if slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, r.Host) }) {
		return true
	}
	host, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		if host, port = r.Host, "80"; c.tls != nil {
			port = "443"
		}
	}
	if slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, host) }) {
		return true
	}
	_, ours, err := net.SplitHostPort(c.listener.addr.hostport)
	if err != nil || port != ours {
		return false
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	// An address in digits cannot be a name that was made to point here, so
	// that of this end of the connection is as good as 127.0.0.1.
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || ip == netip.IPv6Loopback() {
		return true
	}
	local, err := netip.ParseAddrPort(c.LocalAddr().String())
	return err == nil && ip.Unmap() == local.Addr().Unmap()
}

// loopbackHost reports whether a Host header names this machine in a way that
// needs no lookup, which browsers trust as they do https.
func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() && !ip.Is4In6()
}

// originAllowed reports whether the page that sent the request, if it was one,
// may: the hub's own, or one of a listed origin.
func originAllowed(r *http.Request, allowed []string) bool {
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return !foreignSite(r)
	}
	if len(origins) > 1 {
		return false
	}
	origin := origins[0]
	if slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, origin) }) {
		return true
	}
	return r.Host != "" && !foreignSite(r) &&
		(strings.EqualFold(origin, "http://"+r.Host) || strings.EqualFold(origin, "https://"+r.Host))
}

// foreignSite reports whether the browser says that the request comes from a
// page of another origin.
func foreignSite(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return strings.EqualFold(site, "cross-site") || strings.EqualFold(site, "same-site")
}

// byPage reports whether a page has sent the request, rather than a program or
// somebody who typed the address.
func byPage(r *http.Request) bool {
	site := r.Header.Get("Sec-Fetch-Site")
	return r.Header.Get("Origin") != "" || site != "" && !strings.EqualFold(site, "none")
}

// byLink reports whether the browser follows an address that it was given from
// outside of any page: typed, or as likely a link in a mail.
func byLink(r *http.Request) bool { return strings.EqualFold(r.Header.Get("Sec-Fetch-Site"), "none") }

// needs lets only those peers through that may do what the method of that name
// does, which need not be a row of the table.
func (h *hub) needs(scope rpc.Scope, method string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := connOf(r)
		p := c.peer.Load()
		switch {
		case p.Permits(scope, method):
			next.ServeHTTP(w, r)
		case p != nil && p.Unauthenticated:
			h.audit.request(c, "no token for "+method)
			unauthenticated(w)
		default:
			h.audit.request(c, "scope "+scope.String()+" or permission is missing for "+method)
			http.Error(w, "not allowed", http.StatusForbidden)
		}
	})
}

func unauthenticated(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="hubd"`)
	http.Error(w, "needs authentication", http.StatusUnauthorized)
}
