package tests

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The npm package capnweb against a real hubd.

// TestInteropCapnwebNode runs the checks of interop/capnweb, over the network
// and over the Unix socket: what every hub must do, and what takes a whole daemon.
func TestInteropCapnwebNode(t *testing.T) {
	t.Parallel()
	dir := needNode(t, "capnweb")
	for _, unix := range []bool{false, true} {
		t.Run(map[bool]string{false: "TCP", true: "Unix"}[unix], func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--http-origins", "https://app.example")
			env := []string{"HUBD_URL=http://" + d.tcpAddress() + "/capnweb", "HUBD_PID=" + strconv.Itoa(d.cmd.Process.Pid)}
			if unix {
				env = append(env, "HUBD_UNIX="+d.socket)
			}
			for _, script := range []string{"suite.mjs", "hub.mjs"} { // one after the other: the second counts what is open
				t.Run(script, func(t *testing.T) {
					out, err := nodeTest(t, dir, script, env...)
					if err != nil {
						t.Fatalf("%v\n%s", err, out)
					}
				})
			}
		})
	}
}

// TestInteropCapnwebTokens runs the checks of a client that has to say who it is.
func TestInteropCapnwebTokens(t *testing.T) {
	t.Parallel()
	dir := needNode(t, "capnweb")
	cert, key := selfSigned(t)
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0", "--listen", "tls://127.0.0.1:0", "--tls-cert-file", cert, "--tls-key-file", key)
	token, said, code := d.run("", "hubctl", "token", "create", "page")
	if code != 0 {
		t.Fatalf("hubctl token create: %d %s", code, said)
	}
	out, err := nodeTest(t, dir, "token.mjs", "HUBD_URL=http://"+d.tcpAddress()+"/capnweb", "HUBD_TOKEN="+strings.TrimSpace(token),
		"HUBD_TLS=wss://"+d.listener("tls")+"/capnweb", "HUBD_CA="+cert)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestCompareCapnweb prints how a hub and a server of the library itself do
// under the same client. It measures and judges nothing.
func TestCompareCapnweb(t *testing.T) {
	if os.Getenv("HUBD_BENCH") == "" {
		t.Skip("set HUBD_BENCH=1 to measure, or run make compare")
	}
	dir := needNode(t, "capnweb")
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	cmd := exec.CommandContext(t.Context(), "node", "bench.mjs")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HUBD_URL=http://"+d.tcpAddress()+"/capnweb", "HUBD_SOCKET="+d.socket, "HUBD_PID="+strconv.Itoa(d.cmd.Process.Pid))
	out, err := cmd.CombinedOutput()
	t.Logf("\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// selfSigned writes a certificate for 127.0.0.1 and its key.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
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
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// needNode returns the folder of a client of interop/ whose npm packages are
// installed, or skips the test.
func needNode(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed")
	}
	dir := filepath.Join("interop", name)
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		t.Skipf("the npm packages of %s are not installed: make prepare", dir)
	}
	return dir
}

// nodeTest runs a file of checks with Node's own test runner.
func nodeTest(t *testing.T, dir, script string, env ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-force-exit", "--test-reporter=spec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}
