package hub

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	addr "github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// auth says how a TCP listener learns who its peers are.
type auth string

const (
	authToken auth = "token" // a bearer token
	authUID   auth = "uid"   // the owner of the peer's socket, as the kernel tells
	authCert  auth = "cert"  // a certificate that the TLS client shows
	authNone  auth = "none"  // nobody is asked
)

// address is a parsed listen URL.
type address struct {
	network   string // "unix" or "tcp"
	path      string // of a Unix socket, absolute
	hostport  string // of a TCP socket
	tls       bool   // of a TCP socket
	auth      auth
	scopes    rpc.Scope      // 0: what the kind of listener gives
	mode      uint32         // of a Unix socket
	group     int            // -1: unchanged
	protocols []rpc.Protocol // nil: all
}

// String returns the URL without its query.
func (a address) String() string {
	if a.network == "unix" {
		return addr.Format("unix", a.path)
	}
	if a.tls {
		return addr.Format("tls", a.hostport)
	}
	return addr.Format("tcp", a.hostport)
}

// speaks reports whether the listener lets p in.
func (a address) speaks(p rpc.Protocol) bool {
	return a.protocols == nil || slices.Contains(a.protocols, p)
}

// parseAddress reads a listen URL:
//
//	unix:///absolute/path?mode=0660&group=G&scopes=read,call&protocols=a,b
//	tcp://HOST:PORT?auth=token|uid|none&scopes=read,call&protocols=a,b
//	tls://HOST:PORT?auth=token|cert|uid|none&scopes=read,call&protocols=a,b
func parseAddress(text string, insecure bool) (address, error) {
	a, err := readAddress(text)
	if err == nil {
		err = a.checkTrust(insecure)
	}
	if err != nil {
		return a, fmt.Errorf("listen %q: %w", text, err)
	}
	return a, nil
}

// parseMetrics reads where /metrics alone is served: HOST:PORT, where nobody is
// asked who scrapes, or an address as in listen, but for its scopes and
// protocols, and not a Unix socket: each of those serves /metrics as it is.
func parseMetrics(text string, insecure bool) (address, error) {
	fail := func(err error) (address, error) { return address{}, fmt.Errorf("metrics %q: %w", text, err) }
	read := text
	if !strings.Contains(text, "://") {
		if strings.ContainsAny(text, "/?#@") {
			return fail(errors.New("expected HOST:PORT, tcp://HOST:PORT or tls://HOST:PORT"))
		}
		read = "tcp://" + text + "?auth=none"
	}
	a, err := readAddress(read)
	switch {
	case err != nil:
		return fail(err)
	case a.network == "unix":
		return fail(errors.New("expected tcp:// or tls://; a Unix socket of listen serves /metrics, too"))
	case a.scopes != 0 || a.protocols != nil:
		return fail(errors.New("scopes and protocols are for listen"))
	}
	a.scopes = rpc.ScopeRead
	if err := a.checkTrust(insecure); err != nil {
		if read != text {
			err = fmt.Errorf("others can reach this address: take tls://%s, where scrapes need a token, or --allow-insecure", text)
		}
		return fail(err)
	}
	return a, nil
}

// readAddress reads an address without asking whom it would let in.
func readAddress(text string) (address, error) {
	a := address{auth: authToken, mode: 0o600, group: -1}
	fail := func(format string, args ...any) (address, error) { return a, fmt.Errorf(format, args...) }
	u, err := addr.Parse(text)
	if err != nil {
		return a, err
	}
	switch u.Network {
	case "unix":
		a.network, a.path = "unix", u.Path
		if filepath.Clean(a.path) != a.path {
			return fail("path is not in its shortest form, which is %s", filepath.Clean(a.path))
		}
	case "tcp", "tls":
		a.network, a.hostport, a.tls = "tcp", u.Path, u.Network == "tls"
	}
	for key, values := range u.Query {
		if len(values) != 1 {
			return fail("%s is given more than once", key)
		}
		v := values[0]
		switch {
		case key == "protocols":
			for name := range strings.SplitSeq(v, ",") {
				if !slices.Contains(rpc.Protocols(), rpc.Protocol(name)) {
					return fail("no protocol %q; there are %v", name, rpc.Protocols())
				}
				a.protocols = append(a.protocols, rpc.Protocol(name))
			}
		case key == "scopes":
			s, ok := rpc.ParseScope(v)
			if !ok {
				return fail("scopes %q: expected some of read,call,provide,admin", v)
			}
			a.scopes = s
		case key == "auth" && a.network == "tcp":
			switch a.auth = auth(v); a.auth {
			case authToken, authUID, authNone:
			case authCert:
				if !a.tls {
					return fail("auth=cert needs tls://")
				}
			default:
				return fail("auth %q: expected token, uid, none or, with tls://, cert", v)
			}
		case key == "mode" && a.network == "unix":
			m, err := strconv.ParseUint(v, 8, 32)
			if err != nil || m > 0o777 || m&0o600 != 0o600 {
				return fail("mode %q: expected an octal number such as 0660 in which the owner may read and write", v)
			}
			a.mode = uint32(m)
		case key == "group" && a.network == "unix":
			if a.group, err = groupID(v); err != nil {
				return fail("group: %w", err)
			}
		default:
			return fail("unknown option %q", key)
		}
	}
	return a, nil
}

// checkTrust refuses TCP addresses that would let strangers in.
func (a address) checkTrust(insecure bool) error {
	loopback := isLoopback(a.hostport)
	switch {
	case a.network != "tcp":
		return nil
	case a.auth == authNone && !loopback && !insecure:
		return errors.New("auth=none is for loopback addresses; elsewhere it needs --allow-insecure")
	case a.auth == authNone && a.scopes&rpc.ScopeAdmin != 0:
		return errors.New("peers of auth=none cannot have scope admin")
	case a.auth == authUID && !loopback:
		return errors.New("auth=uid works on loopback addresses only")
	}
	return nil
}

// isLoopback reports whether only programs of this machine can reach host:port.
func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// groupID looks a group up by name or number.
func groupID(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return -1, fmt.Errorf("no group %q", name)
	}
	return strconv.Atoi(g.Gid)
}
