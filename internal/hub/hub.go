// Package hub is the daemon: one method table behind sockets that speak every
// protocol. Run is the whole of it; the files follow the way of a connection:
//
//	run.go        start, reload and orderly shutdown
//	listen.go     addresses, lock files, accept loops
//	serve.go      one connection from accept to its protocol
//	detect.go     which protocol a connection speaks
//	conn.go       the connection itself; conns.go all of them and their limits
//	http.go       everything that speaks HTTP; guard.go who may
//	snekrpc.go    length-prefixed messages and their tunnel through HTTP
//	notify.go     what the service manager is told; watchdog.go whether to
//	journal.go    the log as entries with fields of the systemd journal
//	peer.go       who is at the other end; trust.go by which token
//	tls.go        certificates, and connections over TLS
//	tokens.go     the methods about tokens; audit.go what was denied
//	metrics.go    what the calls and connections did, for Prometheus
//	methods.go    the hub's own methods
//	state.go      the state service and what it is told of the hub
package hub

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/filesvc"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/rpc/kkrpc"
	"github.com/hubd-dev/hubd/internal/rpc/kollabor"
	"github.com/hubd-dev/hubd/internal/rpc/krpc"
	"github.com/hubd-dev/hubd/internal/rpc/snekrpc"
	"github.com/hubd-dev/hubd/internal/session"
	"github.com/hubd-dev/hubd/internal/statesvc"
	"github.com/hubd-dev/hubd/internal/trust"
)

// hub is a running daemon. Everything above the line is set before the first
// connection is accepted and not changed afterwards.
type hub struct {
	opts    Options // as started, with defaults filled in
	version string
	started time.Time

	log       *zap.Logger
	level     zap.AtomicLevel
	table     *rpc.Table
	gate      *rpc.Gate
	metrics   *metrics
	open      *registry                // of connections
	spoken    []rpc.Protocol           // all of them
	protocols map[rpc.Protocol]handler // those that need no HTTP
	native    *kollabor.Server
	capnweb   *capnweb.Server
	kkrpc     *kkrpc.Server
	krpc      *krpc.Server
	spool     *krpc.Spool
	awaited   awaited
	files     *filesvc.Service // nil when there is no folder for it
	snek      *snekrpc.Server
	remotes   []*snekrpc.Remote
	sessions  *session.Registry
	web       *web
	agentID   string // tells hubs apart
	store     statesvc.Store
	service   *statesvc.Service // of the store
	state     *os.File          // lock of the state folder
	tokens    *trust.Store      // nil until start
	attempts  trust.Limiter     // of what is no token
	begun     rpc.Budget        // of unfinished frames
	orphans   orphans
	audit     *audit
	certs     *certificates // nil without TLS

	sessionDir  string   // of the sessions' sockets; "" when there are none
	sessionLock *os.File // of that folder

	ctx  context.Context // of connections: ends, with its cause, when shutdown stops waiting
	stop context.CancelCauseFunc

	// ------

	live       atomic.Pointer[live] // what a reload swaps
	phase      atomic.Uint32
	monitors   monitors
	provided   providers
	configGood atomic.Bool   // the last reload was taken over
	answered   atomic.Uint64 // calls
	unwatch    func()        // ends the watchdog; set once the hub is ready

	stopRequest chan string   // that the hub stops, and why
	settled     chan struct{} // a call has ended while the hub drains
	unanswered  unanswered    // connections without a first answer
	reloading   sync.Mutex    // one reload at a time

	presenceMu sync.Mutex     // one presence file at a time; before mu
	presenceOn bool           // guarded by presenceMu
	background sync.WaitGroup // ends with ctx

	mu        sync.Mutex
	listeners []*listener
	closed    bool           // no listener is added any more
	accepting sync.WaitGroup // accept loops
	serving   sync.WaitGroup // connections
}

// handler serves a connection of one protocol until it is over. ctx ends, with
// its cause, when the hub shuts down.
type handler func(ctx context.Context, c *conn) error

// live is the part of the options that a reload changes. It is swapped as a whole.
type live struct {
	hosts   []string
	origins []string
	uids    map[int]rpc.Scope    // what users may
	gids    map[int]rpc.Scope    // what members of groups may
	clients map[string]rpc.Scope // what the owners of certificates may, by a name in them
}

// newLive takes what a reload changes out of validated options.
func newLive(o Options) *live {
	l := &live{hosts: o.Hosts, origins: o.Origins}
	l.uids, l.gids, _ = parsePeers(o.Peers)
	l.clients, _ = parseScopes(o.TLSClients, func(string) error { return nil })
	return l
}

// phase is where the hub stands.
const (
	starting uint32 = iota
	ready
	draining
	stopped
)

var phaseNames = [...]string{"starting", "ready", "draining", "stopped"}
