package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/client"
)

// answer is what a way to the hub got: a result, or an error's kind and data.
type answer struct {
	result, kind, message, data string
}

// TestStateSameAnswersEverywhere asks the same through raw frames, the Go client
// and hubctl.
func TestStateSameAnswersEverywhere(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := startHub(t, dir, dir+"/state")
	w := d.dial()
	w.send(`{"action":"hello","version":1,"features":[]}` + "\n")
	if f := w.frame(); f.Type != "hello" {
		t.Fatalf("got %s, want hello", f.line)
	}
	c, err := client.Dial(t.Context(), d.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	raw := func(method, params string) answer {
		f := w.call("r", method, params)
		if f.Error == nil {
			return answer{result: w.result(f)}
		}
		var e struct {
			Data json.RawMessage `json:"error_data"`
		}
		if err := json.Unmarshal([]byte(f.line), &e); err != nil {
			t.Fatal(err)
		}
		return answer{kind: f.kind(), message: f.text(), data: string(e.Data)}
	}
	goClient := func(method, params string) answer {
		text, err := c.CallRaw(t.Context(), method, json.RawMessage(params))
		if e, ok := errors.AsType[*client.Error](err); ok {
			return answer{kind: string(e.Kind), message: e.Message, data: string(e.Data)}
		} else if err != nil {
			t.Fatal(err)
		}
		return answer{result: string(text)}
	}

	// Each way writes; all ways read.
	value := `{"text":"grüße \"you\" <&>","n":1.0,"big":123456789012345678901234567890,"list":[null,true,1e-7]}`
	if got := raw("state.put", `{"key":"by/raw","value":`+value+`}`); got.result != `{"revision":1}` {
		t.Fatalf("put by raw frames: %+v", got)
	}
	if got := goClient("state.put", `{"key":"by/client","value":`+value+`}`); got.result != `{"revision":2}` {
		t.Fatalf("put by the Go client: %+v", got)
	}
	if out, talk, code := d.run("", "hubctl", "state", "put", "by/hubctl", value); out != "{\"revision\":3}\n" || code != 0 {
		t.Fatalf("put by hubctl: %q %q, code %d", out, talk, code)
	}
	for _, key := range []string{"by/raw", "by/client", "by/hubctl"} {
		params := fmt.Sprintf(`{"key":%q}`, key)
		want := raw("state.get", params)
		if !strings.Contains(want.result, value) {
			t.Errorf("%s: got %s, want the value as it was put: %s", key, want.result, value)
		}
		if got := goClient("state.get", params); got != want {
			t.Errorf("%s: the Go client got %+v, raw frames %+v", key, got, want)
		}
		out, talk, code := d.run("", "hubctl", "state", "get", "--meta", key, "-o", "raw")
		if out != want.result+"\n" || code != 0 {
			t.Errorf("%s: hubctl got %q %q (code %d), raw frames %q", key, out, talk, code, want.result)
		}
		if out, talk, code := d.run("", "hubctl", "state", "get", key); out != value+"\n" || code != 0 {
			t.Errorf("%s: hubctl prints %q %q (code %d), want %q", key, out, talk, code, value)
		}
	}

	tests := []struct {
		name, method, params string
		hubctl               []string
		kind                 string // "": it succeeds
		talk                 []string
	}{
		{"list", "state.list", `{"prefix":"by/"}`, []string{"call", "state.list", "prefix=by/", "-o", "raw"}, "", nil},
		{"history", "state.history", `{"key":"by/raw","limit":100}`, []string{"state", "history", "by/raw", "-o", "jsonl"}, "", nil},
		{"no key", "state.get", `{"key":"none"}`, []string{"state", "get", "none"}, "not_found", []string{"none"}},
		{"conflict", "state.put", `{"key":"by/raw","value":1,"if_revision":0}`,
			[]string{"state", "put", "by/raw", "1", "--if-revision", "0"}, "conflict", []string{"revision 1", `"revision":1`}},
		{"stale", "state.patch", `{"key":"by/raw","merge":{},"if_revision":99}`,
			[]string{"state", "patch", "by/raw", "{}", "--if-revision", "99"}, "conflict", []string{"revision 1", `"revision":1`}},
		{"bad key", "state.put", `{"key":"","value":1}`, []string{"state", "put", "", "1"}, "invalid_params", []string{"empty"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := raw(tt.method, tt.params)
			if want.kind != tt.kind {
				t.Fatalf("raw frames got %+v, want kind %q", want, tt.kind)
			}
			if got := goClient(tt.method, tt.params); got != want {
				t.Errorf("the Go client got %+v, raw frames %+v", got, want)
			}
			out, talk, code := d.run("", append([]string{"hubctl"}, tt.hubctl...)...)
			if tt.kind == "" {
				if got := strings.TrimSuffix(out, "\n"); code != 0 || got != want.result && "["+got+"]" != want.result {
					t.Errorf("hubctl got %q %q (code %d), raw frames %s", out, talk, code, want.result)
				}
				return
			}
			if code != 1 || out != "" {
				t.Errorf("hubctl: code %d and %q on stdout, want 1 and nothing", code, out)
			}
			for _, part := range append(tt.talk, want.message) {
				if !strings.Contains(talk, part) {
					t.Errorf("hubctl says %q, which lacks %q", talk, part)
				}
			}
		})
	}
}

// capnwebCall makes one call as a Cap'n Web batch and returns the answer. args are positional, in that protocol's form.
func (d *daemon) capnwebCall(method, args string) answer {
	d.t.Helper()
	service, name, _ := strings.Cut(method, ".")
	body := fmt.Sprintf(`["push",["pipeline",0,[%q,%q],%s]]`+"\n"+`["pull",1]`, service, name, args)
	resp, err := d.http.Post("http://hub/capnweb", "text/plain", strings.NewReader(body))
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	line := strings.TrimSpace(string(text))
	if result, ok := strings.CutPrefix(line, `["resolve",1,`); ok {
		return answer{result: strings.TrimSuffix(result, "]")}
	}
	var e []json.RawMessage
	var parts []json.RawMessage
	if json.Unmarshal([]byte(line), &e) != nil || len(e) != 3 || json.Unmarshal(e[2], &parts) != nil || len(parts) != 5 {
		d.t.Fatalf("unexpected answer %s", line)
	}
	var got struct {
		Code string
		Data json.RawMessage
	}
	var message string
	if err := errors.Join(json.Unmarshal(parts[2], &message), json.Unmarshal(parts[4], &got)); err != nil {
		d.t.Fatalf("%s: %v", line, err)
	}
	return answer{kind: got.Code, message: message, data: string(got.Data)}
}

// TestStateSameAnswersInCapnweb asks the same through raw frames and Cap'n Web, whose arguments are positional and whose
// arrays are written in another way.
func TestStateSameAnswersInCapnweb(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := startHub(t, dir, dir+"/state")
	w := d.dial()
	w.send(`{"action":"hello","version":1,"features":[]}` + "\n")
	w.frame()
	value := `{"text":"grüße \"you\" <&>","n":1.0,"deep":{"true":true,"null":null}}`
	if got := d.capnwebCall("state.put", `["by/web",`+value+`]`); got.result != `{"revision":1}` {
		t.Fatalf("put by Cap'n Web: %+v", got)
	}
	w.put("by/raw", value)
	for _, tt := range []struct{ method, params, args string }{
		{"state.get", `{"key":"by/web"}`, `["by/web"]`},
		{"state.get", `{"key":"by/raw"}`, `["by/raw"]`},
		{"state.get", `{"key":"by/raw","revision":2}`, `["by/raw",2]`},
		{"state.get", `{"key":"none"}`, `["none"]`},
		{"state.put", `{"key":"by/raw","value":1,"if_revision":0}`, `["by/raw",1,0]`},
		{"state.patch", `{"key":"by/raw","merge":{},"if_revision":99}`, `["by/raw",{},["undefined"],99]`},
		{"state.put", `{"key":"","value":1}`, `["",1]`},
		{"state.delete", `{"key":"none"}`, `["none"]`},
		{"state.info", `{}`, `[]`},
	} {
		f := w.call("r", tt.method, tt.params)
		want := answer{kind: f.kind()}
		if f.Error == nil {
			want.result = w.result(f)
		} else {
			var e struct {
				Data json.RawMessage `json:"error_data"`
			}
			if err := json.Unmarshal([]byte(f.line), &e); err != nil {
				t.Fatal(err)
			}
			want.message, want.data = f.text(), string(e.Data)
		}
		if got := d.capnwebCall(tt.method, tt.args); got != want {
			t.Errorf("%s%s: Cap'n Web got %+v, raw frames %+v", tt.method, tt.args, got, want)
		}
	}
}

// Writes that nobody waits for are applied in the order in which they were sent.
func TestStateKeepsTheOrderOfAConnection(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	d := startHub(t, dir, dir+"/state")
	const n = 2000
	w := d.dial()
	noise := d.dial() // somebody else writes as well
	var text, other strings.Builder
	for i := range n {
		text.WriteString(request(fmt.Sprint(i), "state.put", fmt.Sprintf(`{"key":"same","value":%d}`, i)))
		if i%4 == 0 {
			other.WriteString(request(fmt.Sprint(i), "state.put", fmt.Sprintf(`{"key":"other","value":%d}`, i)))
		}
	}
	go noise.Write([]byte(other.String()))
	go w.Write([]byte(text.String()))
	revisions := map[string]uint64{}
	for range n {
		f := w.frame()
		var r struct{ Revision uint64 }
		if f.Error != nil || json.Unmarshal(f.Result, &r) != nil || revisions[f.id()] != 0 {
			t.Fatalf("unexpected answer %s", f.line)
		}
		revisions[f.id()] = r.Revision
	}
	i, last := 0, uint64(0)
	for _, c := range d.history() {
		if c.Key != "same" {
			continue
		}
		id := fmt.Sprint(i)
		if string(c.Value) != id || revisions[id] != c.Revision || c.Revision <= last {
			t.Fatalf("change %d is %v, answered with revision %d", i, c, revisions[id])
		}
		i, last = i+1, c.Revision
	}
	if i != n {
		t.Errorf("%d changes, want %d", i, n)
	}
}
