package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/address"
)

// unreachable is a hub that cannot be connected to.
type unreachable struct {
	addr client.Address
	err  error
}

func (e unreachable) Unwrap() error { return e.err }

func (e unreachable) Error() string {
	where := e.addr.Path
	if e.addr.Network != "unix" {
		where = e.addr.String()
	}
	reason := e.err.Error()
	errno, system := errors.AsType[syscall.Errno](e.err)
	secure, _ := e.secure()
	switch {
	case secure != "":
		reason = secure
	case client.KindOf(e.err) == client.KindTimeout: // the client's own words
	case e.hungUp():
		reason = "it closed the connection"
	case system:
		reason = errno.Error()
	}
	return fmt.Sprintf("cannot reach %s: %s", where, reason)
}

// secure says what went wrong with TLS, and what to do about it; "" when
// nothing did.
func (e unreachable) secure() (reason, hint string) {
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](e.err); ok {
		by := ""
		if unknown.Cert != nil && unknown.Cert.Issuer.String() != "" {
			by = " (" + unknown.Cert.Issuer.String() + ")"
		}
		return "the authority that issued its certificate is not known here" + by,
			"name the file with that authority's certificate with --ca-file or HUBD_CA_FILE"
	}
	if wrong, ok := errors.AsType[x509.HostnameError](e.err); ok {
		return "its certificate is for another host: " + strings.TrimPrefix(wrong.Error(), "x509: "),
			"use an address that the certificate is for, or have it issued for " + wrong.Host
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](e.err); ok {
		hint := "the hub needs another certificate: tls.cert_file"
		if invalid.Reason == x509.Expired {
			hint = "renew the certificate of the hub, and look at the clocks of both machines"
		}
		return "its certificate is not valid: " + strings.TrimPrefix(invalid.Error(), "x509: "), hint
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](e.err); ok {
		return "its certificate cannot be trusted: " + strings.TrimPrefix(untrusted.Err.Error(), "x509: "),
			"look at the certificate: openssl s_client -showcerts -connect " + e.addr.Path
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](e.err); ok {
		return "it does not speak TLS", "try --socket tcp://" + e.addr.Path
	}
	if op, ok := errors.AsType[*net.OpError](e.err); ok && op.Op == "remote error" {
		return "it refuses the connection: " + op.Err.Error(),
			"with auth=cert it wants a certificate of its tls.client_ca_file: --cert-file and --key-file"
	}
	if e.addr.Network == "tls" && e.hungUp() {
		return "it closed the connection during the TLS handshake", "try --socket tcp://" + e.addr.Path + " if it has no TLS; else its log says why"
	}
	return "", ""
}

// hungUp reports whether the hub took the connection and ended it without a word.
func (e unreachable) hungUp() bool {
	if _, dialing := errors.AsType[*net.OpError](e.err); !dialing && client.KindOf(e.err) == client.KindDisconnected {
		return true // the client's own words for the end of the stream
	}
	return errors.Is(e.err, syscall.ECONNRESET) || errors.Is(e.err, syscall.EPIPE) || errors.Is(e.err, net.ErrClosed) || errors.Is(e.err, io.EOF)
}

func (e unreachable) hint() string {
	_, lookup := errors.AsType[*net.DNSError](e.err)
	if reason, hint := e.secure(); reason != "" {
		return hint
	}
	kind := client.KindOf(e.err)
	switch {
	case lookup:
		return "no machine of that name is known: see --socket, HUBD_SOCKET and \"hubctl context ls\""
	case kind == client.KindTimeout && e.addr.Network == "unix":
		return "something listens there and says nothing: it is stopped, stuck, overloaded or no hubd"
	case kind == client.KindTimeout:
		return "nothing is heard from there: the machine is off, a firewall drops what is sent, or the hub is stopped"
	case e.addr.Network == "tcp" && strings.Contains(e.err.Error(), "speaks TLS"): // the hub's words
		return "try --socket tls://" + e.addr.Path
	case e.hungUp() && e.addr.Network == "unix" && ownSocket(e.addr.Path):
		return "it may have no room for another connection: its log says why"
	case e.hungUp() && e.addr.Network == "unix":
		return "it lets in its own user, root and whom its configuration names: peers: [" + userName() + "=read,call]"
	case e.hungUp():
		return "with auth=uid a hub lets in whom its configuration names under peers; else its log says why"
	case errors.Is(e.err, fs.ErrNotExist):
		return startHint(e.addr)
	case e.addr.Network == "unix" && isNoSocket(e.addr.Path):
		return "that is not a socket: name the hub's with --socket or HUBD_SOCKET"
	case errors.Is(e.err, syscall.ECONNREFUSED) && e.addr.Network == "unix":
		return `the hub that listened there has ended: start it again with "hubd"`
	case errors.Is(e.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("no hub listens there: start one with \"hubd --listen %s\"", e.addr)
	case errors.Is(e.err, fs.ErrPermission):
		return permissionFix(e.addr.Path)
	}
	switch kind {
	case client.KindUnauthenticated:
		return "put the token into the variable HUBD_TOKEN"
	case client.KindOverloaded:
		return "the hub has all the connections it takes: try again"
	}
	return ""
}

// startHint says how a hub comes to be at a socket that is not there.
func startHint(addr client.Address) string {
	own, err := address.Default()
	switch {
	case err != nil && addr.Path == address.System:
		return "no hub listens there, and this user has no folder for a socket (XDG_RUNTIME_DIR): " +
			`start one with "hubd --listen unix:///PATH" and name it with --socket or HUBD_SOCKET`
	case err == nil && (addr.Path == own || addr.Path == address.System):
		return `no hub listens there: start one with "hubd", or name its socket with --socket or HUBD_SOCKET`
	}
	return fmt.Sprintf(`no hub listens there: start one with "hubd --listen %s", or name its socket with --socket or HUBD_SOCKET`, addr)
}

// isNoSocket reports whether there is something other than a socket at path.
func isNoSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&fs.ModeSocket == 0
}
