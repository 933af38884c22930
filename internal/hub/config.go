package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/duration"
)

// Key is one configuration key. Each is a flag, a variable and a place in the
// YAML file: log.level is --log-level, HUBD_LOG_LEVEL and log: {level: ...}.
type Key struct {
	Name string // dotted
	Arg  string // what the value is, for usage texts; "" for switches
	Doc  string
	List bool // takes several values
	Bool bool // a switch
	Map  bool // in YAML also a mapping of ALIAS to the rest

	Default string // as it is written; "" if there is none, or none that is the same everywhere
	Live    bool   // a reload takes it over
}

// Flag returns the name of the flag, without dashes.
func (k Key) Flag() string { return strings.NewReplacer(".", "-", "_", "-").Replace(k.Name) }

// Env returns the name of the variable.
func (k Key) Env() string {
	return "HUBD_" + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

// Keys lists all configuration keys.
func Keys() []Key {
	keys := make([]Key, len(configKeys))
	base := Options{LogLevel: "info", Limits: Limits{}.withDefaults()}
	for i, k := range configKeys {
		keys[i] = k.Key
		keys[i].Live, keys[i].Default = k.live, k.get(&base)
	}
	return keys
}

// configKey is a Key with its place in Options.
type configKey struct {
	Key
	name string
	live bool // a reload takes it over
	get  func(*Options) string
	set  func(o *Options, values []string) error
}

func text(name, arg, doc string, at func(*Options) *string) configKey {
	return configKey{
		Key:  Key{Name: name, Arg: arg, Doc: doc},
		name: name,
		get:  func(o *Options) string { return *at(o) },
		set: func(o *Options, v []string) error {
			*at(o) = v[len(v)-1]
			return nil
		},
	}
}

// file is a text that is the path of a file.
func file(name, doc string, at func(*Options) *string) configKey {
	k := text(name, "FILE", doc, at)
	k.set = func(o *Options, v []string) error {
		*at(o) = credential(v[len(v)-1])
		return nil
	}
	return k
}

// credential finds a name without a folder where the service manager puts
// secrets (LoadCredential= of systemd), if there is such a place.
func credential(name string) string {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if !filepath.IsAbs(dir) || name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return name
	}
	return filepath.Join(dir, name)
}

func list(name, arg, doc string, at func(*Options) *[]string) configKey {
	return configKey{
		Key:  Key{Name: name, Arg: arg, Doc: doc, List: true},
		name: name,
		get:  func(o *Options) string { return strings.Join(*at(o), " ") },
		set: func(o *Options, v []string) error {
			*at(o) = append([]string(nil), v...)
			return nil
		},
	}
}

func toggle(name, doc string, at func(*Options) *bool) configKey {
	return configKey{
		Key:  Key{Name: name, Doc: doc, Bool: true},
		name: name,
		get:  func(o *Options) string { return strconv.FormatBool(*at(o)) },
		set: func(o *Options, v []string) error {
			b, err := strconv.ParseBool(v[len(v)-1])
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", v[len(v)-1])
			}
			*at(o) = b
			return nil
		},
	}
}

func number(name, doc string, at func(*Limits) *int) configKey {
	k := size("limits."+name, doc, func(o *Options) *int { return at(&o.Limits) })
	set := k.set
	k.set = func(o *Options, v []string) error {
		if n, err := parseNumber(v[len(v)-1]); err == nil && n == 0 {
			return errors.New("0 is no limit")
		}
		return set(o, v)
	}
	return k
}

// size is a number that may be 0.
func size(name, doc string, at func(*Options) *int) configKey {
	return configKey{
		Key:  Key{Name: name, Arg: "N", Doc: doc},
		name: name,
		get:  func(o *Options) string { return strconv.Itoa(*at(o)) },
		set: func(o *Options, v []string) error {
			n, err := parseNumber(v[len(v)-1])
			if err == nil {
				*at(o) = n
			}
			return err
		},
	}
}

// orNone lets a number be 0, which is what it is when it is not given.
func orNone(k configKey) configKey {
	set := k.set
	k.set = func(o *Options, v []string) error {
		if v[len(v)-1] == "0" {
			return nil
		}
		return set(o, v)
	}
	return k
}

func span(name, doc string, at func(*Limits) *time.Duration) configKey {
	name = "limits." + name
	return configKey{
		Key:  Key{Name: name, Arg: "DURATION", Doc: doc},
		name: name,
		get:  func(o *Options) string { return at(&o.Limits).String() },
		set: func(o *Options, v []string) error {
			d, err := duration.Parse(v[len(v)-1])
			if err != nil {
				return err
			}
			if d <= 0 {
				return fmt.Errorf("%q is not above zero", v[len(v)-1])
			}
			*at(&o.Limits) = d
			return nil
		},
	}
}

// parseNumber reads a number with an optional unit: 4096, 64KiB, 16MiB, 1GiB.
func parseNumber(s string) (int, error) {
	digits, unit := s, 1
	for suffix, u := range map[string]int{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			digits, unit = strings.TrimSpace(d), u
		}
	}
	n, err := strconv.ParseUint(digits, 10, 52)
	if err != nil || n > 1<<52/uint64(unit) {
		return 0, fmt.Errorf("%q is not a number such as 4096 or 16MiB", s)
	}
	return int(n) * unit, nil
}

func liveKey(k configKey) configKey {
	k.live = true
	return k
}

// mapKey is a list whose values are NAME=..., in YAML also a mapping.
func mapKey(k configKey) configKey {
	k.Map = true
	return k
}

var configKeys = []configKey{
	list("listen", "URL", "address to accept connections on: unix:///PATH[?mode=0660&group=G], tcp://HOST:PORT[?auth=token|uid|none] or "+
		"tls://HOST:PORT[?auth=token|cert|uid|none], all with protocols=A,B and scopes=read,call; repeatable", func(o *Options) *[]string { return &o.Listen }),
	text("state", "DIR", "folder of store, spool and lock", func(o *Options) *string { return &o.State }),
	toggle("demo", "add the methods math.add and demo.*, and make demo the default session", func(o *Options) *bool { return &o.Demo }),
	text("metrics", "ADDRESS", "where /metrics alone is served: HOST:PORT (loopback only, open to all there), tcp://HOST:PORT[?auth=token|uid|none] or tls://HOST:PORT[?auth=token|cert|uid|none]", func(o *Options) *string { return &o.Metrics }),
	liveKey(text("log.level", "LEVEL", "debug, info, warn or error", func(o *Options) *string { return &o.LogLevel })),
	text("file.root", "DIR", "folder that the file service is confined to", func(o *Options) *string { return &o.FileRoot }),
	size("file.quota", "bytes of all that may be in that folder, such as 50GiB; 0: no limit", func(o *Options) *int { return &o.FileQuota }),
	text("krpc.pre_method_hook", "METHOD", "method to call before each call over krpc, with the pmhparams of the call",
		func(o *Options) *string { return &o.KrpcHook }),
	toggle("krpc.get", "take calls of krpc by GET on TCP listeners, with a token, or to a loopback address with the header Sec-Hubd",
		func(o *Options) *bool { return &o.KrpcGet }),
	mapKey(list("remote", "ALIAS=URL#SERVICE", "service of another server to offer here; repeatable", func(o *Options) *[]string { return &o.Remotes })),
	text("presence.dir", "DIR", "folder to write presence files to", func(o *Options) *string { return &o.PresenceDir }),
	liveKey(mapKey(list("peers", "USER=SCOPES", "what another user, or with @GROUP the members of a group, may do on Unix sockets and with auth=uid; repeatable",
		func(o *Options) *[]string { return &o.Peers }))),
	file("tls.cert_file", "certificate that tls:// addresses show, with its chain, as PEM", func(o *Options) *string { return &o.TLSCert }),
	file("tls.key_file", "key of the certificate", func(o *Options) *string { return &o.TLSKey }),
	file("tls.client_ca_file", "authorities whose certificates clients may show", func(o *Options) *string { return &o.TLSClientCA }),
	liveKey(mapKey(list("tls.clients", "NAME=SCOPES", "what the owner of a client's certificate may do; repeatable",
		func(o *Options) *[]string { return &o.TLSClients }))),
	toggle("allow_insecure", "permit addresses that others can reach without authentication", func(o *Options) *bool { return &o.AllowInsecure }),
	liveKey(list("http.hosts", "HOST", "further Host that TCP listeners answer to; repeatable", func(o *Options) *[]string { return &o.Hosts })),
	liveKey(list("http.origins", "ORIGIN", "web origin whose pages may call, such as https://example.com; repeatable",
		func(o *Options) *[]string { return &o.Origins })),
	text("web.root", "DIR", "folder whose files anybody who reaches the hub may read at /web/, for pages that call it", func(o *Options) *string { return &o.WebRoot }),
	toggle("http.query_token", "accept tokens as ?token= in addresses", func(o *Options) *bool { return &o.QueryToken }),

	number("frame", "bytes of one frame or line", func(l *Limits) *int { return &l.Frame }),
	number("upload", "bytes of one uploaded file", func(l *Limits) *int { return &l.Upload }),
	number("spool", "bytes of all files that wait for their calls to end", func(l *Limits) *int { return &l.Spool }),
	number("calls_per_connection", "calls in flight of one connection", func(l *Limits) *int { return &l.CallsPerConnection }),
	number("calls_per_uid", "calls in flight of one user", func(l *Limits) *int { return &l.CallsPerUID }),
	number("calls", "calls in flight", func(l *Limits) *int { return &l.Calls }),
	number("subscriptions_per_connection", "endless streams of one connection, such as watches", func(l *Limits) *int { return &l.SubscriptionsPerConnection }),
	number("subscriptions_per_uid", "endless streams of one user", func(l *Limits) *int { return &l.SubscriptionsPerUID }),
	number("request_memory", "bytes of the arguments of running calls", func(l *Limits) *int { return &l.RequestMemory }),
	number("kept_per_uid", "bytes that one user makes the hub keep when its calls are over: provided methods, prompts and snapshots of sessions, and the like",
		func(l *Limits) *int { return &l.KeptPerUID }),
	number("kept", "the same of all users together", func(l *Limits) *int { return &l.Kept }),
	orNone(number("memory", "bytes of the whole process; from 90 % on new work is refused; 0 for the limit of its control group, if there is one",
		func(l *Limits) *int { return &l.Memory })),
	number("outbox", "bytes that wait to be taken by one peer", func(l *Limits) *int { return &l.Outbox }),
	number("capnweb_message", "bytes of one message or batch of Cap'n Web", func(l *Limits) *int { return &l.CapnwebMessage }),
	number("capnweb_entries", "exports and imports of one session of Cap'n Web", func(l *Limits) *int { return &l.CapnwebEntries }),
	number("capnweb_values", "bytes of values that one session of Cap'n Web keeps for its client", func(l *Limits) *int { return &l.CapnwebValues }),
	number("capnweb_operations", "calls and property reads of one message of Cap'n Web", func(l *Limits) *int { return &l.CapnwebOperations }),
	span("capnweb_batch", "time that a batch of Cap'n Web may wait for its answers", func(l *Limits) *time.Duration { return &l.CapnwebBatch }),
	span("websocket_ping", "silence after which a client of Cap'n Web is asked whether it is there; twice that without an answer ends it",
		func(l *Limits) *time.Duration { return &l.WebSocketPing }),
	number("state_value", "bytes of one value in the state", func(l *Limits) *int { return &l.StateValue }),
	number("state_total", "bytes of all keys and values in the state", func(l *Limits) *int { return &l.StateTotal }),
	number("state_history_events", "changes of the state that are kept for watches that come back", func(l *Limits) *int { return &l.StateHistoryEvents }),
	number("state_history_bytes", "bytes of these", func(l *Limits) *int { return &l.StateHistoryBytes }),
	number("session_queue", "bytes that one follower of a session may lag behind", func(l *Limits) *int { return &l.SessionQueue }),
	number("connections", "open connections", func(l *Limits) *int { return &l.Connections }),
	number("connections_per_uid", "open connections of one user", func(l *Limits) *int { return &l.ConnectionsPerUID }),
	number("connections_unauthenticated", "TCP connections that must still authenticate; one more takes the place of the oldest of the address that has most", func(l *Limits) *int { return &l.ConnectionsUnauthenticated }),
	span("handshake", "time in which they must do so", func(l *Limits) *time.Duration { return &l.Handshake }),
	span("first_byte", "time until the first byte of a TCP connection", func(l *Limits) *time.Duration { return &l.FirstByte }),
	number("unfinished", "bytes of frames that have begun and not ended, of all connections", func(l *Limits) *int { return &l.Unfinished }),
	span("partial_frame", "time of a frame that comes at less than 64 KiB a second", func(l *Limits) *time.Duration { return &l.PartialFrame }),
	span("http_body", "time in which something more of a body must come", func(l *Limits) *time.Duration { return &l.HTTPBody }),
	span("http_head", "time until the head of a request is complete", func(l *Limits) *time.Duration { return &l.HTTPHead }),
	number("http_head_bytes", "bytes of the head of a request", func(l *Limits) *int { return &l.HTTPHeadBytes }),
	span("http_idle", "time between two requests of a connection", func(l *Limits) *time.Duration { return &l.HTTPIdle }),
	span("write_stall", "time in which a peer must take something", func(l *Limits) *time.Duration { return &l.WriteStall }),
	span("tcp_silence", "time after which a TCP peer whose machine answers nothing is gone; it is asked after half of it", func(l *Limits) *time.Duration { return &l.TCPSilence }),
	number("session_memory", "bytes that all sessions together keep: events, snapshots, open prompts, what waits for owners", func(l *Limits) *int { return &l.SessionMemory }),
	span("session_ended", "time that a session is kept after its end", func(l *Limits) *time.Duration { return &l.SessionEnded }),
	number("session_ended_bytes", "bytes of all sessions that have ended", func(l *Limits) *int { return &l.SessionEndedBytes }),
	span("drain", "time that running calls have at shutdown", func(l *Limits) *time.Duration { return &l.Drain }),
}

func findKey(name string) *configKey {
	for i := range configKeys {
		if configKeys[i].name == name {
			return &configKeys[i]
		}
	}
	return nil
}

// Source says where a configuration comes from. Flags win over variables,
// variables over the file, the file over the defaults.
type Source struct {
	// File is the YAML file; "" for none. It must exist.
	File string
	// Dir is a folder of drop-ins, "" for none: its *.yaml files are read after
	// File in the order of their names, and win over what was read before. It
	// need not exist.
	Dir string
	// Env looks a variable up; nil when there are none.
	Env func(name string) (string, bool)
	// Flags has the values given on the command line, by the Name of the key.
	Flags map[string][]string
}

// Options reads the configuration. All that is wrong with it is one *ConfigError.
// It does not validate what the values mean: Options.Validate does.
func (s Source) Options() (Options, error) {
	var o Options
	var problems []error
	files, err := s.Files()
	if err != nil {
		problems = append(problems, err)
	}
	for _, file := range files {
		problems = append(problems, readFile(file, &o)...)
	}
	for _, k := range configKeys {
		if s.Env != nil {
			if v, ok := s.Env(k.Env()); ok && v != "" {
				values := []string{v}
				if k.List {
					values = strings.Fields(v)
				}
				if err := k.set(&o, k.fromHere(values)); err != nil {
					problems = append(problems, fmt.Errorf("%s: %w", k.Env(), err))
				}
			}
		}
		if v := s.Flags[k.name]; len(v) > 0 {
			if err := k.set(&o, k.fromHere(v)); err != nil {
				problems = append(problems, fmt.Errorf("--%s: %w", k.Flag(), err))
			}
		}
	}
	if len(problems) > 0 {
		return o, &ConfigError{problems}
	}
	return o, nil
}

// fromHere makes the paths among the values of a key absolute, for flags and
// variables: who gives those knows the working folder. In a file they are absolute.
func (k *Key) fromHere(values []string) []string {
	if k.Arg != "DIR" && k.Arg != "FILE" {
		return values
	}
	out := slices.Clone(values)
	for i, path := range out {
		if abs, err := filepath.Abs(path); path != "" && err == nil {
			out[i] = abs
		}
	}
	return out
}

// Files lists the files that are read, in their order.
func (s Source) Files() ([]string, error) {
	var files []string
	if s.File != "" {
		files = append(files, s.File)
	}
	if s.Dir == "" {
		return files, nil
	}
	entries, err := os.ReadDir(s.Dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	for _, e := range entries {
		if name := e.Name(); filepath.Ext(name) == ".yaml" && name[0] != '.' {
			files = append(files, filepath.Join(s.Dir, name))
		}
	}
	return files, err
}

// DefaultFiles returns the configuration file that is read when none is given,
// "" when it does not exist, and the folder of its drop-ins.
func DefaultFiles() (file, dropIns string) {
	folder := "/etc/hubd"
	if given, _, _ := strings.Cut(os.Getenv("CONFIGURATION_DIRECTORY"), ":"); filepath.IsAbs(given) {
		folder = given
	} else if os.Geteuid() != 0 {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", ""
		}
		folder = filepath.Join(dir, "hubd")
	}
	file = filepath.Join(folder, "hubd.yaml")
	if _, err := os.Stat(file); err != nil {
		file = ""
	}
	return file, filepath.Join(folder, "conf.d")
}
