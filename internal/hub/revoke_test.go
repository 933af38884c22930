package hub

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// dialWith opens a WebSocket at a path of a TCP listener; token may be "".
func dialWith(t *testing.T, at, path, token string) *websocket.Conn {
	t.Helper()
	head := http.Header{}
	if token != "" {
		head.Set("Authorization", "Bearer "+token)
	}
	ws, resp, err := websocket.Dial(t.Context(), "ws://"+at+path, &websocket.DialOptions{HTTPHeader: head})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	t.Cleanup(func() { ws.CloseNow() })
	return ws
}

// Whose token was revoked is told nothing more, in any protocol: running streams
// end and say why.
func TestRevokingEndsStreamsOfEveryProtocol(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: fiveListeners})
	all, _ := h.tcpListeners()
	token := h.token("watcher", `,"scopes":["read"]`)
	const why = "revoked"

	native := dial(t, "tcp", all)
	native.greet(token)
	native.send(`{"action":"rpc_request","request_id":"s","method":"state.watch","params":{"prefix":""},"stream":true}` + "\n")
	cap := dialWith(t, all, "/capnweb", token)
	say(t, cap, `["push",["pipeline",0,["state","watch"],["a"]]]`, `["pull",1]`)
	bare := dialWith(t, all, "/capnweb", "") // has the right through an object only
	say(t, bare, fmt.Sprintf(`["push",["pipeline",0,["authenticate"],[%q]]]`, token), `["push",["pipeline",1,["state","watch"],["a"]]]`, `["pull",2]`)
	classic, modern := dialWith(t, all, "/kkrpc?streams=1", token), dialWith(t, all, "/kkrpc?streams=1", token)
	say(t, classic, `{"id":"1","method":"state.watch","args":["a"],"type":"request","version":"json"}`)
	say(t, modern, `{"t":"q","id":"1","op":"call","p":["state","watch"],"a":["a"]}`)
	snek := dial(t, "tcp", all)
	snek.frame(fmt.Sprintf(`["CommandMessage","authenticate","authenticate",[["Argument",%q]],{}]`, token))
	snek.frameBack()
	snek.frame(`["CommandMessage","state","watch",[["Argument","a"]],{}]`)
	krpc := make(chan string, 1)
	call := fmt.Sprintf(`{"method":"demo.sleep","params":[600],"pmhparams":[%q]}`, token)
	go func() {
		_, answer := h.ask("tcp", all, fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nContent-Type: application/json\r\n"+
			"Content-Length: %d\r\n\r\n%s", all, len(call), call))
		krpc <- answer
	}()

	eventually(t, "all run", func() bool {
		return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" && h.sample(`hubd_calls_in_flight{protocol="capnweb"}`) == "2" &&
			h.sample(`hubd_calls_in_flight{protocol="kkrpc"}`) == "2" && h.sample(`hubd_calls_in_flight{protocol="snekrpc"}`) == "1" &&
			h.sample(`hubd_calls_in_flight{protocol="krpc"}`) == "1"
	})
	// The stream of the modern dialect is pulled.
	var id string
	for id == "" {
		_, rest, _ := strings.Cut(hear(t, modern), `"async-iterable","id":"`)
		id, _, _ = strings.Cut(rest, `"`)
	}
	say(t, modern, fmt.Sprintf(`{"t":"sq","id":"2","sid":%q,"op":"pull","n":32}`, id))
	h.revoke("watcher")
	owner := h.dial()
	if r := owner.call("state.put", `{"key":"a/secret","value":"told to nobody"}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	until := func(what string, next func() string) {
		t.Helper()
		for {
			got := next()
			if strings.Contains(got, "told to nobody") {
				t.Errorf("%s: was told after its token was revoked: %s", what, got)
			}
			if strings.Contains(got, why) {
				return
			}
		}
	}
	until("kollabor", native.line)
	until("capnweb", func() string { return hear(t, cap) })
	until("capnweb, by an object", func() string { return hear(t, bare) })
	until("kkrpc, classic", func() string { return hear(t, classic) })
	until("kkrpc", func() string { return hear(t, modern) })
	until("snekrpc", snek.frameBack)
	if got := <-krpc; !strings.Contains(got, why) {
		t.Errorf("krpc: %s", got)
	}
}

// A provider whose token was revoked no longer hears what others call it with,
// and the calls that it has yet to answer are answered for it.
func TestRevokingEndsProviders(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: fiveListeners})
	all, _ := h.tcpListeners()
	token := h.token("builder", `,"scopes":["call","provide"]`)
	native := dial(t, "tcp", all)
	native.greet(token)
	if r := native.call("hub.provide", `{"service":"one","methods":["run"]}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	kk := dialWith(t, all, "/kkrpc", token)
	say(t, kk, `{"t":"q","id":"p","op":"call","p":["hub","provide"],"a":["two",["run"]]}`)
	hear(t, kk)
	stays := h.dial()
	if r := stays.call("hub.provide", `{"service":"three","methods":["run"]}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	caller := h.dial()
	caller.send(`{"action":"rpc_request","request_id":"1","method":"one.run","params":[]}` + "\n")
	asked := native.request("rpc_request")
	h.revoke("builder")
	if r := caller.reply(); r.kind() != "unavailable" || !strings.Contains(*r.Error, "permission") {
		t.Errorf("a call that it was answering: %v %s", r.kind(), r.Result)
	}
	native.answer(asked, `"forged"`) // nobody waits for it
	for _, method := range []string{"one.run", "two.run"} {
		if r := caller.call(method, `["secret"]`); r.kind() != "not_found" {
			t.Errorf("%s: %q %s", method, r.kind(), r.Result)
		}
	}
	caller.send(`{"action":"rpc_request","request_id":"2","method":"three.run","params":[]}` + "\n")
	stays.answer(stays.request("rpc_request"), `"still here"`)
	if r := caller.reply(); string(r.Result) != `"still here"` {
		t.Errorf("the provider that nobody revoked: %v", r)
	}
	if r := native.call("hub.provide", `{"service":"one","methods":["run"]}`); r.kind() != "unauthenticated" {
		t.Errorf("it offers again: %v", r.kind())
	}
}

// A reference that a peer was given is worth no more than the token it came
// with, whether the connection came with the token or presented it through the
// method authenticate, whose result may be used beside another token.
func TestRevokingEndsReferences(t *testing.T) {
	t.Parallel()
	for name, with := range map[string]struct{ header, presented bool }{
		"token of the request":      {header: true},
		"authenticate":              {presented: true},
		"authenticate, both tokens": {header: true, presented: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := startHub(t, Options{Demo: true, Listen: []string{listenToken}})
			token := h.token("holder", "")
			header := http.Header{}
			if with.header {
				first := token
				if with.presented {
					first = h.token("other", "")
				}
				header.Set("Authorization", "Bearer "+first)
			}
			c, err := capnweb.Dial(t.Context(), "ws://"+h.tcp+"/capnweb", capnweb.DialOptions{Header: header})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			main := c.Main()
			if with.presented {
				main = main.Call("authenticate", token)
			}
			counter := main.Call("demo.counter", 40)
			if _, err := counter.Value(t.Context()); err != nil {
				t.Fatal(err)
			}
			increment := func() (rpc.Value, error) {
				ctx, stop := context.WithTimeout(t.Context(), patience)
				defer stop()
				return counter.Call("increment", 2).Value(ctx)
			}
			if v, err := increment(); err != nil {
				t.Fatal(v, err)
			}
			h.revoke("holder")
			if v, err := increment(); err == nil || !strings.Contains(err.Error(), "revoked") {
				t.Errorf("the object still answers: %v, %v", v, err)
			}
			if with.header && with.presented {
				if _, err := c.Call(t.Context(), "demo.counter", 1); err != nil {
					t.Errorf("the other token: %v", err)
				}
			}
		})
	}
}
