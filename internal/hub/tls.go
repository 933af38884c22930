package hub

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// certificates is what TLS listeners show and believe. The files are looked at
// when somebody connects, at most once in lookAgain, and on reload: programs
// that renew certificates need to tell nobody.
type certificates struct {
	cert, key, clientCA string // paths; clientCA may be ""
	log                 *zap.Logger
	metrics             *metrics

	now atomic.Pointer[tls.Config]

	mu     sync.Mutex
	looked time.Time
	stamps [3]stamp
}

// stamp tells whether a file is the one that was read.
type stamp struct {
	size     int64
	modified time.Time
	inode    uint64
}

const lookAgain = time.Second

// newCertificates reads the files of a hub that has TLS listeners.
func newCertificates(o Options, log *zap.Logger, m *metrics) (*certificates, error) {
	t := &certificates{cert: o.TLSCert, key: o.TLSKey, clientCA: o.TLSClientCA, log: log, metrics: m}
	if err := t.load(); err != nil {
		return nil, &ConfigError{[]error{err}}
	}
	return t, nil
}

// server returns the configuration of a connection. It asks for the one of the
// moment in each handshake. Where nobody gets in without a certificate, known
// says whether it is that of somebody who is listed, and TLS tells the client
// what is wrong; else known is nil.
func (t *certificates) server(known func(*x509.Certificate) bool) *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		t.look()
		now := t.now.Load()
		if known == nil {
			return now, nil
		}
		now = now.Clone()
		now.ClientAuth = tls.RequireAndVerifyClientCert
		now.VerifyConnection = func(s tls.ConnectionState) error {
			if cert := s.VerifiedChains[0][0]; !known(cert) { // there is one, as it is required
				return fmt.Errorf("certificate of nobody who is listed: %s", rpc.CleanText(cert.Subject.String(), 200))
			}
			return nil
		}
		return now, nil
	}}
}

// look reads the files again if they have changed.
func (t *certificates) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.looked) < lookAgain {
		return
	}
	t.looked = time.Now()
	if t.stampsNow() != t.stamps {
		_ = t.again() // the log and the metrics tell
	}
}

// reload reads the files again in any case.
func (t *certificates) reload() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.again()
}

// again is load for files that were good before: those stay in use until the
// new ones are.
func (t *certificates) again() error {
	err := t.loadLocked()
	if err != nil {
		t.metrics.tlsReloads.WithLabelValues("failed").Inc()
		t.log.Error("the certificate is not taken over, the old one stays", zap.Error(err))
		return err
	}
	t.metrics.tlsReloads.WithLabelValues("ok").Inc()
	t.log.Info("certificate read again")
	return nil
}

func (t *certificates) load() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.loadLocked()
}

func (t *certificates) loadLocked() error {
	t.looked = time.Now()
	t.stamps = t.stampsNow() // before reading: a change meanwhile is seen as one
	pair, err := readPair(t.cert, t.key)
	if err != nil {
		return fmt.Errorf("tls.cert_file %s, tls.key_file %s: %w", t.cert, t.key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"http/1.1"}, // what browsers ask for; others ask for nothing
	}
	if t.clientCA != "" {
		text, err := readSmall(t.clientCA)
		if err != nil {
			return fmt.Errorf("tls.client_ca_file: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("tls.client_ca_file %s: has no certificate", t.clientCA)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
		config.SessionTicketsDisabled = true // a ticket would outlive the authority that was taken out
	}
	t.metrics.tlsExpiry.Set(float64(pair.Leaf.NotAfter.Unix()))
	t.now.Store(config)
	return nil
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readSmall(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readSmall(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	return rpc.SkipBOM(text), err
}

func (t *certificates) stampsNow() (s [3]stamp) {
	for i, path := range []string{t.cert, t.key, t.clientCA} {
		if path == "" {
			continue
		}
		if st, err := os.Stat(path); err == nil {
			s[i] = stamp{st.Size(), st.ModTime(), inodeOf(st)}
		}
	}
	return s
}

// handshake makes the TLS layer of c, and says who the peer is if it has shown
// a certificate.
func (c *conn) handshake() error {
	if err := c.net.SetReadDeadline(time.Now().Add(c.hub.opts.Limits.Handshake)); err != nil {
		return err
	}
	if err := c.tls.HandshakeContext(c.hub.ctx); err != nil {
		return err
	}
	if err := c.net.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	chains := c.tls.ConnectionState().VerifiedChains
	if len(chains) > 0 {
		if p := c.hub.live.Load().certified(c.listener.addr, chains[0][0]); p != nil {
			c.base = p
			c.peer.Store(p)
			if !c.hub.open.authenticated(c, p) {
				return errTooManyConnections
			}
			return nil
		}
		c.hub.audit.request(c, "certificate of nobody who is listed: "+rpc.CleanText(chains[0][0].Subject.String(), 200))
	}
	return nil
}

// certified returns the peer that a certificate, which a known authority has
// issued, stands for; nil when nobody is listed under its names.
func (l *live) certified(a address, cert *x509.Certificate) *rpc.Peer {
	names := append([]string{cert.Subject.CommonName}, cert.DNSNames...)
	names = append(names, cert.EmailAddresses...)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	for _, name := range names {
		if scopes := l.clients[name]; name != "" && scopes != 0 {
			source := "tls.clients in the configuration of the hub"
			if a.scopes != 0 {
				scopes &= a.scopes
				source += ", or scopes= of the listener"
			}
			return &rpc.Peer{UID: -1, GID: -1, PID: -1, Name: name, Scopes: scopes, Grant: rpc.NewGrant(cert.NotAfter),
				By: rpc.ByCertificate, Source: source}
		}
	}
	return nil
}

// below is the socket of a connection as its TLS layer uses it. Deadlines of
// writes are those of the stall limit, not of the layer.
type below struct{ c *conn }

func (b below) Read(p []byte) (int, error) { return b.c.net.Read(p) }

// Write blocks like the connection's own. Once the connection is being closed
// it makes one attempt and lets the rest go: that can only be the alert that
// says so, and nobody may have to wait for a peer that takes nothing.
func (b below) Write(p []byte) (int, error) {
	if b.c.closing.Load() {
		_, err := b.c.trySocket(p)
		return len(p), err
	}
	return b.c.writeSocket(p)
}

func (b below) Close() error                      { return b.c.net.Close() }
func (b below) LocalAddr() net.Addr               { return b.c.net.LocalAddr() }
func (b below) RemoteAddr() net.Addr              { return b.c.net.RemoteAddr() }
func (b below) SetDeadline(t time.Time) error     { return b.c.net.SetReadDeadline(t) }
func (b below) SetReadDeadline(t time.Time) error { return b.c.net.SetReadDeadline(t) }
func (b below) SetWriteDeadline(time.Time) error  { return nil }

// sendCloseNotify tells a TLS peer that the end of the connection is meant, without
// waiting for anything: a write that waits is made to fail first.
func (c *conn) sendCloseNotify() {
	c.closing.Store(true)
	c.net.SetWriteDeadline(time.Unix(1, 0))
	c.tls.Close()
}
