package hub

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	addr "github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/session"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

// Options is what a hub is started with. The zero value is a hub on the
// default Unix socket with the default limits. Run does not change it.
type Options struct {
	// Listen has the addresses to accept connections on; none means the
	// default Unix socket, or the inherited listeners if there are any.
	Listen []string
	// State is the folder of store, spool and lock; "" is the default one.
	State string
	// Demo adds math.add and demo.*, and makes "demo" the default session.
	Demo bool
	// Metrics is where /metrics alone is served: a host:port, or a tcp:// or
	// tls:// address as in Listen; "" for nowhere.
	Metrics string
	// LogLevel is debug, info, warn or error; "" is info.
	LogLevel string
	// KrpcHook names a method that is called before each call over krpc; "" for none.
	KrpcHook string
	// KrpcGet takes calls of krpc by GET on TCP listeners: see programSays.
	KrpcGet bool
	// FileRoot is the folder that the file service is confined to.
	FileRoot string
	// FileQuota bounds the bytes of all that is in FileRoot; 0: nothing does.
	FileQuota int
	// WebRoot is a folder whose files are served at /web/, for pages that call
	// the hub; "" for none.
	WebRoot string
	// Remotes names far services: ALIAS=URL#SERVICE.
	Remotes []string
	// PresenceDir is where presence files are written; "" for nowhere.
	PresenceDir string
	// AllowInsecure permits auth=none on addresses that others can reach.
	AllowInsecure bool
	// Hosts has further values of the Host header that TCP listeners accept.
	Hosts []string
	// Origins has the web origins whose pages may call, such as "https://example.com".
	Origins []string
	// QueryToken lets requests carry their token as ?token=. Addresses end up in
	// histories and in the logs of proxies, so this is for clients that can set nothing else.
	QueryToken bool
	// Peers says what other users may, on Unix sockets and with auth=uid:
	// USER=SCOPES, and @GROUP=SCOPES for the members of a group.
	Peers []string
	// TLSCert and TLSKey are the PEM files of what TLS listeners show.
	TLSCert, TLSKey string
	// TLSClientCA has the authorities whose certificates clients may show, in PEM.
	TLSClientCA string
	// TLSClients says what the owners of such certificates may: NAME=SCOPES, NAME
	// being the common name or one of the alternative names.
	TLSClients []string
	// Limits bounds what peers may use.
	Limits Limits

	// MemoryMax is how many bytes the process may have by its control group; 0
	// when that says nothing. Limits.Memory wins.
	MemoryMax int64
	// MemoryUntouched is how many bytes the process has allocated and never
	// uses, so that they take no memory, though the runtime counts them.
	MemoryUntouched int64
	// Version is what the hub says it is; "" is "devel".
	Version string
	// Inherited are listening sockets that the service manager opened. The hub
	// closes them, but does not remove their files.
	Inherited []net.Listener
	// Log takes the log; nil makes one that writes to standard error.
	Log *zap.Logger
	// Tracer gets a span for each answered call; nil when nobody wants them.
	Tracer trace.Tracer
	// Ready is called once, when every listener accepts and calls are served.
	Ready func(Info)
	// Notify tells the service manager about a change of state in the words
	// of sd_notify; nil when there is none.
	Notify func(state string)
	// Watchdog is the interval in which the service manager wants WATCHDOG=1;
	// 0 when it does not.
	Watchdog time.Duration
	// Reload makes the hub call Load and take over what can change while it
	// runs. Closing it is allowed.
	Reload <-chan struct{}
	// Load reads the configuration anew; nil when there is none to read.
	Load func() (Options, error)

	wrapStore   func(statesvc.Store) statesvc.Store // tests come between the hub and its store
	memoryInUse func() int64                        // tests say how much memory the process has
}

// Info is what Ready hands out.
type Info struct {
	Listeners []string // URLs, with the real port of each TCP address
	Metrics   string   // host:port of the metrics listener, "" for none
	State     string
}

// Limits bounds what peers may use. A zero field means its default, of Memory Options.MemoryMax.
type Limits struct {
	Frame                      int           // bytes of one frame or line
	Upload                     int           // bytes of the files of one request, and of one file that is uploaded
	Spool                      int           // bytes of all files that wait for their calls
	CallsPerConnection         int           // in flight
	CallsPerUID                int           // in flight
	Calls                      int           // in flight, all connections
	SubscriptionsPerConnection int           // endless streams, such as watches
	SubscriptionsPerUID        int           //
	RequestMemory              int           // bytes of the arguments of running calls, all connections
	KeptPerUID                 int           // bytes that one user makes the hub keep: see rpc.Kept
	Kept                       int           // all users
	Memory                     int           // bytes of the whole process
	Outbox                     int           // bytes that wait for one peer
	CapnwebMessage             int           // bytes of one message or batch of Cap'n Web
	CapnwebEntries             int           // exports and imports of one session
	CapnwebValues              int           // bytes of values that one session keeps for its client
	CapnwebOperations          int           // calls and property reads of one message
	CapnwebBatch               time.Duration // a batch may wait for its answers
	WebSocketPing              time.Duration // of silence until a client of Cap'n Web is asked whether it is there
	StateValue                 int           // bytes of one value
	StateTotal                 int           // bytes of all keys and values
	StateHistoryEvents         int           // kept for watches that come back
	StateHistoryBytes          int           // of these events
	SessionQueue               int           // bytes that one follower of a session may lag behind
	Connections                int           // all
	ConnectionsPerUID          int           //
	ConnectionsUnauthenticated int           // TCP connections that must still say who they are
	Handshake                  time.Duration // TCP: until they have said it
	FirstByte                  time.Duration // TCP: until the first byte
	Unfinished                 int           // bytes of unfinished frames, all connections
	PartialFrame               time.Duration // of a frame that comes at less than 64 KiB a second
	HTTPBody                   time.Duration // without any more of a body
	HTTPHead                   time.Duration // until the head of a request is complete
	HTTPHeadBytes              int           //
	HTTPIdle                   time.Duration // between two requests
	WriteStall                 time.Duration // without the peer taking anything
	TCPSilence                 time.Duration // of the kernel of a TCP peer, which answers while it is there
	Drain                      time.Duration // for running calls at shutdown
	SessionMemory              int           // bytes that all sessions keep
	SessionEnded               time.Duration // that sessions are kept that have ended
	SessionEndedBytes          int           // all of these
	EphemeralGrace             time.Duration // that ephemeral keys outlive their connection
}

// Defaults of the limits.
const (
	DefaultFrame                      = 16 << 20
	DefaultUpload                     = 2 << 30
	DefaultSpool                      = 4 << 30
	DefaultConnections                = 16384
	DefaultConnectionsPerUID          = 12288
	DefaultConnectionsUnauthenticated = 256
	DefaultHandshake                  = 10 * time.Second
	DefaultFirstByte                  = 10 * time.Second
	DefaultHTTPBody                   = 10 * time.Second
	DefaultHTTPHead                   = 10 * time.Second
	DefaultHTTPHeadBytes              = 64 << 10
	DefaultHTTPIdle                   = 120 * time.Second
	DefaultWriteStall                 = 10 * time.Second
	DefaultTCPSilence                 = 60 * time.Second
	DefaultDrain                      = 10 * time.Second
	DefaultEphemeralGrace             = 10 * time.Second
)

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	fill(&l.Frame, DefaultFrame)
	fill(&l.Upload, DefaultUpload)
	fill(&l.Spool, DefaultSpool)
	fill(&l.CallsPerConnection, rpc.DefaultCallsPerLink)
	fill(&l.CallsPerUID, rpc.DefaultCallsPerUID)
	fill(&l.Calls, rpc.DefaultCalls)
	fill(&l.SubscriptionsPerConnection, rpc.DefaultSubscriptionsPerLink)
	fill(&l.SubscriptionsPerUID, rpc.DefaultSubscriptionsPerUID)
	fill(&l.RequestMemory, rpc.DefaultRequestMemory)
	fill(&l.KeptPerUID, rpc.DefaultKeptPerUID)
	fill(&l.Kept, rpc.DefaultKept)
	fill(&l.Outbox, rpc.DefaultHard)
	fill(&l.CapnwebMessage, capnweb.DefaultMaxMessage)
	fill(&l.CapnwebEntries, capnweb.DefaultMaxEntries)
	fill(&l.CapnwebValues, capnweb.DefaultMaxHeld)
	fill(&l.CapnwebOperations, capnweb.DefaultMaxOps)
	fill(&l.CapnwebBatch, capnweb.DefaultBatchWait)
	fill(&l.WebSocketPing, capnweb.DefaultPing)
	fill(&l.StateValue, statesvc.DefaultValue)
	fill(&l.StateTotal, statesvc.DefaultTotal)
	fill(&l.StateHistoryEvents, statesvc.DefaultHistoryEvents)
	fill(&l.StateHistoryBytes, statesvc.DefaultHistoryBytes)
	fill(&l.SessionQueue, session.DefaultQueueBytes)
	fill(&l.Connections, DefaultConnections)
	fill(&l.ConnectionsPerUID, DefaultConnectionsPerUID)
	fill(&l.ConnectionsUnauthenticated, DefaultConnectionsUnauthenticated)
	fill(&l.Handshake, DefaultHandshake)
	fill(&l.FirstByte, DefaultFirstByte)
	fill(&l.Unfinished, rpc.DefaultUnfinished)
	fill(&l.PartialFrame, rpc.DefaultPartialFrame)
	fill(&l.HTTPBody, DefaultHTTPBody)
	fill(&l.HTTPHead, DefaultHTTPHead)
	fill(&l.HTTPHeadBytes, DefaultHTTPHeadBytes)
	fill(&l.HTTPIdle, DefaultHTTPIdle)
	fill(&l.WriteStall, DefaultWriteStall)
	fill(&l.TCPSilence, DefaultTCPSilence)
	fill(&l.Drain, DefaultDrain)
	fill(&l.SessionMemory, session.DefaultMemory)
	fill(&l.SessionEnded, session.DefaultEnded)
	fill(&l.SessionEndedBytes, session.DefaultEndedBytes)
	fill(&l.EphemeralGrace, DefaultEphemeralGrace)
	return l
}

func fill[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// withDefaults fills in what is zero and can be known before the hub starts.
func (o Options) withDefaults() (Options, error) {
	var err error
	if len(o.Listen) == 0 && len(o.Inherited) == 0 {
		path, e := addr.Default()
		err = errors.Join(err, e)
		o.Listen = []string{addr.Format("unix", path)}
	}
	if o.State == "" {
		path, e := o.defaultState()
		err = errors.Join(err, e)
		o.State = path
	}
	fill(&o.LogLevel, "info")
	fill(&o.Version, "devel")
	o.Limits = o.Limits.withDefaults()
	return o, err
}

// StateFolder returns the state folder of a hub with these options, "" when
// there is no place for one.
func (o Options) StateFolder() string {
	if o.State != "" {
		return o.State
	}
	dir, _ := o.defaultState() // withDefaults says why
	return dir
}

// defaultState is DefaultState, but for demonstrations: what is tried out does
// not belong into the state that is kept. Theirs is in the runtime folder.
func (o Options) defaultState() (string, error) {
	if o.Demo && os.Getenv("STATE_DIRECTORY") == "" {
		if dir := addr.RuntimeDir(); dir != "" {
			return filepath.Join(dir, "hubd", "demo"), nil
		}
		if socket, err := addr.Default(); err == nil {
			return filepath.Join(filepath.Dir(socket), "demo"), nil
		}
	}
	return DefaultState()
}

// DefaultState returns the state folder that a hub of this user has.
func DefaultState() (string, error) {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); filepath.IsAbs(dir) {
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/lib/hubd", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "hubd"), nil
	}
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "hubd"), nil
	}
	return "", errors.New("no place for the state: neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set; give --state DIR")
}

// Validate reports everything that is wrong with o as a *ConfigError, nil if nothing is.
func (o Options) Validate() error {
	var problems []error
	add := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	usesTLS, usesCerts := false, false
	seen := map[string]bool{}
	for _, l := range o.Listen {
		a, err := parseAddress(l, o.AllowInsecure)
		add(err)
		if err == nil && seen[a.String()] && !strings.HasSuffix(a.hostport, ":0") {
			add(fmt.Errorf("listen %q: the address is given twice", l))
		}
		seen[a.String()] = true
		usesTLS = usesTLS || a.tls
		usesCerts = usesCerts || a.auth == authCert
	}
	if o.Metrics != "" {
		a, err := parseMetrics(o.Metrics, o.AllowInsecure)
		add(err)
		usesTLS = usesTLS || a.tls
		usesCerts = usesCerts || a.auth == authCert
	}
	switch {
	case usesTLS && (o.TLSCert == "" || o.TLSKey == ""):
		add(errors.New("tls:// needs tls.cert_file and tls.key_file"))
	case usesCerts && o.TLSClientCA == "":
		add(errors.New("auth=cert needs tls.client_ca_file"))
	}
	for name, path := range map[string]string{"tls.cert_file": o.TLSCert, "tls.key_file": o.TLSKey, "tls.client_ca_file": o.TLSClientCA} {
		if path != "" && !filepath.IsAbs(path) {
			add(fmt.Errorf("%s %q: the path is not absolute", name, path))
		}
	}
	if _, _, err := parsePeers(o.Peers); err != nil {
		add(fmt.Errorf("peers: %w", err))
	}
	if _, err := parseScopes(o.TLSClients, func(string) error { return nil }); err != nil {
		add(fmt.Errorf("tls.clients: %w", err))
	}
	if o.State != "" && !filepath.IsAbs(o.State) {
		add(fmt.Errorf("state %q: the path is not absolute", o.State))
	}
	if o.LogLevel != "" {
		if _, err := zapcore.ParseLevel(o.LogLevel); err != nil {
			add(fmt.Errorf("log level %q: expected debug, info, warn or error", o.LogLevel))
		}
	}
	if o.FileRoot != "" {
		add(checkFolder("file root", o.FileRoot))
	}
	if q := o.FileQuota; q != 0 && (q < 64<<10 || q > 1<<52) {
		add(fmt.Errorf("file quota: %d is not between %d and %d", q, 64<<10, 1<<52))
	}
	if o.WebRoot != "" {
		add(checkFolder("web root", o.WebRoot))
	}
	aliases := map[string]bool{}
	for _, r := range o.Remotes {
		alias, _, err := parseRemote(r)
		add(err)
		if err == nil && aliases[alias] {
			add(fmt.Errorf("remote %q: the alias is given twice", alias))
		}
		aliases[alias] = true
	}
	if o.PresenceDir != "" && !filepath.IsAbs(o.PresenceDir) {
		add(fmt.Errorf("presence dir %q: the path is not absolute", o.PresenceDir))
	}
	for _, origin := range o.Origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			add(fmt.Errorf("origin %q: expected SCHEME://HOST[:PORT]", origin))
		}
	}
	for _, host := range o.Hosts {
		if host == "" || strings.ContainsAny(host, "/ \t") {
			add(fmt.Errorf("host %q: expected HOST or HOST:PORT", host))
		}
	}
	add(o.Limits.validate())
	if len(problems) == 0 {
		return nil
	}
	return &ConfigError{problems}
}

func (l Limits) validate() error {
	var problems []error
	check := func(name string, value, low, high int64) {
		if value != 0 && (value < low || value > high) {
			problems = append(problems, fmt.Errorf("limits.%s: %d is not between %d and %d", name, value, low, high))
		}
	}
	check("frame", int64(l.Frame), 4<<10, 1<<30)
	check("upload", int64(l.Upload), 1<<10, 1<<50)
	check("spool", int64(l.Spool), 1<<10, 1<<50)
	check("calls_per_connection", int64(l.CallsPerConnection), 1, 1<<20)
	check("calls_per_uid", int64(l.CallsPerUID), 1, 1<<24)
	check("calls", int64(l.Calls), 1, 1<<24)
	check("subscriptions_per_connection", int64(l.SubscriptionsPerConnection), 1, 1<<20)
	check("subscriptions_per_uid", int64(l.SubscriptionsPerUID), 1, 1<<24)
	check("request_memory", int64(l.RequestMemory), 64<<10, 1<<40)
	check("kept_per_uid", int64(l.KeptPerUID), 64<<10, 1<<40)
	check("kept", int64(l.Kept), 64<<10, 1<<40)
	check("memory", int64(l.Memory), 64<<10, 1<<50)
	check("outbox", int64(l.Outbox), 64<<10, 1<<32)
	check("capnweb_message", int64(l.CapnwebMessage), 4<<10, 1<<30)
	check("capnweb_entries", int64(l.CapnwebEntries), 16, 1<<24)
	check("capnweb_values", int64(l.CapnwebValues), 1<<16, 1<<40)
	check("capnweb_operations", int64(l.CapnwebOperations), 16, 1<<24)
	check("state_value", int64(l.StateValue), 1<<10, 64<<20)
	check("state_total", int64(l.StateTotal), 64<<10, 1<<40)
	check("state_history_events", int64(l.StateHistoryEvents), 1, 1<<30)
	check("state_history_bytes", int64(l.StateHistoryBytes), 4<<10, 1<<40)
	check("session_queue", int64(l.SessionQueue), 4<<10, 1<<32)
	check("session_ended_bytes", int64(l.SessionEndedBytes), 4<<10, 1<<32)
	check("unfinished", int64(l.Unfinished), 64<<10, 1<<40)
	check("connections", int64(l.Connections), 1, 1<<20)
	check("connections_per_uid", int64(l.ConnectionsPerUID), 1, 1<<20)
	check("connections_unauthenticated", int64(l.ConnectionsUnauthenticated), 1, 1<<20)
	check("http_head_bytes", int64(l.HTTPHeadBytes), 1<<10, 16<<20)
	for name, d := range map[string]time.Duration{
		"capnweb_batch": l.CapnwebBatch, "websocket_ping": l.WebSocketPing, "partial_frame": l.PartialFrame, "http_body": l.HTTPBody, "handshake": l.Handshake, "first_byte": l.FirstByte, "http_head": l.HTTPHead, "http_idle": l.HTTPIdle, "write_stall": l.WriteStall, "tcp_silence": l.TCPSilence, "drain": l.Drain,
	} {
		if d != 0 && (d < time.Millisecond || d > time.Hour) {
			problems = append(problems, fmt.Errorf("limits.%s: %v is not between 1ms and 1h", name, d))
		}
	}
	if d := l.SessionEnded; d != 0 && (d < time.Millisecond || d > 7*24*time.Hour) {
		problems = append(problems, fmt.Errorf("limits.session_ended: %v is not between 1ms and 168h", d))
	}
	return errors.Join(problems...)
}

func checkFolder(what, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s %q: the path is not absolute", what, path)
	}
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("%s %q: not a folder", what, path)
	}
	return nil
}

// parseRemote reads ALIAS=URL#SERVICE.
func parseRemote(text string) (alias string, far *url.URL, err error) {
	alias, rest, ok := strings.Cut(text, "=")
	if !ok || !rpc.ValidName(alias) || strings.Contains(alias, ".") {
		return "", nil, fmt.Errorf("remote %q: expected ALIAS=URL#SERVICE", text)
	}
	far, err = url.Parse(rest)
	if err != nil {
		return "", nil, fmt.Errorf("remote %q: the address cannot be read", text)
	}
	if service, query, ok := strings.Cut(far.Fragment, "?"); ok && far.RawQuery == "" { // the query may stand last
		far.Fragment, far.RawQuery = service, query
	}
	switch far.Scheme {
	case "tcp", "http":
		if far.Host == "" {
			return "", nil, fmt.Errorf("remote %q: the address has no host", text)
		}
	case "unix":
		if far.Host != "" || !filepath.IsAbs(far.Path) {
			return "", nil, fmt.Errorf("remote %q: a socket path is absolute", text)
		}
	default:
		return "", nil, fmt.Errorf("remote %q: expected tcp://, unix:// or http://", text)
	}
	if far.User != nil { // no protocol would send it, and reports show the address
		return "", nil, fmt.Errorf("remote %q: the address has a user or a password", alias)
	}
	for key := range far.Query() {
		if key != "codec" {
			return "", nil, fmt.Errorf("remote %q: unknown option %q", text, key)
		}
	}
	if codec := far.Query().Get("codec"); codec != "" && codec != "json" && codec != "msgpack" {
		return "", nil, fmt.Errorf("remote %q: codec is json or msgpack", text)
	}
	return alias, far, nil
}
