package hub

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// environment makes a lookup of the given variables.
func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hubd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagsWinOverVariablesOverFile(t *testing.T) {
	file := writeConfig(t, `
state: /from/file
metrics: 127.0.0.1:1
log: {level: warn}
limits:
  calls: 10
`)
	o, err := Source{
		File: file,
		Env:  environment(map[string]string{"HUBD_METRICS": "127.0.0.1:2", "HUBD_LOG_LEVEL": "error", "HUBD_STATE": ""}),
		Flags: map[string][]string{
			"log.level": {"debug"},
		},
	}.Options()
	if err != nil {
		t.Fatal(err)
	}
	if o.State != "/from/file" || o.Metrics != "127.0.0.1:2" || o.LogLevel != "debug" || o.Limits.Calls != 10 {
		t.Errorf("got state %q, metrics %q, level %q, calls %d", o.State, o.Metrics, o.LogLevel, o.Limits.Calls)
	}
}

// Every key can be set in each of the three places, with the same result.
func TestEachKeyInAllThreePlaces(t *testing.T) {
	values := map[string]string{
		"listen": "unix:///a tcp://127.0.0.1:1", "remote": "far=tcp://h:1#svc near=unix:///s", "http.hosts": "a b:1",
		"http.origins": "https://a https://b", "state": "/s", "metrics": "127.0.0.1:9", "log.level": "warn", "file.root": "/f", "file.quota": "5GiB", "web.root": "/w",
		"presence.dir": "/p", "krpc.pre_method_hook": "my.check", "krpc.get": "true", "demo": "true", "allow_insecure": "true", "http.query_token": "true",
		"peers": "nobody=read @0=read,call", "tls.cert_file": "/c", "tls.key_file": "/k", "tls.client_ca_file": "/ca", "tls.clients": "a=read b=call",
	}
	for _, k := range configKeys {
		v, known := values[k.name]
		switch {
		case known:
		case strings.HasPrefix(k.name, "limits.") && k.Arg == "DURATION":
			v = "3s"
		case strings.HasPrefix(k.name, "limits."):
			v = "70KiB"
		default:
			t.Errorf("%s: the test knows no value", k.name)
			continue
		}
		list := []string{v}
		yaml := v
		if k.List {
			list = strings.Fields(v)
			yaml = "[\"" + strings.Join(list, `", "`) + "\"]"
		}
		group, leaf, nested := strings.Cut(k.name, ".")
		text := k.name + ": " + yaml + "\n"
		if nested {
			text = group + ":\n  " + leaf + ": " + yaml + "\n"
		}
		var got [3]Options
		var err error
		if got[0], err = (Source{Flags: map[string][]string{k.name: list}}).Options(); err != nil {
			t.Errorf("--%s: %v", k.Flag(), err)
		}
		if got[1], err = (Source{Env: environment(map[string]string{k.Env(): v})}).Options(); err != nil {
			t.Errorf("%s: %v", k.Env(), err)
		}
		if got[2], err = (Source{File: writeConfig(t, text)}).Options(); err != nil {
			t.Errorf("%s in a file: %v", k.name, err)
		}
		if reflect.DeepEqual(got[0], Options{}) {
			t.Errorf("--%s sets nothing", k.Flag())
		}
		if !reflect.DeepEqual(got[0], got[1]) || !reflect.DeepEqual(got[0], got[2]) {
			t.Errorf("%s: flag %+v, variable %+v, file %+v", k.name, got[0], got[1], got[2])
		}
	}
}

func TestNamesOfKeys(t *testing.T) {
	for name, want := range map[string][2]string{
		"listen": {"listen", "HUBD_LISTEN"}, "file.root": {"file-root", "HUBD_FILE_ROOT"}, "log.level": {"log-level", "HUBD_LOG_LEVEL"},
		"presence.dir": {"presence-dir", "HUBD_PRESENCE_DIR"}, "allow_insecure": {"allow-insecure", "HUBD_ALLOW_INSECURE"},
		"limits.calls_per_uid": {"limits-calls-per-uid", "HUBD_LIMITS_CALLS_PER_UID"},
	} {
		k := findKey(name)
		if k == nil {
			t.Errorf("no key %s", name)
		} else if k.Flag() != want[0] || k.Env() != want[1] {
			t.Errorf("%s: --%s and %s, want --%s and %s", name, k.Flag(), k.Env(), want[0], want[1])
		}
	}
}

func TestFile(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Options
	}{
		{"empty", "", Options{}},
		{"comments only", "# nothing\n", Options{}},
		{"null values", "state:\nlimits:\n", Options{}},
		{"one listener", "listen: unix:///a/b.sock\n", Options{Listen: []string{"unix:///a/b.sock"}}},
		{"remotes by name", "remote:\n  far: tcp://h:1#svc\n", Options{Remotes: []string{"far=tcp://h:1#svc"}}},
		{"quoted", "state: \"/a b\"\n", Options{State: "/a b"}},
		{"sizes", "limits: {frame: 1MiB, drain: 1m30s}\n", Options{Limits: Limits{Frame: 1 << 20, Drain: 90 * time.Second}}},
		{"document marks", "---\ndemo: true\n", Options{Demo: true}},
	} {
		var o Options
		if err := parseFile([]byte(c.text), &o); err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !reflect.DeepEqual(o, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, o, c.want)
		}
	}
}

// Complaints say what is wrong and show the line with a caret below it.
func TestBadFile(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "demo: true\nsate: /x\n", `unknown key "sate"`},
		{"unknown key in a group", "log:\n  lvl: info\n", `unknown key "log.lvl"`},
		{"key of a group without it", "level: info\n", `unknown key "level"`},
		{"value for a group", "log: info\n", "expected a mapping"},
		{"mapping for a value", "state: {a: b}\n", "state takes one value"},
		{"list for a value", "state: [a, b]\n", "state takes one value"},
		{"list in a list", "listen: [[a]]\n", "expected one plain value"},
		{"no switch", "demo: maybe\n", "neither true nor false"},
		{"not a number", "limits: {calls: many}\n", "not a number"},
		{"negative number", "limits: {calls: -1}\n", "not a number"},
		{"no limit", "limits: {calls: 0}\n", "0 is no limit"},
		{"no duration", "limits: {drain: 10}\n", "has no unit, as in 10s"},
		{"list at the top", "- demo\n", "expected a mapping"},
		{"text at the top", "demo\n", "expected a mapping"},
		{"key twice", "demo: true\ndemo: false\n", "demo"},
		{"two documents", "demo: true\n---\ndemo: false\n", "second document"},
		{"no level", "log: {level: loud}\n", `log level "loud"`},
		{"no address", "listen: [foo]\n", "expected unix:///PATH, tcp://HOST:PORT or tls://HOST:PORT"},
		{"limit out of range", "limits: {outbox: 3}\n", "limits.outbox: 3 is not between"},
		{"no YAML", "demo: [\n", ""},
		{"tabs", "log:\n\tlevel: info\n", ""},
	} {
		var o Options
		err := errors.Join(parseFile([]byte(c.text), &o)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			continue
		}
		if c.want != "" && (!strings.Contains(err.Error(), "^") || !strings.Contains(err.Error(), ">")) {
			t.Errorf("%s: no line with a caret in:\n%v", c.name, err)
		}
	}
}

// All mistakes of all files are told at once, each with its file.
func TestEveryMistakeIsTold(t *testing.T) {
	file := writeConfig(t, "sate: /x\nlog: {level: loud}\n")
	dir := t.TempDir()
	bad := filepath.Join(dir, "10-bad.yaml")
	if err := os.WriteFile(bad, []byte("limits: {calls: many}"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Source{File: file, Dir: dir}.Options()
	config, ok := errors.AsType[*ConfigError](err)
	if !ok || len(config.Problems) != 3 {
		t.Fatalf("error %v", err)
	}
	for i, want := range []string{file, file, bad} {
		if !strings.HasPrefix(config.Problems[i].Error(), want+": ") {
			t.Errorf("problem %d: %v", i, config.Problems[i])
		}
	}
}

func TestDropInsWinInOrderOfNames(t *testing.T) {
	file := writeConfig(t, "metrics: 127.0.0.1:1\nlog: {level: warn}\nstate: /main\n")
	dir := t.TempDir()
	for name, text := range map[string]string{
		"20-b.yaml": "log: {level: debug}", "10-a.yaml": "log: {level: error}\nmetrics: 127.0.0.1:2",
		"30-c.yaml.bak": "state: /no", ".40.yaml": "state: /no",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := Source{File: file, Dir: dir}.Options()
	if err != nil || o.LogLevel != "debug" || o.Metrics != "127.0.0.1:2" || o.State != "/main" {
		t.Errorf("level %q, metrics %q, state %q, %v", o.LogLevel, o.Metrics, o.State, err)
	}
	if _, err := (Source{Dir: filepath.Join(dir, "none")}).Options(); err != nil {
		t.Errorf("no folder of drop-ins: %v", err)
	}
}

// What is printed can be read, and means the same.
func TestPrintedConfigReadsBack(t *testing.T) {
	base, err := (Options{State: "/s", Listen: []string{"unix:///a?mode=0660"}, Demo: true, LogLevel: "warn",
		Hosts: []string{"it's:1"}, Limits: Limits{Calls: 7, Drain: 3 * time.Second}}).withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, defaults := range []bool{false, true} {
		var text strings.Builder
		if err := PrintConfig(&text, base, defaults); err != nil {
			t.Fatal(err)
		}
		want := base
		if defaults {
			want, _ = Options{}.withDefaults()
		}
		for name, form := range map[string]string{
			"as it is":    text.String(),
			"uncommented": regexp.MustCompile(`(?m)^( *)#([a-z_]+:|  - )`).ReplaceAllString(text.String(), "$1$2"),
		} {
			got, err := Source{File: writeConfig(t, form)}.Options()
			if err == nil {
				got, err = got.withDefaults()
			}
			if err != nil {
				t.Fatalf("defaults %v, %s: %v in\n%s", defaults, name, err, form)
			}
			for _, k := range configKeys {
				if k.get(&got) != k.get(&want) {
					t.Errorf("defaults %v, %s: %s is %q, want %q", defaults, name, k.name, k.get(&got), k.get(&want))
				}
			}
		}
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Source{File: filepath.Join(t.TempDir(), "none.yaml")}.Options()
	if ExitCode(err) != ExitUsage {
		t.Errorf("error %v, exit code %d, want %d", err, ExitCode(err), ExitUsage)
	}
}

// All problems are told at once.
func TestValidateJoinsProblems(t *testing.T) {
	err := Options{
		Listen: []string{"unix://relative", "tcp://0.0.0.0:1?auth=none"}, State: "relative", Metrics: "nonsense", LogLevel: "loud",
		FileRoot: "/no/such/folder", Remotes: []string{"bad"}, PresenceDir: "relative", Origins: []string{"nonsense"}, Hosts: []string{"a/b"},
		Limits: Limits{Frame: 1, Drain: -1},
	}.Validate()
	if ExitCode(err) != ExitUsage {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{
		"unix://relative", "auth=none", "state", "metrics", "log level", "file root", "remote", "presence", "origin", "host", "limits.frame", "limits.drain",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing about %s in: %v", want, err)
		}
	}
	if err := (Options{}).Validate(); err != nil {
		t.Errorf("the zero Options: %v", err)
	}
}

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		text, problem string
	}{
		{"unix:///run/hub.sock", ""},
		{"unix:///run/hub.sock?mode=0660&group=0", ""},
		{"unix:///run/hub.sock?protocols=kollabor,kkrpc&scopes=read", ""},
		{"tcp://127.0.0.1:7420", ""},
		{"tcp://127.0.0.1:7420?auth=none&scopes=read,call", ""},
		{"tcp://[::1]:0?auth=uid", ""},
		{"tcp://localhost:7420?auth=uid", ""},
		{"tcp://0.0.0.0:7420", ""},
		{"tcp://127.8.9.10:7420?auth=none", ""},
		{"unix://run/hub.sock", "absolute"},
		{"unix:///run/../hub.sock", "shortest"},
		{"unix:///" + strings.Repeat("x", 107), "bytes"},
		{"unix:///run/hub.sock?mode=0440", "mode"},
		{"unix:///run/hub.sock?mode=rw", "mode"},
		{"unix:///run/hub.sock?group=no-such-group-here", "group"},
		{"unix:///run/hub.sock?auth=none", "unknown option"},
		{"tcp://127.0.0.1:7420?mode=0600", "unknown option"},
		{"tcp://127.0.0.1:7420?auth=magic", "auth"},
		{"tcp://127.0.0.1:7420?protocols=http", "no protocol"},
		{"tcp://127.0.0.1:7420?scopes=all", "scopes"},
		{"tcp://127.0.0.1:7420?auth=none&auth=uid", "more than once"},
		{"tcp://127.0.0.1:7420?auth=none&scopes=admin", "admin"},
		{"tcp://127.0.0.1", "HOST:PORT"},
		{"tcp://127.0.0.1:99999", "port"},
		{"tcp://:7420", "host is missing"},
		{"tcp://127.0.0.1:1/path", "path"},
		{"tcp://0.0.0.0:7420?auth=none", "--allow-insecure"},
		{"tcp://example.com:7420?auth=none", "--allow-insecure"},
		{"tcp://0.0.0.0:7420?auth=uid", "loopback"},
		{"http://127.0.0.1:7420", "expected unix:///PATH, tcp://HOST:PORT or tls://HOST:PORT"},
		{"/run/hub.sock", "expected unix:///PATH, tcp://HOST:PORT or tls://HOST:PORT"},
		{"%zz", "listen"},
	} {
		_, err := parseAddress(c.text, false)
		switch {
		case c.problem == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%s: error %v, want %q", c.text, err, c.problem)
		}
	}
	if _, err := parseAddress("tcp://0.0.0.0:7420?auth=none", true); err != nil {
		t.Errorf("with --allow-insecure: %v", err)
	}
}

func TestParseMetrics(t *testing.T) {
	for _, c := range []struct {
		text, problem string
		insecure      bool
	}{
		{text: "127.0.0.1:7421"},
		{text: "[::1]:0"},
		{text: "localhost:7421"},
		{text: "tcp://127.0.0.1:7421?auth=none"},
		{text: "tcp://0.0.0.0:7421"},
		{text: "tls://0.0.0.0:7421"},
		{text: "tls://hub.example:7421?auth=cert"},
		{text: "0.0.0.0:7421", insecure: true},
		{text: "0.0.0.0:7421", problem: "take tls://0.0.0.0:7421"},
		{text: "tls://0.0.0.0:7421?auth=none", problem: "--allow-insecure"},
		{text: "tcp://127.0.0.1:7421?scopes=admin", problem: "are for listen"},
		{text: "tcp://127.0.0.1:7421?protocols=kkrpc", problem: "are for listen"},
		{text: "unix:///run/hubd/metrics.sock", problem: "a Unix socket"},
		{text: "127.0.0.1:7421?auth=token", problem: "expected HOST:PORT"},
		{text: "127.0.0.1", problem: "HOST:PORT"},
		{text: "127.0.0.1:http", problem: "port"},
		{text: ":7421", problem: "host is missing"},
	} {
		a, err := parseMetrics(c.text, c.insecure)
		switch {
		case c.problem == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.problem == "" && a.scopes != rpc.ScopeRead:
			t.Errorf("%s: scopes %v, want read alone", c.text, a.scopes)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem) || !strings.HasPrefix(err.Error(), "metrics ")):
			t.Errorf("%s: error %v, want %q", c.text, err, c.problem)
		}
	}
}

func TestParseRemote(t *testing.T) {
	for text, ok := range map[string]bool{
		"far=tcp://h:1#svc": true, "far=tcp://h:1#svc?codec=json": true, "far=tcp://h:1#svc?codec=xml": false, "far=tcp://h:1": true, "far=unix:///s#svc": true, "far=http://h/x?codec=json#svc": true,
		"far": false, "=tcp://h:1": false, "a.b=tcp://h:1": false, "far=ftp://h": false, "far=unix://s": false,
		"far=tcp://h:1?codec=xml": false, "far=tcp:///x": false, "1=tcp://h:1": false,
		"far=tcp://u:p@h:1": false, "far=http://h/x?token=t": false,
	} {
		if _, _, err := parseRemote(text); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	for _, s := range []string{"demo: true", "limits: {calls: 1}", "listen:\n- a\n- b", "a: &x b\nc: *x", "remote: {a: b}", "? [a]\n: b", "!!map {}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var o Options
		for _, err := range parseFile([]byte(text), &o) {
			if err.Error() == "" {
				t.Error("an error without a text")
			}
		}
	})
}

func FuzzParseAddress(f *testing.F) {
	f.Add("unix:///a?mode=0660")
	f.Add("tcp://127.0.0.1:1?auth=none&protocols=kkrpc")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseAddress(text, false)
		if err == nil && a.network == "tcp" && a.auth == authNone && !isLoopback(a.hostport) {
			t.Errorf("%q lets strangers in", text)
		}
	})
}

// Names without a folder are credentials where the service manager has some.
func TestCredentials(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/hubd.service")
	source := Source{File: writeConfig(t, "tls: {cert_file: /etc/hubd/hub.crt, key_file: hub.key}")}
	o, err := source.Options()
	if err != nil {
		t.Fatal(err)
	}
	if o.TLSKey != "/run/credentials/hubd.service/hub.key" || o.TLSCert != "/etc/hubd/hub.crt" {
		t.Errorf("key %q, certificate %q", o.TLSKey, o.TLSCert)
	}
	for _, dir := range []string{"", "relative"} {
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		if _, err := source.Options(); err == nil || !strings.Contains(err.Error(), `tls.key_file "hub.key": the path is not absolute`) {
			t.Errorf("with the folder %q: %v", dir, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials/hubd.service")
	for _, name := range []string{"..", ".", "../hub.key", "x/y"} {
		if got := credential(name); got != name {
			t.Errorf("%q becomes %q", name, got)
		}
	}
}

// A key may need another that comes later in the file.
func TestKeysThatNeedOthers(t *testing.T) {
	o, err := Source{File: writeConfig(t, `
listen: ['tls://127.0.0.1:7443?auth=cert']
tls: {cert_file: /etc/hubd/hub.crt, key_file: /etc/hubd/hub.key, client_ca_file: /etc/hubd/ca.crt}
`)}.Options()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
	o.TLSKey = ""
	if err := o.Validate(); err == nil {
		t.Error("TLS without a key")
	}
}
