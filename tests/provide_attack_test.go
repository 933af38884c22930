package tests

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// Anybody who may provide and call offers the hub's own main object as an API
// and calls it: the daemon refuses that, and lives.
func TestHubOfferedAsItsOwnProvider(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ws, resp, err := websocket.Dial(ctx, "ws://"+d.tcpAddress()+"/capnweb", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	defer ws.CloseNow()
	id := 0
	ask := func(expression string) string {
		id++
		if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `["push",%s]`, expression)); err != nil {
			t.Fatal(err)
		}
		if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `["pull",%d]`, id)); err != nil {
			t.Fatal(err)
		}
		_, got, err := ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	for _, main := range []string{`["pipeline",0]`, `["pipeline",0,[]]`, `["import",0]`} {
		if got := ask(`["pipeline",0,["hub","provide"],["x",[["f"]],"","x",` + main + `]]`); !strings.Contains(got, "cannot be offered") {
			t.Errorf("%s: %s", main, got)
		}
		if got := ask(`["pipeline",0,["x","f"],[]]`); !strings.Contains(got, "reject") {
			t.Errorf("x.f: %s", got)
		}
	}
	// The same with methods whose names are given as text.
	if got := ask(`["pipeline",0,["hub","provide"],["x",[["f"]],"","",["pipeline",0]]]`); !strings.Contains(got, "cannot be offered") {
		t.Error(got)
	}

	// Two services of one peer that answer each with a call of the other.
	for _, name := range []string{"a", "b"} {
		if got := ask(`["pipeline",0,["hub","provide"],["` + name + `",[["f"]]]]`); !strings.Contains(got, "resolve") {
			t.Fatal(got)
		}
	}
	caller := d.dial()
	caller.send(`{"action":"rpc_request","request_id":"1","method":"a.f"}` + "\n")
	rounds := 0
	for rounds < 8 {
		_, got, err := ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(got), `["push"`) {
			continue
		}
		rounds++
		other := []string{"a", "b"}[rounds%2]
		if err := ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `["resolve",%d,["pipeline",0,["%s","f"],[]]]`, rounds, other)); err != nil {
			t.Fatal(err)
		}
	}
	if got := caller.line(); !strings.Contains(got, "forwarding loop") {
		t.Error(got)
	}
	w := d.dial() // the process lives
	if got := w.result(w.call("2", "math.add", "[1,2]")); got != "3" {
		t.Errorf("math.add: %s", got)
	}
}
