package hub

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unsafe"

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
		p := &rpc.Peer{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid), By: rpc.ByKernel}
		return c.hub.live.Load().user(a, p, c.groups), nil
	}
	switch a.auth {
	case authNone:
		p := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide, By: rpc.ByNobody,
			Source: "hubctl token create: a token permits more"}
		if a.scopes != 0 {
			p.Scopes &= a.scopes
			p.Source = "scopes= of the listener, or " + p.Source
		}
		return p, nil
	case authUID:
		uid, err := c.socketOwner()
		if err != nil {
			return nil, err
		}
		groups := func() ([]int, error) { return groupsOf(uid) }
		return c.hub.live.Load().user(a, &rpc.Peer{UID: uid, GID: -1, PID: -1, By: rpc.ByKernel}, groups), nil
	default:
		return &rpc.Peer{UID: -1, GID: -1, PID: -1, Unauthenticated: true, By: rpc.ByNobody}, nil
	}
}

// user gives p, whose uid is known, the scopes that it has on the listener: all
// for the hub's own user and root, for others what the configuration gives
// them. Where it says nothing of them, those that a Unix socket lets in by
// intent have what the URL of its listener says, and members of the socket's
// group may read. Everybody else is nobody: nil.
func (l *live) user(a address, p *rpc.Peer, groups func() ([]int, error)) *rpc.Peer {
	p.Scopes = l.scopes(a, p.UID, groups)
	switch own := p.UID == os.Geteuid() || p.UID == 0; {
	case own:
		p.Source = "being root or the user of the hub"
	case a.scopes != 0:
		p.Source = "peers in the configuration of the hub, or scopes= of the listener"
	default:
		p.Source = "peers in the configuration of the hub"
	}
	if a.network == "tcp" && a.scopes != 0 {
		p.Scopes &= a.scopes
		p.Source = "scopes= of the listener"
	}
	if p.Scopes == 0 {
		return nil
	}
	return p
}

func (l *live) scopes(a address, uid int, groups func() ([]int, error)) rpc.Scope {
	if uid == os.Geteuid() || uid == 0 {
		return rpc.AllScopes
	}
	s := l.uids[uid]
	var member []int
	if len(l.gids) > 0 || a.network == "unix" && a.mode&0o020 != 0 {
		member, _ = groups() // who cannot be found out is a member of none
	}
	for _, g := range member {
		s |= l.gids[g]
	}
	switch {
	case s != 0 || a.network != "unix" || a.mode&0o022 == 0: // who may write to a socket may connect
		return s
	case a.scopes != 0:
		return a.scopes
	case a.mode&0o020 != 0 && slices.Contains(member, a.group):
		return rpc.ScopeRead
	}
	return 0
}

// groups asks the kernel which groups the peer of a Unix socket was in when it connected.
func (c *conn) groups() ([]int, error) {
	cred, err := c.credentials()
	if err != nil {
		return nil, err
	}
	list := make([]uint32, 64)
	var n uint32
	for {
		n = uint32(len(list) * 4)
		var e unix.Errno
		err := c.raw.Control(func(fd uintptr) {
			_, _, e = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&list[0])), uintptr(unsafe.Pointer(&n)), 0)
		})
		if err != nil {
			return nil, err
		}
		if e == unix.ERANGE && int(n) > len(list)*4 && n <= 1<<18+4 { // a process is in 65536 groups at most
			list = make([]uint32, n/4)
			continue
		}
		if e != 0 {
			return []int{int(cred.Gid)}, os.NewSyscallError("getsockopt", e)
		}
		break
	}
	groups := []int{int(cred.Gid)}
	for _, g := range list[:min(int(n)/4, len(list))] {
		groups = append(groups, int(g))
	}
	return groups, nil
}

// groupsOf looks up the groups of a user.
func groupsOf(uid int) ([]int, error) {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return nil, err
	}
	names, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	groups := make([]int, 0, len(names))
	for _, name := range names {
		if g, err := strconv.Atoi(name); err == nil {
			groups = append(groups, g)
		}
	}
	return groups, nil
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

// errPeerLeft says that a connection ended before it was known whose it was.
var errPeerLeft = errors.New("the peer has left")

// socketOwner returns the user whose socket is at the other end of a TCP connection
// of this machine. The addresses of one that was reset may belong to somebody
// else's next connection a moment later, so an answer counts only if c was
// still connected after it was given: until then there can be no other.
func (c *conn) socketOwner() (int, error) {
	uid, err := ownerOfSocket(c.net.RemoteAddr(), c.net.LocalAddr())
	if err != nil {
		return -1, err
	}
	var info *unix.TCPInfo
	var e error
	if err := c.raw.Control(func(fd uintptr) { info, e = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return -1, err
	}
	switch {
	case e != nil:
		return -1, os.NewSyscallError("getsockopt", e)
	case info.State != unix.BPF_TCP_ESTABLISHED && info.State != unix.BPF_TCP_CLOSE_WAIT:
		return -1, errPeerLeft
	}
	return uid, nil
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
	for _, table := range socketTables {
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

// socketTables list the TCP sockets of this machine.
var socketTables = []string{"/proc/net/tcp", "/proc/net/tcp6"}

// eachSocket visits the rows of a table until visit returns false. The fields are
//
//	sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
func eachSocket(table string, visit func(fields []string) bool) error {
	f, err := os.Open(table)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 9 && !visit(fields) {
			return nil
		}
	}
	return s.Err()
}

func findSocket(table, own, far string) (uid int, found bool, err error) {
	if own == "" || far == "" {
		return -1, false, nil
	}
	bad := error(nil)
	err = eachSocket(table, func(fields []string) bool {
		if fields[1] != own || fields[2] != far {
			return true
		}
		switch fields[3] {
		case "01", "04", "05": // established, or it has ended its own stream
		default: // one that wants to connect from there, or has been
			return true
		}
		uid, bad = strconv.Atoi(fields[7])
		// Sockets that nobody has open are listed as those of user 0.
		found = fields[9] != "0"
		return false
	})
	if err = errors.Join(err, bad); err != nil || !found {
		return -1, false, err
	}
	return uid, true, nil
}
