package hub

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// identify says who is at the other end of c, nil when it is nobody who may
// come in. What cannot be found out counts as nobody.
func (c *conn) identify() (*rpc.Peer, error) {
	a := c.listener.addr
	if a.network == "unix" {
		cred, err := c.credentials()
		if err != nil {
			return nil, err
		}
		return a.user(&rpc.Peer{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid)}), nil
	}
	switch a.auth {
	case authNone:
		p := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		if a.scopes != 0 {
			p.Scopes &= a.scopes
		}
		return p, nil
	case authUID:
		uid, err := ownerOfSocket(c.net.RemoteAddr(), c.net.LocalAddr())
		if err != nil {
			return nil, err
		}
		return a.user(&rpc.Peer{UID: uid, GID: -1, PID: -1}), nil
	default:
		return &rpc.Peer{UID: -1, GID: -1, PID: -1, Unauthenticated: true}, nil
	}
}

// user gives p, whose uid is known, the scopes that it has on the listener:
// all for the hub's own user and root, those of the listener for others that
// its socket lets in, and nothing for everybody else.
func (a address) user(p *rpc.Peer) *rpc.Peer {
	switch {
	case p.UID == os.Geteuid() || p.UID == 0:
		p.Scopes = rpc.AllScopes
	case a.network == "unix" && a.mode&0o022 != 0: // who may write to a socket may connect
		p.Scopes = rpc.ScopeRead
		if a.scopes != 0 {
			p.Scopes = a.scopes
		}
	default:
		return nil
	}
	return p
}

func (c *conn) credentials() (*unix.Ucred, error) {
	var cred *unix.Ucred
	var e error
	err := c.raw.Control(func(fd uintptr) {
		cred, e = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return nil, err
	}
	return cred, e
}

// ownerOfSocket asks the kernel's table which user owns the socket whose own
// address is peer and which is connected to local.
func ownerOfSocket(peer, local net.Addr) (int, error) {
	p, err := netip.ParseAddrPort(peer.String())
	if err != nil {
		return -1, err
	}
	l, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return -1, err
	}
	// A socket of the IPv6 family may carry an IPv4 connection.
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		uid, found, err := findSocket(table, tableForm(p, table), tableForm(l, table))
		if err != nil {
			return -1, err
		}
		if found {
			return uid, nil
		}
	}
	return -1, fmt.Errorf("the kernel knows no socket %s", p)
}

// tableForm writes an address as /proc/net/tcp does: each group of four bytes
// in the byte order of the machine.
func tableForm(a netip.AddrPort, table string) string {
	var ip []byte
	if strings.HasSuffix(table, "6") {
		b := a.Addr().As16()
		ip = b[:]
	} else {
		if !a.Addr().Unmap().Is4() {
			return ""
		}
		b := a.Addr().Unmap().As4()
		ip = b[:]
	}
	text := make([]byte, 0, len(ip))
	for i := 0; i < len(ip); i += 4 {
		text = binary.BigEndian.AppendUint32(text, binary.NativeEndian.Uint32(ip[i:]))
	}
	return strings.ToUpper(hex.EncodeToString(text)) + fmt.Sprintf(":%04X", a.Port())
}

func findSocket(table, own, far string) (uid int, found bool, err error) {
	if own == "" || far == "" {
		return -1, false, nil
	}
	f, err := os.Open(table)
	if err != nil {
		if os.IsNotExist(err) {
			return -1, false, nil
		}
		return -1, false, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid ...
		fields := strings.Fields(s.Text())
		if len(fields) > 7 && fields[1] == own && fields[2] == far {
			uid, err := strconv.Atoi(fields[7])
			return uid, err == nil, err
		}
	}
	return -1, false, s.Err()
}
