package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// credentials: a key that only root may read reaches the hub, which is not
// root, through systemd.
func credentials(m *machine) {
	m.install()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hub"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	m.must(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	m.must(err)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	m.write("/etc/hubd/hub.crt", string(certificate))
	m.must(os.MkdirAll("/etc/hubd/private", 0o700))
	m.must(os.WriteFile("/etc/hubd/private/hub.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	m.write(configFile, "listen: ['tls://127.0.0.1:7443']\ntls:\n  cert_file: /etc/hubd/hub.crt\n  key_file: hub.key\n")

	// Without the credential the hub must not start.
	m.systemctl("start", "hubd.socket")
	if out, err := m.try("systemctl", "start", "hubd.service"); err == nil {
		m.errorf("the hub starts without its key: %s", out)
	}
	m.systemctl("stop", "hubd.socket")
	m.try("systemctl", "reset-failed", "hubd.service", "hubd.socket")

	m.dropIn("LoadCredential=hub.key:/etc/hubd/private/hub.key")
	m.systemctl("start", "hubd.socket", "hubd.service")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certificate)
	c, err := tls.Dial("tcp", "127.0.0.1:7443", &tls.Config{RootCAs: roots})
	if err != nil {
		m.fatalf("dial with TLS: %v", err)
	}
	c.Close()
	m.run("hubctl", "call", "echo", "1") // the socket of systemd is there as well
	// A reload finds the credential again.
	m.systemctl("reload", "hubd")
	m.expect("the number of reloads", m.metric(`hubd_reloads_total{result="ok"}`), "1")

	arguments, err := os.ReadFile("/proc/" + m.property("hubd.service", "MainPID") + "/environ")
	m.must(err)
	if strings.Contains(string(arguments), "PRIVATE KEY") || !strings.Contains(string(arguments), "CREDENTIALS_DIRECTORY=") {
		m.errorf("the secret is in the environment, or the folder is not")
	}
	if out, err := m.try("runuser", "-u", "hubd", "--", "cat", "/etc/hubd/private/hub.key"); err == nil {
		m.errorf("the user hubd may read the key itself: %s", out)
	}
}
