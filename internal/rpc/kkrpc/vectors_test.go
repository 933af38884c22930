package kkrpc

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// captured is one line of a capture: see testdata/README.md.
type captured struct {
	Dir, Step, Data string
	Event           string
	Len             int
	Head, Tail      string
}

// text returns the message; of large ones, which are one letter repeated, the
// middle is filled in.
func (c captured) text() string {
	if c.Len == 0 {
		return c.Data
	}
	return c.Head + strings.Repeat("a", c.Len-len(c.Head)-len(c.Tail)) + c.Tail
}

func readCapture(t testing.TB, file string) (steps []string, byStep map[string][]captured) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	byStep = map[string][]captured{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var c captured
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if c.Event != "" {
			continue
		}
		if !slices.Contains(steps, c.Step) {
			steps = append(steps, c.Step)
		}
		byStep[c.Step] = append(byStep[c.Step], c)
	}
	if len(steps) == 0 {
		t.Fatalf("%s is empty", file)
	}
	return steps, byStep
}

// recorder is a transport that keeps what is sent.
type recorder struct {
	mu   sync.Mutex
	sent []map[string]any
	odd  []string
}

func (r *recorder) send(_ *rpc.Batch, d Dialect, msg []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var m map[string]any
	switch err := json.Unmarshal(msg, &m); {
	case err != nil || msg[0] != '{' || strings.ContainsAny(string(msg), "\n\r"):
		r.odd = append(r.odd, string(msg))
	case strings.HasPrefix(string(msg), `{"json":`):
		r.odd = append(r.odd, "taken for SuperJSON: "+string(msg))
	}
	r.sent = append(r.sent, m)
	return nil
}

func (r *recorder) all() []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sent)
}

func (r *recorder) find(f func(map[string]any) bool) map[string]any {
	for _, m := range r.all() {
		if f(m) {
			return m
		}
	}
	return nil
}

// fact is a message reduced to what it says, without ids that its sender makes up.
func fact(m map[string]any) string {
	if inner, ok := m["json"].(map[string]any); ok {
		undefined := ""
		if meta, ok := m["meta"].(map[string]any); ok {
			if values, ok := meta["values"].(map[string]any); ok && fmt.Sprint(values["args.result"]) == "[undefined]" {
				undefined = "undefined"
			}
		}
		if args, ok := inner["args"].(map[string]any); ok && undefined != "" {
			delete(args, "result")
		}
		m = inner
	}
	result := func(holder map[string]any, name string) string {
		v, ok := holder[name]
		if !ok {
			return "undefined"
		}
		if o, ok := v.(map[string]any); ok && o["__kkrpc_next_stream__"] != nil {
			return "stream"
		}
		return js(v)
	}
	switch tagOf(m) {
	case "r":
		if e, ok := m["e"].(map[string]any); ok {
			return fmt.Sprintf("response %v fails: %v", m["id"], e["m"])
		}
		return fmt.Sprintf("response %v: %s", m["id"], result(m, "v"))
	case "response":
		args, _ := m["args"].(map[string]any)
		switch e := args["error"].(type) {
		case string:
			return fmt.Sprintf("response %v fails: %s", m["id"], e)
		case map[string]any:
			return fmt.Sprintf("response %v fails: %v", m["id"], e["message"])
		}
		return fmt.Sprintf("response %v: %s", m["id"], result(args, "result"))
	case "q":
		return fmt.Sprintf("%v %s %s", m["op"], strings.ReplaceAll(strings.Trim(fmt.Sprint(m["p"]), "[]"), " ", "."), js(unwrapped(m["a"])))
	case "request":
		return fmt.Sprintf("call %v %s", m["method"], js(m["args"]))
	case "cb":
		return fmt.Sprintf("callback %v %s", m["id"], js(unwrapped(m["a"])))
	case "callback":
		return fmt.Sprintf("callback %v %s", m["method"], js(m["args"]))
	case "cbr":
		return "release " + js(m["ids"])
	case "sr":
		if e, ok := m["e"].(map[string]any); ok {
			return fmt.Sprintf("stream fails: %s", strings.TrimPrefix(fmt.Sprint(e["m"]), "Error: "))
		}
		return fmt.Sprintf("stream done=%v %s", m["d"], result(m, "v"))
	case "stream-error":
		return "stream fails: " + js(m["args"].(map[string]any)["error"].(map[string]any)["message"])
	}
	return fmt.Sprintf("%s %v %s", tagOf(m), m["id"], js(m["args"]))
}

func tagOf(m map[string]any) string {
	if inner, ok := m["json"].(map[string]any); ok {
		m = inner
	}
	if t, ok := m["t"].(string); ok {
		return t
	}
	t, _ := m["type"].(string)
	return t
}

func unwrapped(v any) any {
	list, _ := v.([]any)
	out := []any{}
	for _, x := range list {
		if o, ok := x.(map[string]any); ok && o["__kkrpc_next_arg__"] == "value" {
			x = o["v"]
		}
		out = append(out, x)
	}
	return out
}

func js(v any) string {
	text, _ := json.Marshal(v)
	if len(text) > 200 {
		return fmt.Sprintf("%s... (%d)", text[:200], len(text))
	}
	return string(text)
}

// hubSays are the steps in which the hub answers in its own way on purpose, and
// a part of what it says.
var hubSays = map[string]string{
	"construct":          "not a constructor", // there are none
	"get-after-set-null": ": null",            // what Python leaves out is null, and a stored null is a result
}

// plainSays are such steps of clients that write SuperJSON: the hub answers in
// plain JSON.
var plainSays = map[string]string{
	"uint8array":        `: {"data":[1,2,255],"type":"Uint8Array"}`,
	"undefined-in-args": `: {"b":[null]}`,
}

// texts are upstream's words that a Python server does not use.
func pythonServed(file string) bool {
	return strings.Contains(file, "to-py") || strings.Contains(file, "calls-py")
}

// TestCapturesOfServers replays what real clients sent to real servers, and
// compares what the hub answers with what those answered: results, error texts,
// callbacks and their order, calls of the client's own API, streams.
func TestCapturesOfServers(t *testing.T) {
	files, err := filepath.Glob("testdata/v*.jsonl")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	for _, file := range files {
		if strings.Contains(file, "remote-refs") {
			continue // a layer that the hub does not have
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			t.Parallel()
			replay(t, file)
		})
	}
}

func replay(t *testing.T, file string) {
	client := "c2s"
	if strings.Contains(file, "calls-py") {
		client = "s2c" // the side that was connected to makes the calls
	}
	steps, byStep := readCapture(t, file)
	rec := &recorder{}
	link := rpc.NewLink(nil)
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.AllScopes}
	d := newDemo()
	api := d.api
	s := newSession(rec, link, peer, &api, Limits{}, strings.Contains(file, "stdio"))
	s.wants.Streams = true
	defer func() {
		link.Close(rpc.ErrPeerGone, patience)
		s.End(rpc.ErrPeerGone)
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("left behind: %+v", n)
		}
	}()
	for _, step := range steps {
		if strings.Contains(file, "to-py") && strings.HasPrefix(step, "bidirectional") {
			continue // the Python server of that recording could not call its client
		}
		rec.mu.Lock()
		rec.sent = nil
		rec.mu.Unlock()
		replayStep(t, s, rec, file, step, client, byStep[step])
	}
	if len(rec.odd) > 0 {
		t.Errorf("sent what is no message: %q", rec.odd)
	}
}

func replayStep(t *testing.T, s *Session, rec *recorder, file, step, client string, lines []captured) {
	if slices.ContainsFunc(lines, func(c captured) bool { return c.Len > 0 && !json.Valid([]byte(c.text())) }) {
		return // more than the one letter is left out of the recording
	}
	var want []string
	sids := map[string]string{} // of captured streams to ours
	wait := func(what string, f func(map[string]any) bool) map[string]any {
		var m map[string]any
		eventually(t, step+": "+what, func() bool { m = rec.find(f); return m != nil })
		return m
	}
	calls := 0
	var theirIDs []string // of the captured server's own calls
	for _, line := range lines {
		text := line.text()
		var m map[string]any
		if json.Unmarshal([]byte(text), &m) != nil {
			continue
		}
		if line.Dir != client { // what the captured server said
			want = append(want, fact(m))
			switch tagOf(m) {
			case "q", "request":
				inner, ok := m["json"].(map[string]any)
				if !ok {
					inner = m
				}
				theirIDs = append(theirIDs, inner["id"].(string))
			case "r":
				if v, ok := m["v"].(map[string]any); ok && v["__kkrpc_next_stream__"] != nil {
					id := m["id"]
					ours := wait("a stream", func(m map[string]any) bool { return m["t"] == "r" && m["id"] == id })
					if v2, ok := ours["v"].(map[string]any); ok {
						sids[v["id"].(string)], _ = v2["id"].(string)
					}
				}
			}
			continue
		}
		switch tagOf(m) {
		case "r", "response": // the client's answer to a call of the hub
			var ours map[string]any
			eventually(t, step+": a call of the client", func() bool {
				n := 0
				for _, m := range rec.all() {
					if k := tagOf(m); k == "q" || k == "request" {
						if n == calls {
							ours = m
							return true
						}
						n++
					}
				}
				return false
			})
			text = strings.ReplaceAll(text, theirIDs[calls], ours["id"].(string))
			calls++
		case "sq":
			for theirs, our := range sids {
				text = strings.ReplaceAll(text, theirs, our)
			}
		case "stream-cancel":
			id := m["id"]
			wait("the stream", func(m map[string]any) bool { return m["type"] == "stream-chunk" && m["id"] == id })
		}
		buf := []byte(text)
		s.Receive(nil, buf)
		for i := range buf {
			buf[i] = '#' // whoever still looks there is wrong
		}
		if m["op"] == "pull" { // the cancel of a stream follows its first item
			wait("an item", func(m map[string]any) bool { return m["t"] == "sr" })
		}
	}
	compare(t, rec, file, step, want)
}

// compare waits until the hub has said as much as the captured server and
// compares.
func compare(t *testing.T, rec *recorder, file, step string, want []string) {
	early := step == "stream-cancel"       // the captured producer was slower
	releases := step == "callback-release" // elsewhere upstream waits for the garbage collector
	if !releases {
		want = slices.DeleteFunc(want, func(w string) bool { return strings.HasPrefix(w, "release") })
	}
	said := func() (got []string) {
		for _, m := range rec.all() {
			if tagOf(m) == "cbr" && !releases {
				continue
			}
			got = append(got, fact(m))
		}
		return got
	}
	deadline := time.Now().Add(patience)
	for len(said()) < len(want) && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	got := said()
	if step == "concurrent" || strings.Contains(step, "parallel") {
		slices.Sort(got)
		slices.Sort(want)
	}
	if early {
		got = got[:min(len(got), len(want))]
		if n := len(want); n > 0 && strings.Contains(want[n-1], "done=true") {
			got, want = got[:n-1], want[:n-1]
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: got %d messages, want %d\n got %q\nwant %q", step, len(got), len(want), got, want)
		return
	}
	for i := range want {
		g, w := got[i], want[i]
		part, ok := hubSays[step]
		if strings.Contains(file, "superjson") && !ok {
			part, ok = plainSays[step]
		}
		if ok {
			if !strings.Contains(g, part) {
				t.Errorf("%s: got %s, want %s", step, g, part)
			}
			continue
		}
		if pythonServed(file) { // it has words of its own, and no undefined
			g, _, _ = strings.Cut(strings.Replace(g, "undefined", "null", 1), " fails: ")
			w, _, _ = strings.Cut(w, " fails: ")
			if step == "get-missing" {
				g, _, _ = strings.Cut(g, ":") // there an error in both dialects
			}
		}
		if g != w {
			t.Errorf("%s: message %d:\n got %s\nwant %s", step, i, g, w)
		}
	}
}
