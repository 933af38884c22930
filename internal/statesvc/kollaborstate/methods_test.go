package kollaborstate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// fakeHub has one other session.
type fakeHub struct {
	sent   []string
	err    error
	alone  bool
	busy   int
	cancel bool
}

func (*fakeHub) System() System {
	return System{Cwd: "/srv", Branch: "main", PID: 4242, Uptime: 12 * time.Second, Platform: "Linux", Arch: "x86_64", Methods: 7, Services: 2}
}
func (*fakeHub) Self(*rpc.Call) Self { return Self{Identity: "demo", AgentID: "a1b2c3d4e5f6"} }

func (h *fakeHub) Roster(*rpc.Call) []Peer {
	if h.alone {
		return nil
	}
	return []Peer{{Identity: "lapis", State: "idle"}}
}

func (h *fakeHub) Work() Work { return Work{InFlight: h.busy} }

func (*fakeHub) Sessions(*rpc.Call) (string, []Session) {
	return "main", []Session{{Name: "main", Title: "t", Created: time.Unix(1760000000, 0)}, {Name: "other", Created: time.Unix(1760000001, 5e8)}}
}

func (h *fakeHub) Send(_ context.Context, _ *rpc.Call, target, content string, force bool) (int, error) {
	h.sent = append(h.sent, fmt.Sprintf("%s|%s|%v", target, content, force))
	if target == "nobody" {
		return 0, h.err
	}
	return 1, h.err
}

func (h *fakeHub) CancelCurrent(*rpc.Call) bool { return h.cancel }

func call(t *testing.T, h Hub, method, args string) (rpc.Value, error) {
	t.Helper()
	for _, m := range Methods(h) {
		if m.Name != method {
			continue
		}
		v, err := rpc.Parse([]byte(args))
		if err != nil {
			t.Fatal(err)
		}
		return rpc.Do(t.Context(), m, &rpc.Call{Args: rpc.WholeArgs(v), Peer: rpc.Local, Protocol: rpc.Kollabor})
	}
	t.Fatalf("no method %s", method)
	panic("unreachable")
}

// shape describes the keys and JSON types of a value; whether a number is written as a float counts, because Python
// decodes 1 and 1.0 differently.
func shape(x any) any {
	switch x := x.(type) {
	case map[string]any:
		m := map[string]any{}
		for k, v := range x {
			m[k] = shape(v)
		}
		return m
	case []any:
		if len(x) == 0 {
			return "list"
		}
		return []any{shape(x[0])}
	case json.Number:
		if strings.ContainsAny(x.String(), ".e") {
			return "float"
		}
		return "int"
	case string:
		return "str"
	case bool:
		return "bool"
	}
	return "null"
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	var x any
	if err := d.Decode(&x); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return x
}

// Every answer has the keys and types of the one that was recorded from kollabor's own server. Conversations are not kept
// here, so theirs are empty lists, and metadata is free.
func TestCapturedShapes(t *testing.T) {
	file, err := os.Open("testdata/state_methods.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	type frame struct {
		RequestID string          `json:"request_id"`
		Method    string          `json:"method"`
		Params    json.RawMessage `json:"params"`
		Result    json.RawMessage `json:"result"`
	}
	requests := map[string]frame{}
	compared := map[string]bool{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var line struct{ Dir, Data string }
		var f frame
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(line.Data), &f); err != nil {
			t.Fatal(err)
		}
		if line.Dir == "c2s" {
			requests[f.RequestID] = f
			continue
		}
		q := requests[f.RequestID]
		v, err := call(t, &fakeHub{}, q.Method, string(q.Params))
		if err != nil {
			t.Errorf("%s: %v", q.Method, err)
			continue
		}
		text, err := v.JSON()
		if err != nil {
			t.Fatal(err)
		}
		got, want := normal(shape(decode(t, text))), normal(shape(decode(t, f.Result)))
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			t.Errorf("%s\nis   %s\nwant %s", q.Method, g, w)
		}
		compared[q.Method] = true
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range Methods(&fakeHub{}) {
		if m.Name != "state.cancel_current_request" { // was not recorded
			all = append(all, m.Name)
		}
	}
	slices.Sort(all)
	if got := slices.Sorted(maps.Keys(compared)); !slices.Equal(got, all) {
		t.Errorf("compared %v, there are %v", got, all)
	}
}

// normal takes out of a shape what is free.
func normal(x any) any {
	switch x := x.(type) {
	case map[string]any:
		for k, v := range x {
			switch k {
			case "conversation_history":
				x[k] = "list"
			case "metadata":
				x[k] = "dict"
			default:
				x[k] = normal(v)
			}
		}
	case []any:
		normal(x[0])
	}
	return x
}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		hub                fakeHub
		method, args, want string
	}{
		{fakeHub{}, "state.get_hub_status_text", `{"whatever":1}`, `{"text":"demo: up 12s, with lapis"}`},
		{fakeHub{alone: true}, "state.get_hub_status_text", `{}`, `{"text":"demo: up 12s, nobody else here"}`},
		{fakeHub{alone: true}, "state.get_hub_state", `{}`, `{"my_identity":"demo","my_agent_id":"a1b2c3d4e5f6","my_is_coordinator":true,"peer_count":0,"roster":[]}`},
		{fakeHub{}, "state.get_hub_whoami_text", `{}`, `{"text":"demo (a1b2c3d4e5f6)"}`},
		{fakeHub{}, "state.get_hub_work_text", `{}`, `{"text":"no work"}`},
		{fakeHub{busy: 2}, "state.get_hub_work_text", `{}`, `{"text":"2 calls running, 0 writes waiting"}`},
		{fakeHub{busy: 2}, "state.get_processing_state", `{}`, `{"is_processing":true,"queue_size":0,"queue_max":0,"dropped_messages":0,"pending_tools_count":2,"bg_tasks_count":0,"circuit_breaker_state":"closed"}`},
		{fakeHub{}, "state.hub_send_msg", `{"target":"lapis","content":"x"}`, `{"text":"sent to lapis"}`},
		{fakeHub{}, "state.hub_send_msg", `{"target":"nobody","content":"x"}`, `{"error":"nobody is called nobody"}`},
		{fakeHub{}, "state.hub_send_msg", `{"content":"x"}`, `{"error":"target is required"}`},
		{fakeHub{}, "state.hub_send_msg", `{"target":"lapis"}`, `{"error":"content is required"}`},
		{fakeHub{err: errors.New("not now")}, "state.hub_send_msg", `{"target":"lapis","content":"x"}`, `{"error":"not now"}`},
		{fakeHub{err: rpc.Errorf(rpc.CodeOverloaded, "busy")}, "state.hub_broadcast", `{"content":"x","force":true}`, `{"error":"busy"}`},
		{fakeHub{}, "state.hub_broadcast", `{"content":"x"}`, `{"text":"sent to 1 agent(s)"}`},
		{fakeHub{}, "state.hub_broadcast", `{}`, `{"error":"content is required"}`},
		{fakeHub{}, "state.cancel_current_request", `{}`, `{"cancelled":false,"reason":"nothing is running"}`},
		{fakeHub{cancel: true}, "state.cancel_current_request", `{}`, `{"cancelled":true}`},
		{fakeHub{}, "state.get_active_context", `{}`, `{"name":"main","conversation_history":[],"active_profile_name":"","active_agent_name":"","system_prompt":"","created_at":1760000000.0,"last_active_at":1760000000.0,"archived":false,"metadata":{"title":"t"}}`},
	} {
		v, err := call(t, &tt.hub, tt.method, tt.args)
		text, _ := v.JSON()
		if err != nil || string(text) != tt.want {
			t.Errorf("%s %s is %s (%v), want %s", tt.method, tt.args, text, err, tt.want)
		}
	}
	h := &fakeHub{}
	if _, err := call(t, h, "state.hub_broadcast", `{"content":"x","force":true}`); err != nil || !slices.Equal(h.sent, []string{"|x|true"}) {
		t.Errorf("%v, %v", h.sent, err)
	}
}
