package hub

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// token makes a token through the Unix socket and returns it whole.
func (h *testHub) token(name, rest string) string {
	h.t.Helper()
	w := h.dial()
	defer w.Close()
	r := w.call("token.create", fmt.Sprintf(`{"name":%q%s}`, name, rest))
	var made struct{ Token string }
	if r.Error != nil || json.Unmarshal(r.Result, &made) != nil || made.Token == "" {
		h.t.Fatalf("token.create: %s %v", r.Result, r.Error)
	}
	return made.Token
}

// revoke takes a token back.
func (h *testHub) revoke(name string) {
	h.t.Helper()
	w := h.dial()
	defer w.Close()
	if r := w.call("token.revoke", fmt.Sprintf(`{"token":%q}`, name)); r.Error != nil {
		h.t.Fatalf("token.revoke: %s", *r.Error)
	}
}

// greet presents a token and returns the answer.
func (w *wire) greet(token string) string {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"action":"hello","version":1,"features":[],"token":%q}`+"\n", token))
	return w.line()
}

// post sends one Cap'n Web batch that calls a method and returns status and answer.
func (h *testHub) post(method, argument, headers string) (int, string) {
	h.t.Helper()
	return h.postTo(h.tcp, method, argument, headers)
}

// postTo is post at one of several TCP listeners.
func (h *testHub) postTo(at, method, argument, headers string) (int, string) {
	h.t.Helper()
	body := fmt.Sprintf(`["push",["pipeline",0,%s,[%s]]]`+"\n"+`["pull",1]`, method, argument)
	return h.ask("tcp", at, fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s",
		at, headers, len(body), body))
}

const listenToken = "tcp://127.0.0.1:0"

func TestTokenOverHello(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("reader", `,"scopes":["read"]`)
	w := dial(t, "tcp", h.tcp)
	if r := w.call("echo", `{"value":1}`); r.kind() != "unauthenticated" {
		t.Fatalf("before hello: %v", r)
	}
	if answer := w.greet(token[:len(token)-1] + "!"); !strings.Contains(answer, "token is not valid") {
		t.Errorf("another token: %s", answer)
	}
	if answer := w.greet(token); !strings.Contains(answer, `"type":"hello"`) {
		t.Fatalf("hello: %s", answer)
	}
	if r := w.call("echo", `{"value":1}`); r.Error != nil {
		t.Errorf("a read: %s", *r.Error)
	}
	if r := w.call("math.add", `[1,2]`); h.scopeOf("math.add") == "call" && r.kind() != "permission" {
		t.Errorf("a call with a token that may read: %v %s", r.kind(), r.Result)
	}
	if r := w.call("token.list", `{}`); r.kind() != "permission" {
		t.Errorf("token.list: %v", r.kind())
	}
	h.revoke("reader")
	if r := w.call("echo", `{"value":1}`); r.kind() != "unauthenticated" || !strings.Contains(*r.Error, "revoked") {
		t.Errorf("after the token was revoked: %v", r)
	}
	if n := h.sample("hubd_auth_failures_total"); n != "1" {
		t.Errorf("%s failures were counted, want 1", n)
	}
}

// scopeOf asks which scope a method needs.
func (h *testHub) scopeOf(method string) string {
	h.t.Helper()
	w := h.dial()
	defer w.Close()
	var d struct{ Scope string }
	r := w.call("hub.describe", fmt.Sprintf(`{"name":%q}`, method))
	if r.Error != nil || json.Unmarshal(r.Result, &d) != nil {
		h.t.Fatalf("hub.describe %s: %v", method, r)
	}
	return d.Scope
}

func TestTokenInHeader(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("web", "")
	expired := h.token("old", `,"ttl":1`)
	for _, c := range []struct {
		what, headers string
		status        int
		answer        string
	}{
		{"none", "", 200, "needs authentication"},
		{"good", "Authorization: Bearer " + token + "\r\n", 200, `["resolve",1,7]`},
		{"lower case scheme", "authorization: bearer " + token + "\r\n", 200, `["resolve",1,7]`},
		{"bad", "Authorization: Bearer hubd_x\r\n", 401, "not valid"},
		{"empty", "Authorization: Bearer\r\n", 401, "not valid"},
		{"two", "Authorization: Bearer " + token + "\r\nAuthorization: Bearer " + token + "\r\n", 400, "more than one"},
		{"another scheme", "Authorization: Basic YTpi\r\n", 200, "needs authentication"},
	} {
		status, answer := h.post(`["math","add"]`, "3,4", c.headers)
		if status != c.status || !strings.Contains(answer, c.answer) {
			t.Errorf("%s: %d %s, want %d and %q", c.what, status, answer, c.status, c.answer)
		}
	}
	eventually(t, "the token expires", func() bool {
		status, answer := h.post(`["echo"]`, "3", "Authorization: Bearer "+expired+"\r\n")
		if status != 200 && status != 401 {
			t.Fatal(status, answer)
		}
		return status == 401 && strings.Contains(answer, "expired")
	})
	h.revoke("web")
	if status, answer := h.post(`["echo"]`, "3", "Authorization: Bearer "+token+"\r\n"); status != 401 {
		t.Errorf("revoked: %d %s", status, answer)
	}
	// A name that a page cannot set needs no token to be refused: order of the checks.
	if status, _ := h.post(`["echo"]`, "3", "Origin: https://evil.example\r\nAuthorization: Bearer "+token+"\r\n"); status != 403 {
		t.Errorf("foreign origin: %d", status)
	}
}

// One connection serves requests of several peers, each with its own rights.
func TestTokenCountsForItsRequestAlone(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{listenToken}})
	token := h.token("web", `,"scopes":["read"]`)
	w := dial(t, "tcp", h.tcp)
	for i, c := range []struct {
		header string
		status int
	}{{"", 401}, {"Authorization: Bearer " + token + "\r\n", 200}, {"", 401}, {"Authorization: Bearer x\r\n", 401}, {"", 401}} {
		w.send("GET /metrics HTTP/1.1\r\nHost: " + h.tcp + "\r\n" + c.header + "\r\n")
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(resp.Body).WriteTo(discard{}); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != c.status {
			t.Errorf("request %d: %d, want %d", i, resp.StatusCode, c.status)
		}
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestTokenInQuery(t *testing.T) {
	t.Parallel()
	off := startHub(t, Options{Listen: []string{listenToken}})
	on := startHub(t, Options{Listen: []string{listenToken}, QueryToken: true})
	for _, c := range []struct {
		h    *testHub
		want int
	}{{off, 401}, {on, 200}} {
		token := c.h.token("q", "")
		status, _ := c.h.ask("tcp", c.h.tcp, "GET /metrics?token="+token+" HTTP/1.1\r\nHost: "+c.h.tcp+"\r\nConnection: close\r\n\r\n")
		if status != c.want {
			t.Errorf("query token: %d, want %d", status, c.want)
		}
	}
}

func TestTokenInWebSocketProtocol(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{listenToken}})
	token := h.token("page", "")
	upgrade := func(protocols string) *http.Response {
		t.Helper()
		w := dial(t, "tcp", h.tcp)
		w.send("GET /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + protocols + "\r\n")
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	for _, c := range []struct{ what, offered, answer string }{
		{"beside another", "Sec-WebSocket-Protocol: hubd, hubd.bearer." + token + "\r\n", "hubd"},
		{"on a line of its own", "Sec-WebSocket-Protocol: hubd.bearer." + token + "\r\nSec-WebSocket-Protocol: hubd\r\n", "hubd"},
		{"alone", "Sec-WebSocket-Protocol: hubd.bearer." + token + "\r\n", "hubd.bearer." + token},
	} {
		resp := upgrade(c.offered)
		if got := resp.Header.Get("Sec-WebSocket-Protocol"); resp.StatusCode != 101 || got != c.answer {
			t.Errorf("%s: %d, protocol %q, want %q", c.what, resp.StatusCode, got, c.answer)
		}
	}
	if resp := upgrade("Sec-WebSocket-Protocol: hubd, hubd.bearer.nonsense\r\n"); resp.StatusCode != 401 {
		t.Errorf("a bad token: %d", resp.StatusCode)
	}
}

// authenticate gives Cap'n Web an object that may do more, and leaves the
// session itself as it was.
func TestAuthenticateReturnsACapability(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("page", "")
	batch := func(lines ...string) string {
		t.Helper()
		body := strings.Join(lines, "\n")
		status, answer := h.ask("tcp", h.tcp, fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s",
			h.tcp, len(body), body))
		if status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		return answer
	}
	answer := batch(fmt.Sprintf(`["push",["pipeline",0,["authenticate"],[%q]]]`, token),
		`["push",["pipeline",1,["math","add"],[3,4]]]`, `["push",["pipeline",0,["math","add"],[3,4]]]`, `["pull",2]`, `["pull",3]`)
	if !strings.Contains(answer, `["resolve",2,7]`) || !strings.Contains(answer, `["reject",3,`) {
		t.Errorf("got %s", answer)
	}
	answer = batch(`["push",["pipeline",0,["authenticate"],["hubd_wrong"]]]`, `["push",["pipeline",1,["math","add"],[3,4]]]`, `["pull",2]`)
	if !strings.Contains(answer, `["reject",2,`) || !strings.Contains(answer, "not valid") {
		t.Errorf("a wrong token: %s", answer)
	}
}

// Clients whose protocol has no place for a token call authenticate: later
// calls of the connection have what the token permits.
func TestAuthenticateChangesAConnection(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("plain", "")
	w := dial(t, "tcp", h.tcp)
	if r := w.call("authenticate", `{"token":"hubd_wrong"}`); r.kind() != "unauthenticated" {
		t.Errorf("wrong token: %v", r)
	}
	r := w.call("authenticate", fmt.Sprintf(`[%q]`, token))
	if r.Error != nil || string(r.Result) != `{"name":"plain","scopes":["read","call"]}` {
		t.Fatalf("authenticate: %s %v", r.Result, r.Error)
	}
	if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Errorf("after it: %v", r)
	}
	if r := w.call("hub.cancel", `{"call":1}`); r.kind() != "permission" {
		t.Errorf("hub.cancel: %v", r)
	}
	w.send(`{"action":"get_status"}` + "\n")
	if line := w.line(); strings.Contains(line, "not allowed") {
		t.Errorf("get_status: %s", line)
	}
}

func TestRevokingEndsRunningCalls(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("watcher", "")
	w := dial(t, "tcp", h.tcp)
	w.greet(token)
	w.send(`{"action":"rpc_request","request_id":"s","method":"health.ping","params":{"count":0,"interval":3600},"stream":true}` + "\n")
	eventually(t, "the stream runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) != "0" })
	h.revoke("watcher")
	for {
		line := w.line()
		if strings.Contains(line, `"rpc_reply"`) {
			if !strings.Contains(line, "revoked") {
				t.Errorf("the stream ended with %s", line)
			}
			return
		}
	}
}

// A client that is attached hears of its session without calling anything.
func TestRevokingEndsAttachedClients(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("follower", "")
	other := h.token("other", "")
	follow := func(token string) *wire {
		w := dial(t, "tcp", h.tcp)
		w.greet(token)
		w.send(`{"action":"attach","mode":"readonly","client_id":"x"}` + "\n")
		w.line()
		if r := w.call("state.put", `{"key":"a","value":1}`); r.kind() != "permission" { // read-only is what it asked for
			t.Errorf("a call of a read-only client: %v", r)
		}
		return w
	}
	gone, stays := follow(token), follow(other)
	h.revoke("follower")
	if _, err := io.ReadAll(gone.r); err != nil && !isReset(err) {
		t.Errorf("still attached: %v", err)
	}
	if r := stays.call("echo", "[1]"); r.Error != nil {
		t.Errorf("the other one: %s", *r.Error)
	}
}

func TestExpiryEndsRunningCalls(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Limits: Limits{PartialFrame: time.Second}})
	token := h.token("short", `,"ttl":2`)
	w := dial(t, "tcp", h.tcp)
	w.greet(token)
	w.send(`{"action":"rpc_request","request_id":"s","method":"health.ping","params":{"count":0,"interval":3600},"stream":true}` + "\n")
	for line := w.line(); ; line = w.line() {
		if strings.Contains(line, `"rpc_reply"`) {
			if !strings.Contains(line, "expired") {
				t.Errorf("the stream ended with %s", line)
			}
			return
		}
	}
}

func TestTokenMethodPatterns(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken + "?scopes=read,call"}})
	token := h.token("narrow", `,"scopes":["read","call","admin"],"methods":["math.*","token.create"]`)
	w := dial(t, "tcp", h.tcp)
	w.greet(token)
	if r := w.call("math.add", `[1,2]`); string(r.Result) != "3" {
		t.Errorf("math.add: %v", r)
	}
	if r := w.call("echo", `[1]`); r.kind() != "permission" {
		t.Errorf("echo: %v", r)
	}
	if r := w.call("token.create", `{"name":"x"}`); r.kind() != "permission" {
		t.Errorf("admin through a listener with scopes=read,call: %v", r)
	}

	// Nobody hands out more than they have.
	h = startHub(t, Options{Listen: []string{listenToken}})
	token = h.token("minter", `,"scopes":["read","admin"],"methods":["token.*"]`)
	w = dial(t, "tcp", h.tcp)
	w.greet(token)
	for params, want := range map[string]string{
		`{"name":"a"}`:                                                   "permission",
		`{"name":"b","scopes":["read"]}`:                                 "permission",
		`{"name":"c","scopes":["read"],"methods":["*"]}`:                 "permission",
		`{"name":"d","scopes":["read","call"],"methods":["token.list"]}`: "permission",
		`{"name":"e","scopes":["admin"],"methods":["token.l*"]}`:         "",
		`{"name":"f","scopes":["nonsense"]}`:                             "invalid_params",
		`{"name":"g","ttl":-1}`:                                          "invalid_params",
		`{"name":"h","ttl":1e300}`:                                       "invalid_params",
	} {
		if r := w.call("token.create", params); r.kind() != want {
			t.Errorf("token.create %s: %q %s, want %q", params, r.kind(), r.Result, want)
		}
	}
}

// Whoever guesses is stopped, and nobody else: a good token passes from the
// same address.
func TestFailedAttemptsAreLimited(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
	token := h.token("good", "")
	statuses := map[int]int{}
	for range attemptBurst + 5 {
		status, _ := h.post(`["echo"]`, "1", "Authorization: Bearer guess\r\n")
		statuses[status]++
	}
	if statuses[401] < attemptBurst || statuses[429] < 3 {
		t.Errorf("answers by status: %v", statuses)
	}
	w := dial(t, "tcp", h.tcp)
	w.send(`{"action":"hello","version":1,"features":[],"token":"guess"}` + "\n")
	if err := w.ended(); err != nil {
		t.Errorf("a guess over the limit on the native wire: %v", err)
	}
	if status, answer := h.post(`["math","add"]`, "3,4", "Authorization: Bearer "+token+"\r\n"); status != 200 || !strings.Contains(answer, "7") {
		t.Errorf("a good token from the same address: %d %s", status, answer)
	}
	if n := h.sample(`hubd_rejected_total{limit="failed_attempts"}`); n == "0" || n == "" {
		t.Errorf("limit counted %q times", n)
	}
	refused := h.logs.FilterMessage("token refused").Len()
	if refused == 0 || refused > auditBurst+3 {
		t.Errorf("%d lines in the log for %d guesses", refused, attemptBurst+6)
	}
	for _, e := range h.logs.All() {
		if strings.Contains(fmt.Sprint(e.ContextMap()), "guess") || strings.Contains(fmt.Sprint(e.ContextMap()), token) {
			t.Errorf("the log has the token: %v", e)
		}
	}
}

func TestConnectionsThatDoNotAuthenticate(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{listenToken}, Limits: Limits{ConnectionsUnauthenticated: 3, Handshake: time.Second, FirstByte: time.Minute}})
	token := h.token("one", "")
	w := dial(t, "tcp", h.tcp)
	if answer := w.greet(token); !strings.Contains(answer, `"hello"`) {
		t.Fatal(answer)
	}
	var waiting []*wire
	for range 3 {
		waiting = append(waiting, dial(t, "tcp", h.tcp))
		waiting[len(waiting)-1].send("{\n")
		waiting[len(waiting)-1].line()
	}
	over := dial(t, "tcp", h.tcp)
	if err := waiting[0].ended(); err != nil {
		t.Errorf("the oldest, when a fourth has come: %v", err)
	}
	waiting[0] = over
	if n := h.sample(`hubd_rejected_total{limit="connections_unauthenticated"}`); n != "1" {
		t.Errorf("rejected %s", n)
	}
	for _, c := range waiting {
		if err := c.ended(); err != nil {
			t.Error(err)
		}
	}
	if n := h.sample(`hubd_rejected_total{limit="handshake"}`); n != "3" {
		t.Errorf("%s connections were ended for not saying who they are, want 3", n)
	}
	// Their places are free again, and who has authenticated stays.
	next := dial(t, "tcp", h.tcp)
	if answer := next.greet(token); !strings.Contains(answer, `"hello"`) {
		t.Error(answer)
	}
	if r := w.call("echo", "[1]"); r.Error != nil {
		t.Errorf("the authenticated connection: %s", *r.Error)
	}
}

func TestTokensOutliveTheHub(t *testing.T) {
	t.Parallel()
	state := filepath.Join(shortDir(t), "state")
	h := startHub(t, Options{State: state, Listen: []string{listenToken}})
	token := h.token("lasting", "")
	if status, _ := h.post(`["echo"]`, "1", "Authorization: Bearer "+token+"\r\n"); status != 200 {
		t.Fatal(status)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	h = startHub(t, Options{State: state, Listen: []string{listenToken}})
	if status, _ := h.post(`["echo"]`, "1", "Authorization: Bearer "+token+"\r\n"); status != 200 {
		t.Errorf("after a restart: %d", status)
	}
	w := h.dial()
	if r := w.call("token.list", "{}"); !strings.Contains(string(r.Result), `"used":"20`) || strings.Contains(string(r.Result), token) {
		t.Errorf("token.list: %s", r.Result)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state, tokenFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{State: state, Listen: []string{"unix://" + filepath.Join(shortDir(t), "s")}})
	if ExitCode(err) != ExitState || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file of tokens that others can read: %v", err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o600)
	err = Run(t.Context(), Options{State: state, Listen: []string{"unix://" + filepath.Join(shortDir(t), "s")}})
	if ExitCode(err) != ExitDamaged || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged file of tokens: %v", err)
	}
}

// Denied calls leave a line that says who, from where and what, and not with
// which parameters; many of them leave few lines.
func TestAuditOfDeniedCalls(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none&scopes=read"}})
	w := dial(t, "tcp", h.tcp)
	const secret = "s3cr3t-parameter"
	for range 50 {
		if r := w.call("state.put", fmt.Sprintf(`{"key":%q,"value":%q}`, secret, secret)); r.kind() != "permission" {
			t.Fatalf("%v", r)
		}
	}
	lines := h.logs.FilterMessage("call denied").All()
	if len(lines) == 0 || len(lines) > auditBurst+10 {
		t.Fatalf("%d lines for 50 denied calls", len(lines))
	}
	got := lines[0].ContextMap()
	if got["method"] != "state.put" || got["code"] != string(rpc.CodePermissionDenied) || got["from"] != "127.0.0.1" || got["protocol"] != "kollabor" {
		t.Errorf("line %v", got)
	}
	for _, e := range h.logs.All() {
		if strings.Contains(e.Message+fmt.Sprint(e.ContextMap()), secret) {
			t.Errorf("the log has a parameter: %v", e)
		}
	}
}

// A token opens the door in every protocol, and a token that is none in no one.
func TestTokenInEveryProtocol(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken, "tcp://127.0.0.1:0?protocols=kkrpc"}})
	token := h.token("t", "")
	var at []string
	for _, l := range h.info.Listeners {
		if address, ok := strings.CutPrefix(l, "tcp://"); ok {
			at = append(at, address)
		}
	}
	snek := dial(t, "tcp", at[0])
	kk := dial(t, "tcp", at[1])
	for _, step := range []struct {
		token string
		ok    bool
	}{{"", false}, {"hubd_wrong", false}, {token, true}} {
		say := func(service, command, arguments string) string {
			t.Helper()
			msg := fmt.Sprintf(`["CommandMessage",%q,%q,[%s],{}]`, service, command, arguments)
			snek.send(string(binary.BigEndian.AppendUint32(nil, uint32(len(msg)))) + msg)
			var size [4]byte
			if _, err := io.ReadFull(snek.r, size[:]); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, binary.BigEndian.Uint32(size[:]))
			if _, err := io.ReadFull(snek.r, answer); err != nil {
				t.Fatal(err)
			}
			return string(answer)
		}
		ask := func(path, arguments string) string {
			t.Helper()
			kk.send(fmt.Sprintf(`{"t":"q","id":"1","op":"call","p":%s,"a":[%s]}`+"\n", path, arguments))
			return kk.line()
		}
		form := "json=" + url.QueryEscape(fmt.Sprintf(`{"method":"math_add","params":[3,4],"pmhparams":[%q]}`, step.token))
		if step.token != "" {
			say("authenticate", "authenticate", fmt.Sprintf(`["Argument",%q]`, step.token))
			ask(`["authenticate"]`, fmt.Sprintf("%q", step.token))
		} else {
			form = "json=" + url.QueryEscape(`{"method":"math_add","params":[3,4]}`)
		}
		_, krpc := h.ask("tcp", at[0], fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"+
			"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", at[0], len(form), form))
		for protocol, answer := range map[string]string{
			"snekrpc": say("math", "add", `["Argument",3],["Argument",4]`), "kkrpc": ask(`["math","add"]`, "3,4"), "krpc": krpc,
		} {
			if ok := strings.Contains(answer, "7") && !strings.Contains(strings.ToLower(answer), "error"); ok != step.ok {
				t.Errorf("%s with %.10q: %s", protocol, step.token, answer)
			}
		}
	}
}

// A hub on TCP alone says how its owner gets in, until there is a token.
func TestFirstTokenWithoutAUnixSocket(t *testing.T) {
	t.Parallel()
	dir, options := shortDir(t), Options{}
	start := func(listen string) (logs *observer.ObservedLogs, at string, stop func()) {
		t.Helper()
		core, logs := observer.New(zapcore.WarnLevel)
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan Info, 1), make(chan error, 1)
		go func() {
			o := options
			o.Listen, o.State, o.Log, o.Ready = []string{listen}, filepath.Join(dir, "s"), zap.New(core), func(i Info) { ready <- i }
			done <- Run(ctx, o)
		}()
		select {
		case i := <-ready:
			at = strings.TrimPrefix(i.Listeners[0], "tcp://")
		case err := <-done:
			t.Fatal(err)
		}
		return logs, at, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	logs, at, stop := start(listenToken)
	eventually(t, "the log tells of it", func() bool { return logs.FilterMessageSnippet("no usable credentials").Len() == 1 })
	fix := fmt.Sprint(logs.FilterMessageSnippet("no usable credentials").All()[0].ContextMap()["fix"])
	socket, _, _ := strings.Cut(strings.TrimPrefix(fix, "hubctl --socket "), " ")
	owner := dial(t, "unix", socket)
	r := owner.call("token.create", `{"name":"first","scopes":["read","call","provide","admin"]}`)
	var made struct{ Token string }
	if r.Error != nil || json.Unmarshal(r.Result, &made) != nil {
		t.Fatal(r)
	}
	w := dial(t, "tcp", at)
	w.greet(made.Token)
	if r := w.call("token.create", `{"name":"second"}`); r.Error != nil {
		t.Errorf("the first token makes no second: %s", *r.Error)
	}
	stop()
	logs, _, stop = start(listenToken)
	stop()
	if n := logs.FilterMessageSnippet("no usable credentials").Len(); n != 0 {
		t.Error("it says so although there is a token")
	}
	dir = shortDir(t)
	logs, _, stop = start(listenToken + "?auth=uid")
	stop()
	if n := logs.FilterMessageSnippet("no usable credentials").Len(); n != 0 {
		t.Error("it says so although users come in without one")
	}
	a := newAuthority(t)
	dir = shortDir(t)
	options.TLSCert, options.TLSKey = a.files(dir, 1)
	options.TLSClientCA = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(options.TLSClientCA, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	options.TLSClients = []string{"client=read"}
	logs, _, stop = start("tls://127.0.0.1:0")
	stop()
	if n := logs.FilterMessageSnippet("no usable credentials").Len(); n != 0 {
		t.Error("it says so although owners of certificates come in without one")
	}
}
