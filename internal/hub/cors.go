package hub

import (
	"net/http"
	"slices"
	"strings"
)

// corsAge is how many seconds a browser may remember what it was allowed.
const corsAge = "600"

// cors tells the browser that pages of a listed origin may read the answer (a
// handler that takes over its connection sends these headers itself), and reports whether that was all the browser has asked for. Pages of other
// origins get no such header. There is none for credentials: the hub has no
// cookies, and a page that may call carries its token in the request.
func cors(w http.ResponseWriter, r *http.Request, allowed []string) (answered bool) {
	origin := r.Header.Get("Origin")
	if origin == "" || !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, origin) }) {
		return false
	}
	head := w.Header()
	head.Add("Vary", "Origin")
	head.Set("Access-Control-Allow-Origin", origin)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	head.Set("Access-Control-Allow-Methods", "GET, POST")
	head.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Traceparent, Tracestate")
	head.Set("Access-Control-Max-Age", corsAge)
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		head.Set("Access-Control-Allow-Private-Network", "true")
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}
