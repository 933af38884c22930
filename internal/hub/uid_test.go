package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// strangerVariable makes the test program a small client: see beStranger.
const strangerVariable = "HUBD_TEST_STRANGER"

// beStranger connects to the address in the environment, sends stdin, prints
// what comes back until the end, and exits. It is what another user runs.
func beStranger(address string) {
	network, at, _ := strings.Cut(address, "://")
	c, err := net.Dial(network, at)
	if err != nil {
		fmt.Print("dial: ", err)
		os.Exit(0)
	}
	c.SetDeadline(time.Now().Add(patience))
	text, _ := io.ReadAll(os.Stdin)
	c.Write(text)
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.Copy(os.Stdout, c)
	os.Exit(0)
}

// stranger runs programs as another user.
type stranger struct {
	t        *testing.T
	program  string
	uid, gid uint32
}

// anotherUser returns a stranger. Only root can be somebody else.
func anotherUser(t *testing.T) *stranger {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run a client as another user")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("there is no user nobody: %v", err)
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	return &stranger{t, readableProgram(t), uint32(uid), uint32(gid)}
}

var copied struct {
	once sync.Once
	path string
	err  error
}

// readableProgram returns a copy of the test program that everybody can run.
func readableProgram(t *testing.T) string {
	t.Helper()
	copied.once.Do(func() {
		own, err := os.Executable()
		if err != nil {
			copied.err = err
			return
		}
		dir, err := os.MkdirTemp("/tmp", "hubprog")
		if err != nil {
			copied.err = err
			return
		}
		copied.path = filepath.Join(dir, "stranger")
		text, err := os.ReadFile(own)
		if err == nil {
			err = os.WriteFile(copied.path, text, 0o755)
		}
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		copied.err = err
	})
	if copied.err != nil {
		t.Fatal(copied.err)
	}
	return copied.path
}

// say connects as the other user, in the given groups besides its own, sends
// the lines, and returns what came back.
func (s *stranger) say(address string, groups []uint32, lines ...string) string {
	s.t.Helper()
	cmd := exec.Command(s.program, "-test.run=^$")
	cmd.Env = []string{strangerVariable + "=" + address}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: s.uid, Gid: s.gid, Groups: groups}}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("client of another user: %v\n%s", err, out.String())
	}
	return out.String()
}

func lineOf(id, method, params string) string {
	return fmt.Sprintf(`{"action":"rpc_request","request_id":%q,"method":%q,"params":%s}`, id, method, params)
}

// openFolder is a folder that others can pass through.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := shortDir(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAnotherUserGetsNothing(t *testing.T) {
	t.Parallel()
	s := anotherUser(t)
	dir := openFolder(t)
	private, shared, meant := filepath.Join(dir, "p"), filepath.Join(dir, "w"), filepath.Join(dir, "r")
	h := startHub(t, Options{Demo: true, Listen: []string{
		"unix://" + private, "unix://" + shared + "?mode=0666", "unix://" + meant + "?mode=0666&scopes=read", "tcp://127.0.0.1:0?auth=uid",
	}})
	ask := []string{lineOf("1", "echo", "[1]"), lineOf("2", "state.put", `{"key":"stolen","value":1}`), `{"action":"shutdown"}`}
	for what, address := range map[string]string{
		"a private socket": "unix://" + private, "a socket that lets all connect": "unix://" + shared, "a port with auth=uid": "tcp://" + h.tcp,
	} {
		if got := s.say(address, nil, ask...); strings.Contains(got, "action") || strings.Contains(got, "type") {
			t.Errorf("%s: %s", what, got)
		}
		get := "GET /metrics HTTP/1.1\r\nHost: " + h.tcp + "\r\nConnection: close\r\n\r"
		if got := s.say(address, nil, get); strings.Contains(got, "HTTP/1.1 200") {
			t.Errorf("%s over HTTP: %.100s", what, got)
		}
	}
	if got := s.say("unix://"+private, nil, ask...); !strings.Contains(got, "permission denied") {
		t.Errorf("the private socket let somebody connect: %s", got)
	}

	// Where the listener means others, they have what it says.
	got := s.say("unix://"+meant, nil, ask...)
	if !strings.Contains(got, `"request_id":"1","result":1`) || !strings.Contains(got, "not allowed to call state.put") ||
		!strings.Contains(got, "shutdown: that needs the scope admin") {
		t.Errorf("a socket with scopes=read: %s", got)
	}
	w := h.dial()
	if r := w.call("state.get", `{"key":"stolen"}`); r.kind() != "not_found" {
		t.Errorf("state.get stolen: %v", r)
	}
	if n := h.logs.FilterMessage("peer is not allowed").Len(); n == 0 {
		t.Error("the log says nothing of the strangers")
	}
}

func TestConfiguredPeersAndGroups(t *testing.T) {
	t.Parallel()
	s := anotherUser(t)
	var byUser, byGroup string
	const group, other = 54321, 54322 // no name needed
	start := func(peers ...string) *testHub {
		t.Helper()
		dir := openFolder(t)
		byUser, byGroup = filepath.Join(dir, "u"), filepath.Join(dir, "g")
		return startHub(t, Options{Demo: true, Peers: peers, Listen: []string{
			"unix://" + byUser + "?mode=0666", "unix://" + byGroup + "?mode=0660&group=" + strconv.Itoa(group), "tcp://127.0.0.1:0?auth=uid",
		}})
	}
	ask := []string{lineOf("r", "echo", "[1]"), lineOf("c", "state.put", `{"key":"k","value":1}`), lineOf("a", "hub.cancel", `{"call":1}`)}
	check := func(what, got string, read, call, admin bool) {
		t.Helper()
		for id, want := range map[string]bool{"r": read, "c": call, "a": admin} {
			ok := strings.Contains(got, fmt.Sprintf(`"request_id":%q,"result":`, id)) &&
				!strings.Contains(got, fmt.Sprintf(`"request_id":%q,"result":null,"error":"not allowed`, id))
			if ok != want {
				t.Errorf("%s: request %s answered %v, want %v: %s", what, id, ok, want, got)
			}
		}
	}

	start()
	check("member of the socket's group", s.say("unix://"+byGroup, []uint32{group}, ask...), true, false, false)
	check("not listed", s.say("unix://"+byUser, []uint32{group}, ask...), false, false, false)

	h := start("nobody=read,call")
	check("listed user", s.say("unix://"+byUser, nil, ask...), true, true, false)
	check("listed user, auth=uid", s.say("tcp://"+h.tcp, nil, ask...), true, true, false)
	check("listed user in a listed group's place", s.say("unix://"+byGroup, []uint32{group}, ask...), true, true, false)

	start("@"+strconv.Itoa(other)+"=read", "@"+strconv.Itoa(group)+"=admin")
	check("two groups", s.say("unix://"+byUser, []uint32{group, other}, ask...), true, false, true)
	check("one of them", s.say("unix://"+byUser, []uint32{other}, ask...), true, false, false)
	check("none of them", s.say("unix://"+byUser, nil, ask...), false, false, false)
	many := make([]uint32, 0, 200) // more than fit into the first question to the kernel
	for g := range uint32(200) {
		many = append(many, 60000+g)
	}
	check("one of many", s.say("unix://"+byUser, append(many, other), ask...), true, false, false)
}

// A user whose right is taken out of the configuration has lost it at the next connection.
func TestPeersAreReloaded(t *testing.T) {
	t.Parallel()
	s := anotherUser(t)
	socket := filepath.Join(openFolder(t), "s")
	signal := make(chan struct{})
	var mu sync.Mutex
	o := Options{Demo: true, Listen: []string{"unix://" + socket + "?mode=0666"}, Peers: []string{"nobody=read"}, Reload: signal}
	o.Load = func() (Options, error) {
		mu.Lock()
		defer mu.Unlock()
		return o, nil
	}
	startHub(t, o)
	if got := s.say("unix://"+socket, nil, lineOf("1", "echo", "[1]")); !strings.Contains(got, `"result":1`) {
		t.Fatalf("before: %s", got)
	}
	mu.Lock()
	o.Peers = nil
	mu.Unlock()
	signal <- struct{}{}
	eventually(t, "the user is nobody", func() bool {
		return !strings.Contains(s.say("unix://"+socket, nil, lineOf("1", "echo", "[1]")), `"result"`)
	})
}

// Whoever may read can read, and do nothing else: over the whole table.
func TestReadersCanOnlyRead(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none&scopes=read"}})
	owner := h.dial()
	r := owner.call("hub.methods", `{}`)
	var methods []struct{ Name, Scope string }
	if r.Error != nil || json.Unmarshal(r.Result, &methods) != nil || len(methods) < 50 {
		t.Fatalf("hub.methods: %v", r)
	}
	changes := []string{ // that no table can forget to mark
		"state.put", "state.delete", "state.txn", "state.patch", "session.publish", "session.create", "session.close", "token.create",
		"token.revoke", "token.list", "hub.cancel", "hub.log_level", "provider.register", "file.put",
	}
	scopes := map[string]string{}
	for _, m := range methods {
		scopes[m.Name] = m.Scope
		if m.Scope == "" || strings.Contains(m.Scope, ",") {
			t.Errorf("%s has the scope %q: a method has one", m.Name, m.Scope)
		}
	}
	for _, name := range changes {
		if s, there := scopes[name]; there && s == "read" {
			t.Errorf("%s needs the scope read only", name)
		}
	}
	reader := dial(t, "tcp", h.tcp)
	denied := 0
	for _, m := range methods {
		if m.Scope == "read" {
			continue
		}
		r := reader.call(m.Name, `{}`)
		if m.Name == "authenticate" {
			continue
		}
		if r.kind() != "permission" {
			t.Errorf("%s (scope %s): %q %s", m.Name, m.Scope, r.kind(), r.Result)
		}
		denied++
	}
	if denied < 20 {
		t.Errorf("%d methods were denied", denied)
	}
	for _, action := range []string{
		`{"action":"shutdown"}`, `{"action":"message","content":"x","sender":"y"}`, `{"action":"roster_update","agents":[]}`,
		`{"action":"attach","mode":"interactive","client_id":"x"}`,
	} {
		reader.send(action + "\n")
		if line := reader.line(); !strings.Contains(line, "not allowed") {
			t.Errorf("%s: %s", action, line)
		}
	}
}
