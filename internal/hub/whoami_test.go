package hub

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Whoever asks is told who the hub takes it for, in every protocol and on
// every kind of listener.
func TestWhoamiOnEveryKindOfListener(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{
		"tcp://127.0.0.1:0?auth=none&scopes=read", "tcp://127.0.0.1:0?auth=uid", "tcp://127.0.0.1:0",
	}})
	tcp := []string{}
	for _, l := range h.info.Listeners {
		if at, ok := strings.CutPrefix(l, "tcp://"); ok {
			tcp = append(tcp, at)
		}
	}
	token := h.token("builder", `,"scopes":["read","call"],"methods":["math.*"],"ttl":3600`)
	all := []string{"read", "call", "provide", "admin"}
	ask := func(w *wire) (got whoami) {
		t.Helper()
		r := w.call("hub.whoami", `{}`)
		if r.Error != nil || json.Unmarshal(r.Result, &got) != nil {
			t.Fatalf("hub.whoami: %v", r)
		}
		return got
	}
	for _, c := range []struct {
		what     string
		w        *wire
		by, name string
		uid      bool
		scopes   []string
		methods  []string
		source   string
	}{
		{"the hub's own user", h.dial(), "user", "", true, all, nil, "being root or the user of the hub"},
		{"auth=none", dial(t, "tcp", tcp[0]), "nobody", "", false, []string{"read"}, nil, "scopes= of the listener"},
		{"auth=uid", dial(t, "tcp", tcp[1]), "user", "", true, all, nil, "being root or the user of the hub"},
		{"no token yet", dial(t, "tcp", tcp[2]), "nobody", "", false, nil, nil, ""},
	} {
		got := ask(c.w)
		if got.By != c.by || got.Name != c.name || (got.UID != nil) != c.uid || !slices.Equal(got.Scopes, c.scopes) ||
			!slices.Equal(got.Methods, c.methods) || !strings.Contains(got.Source, c.source) || got.Listener == "" || got.Protocol != "kollabor" {
			t.Errorf("%s: %+v", c.what, got)
		}
	}
	w := dial(t, "tcp", tcp[2])
	w.greet(token)
	got := ask(w)
	if got.By != "token" || got.Name != "builder" || !slices.Equal(got.Scopes, []string{"read", "call"}) ||
		!slices.Equal(got.Methods, []string{"math.*"}) || got.Expires == nil || !strings.Contains(got.Source, "token create") {
		t.Errorf("a narrow token: %+v", got)
	}
	h.revoke("builder")
	if got := ask(w); len(got.Scopes) != 0 {
		t.Errorf("a revoked token: %+v", got)
	}

	five := startHub(t, Options{Demo: true, Listen: fiveListeners})
	token = five.token("all", `,"scopes":["read"]`)
	for _, s := range five.speakers(token) {
		answer := s.call("hub.whoami", "")
		if !strings.Contains(answer, `"by"`) || !strings.Contains(answer, `"token"`) || !strings.Contains(answer, s.protocol) {
			t.Errorf("%s: %s", s.protocol, answer)
		}
	}

	a := newAuthority(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, a.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	secure, _ := startTLS(t, a, "?auth=cert&scopes=read", Options{TLSClientCA: ca, TLSClients: []string{"client=read,call"}})
	if got := ask(secure.dialTLS(a, a.pair("client"))); got.By != "certificate" || got.Name != "client" || !slices.Equal(got.Scopes, []string{"read"}) ||
		!strings.Contains(got.Source, "tls.clients") || got.Expires == nil {
		t.Errorf("a certificate: %+v", got)
	}
}

// A refusal for the lack of a scope says which one, what the caller has, and
// what would give it.
func TestRefusalsNameTheScopeAndWhatGivesIt(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none&scopes=read", "tcp://127.0.0.1:0"}})
	var none, tokens string
	for _, l := range h.info.Listeners {
		if at, ok := strings.CutPrefix(l, "tcp://"); ok && none == "" {
			none = at
		} else if ok {
			tokens = at
		}
	}
	w := dial(t, "tcp", none)
	check := func(what, got string, want ...string) {
		t.Helper()
		for _, s := range want {
			if !strings.Contains(got, s) {
				t.Errorf("%s: %s, want %q", what, got, s)
			}
		}
	}
	check("auth=none", complaint(w.call("state.put", `{"key":"k","value":1}`)),
		"not allowed to call state.put: that needs the scope call, the caller (hub.whoami) has read; see scopes= of the listener")
	w.send(`{"action":"shutdown"}` + "\n")
	check("an action", w.line(), "not allowed: shutdown: that needs the scope admin, the caller (hub.whoami) has read")
	w = dial(t, "tcp", tokens)
	w.greet(h.token("reader", `,"scopes":["read"]`))
	check("a token", complaint(w.call("state.put", `{"key":"k","value":1}`)), "the scope call", "has read", "see hubctl token create --scopes")
	w = dial(t, "tcp", tokens)
	w.greet(h.token("narrow", `,"scopes":["read","call"],"methods":["state.get"]`))
	check("a narrow token", complaint(w.call("state.put", `{"key":"k","value":1}`)), "not allowed to call state.put: the token is for other methods than state.put")

	if os.Geteuid() != 0 {
		return // another user is needed for the rest
	}
	s := anotherUser(t)
	group := uint32(54321)
	socket := filepath.Join(openFolder(t), "g")
	startHub(t, Options{Listen: []string{fmt.Sprintf("unix://%s?mode=0660&group=%d", socket, group)}})
	got := s.say("unix://"+socket, []uint32{group}, lineOf("1", "state.put", `{"key":"k","value":1}`), lineOf("2", "hub.whoami", `{}`))
	check("a member of the group", got, "the scope call", "has read; see peers in the configuration of the hub",
		fmt.Sprintf(`"uid":%d`, s.uid), `"scopes":["read"]`)
}

// What a method does by way of another one needs the permission of that one,
// too: a token for state.txn alone reads and writes nothing.
func TestPatternsNarrowWhatMethodsDoForOthers(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: fiveListeners})
	all, _ := h.tcpListeners()
	if r := h.dial().call("state.put", `{"key":"a","value":"secret"}`); r.Error != nil {
		t.Fatal(r)
	}
	as := func(name, methods string) *wire {
		w := dial(t, "tcp", all)
		w.greet(h.token(name, `,"scopes":["read","call","provide","admin"],"methods":[`+methods+`]`))
		return w
	}
	const put, get = `{"op":"put","key":"b","value":1}`, `{"op":"get","key":"a"}`
	txn := func(ops string) string { return `{"then":[` + ops + `]}` }
	lonely := as("lonely", `"state.txn"`)
	for ops, method := range map[string]string{
		put: "state.put", get: "state.get", `{"op":"delete","key":"a"}`: "state.delete", `{"op":"delete","prefix":""}`: "state.delete",
		`{"op":"touch","key":"a","ttl":1}`: "state.touch", `{"op":"patch","key":"a","merge":{}}`: "state.patch",
	} {
		for _, params := range []string{txn(ops), `{"else":[` + ops + `]}`} {
			r := lonely.call("state.txn", params)
			if r.kind() != "permission" || !strings.Contains(complaint(r), "what "+method+" does") {
				t.Errorf("%s with state.txn alone: %v", params, r)
			}
		}
	}
	for _, condition := range []string{`{"key":"a","value":"secret"}`, `{"key":"a","revision":0}`} {
		if r := lonely.call("state.txn", `{"if":[`+condition+`]}`); r.kind() != "permission" {
			t.Errorf("the condition %s with state.txn alone: %v", condition, r)
		}
	}
	if r := lonely.call("state.restore", `{}`); r.kind() != "permission" {
		t.Errorf("state.restore: %v", r)
	}
	writer := as("writer", `"state.txn","state.put"`)
	if r := writer.call("state.txn", txn(put)); r.Error != nil {
		t.Errorf("put with state.put: %v", r)
	}
	if r := writer.call("state.txn", txn(put+","+get)); r.kind() != "permission" {
		t.Errorf("get without state.get: %v", r)
	}
	onlyCall := dial(t, "tcp", all)
	onlyCall.greet(h.token("onlycall", `,"scopes":["call"]`))
	if r := onlyCall.call("state.txn", txn(get)); r.kind() != "permission" || strings.Contains(complaint(r), "secret") {
		t.Errorf("reading without the scope read: %v", r)
	}

	// Restoring puts and deletes; the methods for clients of kollabor say and do what others do.
	state := as("state", `"state.*"`)
	for method, params := range map[string]string{
		"state.hub_send_msg": `{"target":"demo","content":"x"}`, "state.hub_broadcast": `{"content":"x"}`, "state.list_contexts": `{}`,
		"state.get_active_context": `{}`, "state.get_system_info": `{}`, "state.get_hub_state": `{}`, "state.get_processing_state": `{}`,
		"state.get_hub_status_text": `{}`, "state.get_hub_work_text": `{}`,
	} {
		if r := state.call(method, params); r.kind() != "permission" {
			t.Errorf("%s with state.* alone: %v", method, r)
		}
	}
	if r := as("restorer", `"state.restore"`).call("state.restore", `{}`); r.kind() != "permission" || !strings.Contains(complaint(r), "state.put") {
		t.Errorf("state.restore alone: %v", r)
	}
	if r := as("talker", `"state.hub_broadcast","session.send"`).call("state.hub_broadcast", `{"content":"x"}`); r.Error != nil {
		t.Errorf("with both: %v", r)
	}
}

// complaint is the text of a refusal.
func complaint(r reply) string {
	if r.Error == nil {
		return string(r.Result)
	}
	return *r.Error
}
