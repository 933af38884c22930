package hub

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Each request that no route claims reaches the protocol that its body is of.
func TestOtherPathsAreToldApartByContent(t *testing.T) {
	says := func(word string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, word) })
	}
	both := &otherPaths{tunnel: says("tunnel"), calls: says("calls")}
	for _, c := range []struct {
		request, content string
		chunked          bool
		want             string
	}{
		{"POST /", "application/octet-stream", true, "tunnel"},
		{"POST /snekrpc", "application/octet-stream", true, "tunnel"},
		{"POST /snekrpc", "Application/Octet-Stream; x=y", true, "tunnel"},
		{"POST /", "application/octet-stream", false, "404"},
		{"POST /elsewhere", "application/octet-stream", true, "404"},
		{"GET /snekrpc?json=1", "", false, "404"},
		{"POST /", "application/x-www-form-urlencoded", false, "calls"},
		{"POST /", "application/x-www-form-urlencoded", true, "calls"},
		{"POST /a/b", "application/x-www-form-urlencoded; charset=utf-8", false, "calls"},
		{"POST /krpc", "multipart/form-data; boundary=-----KrOnOsThEwIzArD", false, "calls"},
		{"POST /any", "multipart/form-data; boundary=\"odd", true, "calls"},
		{"POST /krpc", "application/json", false, "calls"},
		{"POST /", "application/json", false, "404"},
		{"POST /krpc", "", false, "calls"},
		{"POST /any", "", false, "404"},
		{"GET /", "", false, "calls"},
		{"GET /krpc", "", false, "calls"},
		{"GET /any?json=%7B%7D", "", false, "calls"},
		{"GET /any?JSON=%7B%7D", "", false, "calls"},
		{"GET /any?Json=%7B%7D", "", false, "404"},
		{"GET /any", "", false, "404"},
		{"POST /krpc", "text/plain", false, "415"},
		{"POST /krpc", "application/octet-stream", true, "415"},
		{"POST /snekrpc", "application/octet-stream", false, "415"},
		{"POST /snekrpc", "application/json", true, "415"},
		{"POST /any", "text/plain", false, "404"},
		{"POST /krpc/", "application/json", false, "calls"},
		{"POST /krpc/", "", false, "calls"},
		{"GET /krpc/", "", false, "calls"},
		{"POST /snekrpc/", "application/octet-stream", true, "tunnel"},
		{"PUT /", "", false, "405"},
		{"PUT /any", "application/x-www-form-urlencoded", false, "405"},
		{"HEAD /", "", false, "405"},
	} {
		for name, o := range map[string]*otherPaths{"both": both, "none": {}} {
			method, path, _ := strings.Cut(c.request, " ")
			r := httptest.NewRequest(method, path, nil)
			if c.content != "" {
				r.Header.Set("Content-Type", c.content)
			}
			if c.chunked {
				r.TransferEncoding = []string{"chunked"}
			}
			w := httptest.NewRecorder()
			o.ServeHTTP(w, r)
			got := w.Body.String()
			if w.Code != http.StatusOK {
				got = itoa(w.Code)
			}
			want := c.want
			if name == "none" {
				want = "404"
			}
			if got != want {
				t.Errorf("%s %q, %s protocols: %s, want %s", c.request, c.content, name, got, want)
			}
		}
	}
}
