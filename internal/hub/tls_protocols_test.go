package hub

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// Every protocol works inside TLS as it does without, authentication, streams
// and large values included.
func TestEveryProtocolOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h, _ := startTLS(t, a, "", Options{})
	token := h.token("t", "")
	large := strings.Repeat("x", 3<<20)

	snek := h.dialTLS(a, nil)
	snek.frame(`["CommandMessage","math","add",[["Argument",3],["Argument",4]],{}]`)
	if got := snek.frameBack(); !strings.Contains(got, "needs authentication") {
		t.Errorf("snekrpc without a token: %s", got)
	}
	snek.frame(fmt.Sprintf(`["CommandMessage","authenticate","authenticate",[["Argument",%q]],{}]`, token))
	snek.frameBack()
	snek.frame(fmt.Sprintf(`["CommandMessage","echo","echo",[["Argument",%q]],{}]`, large))
	if got := snek.frameBack(); got != fmt.Sprintf(`["DataMessage",%q]`, large) {
		t.Errorf("snekrpc: 3 MiB came back as %d bytes", len(got))
	}
	snek.frame(`["CommandMessage","demo","count",[["Argument",2]],{}]`)
	for _, want := range []string{`["StreamStartMessage"]`, `["DataMessage",0]`, `["DataMessage",1]`, `["StreamEndMessage"]`} {
		if got := snek.frameBack(); got != want {
			t.Errorf("snekrpc: a stream has %s, want %s", got, want)
		}
	}

	tunnel := h.dialTLS(a, nil)
	message := fmt.Sprintf(`["CommandMessage","echo","echo",[["Argument",%q]],{}]`, large)
	tunnel.send("POST / HTTP/1.1\r\nHost: " + h.tcp + "\r\nAuthorization: Bearer " + token +
		"\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%X\r\n%s\r\n", len(message), message))
	for tunnel.line() != "\r" {
	}
	if size := tunnel.line(); size != fmt.Sprintf("%x\r", len(large)+len(`["DataMessage",""]`)) {
		t.Errorf("tunnel: a chunk of %q", size)
	}

	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer web.CloseIdleConnections()
	for path, c := range map[string]struct{ say, hear string }{
		"/kkrpc":   {`{"t":"q","id":"1","op":"call","p":["echo"],"a":["` + large + `"]}`, `{"t":"r","id":"1","v":"` + large + `"}`},
		"/capnweb": {`["push",["pipeline",0,["echo"],["` + large + `"]]]`, `["resolve",1,"` + large + `"]`},
	} {
		// As a page of the hub's own origin does.
		ws, resp, err := websocket.Dial(t.Context(), "wss://"+h.tcp+path, &websocket.DialOptions{
			HTTPClient: web, HTTPHeader: http.Header{"Origin": {"https://" + h.tcp}}, Subprotocols: []string{"hubd", bearerProtocol + token},
		})
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body != nil {
			resp.Body.Close()
		}
		defer ws.CloseNow()
		ws.SetReadLimit(8 << 20)
		say(t, ws, c.say)
		if path == "/capnweb" {
			say(t, ws, `["pull",1]`)
		}
		if got := hear(t, ws); got != c.hear {
			t.Errorf("%s: 3 MiB came back as %d bytes: %.100s", path, len(got), got)
		}
	}
	resp, err := web.PostForm("https://"+h.tcp+"/krpc", url.Values{"json": {fmt.Sprintf(`{"method":"echo","params":[%q],"pmhparams":[%q]}`, large, token)}})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if string(text) != fmt.Sprintf(`{"result": %q}`, large) {
		t.Errorf("krpc: 3 MiB came back as %d bytes: %.100s", len(text), text)
	}

	native := h.dialTLS(a, nil)
	native.greet(token)
	if r := native.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Errorf("native: %v", r)
	}
	h.revoke("t")
	snek.frame(`["CommandMessage","math","add",[["Argument",3],["Argument",4]],{}]`)
	if got := snek.frameBack(); !strings.Contains(got, "revoked") {
		t.Errorf("snekrpc after the token was revoked: %s", got)
	}
}

// The permission of a certificate ends with the certificate, also for the
// connections and streams that it has opened.
func TestClientCertificatesExpire(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	h, _ := startTLS(t, a, "?auth=cert", Options{TLSClientCA: ca, TLSClients: []string{"reader=read"}, Limits: Limits{PartialFrame: time.Second}})
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	late := a.pairUntil("reader", time.Now().Add(-time.Second))
	if c, err := tls.Dial("tcp", h.tcp, &tls.Config{RootCAs: pool, Certificates: late}); err == nil {
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, `{"action":"ping"}`+"\n")
		if text, _ := io.ReadAll(c); len(text) > 0 {
			t.Errorf("an expired certificate: %q", text)
		}
		c.Close()
	}
	if n := h.sample(`hubd_drops_total{protocol="",reason="tls_handshake"}`); n != "1" {
		t.Errorf("%s handshakes failed, want 1", n)
	}
	w := h.dialTLS(a, a.pairUntil("reader", time.Now().Add(3*time.Second)))
	if r := w.call("echo", `[1]`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	w.send(`{"action":"rpc_request","request_id":"s","method":"state.watch","params":{"prefix":""},"stream":true}` + "\n")
	for line := w.line(); !strings.Contains(line, `"rpc_reply"`); line = w.line() {
	}
	if r := w.call("echo", `[1]`); r.kind() != "unauthenticated" {
		t.Errorf("after the certificate has expired: %q", r.kind())
	}
}

// Files that do not belong together, or that are half written, change nothing;
// an authority that is taken out is no longer believed.
func TestBrokenFilesOfTLS(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	signal := make(chan struct{})
	h, dir := startTLS(t, a, "?auth=cert", Options{TLSClientCA: ca, TLSClients: []string{"reader=read"}, Reload: signal})
	open := h.dialTLS(a, a.pair("reader"))
	if r := open.call("echo", `[1]`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	keep := map[string][]byte{}
	for _, name := range []string{"cert.pem", "key.pem"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		keep[filepath.Join(dir, name)] = text
	}
	keep[ca] = a.pem
	_, foreignKey := other.issue("hub", 9)
	failures := func() (n int) {
		fmt.Sscan(h.sample(`hubd_tls_reloads_total{result="failed"}`), &n)
		return n
	}
	for _, c := range []struct {
		what, path string
		text       []byte
	}{
		{"a key of another certificate", filepath.Join(dir, "key.pem"), foreignKey},
		{"half a certificate", filepath.Join(dir, "cert.pem"), keep[filepath.Join(dir, "cert.pem")][:200]},
		{"an empty key", filepath.Join(dir, "key.pem"), nil},
		{"an authority that is none", ca, []byte("nothing")},
	} {
		before := failures()
		if err := os.WriteFile(c.path, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		signal <- struct{}{}
		eventually(t, c.what+" is counted", func() bool { return failures() > before })
		if r := h.dialTLS(a, a.pair("reader")).call("echo", `[1]`); r.Error != nil {
			t.Errorf("%s: %s", c.what, *r.Error)
		}
		if err := os.WriteFile(c.path, keep[c.path], 0o600); err != nil {
			t.Fatal(err)
		}
	}

	if err := os.WriteFile(ca, other.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	signal <- struct{}{}
	eventually(t, "the old authority is not believed", func() bool {
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		pair := a.pair("reader")
		c, err := tls.Dial("tcp", h.tcp, &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair[0], nil
		}})
		if err != nil {
			return true
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, `{"action":"ping"}`+"\n")
		text := make([]byte, 1)
		_, err = c.Read(text)
		return err != nil
	})
	if r := h.dialTLS(a, other.pair("reader")).call("echo", `[1]`); r.Error != nil {
		t.Errorf("the new one: %s", *r.Error)
	}
	if r := open.call("echo", `[1]`); r.Error != nil {
		t.Errorf("a connection from before: %s", *r.Error)
	}
}
