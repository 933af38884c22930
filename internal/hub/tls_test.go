package hub

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert, _ = x509.ParseCertificate(der)
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// issue makes a certificate and its key, in PEM.
func (a *authority) issue(name string, serial int64, uris ...string) (cert, key []byte) {
	a.t.Helper()
	return a.issueUntil(time.Now().Add(time.Hour), name, serial, uris...)
}

// issueUntil is issue with an end of one's choice.
func (a *authority) issueUntil(end time.Time, name string, serial int64, uris ...string) (cert, key []byte) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, u := range uris {
		parsed, err := url.Parse(u)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// pair is issue as a client uses it.
func (a *authority) pair(name string, uris ...string) []tls.Certificate {
	a.t.Helper()
	cert, key := a.issue(name, 7, uris...)
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		a.t.Fatal(err)
	}
	return []tls.Certificate{p}
}

// pairUntil is pair with an end of one's choice.
func (a *authority) pairUntil(name string, end time.Time) []tls.Certificate {
	a.t.Helper()
	p, err := tls.X509KeyPair(a.issueUntil(end, name, 8))
	if err != nil {
		a.t.Fatal(err)
	}
	return []tls.Certificate{p}
}

// files writes a server's certificate and key to dir.
func (a *authority) files(dir string, serial int64) (cert, key string) {
	a.t.Helper()
	c, k := a.issue("hub", serial)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, text := range map[string][]byte{cert: c, key: k} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return cert, key
}

// dialTLS connects to the first TCP listener of h.
func (h *testHub) dialTLS(a *authority, certs []tls.Certificate) *wire {
	h.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	c, err := tls.Dial("tcp", h.tcp, &tls.Config{RootCAs: pool, Certificates: certs})
	if err != nil {
		h.t.Fatal(err)
	}
	return newWire(h.t, c)
}

// startTLS runs a hub with one TLS listener, whose query is given.
func startTLS(t *testing.T, a *authority, query string, o Options) (*testHub, string) {
	t.Helper()
	dir := t.TempDir()
	o.TLSCert, o.TLSKey = a.files(dir, 1)
	o.Listen = append(o.Listen, "tls://127.0.0.1:0"+query)
	o.Demo = true
	return startHub(t, o), dir
}

// Every protocol is told apart inside TLS, and large values pass both ways.
func TestProtocolsOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h, _ := startTLS(t, a, "?auth=none", Options{})
	w := h.dialTLS(a, nil)
	if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Errorf("native: %v", r)
	}
	big := `"` + strings.Repeat("x", 8<<20) + `"`
	for range 3 {
		if r := w.call("echo", "["+big+"]"); string(r.Result) != big {
			t.Fatalf("8 MiB came back as %d bytes: %v", len(r.Result), r.kind())
		}
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer web.CloseIdleConnections()
	for range 2 { // the second on the same connection
		resp, err := web.Post("https://"+h.tcp+"/capnweb", "text/plain", strings.NewReader(`["push",["pipeline",0,["math","add"],[3,4]]]`+"\n"+`["pull",1]`))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(text) != `["resolve",1,7]` {
			t.Errorf("Cap'n Web: %d %s", resp.StatusCode, text)
		}
	}
}

// The end of a connection is announced, so that a client can tell it from one
// that was cut.
func TestEndOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h, _ := startTLS(t, a, "?auth=none", Options{})
	w := h.dialTLS(a, nil)
	if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Fatal(r)
	}
	// The client's own end: what was asked before is still answered.
	w.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":{"seconds":0.05}}` + "\n")
	if err := w.Conn.(testkit.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if r := w.reply(); r.RequestID != "s" || r.Error != nil {
		t.Errorf("after the client's close_notify: %v", r)
	}
	if rest, err := io.ReadAll(w.r); err != nil || len(rest) > 0 {
		t.Errorf("end: %v, %q", err, rest)
	}
	// The hub's end.
	w = h.dialTLS(a, nil)
	w.call("math.add", `[1,2]`)
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadAll(w.r); err != nil {
		t.Errorf("the hub's end: %v", err)
	}
}

// A peer that takes nothing is closed after the stall limit, and its close does
// not wait for it.
func TestStallOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h, _ := startTLS(t, a, "?auth=none", Options{Limits: Limits{WriteStall: 300 * time.Millisecond}})
	w := h.dialTLS(a, nil)
	big := strings.Repeat("x", 8<<20)
	for i := range 3 {
		// The hub may have closed before it was all sent.
		fmt.Fprintf(w, `{"action":"rpc_request","request_id":"%d","method":"echo","params":[%q]}`+"\n", i, big)
	}
	eventually(t, "the connection is closed", func() bool { return h.sample(`hubd_rejected_total{limit="write_stall"}`) != "0" })
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

func TestBadHandshakes(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	h, _ := startTLS(t, a, "?auth=none", Options{Limits: Limits{Handshake: 500 * time.Millisecond}})
	for what, text := range map[string]string{
		"plain HTTP":    "GET / HTTP/1.1\r\nHost: " + h.tcp + "\r\n\r\n",
		"native line":   `{"action":"ping"}` + "\n",
		"a huge record": "\x16\x03\x01\xff\xff" + strings.Repeat("x", 1000),
		"silence":       "",
		"half a hello":  "\x16\x03\x01\x02\x00\x01",
	} {
		w := dial(t, "tcp", h.tcp)
		w.send(text)
		rest, err := io.ReadAll(w.r)
		if err != nil && !isReset(err) {
			t.Errorf("%s: not closed: %v", what, err)
		}
		if strings.Contains(string(rest), "action") || strings.Contains(string(rest), "200 OK") {
			t.Errorf("%s was served: %q", what, rest)
		}
	}
	if n := h.sample(`hubd_rejected_total{limit="handshake"}`); n != "2" {
		t.Errorf("%s handshakes took too long, want 2", n)
	}
	if n := h.sample(`hubd_drops_total{protocol="",reason="tls_handshake"}`); n != "3" {
		t.Errorf("%s handshakes failed, want 3", n)
	}
	old, err := tls.Dial("tcp", h.tcp, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		old.Close()
		t.Error("TLS 1.1 was accepted")
	}
}

// serial returns the serial number of the certificate that new clients see.
func (h *testHub) serial() int64 {
	h.t.Helper()
	c, err := tls.Dial("tcp", h.tcp, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestCertificateIsReadAgain(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	signal := make(chan struct{})
	h, dir := startTLS(t, a, "?auth=none", Options{Reload: signal})
	w := h.dialTLS(a, nil)
	if n := h.serial(); n != 1 {
		t.Fatalf("serial %d", n)
	}
	a.files(dir, 2)
	eventually(t, "a handshake shows the new certificate", func() bool { return h.serial() == 2 })

	// Half of a change is no change: the certificate that was good stays.
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	signal <- struct{}{}
	eventually(t, "the failure is counted", func() bool { return h.sample(`hubd_tls_reloads_total{result="failed"}`) != "0" })
	if n := h.serial(); n != 2 {
		t.Errorf("serial %d after a bad file", n)
	}
	a.files(dir, 3)
	signal <- struct{}{} // at once, without waiting for the next look
	eventually(t, "the reload is counted", func() bool { return h.serial() == 3 })
	if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Errorf("a connection from before: %v", r)
	}
	if h.sample("hubd_tls_certificate_expiry_timestamp_seconds") == "0" {
		t.Error("no end of the certificate in the metrics")
	}
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	a, stranger := newAuthority(t), newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	options := func() Options {
		return Options{TLSClientCA: ca, TLSClients: []string{"reader=read", "spiffe://test/builder=read,call"}}
	}
	h, _ := startTLS(t, a, "?auth=cert", options())
	w := h.dialTLS(a, a.pair("reader"))
	if r := w.call("echo", `[1]`); r.Error != nil {
		t.Errorf("a read: %s", *r.Error)
	}
	if r := w.call("state.put", `{"key":"a","value":1}`); r.kind() != "permission" {
		t.Errorf("a write with scope read: %q", r.kind())
	}
	w = h.dialTLS(a, a.pair("nobody in particular", "spiffe://test/builder"))
	if r := w.call("state.put", `{"key":"a","value":1}`); r.Error != nil {
		t.Errorf("a write by an alternative name: %s", *r.Error)
	}
	if r := w.call("hub.peers", `{}`); !strings.Contains(string(r.Result), `"peer":"spiffe://test/builder"`) {
		t.Errorf("hub.peers: %s", r.Result)
	}
	for what, certs := range map[string][]tls.Certificate{
		"no certificate": nil, "another name": a.pair("mallory"), "another authority": stranger.pair("reader"),
	} {
		pool := x509.NewCertPool()
		pool.AddCert(a.cert)
		c, err := tls.Dial("tcp", h.tcp, &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if len(certs) == 0 {
				return &tls.Certificate{}, nil
			}
			return &certs[0], nil
		}})
		if err != nil {
			continue // as good
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, `{"action":"ping"}`+"\n")
		text, err := io.ReadAll(c)
		if len(text) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %q, %v", what, text, err)
		}
		c.Close()
	}

	// With tokens as well: a certificate is enough, and so is a token.
	h, _ = startTLS(t, a, "?auth=token", options())
	if r := h.dialTLS(a, a.pair("reader")).call("echo", `[1]`); r.Error != nil {
		t.Errorf("certificate: %s", *r.Error)
	}
	w = h.dialTLS(a, nil)
	if r := w.call("echo", `[1]`); r.kind() != "unauthenticated" {
		t.Errorf("neither: %q", r.kind())
	}
	w.greet(h.token("t", ""))
	if r := w.call("echo", `[1]`); r.Error != nil {
		t.Errorf("token: %s", *r.Error)
	}
}

func TestTLSConfiguration(t *testing.T) {
	t.Parallel()
	for what, o := range map[string]Options{
		"no files":    {Listen: []string{"tls://127.0.0.1:0"}},
		"no CA":       {Listen: []string{"tls://127.0.0.1:0?auth=cert"}, TLSCert: "/c", TLSKey: "/k"},
		"plain cert":  {Listen: []string{"tcp://127.0.0.1:0?auth=cert"}},
		"relative":    {TLSCert: "c", TLSKey: "/k"},
		"bad scopes":  {TLSClients: []string{"a=root"}},
		"no scopes":   {TLSClients: []string{"a"}},
		"twice":       {TLSClients: []string{"a=read", "a=call"}},
		"bad user":    {Peers: []string{"no such user!=read"}},
		"bad group":   {Peers: []string{"@no such group!=read"}},
		"peer scopes": {Peers: []string{"0=everything"}},
	} {
		if err := o.Validate(); err == nil {
			t.Errorf("%s: valid", what)
		}
	}
	err := Run(t.Context(), Options{
		Listen: []string{"tls://127.0.0.1:0"}, State: filepath.Join(shortDir(t), "state"), TLSCert: "/nonexistent/cert", TLSKey: "/nonexistent/key",
	})
	if ExitCode(err) != ExitUsage || !strings.Contains(err.Error(), "/nonexistent/cert") {
		t.Errorf("missing files: %v", err)
	}
}
