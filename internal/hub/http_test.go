package hub

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestRoutes(t *testing.T) {
	h := startHub(t, Options{})
	for _, c := range []struct {
		request string
		status  int
		has     string
	}{
		{"GET /metrics HTTP/1.1\r\nHost: any\r\n", 200, "hubd_build_info"},
		{"HEAD /-/healthy HTTP/1.1\r\nHost: any\r\n", 200, ""},
		{"POST /metrics HTTP/1.1\r\nHost: any\r\nContent-Length: 0\r\n", 405, ""},
		{"GET /-/healthy HTTP/1.1\r\nHost: any\r\n", 200, "up"},
		{"GET /-/ready HTTP/1.1\r\nHost: any\r\n", 200, `"ready":true`},
		{"GET /-/reload HTTP/1.1\r\nHost: any\r\n", 405, ""},
		{"POST /-/reload HTTP/1.1\r\nHost: any\r\nContent-Length: 0\r\n", 200, "reloaded"},
		{"GET /metrics/ HTTP/1.1\r\nHost: any\r\n", 200, "hubd_build_info"},
		{"GET /-/healthy/ HTTP/1.1\r\nHost: any\r\n", 200, "up"},
		{"GET /-/ready/ HTTP/1.1\r\nHost: any\r\n", 200, `"ready":true`},
		{"POST /-/reload/ HTTP/1.1\r\nHost: any\r\nContent-Length: 0\r\n", 200, "reloaded"},
		{"GET /metrics// HTTP/1.1\r\nHost: any\r\n", 404, ""},
		{"GET /capnweb/ HTTP/1.1\r\nHost: any\r\n", 405, "POST a batch"},
		{"GET /kkrpc/ HTTP/1.1\r\nHost: any\r\n", 426, "WebSocket"},
		{"GET /debug/pprof HTTP/1.1\r\nHost: any\r\n", 307, ""},
		{"GET /debug/pprof/heap/ HTTP/1.1\r\nHost: any\r\n", 200, ""},
		{"GET /nothing HTTP/1.1\r\nHost: any\r\n", 404, ""},
		{"GET /debug/vars HTTP/1.1\r\nHost: any\r\n", 404, ""},
		{"GET /-/healthy HTTP/1.0\r\n", 200, "up"},
		{"GET /-/healthy HTTP/1.1\r\n", 400, ""},
		{"GET /-/healthy HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400, ""},
		{"GET / HTTP/1.1\r\nHost: any\r\nX: " + strings.Repeat("x", 80<<10) + "\r\n", 431, ""},
	} {
		status, body := h.ask("unix", h.socket, c.request+"Connection: close\r\n\r\n")
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%.50q: %d %.80q, want %d with %q", c.request, status, body, c.status, c.has)
		}
	}
}

func TestOpenMetrics(t *testing.T) {
	h := startHub(t, Options{})
	_, body := h.ask("unix", h.socket, "GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: application/openmetrics-text; version=1.0.0\r\nConnection: close\r\n\r\n")
	if !strings.HasSuffix(body, "# EOF\n") {
		t.Errorf("no OpenMetrics text: %.100q", body)
	}
}

// What a page behind another name or of another origin sends is refused on
// every path, and on TCP only.
func TestHostAndOrigin(t *testing.T) {
	h := startHub(t, Options{
		Listen: []string{"tcp://127.0.0.1:0?auth=none"},
		Hosts:  []string{"hub.example", "other.example:8080"}, Origins: []string{"https://app.example"},
	})
	_, port, _ := net.SplitHostPort(h.tcp)
	ours := "127.0.0.1:" + port
	for _, c := range []struct {
		name, headers string
		status        int
	}{
		{"own address", "Host: " + ours, 200},
		{"localhost", "Host: localhost:" + port, 200},
		{"LOCALHOST", "Host: LocalHost:" + port, 200},
		{"IPv6 loopback", "Host: [::1]:" + port, 200},
		{"configured name", "Host: hub.example", 200},
		{"configured name, any port", "Host: hub.example:1234", 200},
		{"configured name and port", "Host: other.example:8080", 200},
		{"configured name, other port", "Host: other.example:8081", 421},
		{"without port", "Host: 127.0.0.1", 421},
		{"other port", "Host: 127.0.0.1:1", 421},
		{"rebound name", "Host: evil.example:" + port, 421},
		{"name that begins alike", "Host: localhost.evil.example:" + port, 421},
		{"other address", "Host: 10.0.0.1:" + port, 421},
		{"empty host", "Host: ", 421},
		{"name with the dot of the root", "Host: localhost.:" + port, 421},
		{"address with a zone", "Host: [::1%25lo]:" + port, 421},
		{"port with a zero", "Host: 127.0.0.1:0" + port, 421},
		{"two in one", "Host: " + ours + ", evil.example", 400},
		{"own origin", "Host: " + ours + "\r\nOrigin: http://" + ours, 200},
		{"own origin by name", "Host: localhost:" + port + "\r\nOrigin: https://localhost:" + port, 200},
		{"other of the own names", "Host: " + ours + "\r\nOrigin: http://localhost:" + port, 403},
		{"listed origin", "Host: " + ours + "\r\nOrigin: https://app.example\r\nSec-Fetch-Site: cross-site", 200},
		{"listed origin, other scheme", "Host: " + ours + "\r\nOrigin: http://app.example", 403},
		{"foreign origin", "Host: " + ours + "\r\nOrigin: https://evil.example", 403},
		{"other port of this host", "Host: " + ours + "\r\nOrigin: http://127.0.0.1:1", 403},
		{"null", "Host: " + ours + "\r\nOrigin: null", 403},
		{"NULL", "Host: " + ours + "\r\nOrigin: NULL", 403},
		{"a file", "Host: " + ours + "\r\nOrigin: file://", 403},
		{"empty origin", "Host: " + ours + "\r\nOrigin: ", 403},
		{"own origin with a path", "Host: " + ours + "\r\nOrigin: http://" + ours + "/", 403},
		{"two origins", "Host: " + ours + "\r\nOrigin: http://" + ours + "\r\nOrigin: http://" + ours, 403},
		{"cross-site without origin", "Host: " + ours + "\r\nSec-Fetch-Site: cross-site", 403},
		{"same-site without origin", "Host: " + ours + "\r\nSec-Fetch-Site: same-site", 403},
		{"typed into the address bar", "Host: " + ours + "\r\nSec-Fetch-Site: none", 200},
		{"same-origin", "Host: " + ours + "\r\nSec-Fetch-Site: same-origin", 200},
	} {
		for _, path := range []string{"/-/healthy", "/metrics"} {
			if status, _ := h.ask("tcp", h.tcp, "GET "+path+" HTTP/1.1\r\n"+c.headers+"\r\nConnection: close\r\n\r\n"); status != c.status {
				t.Errorf("%s at %s: %d, want %d", c.name, path, status, c.status)
			}
		}
		if c.status == 200 {
			continue
		}
		if status, _ := h.ask("tcp", h.tcp, "POST /no/such/path HTTP/1.1\r\n"+c.headers+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); status != c.status {
			t.Errorf("%s at a path that does not exist: %d, want %d", c.name, status, c.status)
		}
		if strings.HasPrefix(c.headers, "Host: \r") || c.headers == "Host: " || c.status == 400 {
			continue
		}
		if status, _ := h.ask("unix", h.socket, "GET /-/healthy HTTP/1.1\r\n"+c.headers+"\r\nConnection: close\r\n\r\n"); status != 200 {
			t.Errorf("%s on the Unix socket: %d, want 200", c.name, status)
		}
	}
	if status, _ := h.ask("tcp", h.tcp, "GET /-/healthy HTTP/1.0\r\n\r\n"); status != 200 {
		t.Errorf("HTTP/1.0 without Host: %d", status)
	}
	for _, request := range []string{ // the name is elsewhere, or there is no path
		"GET http://evil.example/metrics HTTP/1.1\r\nHost: " + ours, "GET http://evil.example/metrics HTTP/1.0",
		"OPTIONS * HTTP/1.1\r\nHost: evil.example", "CONNECT evil.example:443 HTTP/1.1\r\nHost: " + ours, "PRI * HTTP/2.0",
	} {
		if !strings.HasPrefix(request, "PRI") { // which has no headers
			request += "\r\nConnection: close"
		}
		if status, _ := h.ask("tcp", h.tcp, request+"\r\n\r\n"); status != 421 {
			t.Errorf("%q: %d", request, status)
		}
	}
}

func TestScopesOverHTTP(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0"}})
	n := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	u := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=uid"}})
	for _, c := range []struct {
		name, at, request string
		status            int
	}{
		{"token: metrics", h.tcp, "GET /metrics", 401},
		{"token: reload", h.tcp, "POST /-/reload", 401},
		{"token: healthy", h.tcp, "GET /-/healthy", 200},
		{"token: ready", h.tcp, "GET /-/ready", 200},
		{"none: metrics", n.tcp, "GET /metrics", 200},
		{"none: reload", n.tcp, "POST /-/reload", 403},
		{"uid: reload", u.tcp, "POST /-/reload", 200},
	} {
		if status, _ := h.ask("tcp", c.at, c.request+" HTTP/1.1\r\nHost: "+c.at+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); status != c.status {
			t.Errorf("%s: %d, want %d", c.name, status, c.status)
		}
	}
	// A page acts with its user's address, not with its user's consent.
	if status, _ := h.ask("tcp", u.tcp, "GET /metrics HTTP/1.1\r\nHost: "+u.tcp+"\r\nOrigin: http://"+u.tcp+"\r\nConnection: close\r\n\r\n"); status != 401 {
		t.Errorf("uid with an Origin: %d, want 401", status)
	}
}

func TestMetricsListener(t *testing.T) {
	h := startHub(t, Options{Metrics: "127.0.0.1:0"})
	at := h.info.Metrics
	head := " HTTP/1.1\r\nHost: " + at + "\r\nConnection: close\r\n\r\n"
	if status, body := h.ask("tcp", at, "GET /metrics"+head); status != 200 || !strings.Contains(body, "hubd_build_info") {
		t.Errorf("/metrics: %d %.80q", status, body)
	}
	if status, _ := h.ask("tcp", at, "GET /-/ready"+head); status != 404 {
		t.Errorf("/-/ready: %d, want 404", status)
	}
	w := dial(t, "tcp", at)
	w.send("{}\n")
	if err := w.ended(); err != nil {
		t.Errorf("native lines: %v", err)
	}
}

// A metrics address that others can reach gives nothing to those who show no token.
func TestMetricsListenerWithToken(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.files(t.TempDir(), 1)
	h := startHub(t, Options{Metrics: "tls://127.0.0.1:0", TLSCert: cert, TLSKey: key})
	authorities := x509.NewCertPool()
	authorities.AddCert(a.cert)
	ask := func(path, token string) (int, string) {
		t.Helper()
		client := http.Client{
			Timeout: patience, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authorities}, DisableKeepAlives: true},
		}
		req, err := http.NewRequest(http.MethodGet, "https://"+h.info.Metrics+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	reader, writer := h.token("scraper", `,"scopes":["read"]`), h.token("caller", `,"scopes":["call"]`)
	if status, body := ask("/metrics", reader); status != 200 || !strings.Contains(body, "hubd_build_info") {
		t.Errorf("with a token that may read: %d %.80q", status, body)
	}
	for _, test := range []struct {
		path, token string
		want        int
	}{
		{"/metrics", "", 401},
		{"/metrics", reader[:len(reader)-1] + "x", 401},
		{"/metrics", writer, 403},
		{"/debug/pprof/", reader, 404},
		{"/-/reload", reader, 404},
	} {
		if status, body := ask(test.path, test.token); status != test.want || strings.Contains(body, "hubd_") {
			t.Errorf("%s with token %.9q: %d %.80q, want %d", test.path, test.token, status, body, test.want)
		}
	}
}

func TestSlowHead(t *testing.T) {
	h := startHub(t, Options{Limits: Limits{HTTPHead: 30 * time.Millisecond}})
	w := h.dial()
	w.send("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
	if err := w.ended(); err != nil {
		t.Error(err)
	}
}

func TestReadyWhileDraining(t *testing.T) {
	h := startHub(t, Options{Limits: Limits{Drain: time.Hour}})
	kept := h.dial()
	ask := func() (int, readiness) {
		kept.send("GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(kept.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var r readiness
		if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, r
	}
	if status, r := ask(); status != 200 || !r.Ready {
		t.Fatalf("before: %d %+v", status, r)
	}
	busy, finish := h.heldCall()
	h.cancel()
	eventually(t, "the hub drains", func() bool { return strings.Contains(h.notices.String(), "STOPPING=1") })
	if status, r := ask(); status != 503 || r.Ready || r.Phase != "draining" || r.Reason == "" {
		t.Errorf("while draining: %d %+v", status, r)
	}
	finish()
	if r := busy.reply(); string(r.Result) != `"done"` {
		t.Errorf("the running call: %+v", r)
	}
}
