package tests

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// One TCP port serves everything that the socket serves, to whom it may.

// tcpAddress returns the host:port of the hub's TCP listener.
func (d *daemon) tcpAddress() string {
	d.t.Helper()
	return d.listener("tcp")
}

// listener returns the host:port of the first listener with that scheme.
func (d *daemon) listener(scheme string) string {
	d.t.Helper()
	w := d.dial()
	defer w.Close()
	var info struct{ Listeners []string }
	if err := json.Unmarshal([]byte(w.result(w.call("i", "hub.info", "{}"))), &info); err != nil {
		d.t.Fatal(err)
	}
	for _, l := range info.Listeners {
		if at, ok := strings.CutPrefix(l, scheme+"://"); ok {
			at, _, _ = strings.Cut(at, "?")
			return at
		}
	}
	d.t.Fatalf("hub.info names no %s listener: %v", scheme, info.Listeners)
	return ""
}

func dialTCP(t *testing.T, address string) *wire {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, c)
}

func TestTCPWithoutToken(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	address := d.tcpAddress()

	w := dialTCP(t, address)
	if got := w.result(w.call("a", "math.add", "[1,2]")); got != "3" {
		t.Errorf("got %s, want 3", got)
	}
	// Whoever comes without a token is no administrator.
	if f := w.call("c", "hub.cancel", `{"call":1}`); f.kind() != "permission" && f.kind() != "unauthenticated" {
		t.Errorf("got %s, want to be refused", f.line)
	}

	get := func(host string, header ...string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		if host != "" {
			req.Host = host
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Add(header[i], header[i+1])
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	_, port, _ := net.SplitHostPort(address)
	for _, tt := range []struct {
		name, host string
		header     []string
		want       int
	}{
		{"its own address", "", nil, 200},
		{"localhost", "localhost:" + port, nil, 200},
		{"a host name that was bent to this address", "evil.example:" + port, nil, 421},
		{"another port", "127.0.0.1:1", nil, 421},
		{"its own origin", "", []string{"Origin", "http://" + address}, 200},
		{"a page of another origin", "", []string{"Origin", "http://evil.example"}, 403},
		{"a page without origin", "", []string{"Origin", "null"}, 403},
		{"two origins", "", []string{"Origin", "http://" + address, "Origin", "http://" + address}, 403},
		{"a request from another site", "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
	} {
		if got := get(tt.host, tt.header...); got != tt.want {
			t.Errorf("%s: status %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestTCPNeedsATokenByDefault(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0")
	address := d.tcpAddress()
	w := dialTCP(t, address)
	w.send(request("a", "math.add", "[1,2]"))
	// An error reply or a closed connection: never the result.
	line, err := w.r.ReadString('\n')
	if err == nil && !strings.Contains(line, `"error_kind":"unauthenticated"`) && !strings.Contains(line, `"error_kind":"permission"`) {
		t.Errorf("got %q, want to be refused", line)
	}
	for path, want := range map[string]int{"/-/healthy": 200, "/-/ready": 200, "/metrics": 401} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
}
