package hub

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// speaker calls methods in one protocol and returns whatever is answered, as text.
type speaker struct {
	protocol string
	call     func(method, arguments string) string
}

// speakers are clients of all protocols on TCP, each with the token in the way
// of its protocol. The hub needs the listeners of fiveListeners.
func (h *testHub) speakers(token string) []speaker {
	h.t.Helper()
	all, lines := h.tcpListeners()
	native, kk, snek := dial(h.t, "tcp", all), dial(h.t, "tcp", lines), dial(h.t, "tcp", all)
	native.greet(token)
	kkrpc := func(method, arguments string) string {
		path, _ := json.Marshal(strings.Split(method, "."))
		kk.send(fmt.Sprintf(`{"t":"q","id":"1","op":"call","p":%s,"a":[%s]}`+"\n", path, arguments))
		return kk.line()
	}
	kkrpc("authenticate", fmt.Sprintf("%q", token))
	snekrpc := func(method, arguments string) string {
		service, command, dotted := strings.Cut(method, ".")
		if !dotted {
			command = service
		}
		var list []string
		for _, a := range splitArguments(arguments) {
			list = append(list, fmt.Sprintf(`["Argument",%s]`, a))
		}
		snek.frame(fmt.Sprintf(`["CommandMessage",%q,%q,[%s],{}]`, service, command, strings.Join(list, ",")))
		return snek.frameBack()
	}
	snekrpc("authenticate", fmt.Sprintf("%q", token))
	bearer := "Authorization: Bearer " + token + "\r\n"
	return []speaker{
		{"kollabor", func(method, arguments string) string {
			native.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"t","method":%q,"params":[%s]}`+"\n", method, arguments))
			return native.line()
		}},
		{"kkrpc", kkrpc},
		{"capnweb", func(method, arguments string) string {
			path, _ := json.Marshal(strings.Split(method, "."))
			_, answer := h.postTo(all, string(path), arguments, bearer)
			return answer
		}},
		{"krpc", func(method, arguments string) string {
			form := "json=" + url.QueryEscape(fmt.Sprintf(`{"method":%q,"params":[%s],"pmhparams":[%q]}`,
				strings.Replace(method, ".", "_", 1), arguments, token))
			_, answer := h.ask("tcp", all, fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n"+
				"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s", all, len(form), form))
			return answer
		}},
		{"snekrpc", snekrpc},
	}
}

// fiveListeners let clients of all protocols in that have a token. Lines are
// native ones on the first.
var fiveListeners = []string{listenToken, "tcp://127.0.0.1:0?protocols=kkrpc"}

func (h *testHub) tcpListeners() (all, lines string) {
	h.t.Helper()
	var at []string
	for _, l := range h.info.Listeners {
		if address, ok := strings.CutPrefix(l, "tcp://"); ok {
			at = append(at, address)
		}
	}
	if len(at) != 2 {
		h.t.Fatalf("listeners: %v", h.info.Listeners)
	}
	return at[0], at[1]
}

// splitArguments takes a list of scalars apart.
func splitArguments(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// frame sends one message of snekrpc, frameBack reads one.
func (w *wire) frame(message string) {
	w.t.Helper()
	w.send(string(binary.BigEndian.AppendUint32(nil, uint32(len(message)))) + message)
}

func (w *wire) frameBack() string {
	w.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(w.r, size[:]); err != nil {
		w.t.Fatal(err)
	}
	message := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(w.r, message); err != nil {
		w.t.Fatal(err)
	}
	return string(message)
}

// row is what these tests need of a method.
type row struct {
	Name, Scope string
	StreamIn    bool `json:"stream_in"`
}

func (h *testHub) rows() []row {
	h.t.Helper()
	r := h.dial().call("hub.methods", `{}`)
	var list []row
	if r.Error != nil || json.Unmarshal(r.Result, &list) != nil || len(list) < 60 {
		h.t.Fatalf("hub.methods: %v, %d rows", r.kind(), len(list))
	}
	return list
}

// A reader can only read, and a token that is narrowed to some methods calls
// no others: every row of the table, through every protocol.
func TestScopesInEveryProtocol(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: fiveListeners, FileRoot: t.TempDir()})
	rows := h.rows()
	for _, c := range []struct {
		what, rest string
		may        func(row) bool
	}{
		{"reader", `,"scopes":["read"]`, func(r row) bool { return r.Scope == "read" }},
		{"caller", `,"scopes":["call"]`, func(r row) bool { return r.Scope == "call" }},
		{"narrow", `,"scopes":["read","call","provide","admin"],"methods":["math.*"]`, func(r row) bool { return strings.HasPrefix(r.Name, "math.") }},
	} {
		token := h.token(c.what, c.rest)
		for _, s := range h.speakers(token) {
			denied := 0
			for _, r := range rows {
				if c.may(r) || r.Name == "authenticate" || r.Name == "hub.whoami" {
					continue
				}
				denied++
				got := s.call(r.Name, "")
				if s.protocol == "snekrpc" && strings.Contains(got, "AttributeError") {
					continue // it cannot carry the method
				}
				if !strings.Contains(got, "not allowed to call "+r.Name) {
					t.Errorf("%s, %s: %s (scope %s) answered %.300s", c.what, s.protocol, r.Name, r.Scope, got)
				}
			}
			if denied < 20 {
				t.Errorf("%s, %s: %d methods were denied", c.what, s.protocol, denied)
			}
			if got := s.call("math.add", "3,4"); strings.Contains(got, "7") != c.may(row{Name: "math.add", Scope: "read"}) {
				t.Errorf("%s, %s: math.add answered %s", c.what, s.protocol, got)
			}
		}
	}
	if r := h.dial().call("state.list", `{"prefix":"a"}`); strings.Contains(string(r.Result), `"key"`) {
		t.Errorf("somebody has written: %s", r.Result)
	}
}

// What is no row of the table is narrowed as well: actions of the native
// protocol, paths of HTTP, properties.
func TestPatternsNarrowWhatIsNoMethod(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: fiveListeners})
	all, lines := h.tcpListeners()
	const scopes = `,"scopes":["read","call","provide","admin"]`
	math, events := h.token("math", scopes+`,"methods":["math.*"]`), h.token("events", scopes+`,"methods":["session.follow","session.info","hub.stats"]`)

	denied := func(token string, actions ...string) {
		t.Helper()
		w := dial(t, "tcp", all)
		w.greet(token)
		for _, a := range actions {
			w.send(a + "\n")
			if got := w.line(); !strings.Contains(got, "not allowed") {
				t.Errorf("%s: %s", a, got)
			}
		}
	}
	const attach, shutdown = `{"action":"attach","mode":"interactive","client_id":"x"}`, `{"action":"shutdown"}`
	message, roster := `{"action":"message","content":"x","sender":"y"}`, `{"action":"roster_update","agents":[]}`
	denied(math, `{"action":"get_status"}`, `{"action":"get_output"}`, `{"action":"get_context"}`, message, roster, shutdown,
		`{"action":"attach","mode":"readonly","client_id":"x"}`, attach)
	denied(events, `{"action":"get_output"}`, message, roster, shutdown, attach)
	w := dial(t, "tcp", all)
	w.greet(events)
	// In this order: who is attached gets no status.
	for _, c := range [][2]string{{`{"action":"get_status"}`, `"status"`}, {`{"action":"attach","client_id":"x"}`, `"attach_ack"`}} {
		w.send(c[0] + "\n")
		if got := w.line(); !strings.Contains(got, c[1]) {
			t.Errorf("%s: %s", c[0], got)
		}
	}
	if n := h.logs.FilterMessage("call denied").Len(); n < auditBurst {
		t.Errorf("the audit log has %d lines", n)
	}

	for _, c := range []struct {
		token, request string
		status         int
	}{
		{math, "GET /metrics", 403}, {math, "POST /-/reload", 403}, {events, "GET /metrics", 200}, {events, "POST /-/reload", 403},
	} {
		status, _ := h.ask("tcp", all, c.request+" HTTP/1.1\r\nHost: "+all+"\r\nAuthorization: Bearer "+c.token+
			"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if status != c.status {
			t.Errorf("%s: %d, want %d", c.request, status, c.status)
		}
	}

	// Properties of kkrpc are state.get and state.put; reading a method of Cap'n Web
	// as a property gives nothing that a call would not.
	kk := dial(t, "tcp", lines)
	ask := func(format string, args ...any) string {
		t.Helper()
		kk.send(fmt.Sprintf(format, args...) + "\n")
		return kk.line()
	}
	ask(`{"t":"q","id":"1","op":"call","p":["authenticate"],"a":[%q]}`, math)
	for _, q := range []string{
		`{"t":"q","id":"1","op":"get","p":["state","a"]}`, `{"t":"q","id":"1","op":"set","p":["state","a"],"v":1}`,
		`{"id":"1","method":"","args":{},"type":"get","path":["state","a"],"version":"json"}`,
	} {
		if got := ask("%s", q); !strings.Contains(got, "not allowed") {
			t.Errorf("%s: %s", q, got)
		}
	}
	body := strings.Join([]string{
		`["push",["pipeline",0,["state","put"]]]`, `["push",["pipeline",1,[],["a",1]]]`, // the method, then the call
		`["push",["pipeline",0,["state"]]]`, `["push",["pipeline",3,["put"],["a",1]]]`, // through its namespace
		`["push",["pipeline",0,[]]]`, `["push",["pipeline",5,["state","put"],["a",1]]]`, // through the main object
		`["push",["pipeline",0,["authenticate"],["` + math + `"]]]`, `["push",["pipeline",7,["state","put"],["a",1]]]`,
		`["pull",2]`, `["pull",4]`, `["pull",6]`, `["pull",8]`,
	}, "\n")
	_, answer := h.ask("tcp", all, fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n"+
		"Content-Length: %d\r\n\r\n%s", all, math, len(body), body))
	if n := strings.Count(answer, "not allowed to call state.put"); n != 4 {
		t.Errorf("%d of 4 ways were refused: %s", n, answer)
	}
	if r := h.dial().call("state.get", `{"key":"a"}`); r.kind() != "not_found" {
		t.Errorf("somebody has written: %s", r.Result)
	}
}

// A request with two tokens would be that of two peers, wherever they are.
func TestTwoTokens(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, QueryToken: true, KrpcGet: true})
	one, two := h.token("one", ""), h.token("two", "")
	bearer := "Authorization: Bearer " + one + "\r\n"
	upgrade := "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	offer := "Sec-WebSocket-Protocol: hubd.bearer." + one + ", hubd, hubd.bearer." + two + "\r\n"
	call := "json=" + url.QueryEscape(fmt.Sprintf(`{"method":"math.add","params":[3,4],"pmhparams":[%q]}`, two))
	for what, head := range map[string]string{
		"two headers":               "GET /metrics HTTP/1.1\r\n" + bearer + bearer,
		"header and query":          "GET /metrics?token=" + two + " HTTP/1.1\r\n" + bearer,
		"two in the query":          "GET /metrics?token=" + two + "&token=" + one + " HTTP/1.1\r\n",
		"header and subprotocol":    "GET /kkrpc HTTP/1.1\r\n" + bearer + upgrade + "Sec-WebSocket-Protocol: hubd.bearer." + two + "\r\n",
		"two subprotocols":          "GET /kkrpc HTTP/1.1\r\n" + upgrade + offer,
		"two lines of subprotocols": "GET /capnweb HTTP/1.1\r\n" + upgrade + strings.Repeat("Sec-WebSocket-Protocol: hubd.bearer."+one+"\r\n", 2),
	} {
		w := dial(t, "tcp", h.tcp)
		w.send(head + "Host: " + h.tcp + "\r\n\r\n")
		answer := w.line()
		for line := answer; line != "\r"; line = w.line() {
			if strings.Contains(line, one) || strings.Contains(line, two) {
				t.Errorf("%s: a token comes back: %s", what, line)
			}
		}
		if !strings.HasPrefix(answer, "HTTP/1.1 400 ") {
			t.Errorf("%s: %s", what, answer)
		}
	}
	for _, head := range []string{"GET /krpc?" + call + " HTTP/1.1\r\n", "GET /krpc?" + call + "&token=" + one + " HTTP/1.1\r\n"} {
		if !strings.Contains(head, one) {
			head += bearer
		}
		_, answer := h.ask("tcp", h.tcp, head+"Host: "+h.tcp+"\r\nConnection: close\r\n\r\n")
		if !strings.Contains(answer, "more than one token") {
			t.Errorf("pmhparams besides another: %s", answer)
		}
	}
	if n := h.logs.FilterField(zap.String("why", twoTokens)).Len(); n == 0 {
		t.Error("the audit log says nothing of it")
	}
}
