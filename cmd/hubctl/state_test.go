package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/client"
)

func TestValueOf(t *testing.T) {
	tests := []struct {
		text, from string
		isText     bool
		want       string // "": refused
	}{
		{"42", "", false, "42"},
		{" 1.0 ", "", false, "1.0"},
		{"true", "", false, "true"},
		{"null", "", false, "null"},
		{`{"a": [1]}`, "", false, `{"a": [1]}`},
		{`"42"`, "", false, `"42"`},
		{"hello", "", false, `"hello"`},
		{"hello\n", "", false, `"hello\n"`},
		{"hello\n", "stdin", false, `"hello"`},
		{"hello\n\n", "stdin", false, `"hello\n"`},
		{"hello\n", "stdin", true, `"hello\n"`},
		{"", "", false, `""`},
		{"42", "", true, `"42"`},
		{"NaN", "", false, `"NaN"`},
		{"-", "", true, `"-"`},
		{`{"a":`, "", false, ""},
		{`[1,`, "", false, ""},
		{`"open`, "", false, ""},
		{`[NaN]`, "", false, ""},
		{`{"a":`, "", true, `"{\"a\":"`},
		{"\xff", "", false, ""},
		{"\xff", "", true, ""},
		{strings.Repeat("[", 300) + strings.Repeat("]", 300), "", false, ""},
	}
	for _, tt := range tests {
		got, err := valueOf([]byte(tt.text), tt.from, tt.isText)
		if tt.want == "" {
			if exitCode(t.Context(), err) != exitUsage {
				t.Errorf("%q: got %s, %v, want a usage error", tt.text, got, err)
			}
			continue
		}
		if err != nil || string(got) != tt.want {
			t.Errorf("%q from %q: got %s, %v, want %s", tt.text, tt.from, got, err, tt.want)
		}
	}
}

func TestKeyTree(t *testing.T) {
	root := new(keyNode)
	for _, key := range []string{"a", "a-b", "a/c", "a/d/e", "/", "b//c"} {
		root.add(key)
	}
	want := `
├── a
│   ├── c
│   └── d/
│       └── e
├── a-b
├── /
│   └── 
└── b/
    └── /
        └── c
`
	if got := string(root.appendBranches(nil, "", 0)); got != want[1:] {
		t.Errorf("got\n%swant%s", got, want)
	}
	if got := string(root.appendBranches(nil, "", 1)); got != "├── a\n├── a-b\n├── /\n└── b/\n" {
		t.Errorf("depth 1: got\n%s", got)
	}
	if got, want := string(root.appendJSON(nil, 0)), `{"a":{"":null,"c":null,"d":{"e":null}},"a-b":null,"":{"":null},"b":{"":{"c":null}}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	deep := new(keyNode)
	deep.add(strings.Repeat("/", 1024)) // the longest key has the deepest tree
	if v := deep.appendJSON(nil, maxTreeDepth); !json.Valid(v) {
		t.Errorf("the deepest tree is not JSON: %s", v)
	}
}

// scriptedWatch answers state.watch as its script says, one entry per connection.
type scriptedWatch struct {
	t       *testing.T
	conns   []watchScript
	dialled atomic.Int32
}

// watchScript is what one connection of a watch brings.
type watchScript struct {
	params string   // that must be asked for
	head   uint64   // what state.info says
	items  []string // sent as they are
	end    string   // members of the reply that ends the watch; "": the connection breaks
}

func (s *scriptedWatch) dial(context.Context) (net.Conn, error) {
	n := int(s.dialled.Add(1)) - 1
	if n >= len(s.conns) {
		return nil, net.ErrClosed
	}
	here, there := net.Pipe()
	go s.serve(there, s.conns[n])
	return here, nil
}

func (s *scriptedWatch) serve(c net.Conn, script watchScript) {
	defer c.Close()
	dec := json.NewDecoder(c)
	for {
		var f struct {
			Action, Method string
			ID             string `json:"request_id"`
			Params         json.RawMessage
		}
		if dec.Decode(&f) != nil {
			return
		}
		switch {
		case f.Action == "hello":
			fmt.Fprintln(c, `{"type":"hello","version":1,"server":"hubd/test","identity":"hub","features":["stream","cancel","credit"]}`)
		case f.Method == "state.info":
			fmt.Fprintf(c, `{"action":"rpc_reply","request_id":%q,"result":{"revision":%d},"error":null,"error_kind":null}`+"\n", f.ID, script.head)
		case f.Method == "state.watch":
			if string(f.Params) != script.params {
				s.t.Errorf("asked for %s, want %s", f.Params, script.params)
			}
			for i, item := range script.items {
				fmt.Fprintf(c, `{"action":"rpc_chunk","request_id":%q,"seq":%d,"data":%s}`+"\n", f.ID, i+1, item)
			}
			if script.end == "" {
				return
			}
			fmt.Fprintf(c, `{"action":"rpc_reply","request_id":%q,"result":null,%s}`+"\n", f.ID, script.end)
		}
	}
}

func put(key string, revision, previous uint64) string {
	return fmt.Sprintf(`{"type":"put","key":%q,"value":0,"revision":%d,"previous_revision":%d}`, key, revision, previous)
}

func mark(kind string, revision uint64) string {
	return fmt.Sprintf(`{"type":%q,"revision":%d}`, kind, revision)
}

func TestStateFollower(t *testing.T) {
	const compactedEnd = `"error":"history is compacted","error_kind":"compacted","retry":"safe","error_data":{"lowest":9}`
	tests := []struct {
		name  string
		from  *uint64
		conns []watchScript
		want  []string
		err   string
	}{
		{
			name: "in the middle of a revision", from: new(uint64),
			conns: []watchScript{
				{params: `{"from_revision":0}`, items: []string{put("a", 1, 0), put("b", 2, 0), put("c", 2, 0)}},
				{params: `{"from_revision":1}`, head: 2, items: []string{put("b", 2, 0), put("c", 2, 0), put("d", 2, 0), mark("synced", 2)}},
				{params: `{"from_revision":2}`, head: 3, items: []string{put("a", 3, 1), mark("synced", 3)}},
				{params: `{"from_revision":3}`, head: 3, items: []string{mark("synced", 3), put("end", 4, 0)}},
			},
			want: []string{put("a", 1, 0), put("b", 2, 0), put("c", 2, 0), put("d", 2, 0), mark("synced", 2), put("a", 3, 1), put("end", 4, 0)},
		},
		{
			name: "breaks twice in one revision", from: new(uint64),
			conns: []watchScript{
				{params: `{"from_revision":0}`, items: []string{put("a", 5, 0)}},
				{params: `{"from_revision":4}`, head: 5, items: []string{put("a", 5, 0), put("b", 5, 0)}},
				{params: `{"from_revision":4}`, head: 5, items: []string{put("a", 5, 0), put("b", 5, 0), put("end", 5, 0)}},
			},
			want: []string{put("a", 5, 0), put("b", 5, 0), put("end", 5, 0)},
		},
		{
			name: "progress moves it on", from: new(uint64),
			conns: []watchScript{
				{params: `{"from_revision":0}`, items: []string{mark("synced", 5), mark("progress", 90)}},
				{params: `{"from_revision":90}`, head: 90, items: []string{put("end", 91, 0)}},
			},
			want: []string{mark("synced", 5), mark("progress", 90), put("end", 91, 0)},
		},
		{
			name: "while what is there is read",
			conns: []watchScript{
				{params: `{}`, items: []string{put("a", 1, 0), put("b", 2, 0), put("c", 3, 0)}},
				{params: `{}`, items: []string{put("a", 1, 0)}},
				{params: `{}`, items: []string{put("a", 1, 0), put("c", 7, 0), put("z", 4, 0), mark("synced", 8), put("end", 9, 0)}},
			},
			want: []string{
				put("a", 1, 0), put("b", 2, 0), put("c", 3, 0), put("c", 7, 0), put("z", 4, 0),
				`{"type":"delete","key":"b","value":null,"revision":8,"previous_revision":2}`, mark("synced", 8), put("end", 9, 0),
			},
		},
		{
			name: "compacted meanwhile", from: new(uint64),
			conns: []watchScript{
				{params: `{"from_revision":0}`, items: []string{put("a", 1, 0), mark("synced", 1)}},
				{params: `{"from_revision":1}`, head: 20, end: compactedEnd},
			},
			want: []string{put("a", 1, 0), mark("synced", 1)},
			err:  "compacted",
		},
		{
			name: "an older state", from: new(uint64),
			conns: []watchScript{
				{params: `{"from_revision":0}`, items: []string{put("a", 10, 0), mark("synced", 10)}},
				{params: `{"from_revision":10}`, head: 3, items: []string{mark("synced", 10)}},
			},
			want: []string{put("a", 10, 0), mark("synced", 10)},
			err:  "older state: revision 3, but 10 was seen",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := &scriptedWatch{t: t, conns: tt.conns}
			c, err := client.Dial(t.Context(), "", &client.Options{Dialer: script.dial})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			f := &stateFollower{client: c, params: map[string]any{}, patience: 20 * time.Second, talk: t.Logf, snapshot: tt.from == nil}
			if tt.from != nil {
				f.position = *tt.from
			}
			var got []string
			err = f.run(t.Context(), func(e *stateEvent, text json.RawMessage) (bool, error) {
				got = append(got, string(text))
				return e.Key != "end", nil
			})
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("got error %v, want %q", err, tt.err)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A watch and an ephemeral key outlast the hub's restart.
func TestStateOverARestart(t *testing.T) {
	dir, err := os.MkdirTemp("", "hubctl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "h.sock")
	stop := runHub(t, dir, "unix://"+socket)
	background := func(args ...string) (out, talk *lockedBuffer) {
		out, talk = new(lockedBuffer), new(lockedBuffer)
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan struct{})
		a := &app{console: console{in: strings.NewReader(""), out: out, err: talk, getenv: func(string) string { return "" }}}
		go func() {
			defer close(done)
			root := newRoot(a)
			root.SetArgs(append([]string{"--socket", socket}, args...))
			err := root.ExecuteContext(ctx)
			fmt.Fprintln(talk, "ended:", err)
			if a.client != nil {
				a.client.Close()
			}
		}()
		t.Cleanup(func() {
			cancel(errInterrupted)
			<-done
		})
		return out, talk
	}
	seen, _ := background("state", "watch", "--prefix", "key/")
	seen.until(t, "synced")
	here, said := background("state", "put", "here", "1", "--ephemeral")
	here.until(t, "revision")
	hubctl(t, socket, "", "state", "put", "key/1", "1")
	seen.until(t, `"key/1"`)
	stop()
	stop = runHub(t, dir, "unix://"+socket)
	defer stop()
	hubctl(t, socket, "", "state", "put", "key/2", "2")
	seen.until(t, `"key/2"`)
	said.until(t, "hubctl: back; here is at revision")
	if n := strings.Count(seen.String(), `"key/1"`); n != 1 {
		t.Errorf("key/1 was printed %d times:\n%s", n, seen.String())
	}
	if n := strings.Count(seen.String(), `"synced"`); n != 1 {
		t.Errorf("synced was printed %d times:\n%s", n, seen.String())
	}
	if r := hubctl(t, socket, "", "state", "get", "here"); r.out != "1\n" {
		t.Errorf("the ephemeral key: got %q %q", r.out, r.err)
	}
	hubctl(t, socket, "", "state", "put", "here", "2")
	said.until(t, `ended: somebody else has put "here"`)
	if r := hubctl(t, socket, "", "state", "get", "here"); r.out != "2\n" {
		t.Errorf("the key that somebody else took: got %q %q", r.out, r.err)
	}
}

// Where somebody can be asked, only yes deletes.
func TestRemovePrefixAsks(t *testing.T) {
	socket := startHub(t)
	for _, key := range []string{"p/1", "p/2", "q"} {
		hubctl(t, socket, "", "state", "put", key, "1")
	}
	for _, tt := range []struct {
		answer, left string
		code         int
	}{
		{"n\n", "p/1\np/2\nq\n", exitFailed},
		{"", "p/1\np/2\nq\n", exitFailed},
		{"yes\n", "q\n", exitOK},
	} {
		var out, talk lockedBuffer
		con := console{in: strings.NewReader(tt.answer), inTTY: true, out: &out, err: &talk, getenv: func(string) string { return "" }}
		if code := run([]string{"--socket", socket, "state", "rm", "--prefix", "p/"}, con); code != tt.code {
			t.Errorf("answer %q: code %d, want %d (%s)", tt.answer, code, tt.code, talk.String())
		}
		if !strings.Contains(talk.String(), `delete the keys that begin with "p/" (2)? [y/N] `) {
			t.Errorf("it asked %q", talk.String())
		}
		if r := hubctl(t, socket, "", "state", "ls", "-k"); r.out != tt.left {
			t.Errorf("answer %q: left are %q, want %q", tt.answer, r.out, tt.left)
		}
	}
}

// A bar is shown on a terminal only, and only for what takes long.
func TestProgress(t *testing.T) {
	for _, tt := range []struct {
		name string
		tty  bool
		ago  time.Duration
		want bool
	}{{"a terminal", true, time.Second, true}, {"no terminal", false, time.Second, false}, {"quick work", true, 0, false}} {
		var out, talk lockedBuffer
		a := &app{console: console{out: &out, err: &talk, errTTY: tt.tty, getenv: func(string) string { return "" }}}
		p := a.progress("backup", 100, false)
		p.began = p.began.Add(-tt.ago)
		p.add(50)
		p.end()
		if got := strings.Contains(talk.String(), "backup"); got != tt.want || out.String() != "" {
			t.Errorf("%s: a bar was shown: %v, want %v; stdout %q", tt.name, got, tt.want, out.String())
		}
	}
}

// FuzzImport: whatever is imported, reading it ends, with keys or with an error.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		`{"key":"a","value":1}` + "\n" + `{"key":"b","value":[2],"ttl":3}`, `{"a":1,"b":{"c":null}}`, `{"key":"a"}`, `{}`, ``, `[`, `{"a":1}x`,
		`{"type":"put","key":"a","value":1,"revision":2,"previous_revision":1}` + "\n" + `{"type":"synced","revision":2}`, `{"key":1,"value":2}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, as := range []string{"", asLines, asObject} {
			failed := false
			for it, err := range (&importing{as: as}).items(strings.NewReader(text)) {
				if failed {
					t.Fatal("it goes on after an error")
				}
				if err != nil {
					failed = true
				} else if !json.Valid(it.Value) {
					t.Fatalf("the value %q of %q is not JSON", it.Value, it.Key)
				}
			}
		}
	})
}
