package hub

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How the kernel finds out that a TCP peer is no longer there.
//
// A peer that has vanished without a word, or behind a network that drops
// everything, answers no probe; one that acknowledges nothing of what it was
// sent gets none, but has a limit of its own. Both come to limits.tcp_silence:
// half of it without traffic until the first probe, then three probes.
const (
	keepProbes = 3
	leastKeep  = time.Second // the kernel counts in seconds
)

// A peer whose stream has ended has said so (a half-close: it still reads) or
// has closed its socket for good: both send the same FIN, and the kernel of
// either answers probes. The second one's forgets the connection after a minute
// (net.ipv4.tcp_fin_timeout) and answers the next probe with a reset. Where it
// is this machine's, its table tells the two apart at once.
const (
	probeIdle    = 1 * time.Second
	probeUnacked = 5 * time.Second
	tableAge     = time.Second
)

// keepAlive watches over a TCP connection: a peer that answers nothing for that
// long is gone.
func keepAlive(nc net.Conn, silence time.Duration) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	// What fails here fails on a connection that has ended already.
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: max(silence/2, leastKeep), Interval: max(silence/(2*keepProbes), leastKeep), Count: keepProbes,
	})
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	})
}

// orphans knows the sockets of this machine that nobody has open any more,
// though the other end of their connection is: the kernel waits for its FIN.
type orphans struct {
	mu   sync.Mutex
	read time.Time
	ends map[[2]string]bool // own and far address, as in the table
}

// has reports whether the socket at own, connected to far, is one of them. The
// table is read once a second at most, however many ask.
func (o *orphans) has(own, far netip.AddrPort) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) > tableAge {
		o.ends = map[[2]string]bool{}
		for _, table := range socketTables {
			// Where there is no table, the probes tell, later.
			_ = eachSocket(table, func(fields []string) bool {
				if fields[3] == "05" && fields[9] == "0" { // FIN_WAIT2, and no inode
					o.ends[[2]string{fields[1], fields[2]}] = true
				}
				return true
			})
		}
		o.read = time.Now()
	}
	for _, table := range socketTables {
		if o.ends[[2]string{tableForm(own, table), tableForm(far, table)}] {
			return true
		}
	}
	return false
}

// orphaned reports whether the peer of c is a program of this machine that has
// closed its socket.
func (c *conn) orphaned() bool {
	peer, err := netip.ParseAddrPort(c.net.RemoteAddr().String())
	if err != nil {
		return false // a Unix socket
	}
	local, err := netip.ParseAddrPort(c.net.LocalAddr().String())
	if err != nil || !peer.Addr().Unmap().IsLoopback() && peer.Addr().Unmap() != local.Addr().Unmap() {
		return false
	}
	return c.hub.orphans.has(peer, local)
}

// probe looks more often whether the peer is still there, because its stream
// has ended.
func (c *conn) probe() {
	if c.probing.Swap(true) || c.listener.addr.network != "tcp" {
		return
	}
	_ = c.raw.Control(func(fd uintptr) {
		for option, value := range map[int]int{
			unix.TCP_USER_TIMEOUT: int(probeUnacked.Milliseconds()),
			unix.TCP_KEEPINTVL:    int(probeIdle.Seconds()),
			unix.TCP_KEEPIDLE:     int(probeIdle.Seconds()),
		} {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, option, value) // it fails on a connection that has ended
		}
	})
}
