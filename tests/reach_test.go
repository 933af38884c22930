package tests

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How hubctl finds a hub, and what it says when it cannot reach it.

// certificate writes NAME.pem and NAME.key into dir: a certificate for hosts,
// issued by itself, that ends at until.
func certificate(t *testing.T, dir, name string, until time.Time, hosts ...string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: until.Add(-48 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for path, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// ask runs hubctl to its end, with further variables.
func ask(t *testing.T, dir string, env []string, args ...string) (out, talk string, code int) {
	t.Helper()
	programs(t)
	cmd := exec.Command(filepath.Join(binDir, "hubctl"), args...)
	cmd.Env = append(cleanEnv(dir), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestTLSErrorsHaveTheirReason(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	day := time.Now().Add(24 * time.Hour)
	good, goodKey := certificate(t, dir, "good", day, "127.0.0.1")
	old, oldKey := certificate(t, dir, "old", time.Now().Add(-time.Hour), "127.0.0.1")
	other, otherKey := certificate(t, dir, "other", day, "127.0.0.1")

	d := startDaemon(t, "--listen", "tls://127.0.0.1:0?auth=token", "--listen", "tcp://127.0.0.1:0?auth=none",
		"--tls-cert-file", good, "--tls-key-file", goodKey)
	secure, plain := d.listener("tls"), d.tcpAddress()
	_, port, _ := net.SplitHostPort(secure)
	closed := startDaemon(t, "--listen", "tls://127.0.0.1:0?auth=cert",
		"--tls-cert-file", good, "--tls-key-file", goodKey, "--tls-client-ca-file", good)
	expired := startDaemon(t, "--listen", "tls://127.0.0.1:0", "--tls-cert-file", old, "--tls-key-file", oldKey)

	for _, c := range []struct {
		name     string
		args     []string
		say      string
		hint     string
		exitCode int
	}{
		{"unknown authority", []string{"--socket", "tls://" + secure}, "the authority that issued its certificate is not known here (CN=good)", "--ca-file", 3},
		{"another host", []string{"--socket", "tls://localhost:" + port, "--ca-file", good}, "its certificate is for another host: ", "issued for localhost", 3},
		{"expired", []string{"--socket", "tls://" + expired.listener("tls"), "--ca-file", old}, "its certificate is not valid: ", "renew the certificate", 3},
		{"no TLS", []string{"--socket", "tls://" + plain, "--ca-file", good}, "it closed the connection during the TLS handshake", "--socket tcp://" + plain, 3},
		{"no certificate shown", []string{"--socket", "tls://" + closed.listener("tls"), "--ca-file", good}, "it refuses the connection: tls: ", "--cert-file", 3},
		{
			"a certificate of another authority",
			[]string{"--socket", "tls://" + closed.listener("tls"), "--ca-file", good, "--cert-file", other, "--key-file", otherKey},
			"it refuses the connection: tls: ", "tls.client_ca_file", 3,
		},
		{"TLS where none is expected", []string{"--socket", "tcp://" + secure}, "this address speaks TLS", "--socket tls://" + secure, 3},
		{"no token", []string{"--socket", "tls://" + secure, "--ca-file", good, "--timeout", "20s"}, "authentication", "HUBD_TOKEN", 4},
	} {
		out, talk, code := ask(t, d.dir, nil, append([]string{"call", "hub.info"}, c.args...)...)
		first, rest, _ := strings.Cut(talk, "\n")
		if code != c.exitCode || !strings.Contains(first, c.say) || !strings.HasPrefix(rest, "hint: ") || !strings.Contains(rest, c.hint) {
			t.Errorf("%s: exit code %d, %q, %q: want %d, %q, a hint with %q", c.name, code, out, talk, c.exitCode, c.say, c.hint)
		}
	}
}

// Commands that are made of what the hub offers reach it as all others do.
func TestGeneratedCommandsUseTheFlagsForTLS(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	cert, key := certificate(t, dir, "hub", time.Now().Add(time.Hour), "127.0.0.1")
	d := startDaemon(t, "--listen", "tls://127.0.0.1:0?auth=cert&scopes=read,call",
		"--tls-cert-file", cert, "--tls-key-file", key, "--tls-client-ca-file", cert, "--tls-clients", "hub=read,call")
	flags := []string{"--socket", "tls://" + d.listener("tls"), "--ca-file", cert, "--cert-file=" + cert, "--key-file", key}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"call", "math.add", "1", "2"}, "3\n"},
		{[]string{"math", "add", "1", "2"}, "3\n"},
		{[]string{"math", "add", "--help"}, "hubctl math add A B"},
		{[]string{"math", "--help"}, "hubctl math [command]"},
		{[]string{"bridge", "--help"}, "hubctl bridge"},
	} {
		for _, args := range [][]string{append(c.args[:len(c.args):len(c.args)], flags...), append(flags[:len(flags):len(flags)], c.args...)} {
			out, talk, code := ask(t, d.dir, nil, args...)
			if code != 0 || !strings.Contains(out, c.want) {
				t.Errorf("hubctl %v: exit code %d, %q, %q: want %q", args, code, out, talk, c.want)
			}
		}
	}
	if out, talk, code := ask(t, d.dir, nil, append(flags, "__complete", "math", "a")...); code != 0 || !strings.Contains(out, "add") {
		t.Errorf("completion: exit code %d, %q, %q: want add", code, out, talk)
	}
}

// su, sudo, cron and ssh do not always set XDG_RUNTIME_DIR: hub and client
// agree on the folder all the same.
func TestHubIsFoundWithoutRuntimeDir(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be another user")
	}
	programs(t)
	uid := 60000 + os.Getpid()%5000
	runtime := "/run/user/" + strconv.Itoa(uid)
	if err := os.MkdirAll(runtime, 0o700); err != nil {
		t.Skipf("cannot make %s: %v", runtime, err)
	}
	t.Cleanup(func() { os.RemoveAll(runtime) })
	home := shortDir(t)
	for _, dir := range []string{runtime, home} {
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(binDir, name), args...)
		cmd.Dir = home
		cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GORACE=halt_on_error=1 exitcode=66"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		return cmd
	}
	if err := command("hubctl", "--version").Run(); err != nil {
		t.Skipf("another user cannot run the programs in %s: %v", binDir, err)
	}

	out, err := command("hubctl", "ping").CombinedOutput()
	socket := runtime + "/hubd/hub.sock"
	if err == nil || !strings.Contains(string(out), socket) || !strings.Contains(string(out), `start one with "hubd"`) {
		t.Errorf("without a hub: %v, %q: want that nothing is at %s", err, out, socket)
	}
	hub := command("hubd")
	log := new(logBuffer)
	hub.Stderr, hub.Stdout = log, log
	if err := hub.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		hub.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		hub.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	if out, err := command("hubctl", "wait", "--timeout", patience.String()).CombinedOutput(); err != nil {
		t.Fatalf("hubctl does not find the hub: %v\n%s\n%s", err, out, log)
	}
	if out, err := command("hubctl", "call", "hub.info").Output(); err != nil || !strings.Contains(string(out), "unix://"+socket) {
		t.Errorf("the hub listens at %s: %v, want %s", out, err, socket)
	}

	os.RemoveAll(runtime) // as after the end of the last login
	if out, err := command("hubctl", "ping").CombinedOutput(); err == nil || !strings.Contains(string(out), "hubd --listen unix:///PATH") {
		t.Errorf("without any folder: %v, %q: want how to start a hub all the same", err, out)
	}
	if out, err := command("hubd").CombinedOutput(); err == nil || !strings.Contains(string(out), "no place for the socket") {
		t.Errorf("hubd without any folder: %v, %q", err, out)
	}
}
