package hub

import (
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Paths that two protocols also have for themselves.
const (
	krpcPath    = "/krpc"
	snekrpcPath = "/snekrpc"
)

// otherPaths serves every request that no route claims: two protocols whose
// clients post to whatever path they were given, mostly "/". What a request
// carries tells them apart, and neither has to know of the other:
//
//	POST, chunked application/octet-stream, at "/" or "/snekrpc"   tunnel
//	POST of a form, or GET with a call in its query, at any path   calls
//	POST of JSON, at "/krpc"                                       calls
//
// A protocol that is not there is nil, and its requests are not found. Both
// are set in newOtherPaths, wrapped in onlySpoken, so that a listener that is
// restricted to other protocols answers 404:
//
//	tunnel: h.onlySpoken(rpc.Snekrpc, http.HandlerFunc(h.serveTunnel)),
type otherPaths struct {
	// tunnel is snekrpc over HTTP. It gets only requests that isTunnel
	// accepts, on listeners that speak snekrpc; it may hijack.
	tunnel http.Handler
	// calls is krpc. It answers what has no call in it with 400 itself.
	calls http.Handler
}

// newOtherPaths wires the protocols that share the unclaimed paths.
func (h *hub) newOtherPaths() *otherPaths {
	return &otherPaths{
		calls:  h.onlySpoken(rpc.Krpc, http.HandlerFunc(h.serveKrpc)),
		tunnel: h.onlySpoken(rpc.Snekrpc, http.HandlerFunc(h.serveTunnel)),
	}
}

func (o *otherPaths) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case isTunnel(r):
		serveOr404(o.tunnel, w, r)
	case pathOf(r) == snekrpcPath:
		if o.tunnel != nil && r.Method == http.MethodPost {
			otherType(w, "a tunnel is a chunked body of application/octet-stream")
			return
		}
		http.NotFound(w, r)
	case o.calls == nil:
		http.NotFound(w, r)
	case isKrpc(r):
		o.calls.ServeHTTP(w, r)
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		w.Header()["Allow"] = []string{"GET, POST"}
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case pathOf(r) == krpcPath:
		otherType(w, "a call is a body of application/json, application/x-www-form-urlencoded or multipart/form-data")
	default:
		http.NotFound(w, r)
	}
}

// otherType refuses a body by its type, unread.
func otherType(w http.ResponseWriter, taken string) {
	w.Header().Set("Connection", "close")
	http.Error(w, taken, http.StatusUnsupportedMediaType)
}

func serveOr404(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if h == nil {
		http.NotFound(w, r)
		return
	}
	h.ServeHTTP(w, r)
}

// pathOf returns the path of r without a slash at its end: nothing but files
// tells the two apart.
func pathOf(r *http.Request) string {
	if path := strings.TrimSuffix(r.URL.Path, "/"); path != "" {
		return path
	}
	return "/"
}

// isTunnel reports whether r opens a snekrpc tunnel: its body has no declared
// end and is not a form.
func isTunnel(r *http.Request) bool {
	return r.Method == http.MethodPost && (r.URL.Path == "/" || pathOf(r) == snekrpcPath) &&
		slices.Contains(r.TransferEncoding, "chunked") && mediaType(r) == "application/octet-stream"
}

// isKrpc reports whether r is a call in krpc's sense, or a failed attempt at
// one that deserves krpc's own answer.
func isKrpc(r *http.Request) bool {
	home := r.URL.Path == "/" || pathOf(r) == krpcPath
	switch r.Method {
	case http.MethodGet:
		if home {
			return true
		}
		q := r.URL.Query()
		return q.Has("json") || q.Has("JSON")
	case http.MethodPost:
		switch mediaType(r) {
		case "application/x-www-form-urlencoded", "multipart/form-data":
			return true
		case "application/json":
			return pathOf(r) == krpcPath
		}
		return home && r.Header.Get("Content-Type") == ""
	}
	return false
}

// mediaType returns the type of the body without its parameters, in lower
// case. Parameters that cannot be parsed do not matter here.
func mediaType(r *http.Request) string {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		t, _, _ = strings.Cut(r.Header.Get("Content-Type"), ";")
		t = strings.ToLower(strings.TrimSpace(t))
	}
	return t
}
