package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/hub"
)

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "builder"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestHubOverTLS(t *testing.T) {
	cert, key := selfSigned(t)
	ready := make(chan hub.Info, 1)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- hub.Run(ctx, hub.Options{
			Listen: []string{"tls://127.0.0.1:0?auth=cert"}, State: filepath.Join(t.TempDir(), "state"), Demo: true, Log: zap.NewNop(),
			TLSCert: cert, TLSKey: key, TLSClientCA: cert, TLSClients: []string{"builder=read,call"},
			Ready: func(i hub.Info) { ready <- i },
		})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the hub ended with %v", err)
		}
	}()
	var at string
	select {
	case i := <-ready:
		at = i.Listeners[0]
	case err := <-ended:
		ended <- err
		t.Fatalf("the hub did not start: %v", err)
	}
	for _, c := range []struct {
		what      string
		args      []string
		env       map[string]string
		code      int
		out, hint string
	}{
		{"flags", []string{"--ca-file", cert, "--cert-file", cert, "--key-file", key}, nil, 0, "42\n", ""},
		{"variables", nil, map[string]string{"HUBD_CA_FILE": cert, "HUBD_CERT_FILE": cert, "HUBD_KEY_FILE": key}, 0, "42\n", ""},
		{"unknown authority", nil, nil, exitUnreachable, "", "--ca-file"},
		{"no certificate", []string{"--ca-file", cert}, nil, exitUnreachable, "", ""},
		{"half a pair", []string{"--ca-file", cert, "--cert-file", cert}, nil, exitUsage, "", "both"},
		{"no PEM", []string{"--ca-file", "/dev/null"}, nil, exitUsage, "", ""},
	} {
		var out, errs strings.Builder
		code := run(append(append([]string{"--socket", at}, c.args...), "call", "math.add", "2", "40"), console{
			in: strings.NewReader(""), out: &out, err: &errs, getenv: func(name string) string { return c.env[name] },
		})
		if code != c.code || out.String() != c.out || !strings.Contains(errs.String(), c.hint) {
			t.Errorf("%s: exit %d, %q, %q; want %d, %q", c.what, code, out.String(), errs.String(), c.code, c.out)
		}
	}
}
