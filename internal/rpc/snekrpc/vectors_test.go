package snekrpc

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// unit is one line of a capture: what a real peer sent.
type unit struct {
	Conn int    `json:"c"`
	Dir  string `json:"dir"`
	Unit string `json:"unit"`
	Hex  string `json:"hex"`
	Data string `json:"data"`
}

func (u unit) bytes(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(u.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readCapture(t *testing.T, path string) []unit {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []unit
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		var u unit
		if err := json.Unmarshal(sc.Bytes(), &u); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		list = append(list, u)
	}
	return list
}

// payload takes the message out of a captured frame or chunk.
func payload(t *testing.T, b []byte, chunked bool) []byte {
	t.Helper()
	msg, err := newReader(bytes.NewReader(b), chunked, DefaultMaxFrame).next()
	if err != nil {
		t.Fatalf("captured %x: %v", b, err)
	}
	return msg
}

// renamed puts the product's names into a message of the captures, which knew
// the service demo as hub and its count as range. The names may differ in
// length, so the message is written anew.
func renamed(t *testing.T, cd codec, msg []byte) []byte {
	t.Helper()
	if bytes.Equal(msg, []byte{handshake}) {
		return msg
	}
	var m message
	if cd.decode(msg, &m) != nil || m.kind != commandMsg {
		return msg
	}
	service, command := m.service, m.command
	if service == "hub" {
		m.service = "demo"
	}
	if command == "range" {
		m.command = "count"
	}
	for i, a := range m.args {
		if s, err := a.value.AsString(); err == nil && service == metaService {
			m.args[i].value = rpc.String(strings.ReplaceAll(s, "hub", "demo"))
		}
	}
	if m.service == service && m.command == command && service != metaService {
		return msg // as it was
	}
	out, err := appendCommand(nil, cd, &m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCaptures replays what real clients sent and compares the answers with
// those of the real server, each as soon as it is due.
func TestCaptures(t *testing.T) {
	files, err := filepath.Glob("testdata/captures/*.jsonl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			units := readCapture(t, file)
			last := 0
			for _, u := range units {
				last = max(last, u.Conn)
			}
			for n := 1; n <= last; n++ {
				var mine []unit
				for _, u := range units {
					if u.Conn == n {
						mine = append(mine, u)
					}
				}
				replay(t, name, mine)
			}
		})
	}
}

func replay(t *testing.T, name string, units []unit) {
	t.Helper()
	chunked := strings.HasPrefix(name, "http-")
	var cd codec = jsonCodec{}
	if strings.Contains(name, "-msgpack-") {
		cd = msgpackCodec{}
	}
	table := testTable(t)
	if strings.HasSuffix(name, "-remote") { // its other leg is a capture like any other
		table = rpc.NewTable()
		mount(t, table, "far_echo", "echo", farServer(t, testTable(t), nil), codecJSON)
		mount(t, table, "far_hub", "demo", farServer(t, testTable(t), nil), "")
	}
	c := serve(t, table, serveOptions{chunked: chunked, codec: cd, change: func(cfg *Config) { cfg.Codec = cd.name() }})
	skip := false // the answer to a question about a service that is not here
	stray := 0    // answers to leftovers of a stream, which only upstream gives
	for _, u := range units {
		switch {
		case u.Unit == "open", u.Unit == "eof", u.Unit == "head" && u.Dir == "c2s":
		case u.Unit == "head":
			sameHead(t, c.head(), u.Data)
		case u.Unit == "partial":
			c.write(u.bytes(t))
		case u.Dir == "c2s":
			if b := u.bytes(t); len(b) == 4 && !chunked { // an empty frame
				c.write(b)
			} else if msg := payload(t, b, chunked); absent(cd, msg, strings.HasSuffix(name, "-remote")) {
				skip = true
			} else {
				c.raw(renamed(t, cd, msg))
			}
		default:
			want := append([]byte(nil), payload(t, u.bytes(t), chunked)...)
			if skip {
				skip = false
				continue
			}
			if isStray(cd, want, name) {
				stray++
				continue
			}
			sameAnswer(t, cd, c.next(), want)
		}
	}
	if strings.Contains(name, "desync") && stray == 0 {
		t.Error("the capture has no stray answers")
	}
	// Nothing is left over, and the connection is as good as new.
	c.raw([]byte{handshake})
	if got := c.next(); string(got) != "\x00"+cd.name() && !strings.Contains(name, "truncated") {
		t.Errorf("left over: %s", readable(t, cd, got))
	}
}

// absent reports whether msg asks about a service that only the captured server
// had. About remote services upstream says nothing.
func absent(cd codec, msg []byte, remote bool) bool {
	var m message
	if cd.decode(msg, &m) != nil || m.service != metaService || len(m.args) == 0 {
		return false
	}
	name, _ := m.args[0].value.AsString()
	return remote || name == "file" || strings.HasPrefix(name, "far_")
}

// isStray reports whether msg is upstream's answer to what it left of a stream.
func isStray(cd codec, msg []byte, name string) bool {
	if strings.Contains(name, "raw-") {
		return false
	}
	var m message
	return cd.decode(msg, &m) == nil && m.kind == errorMsg && m.name == nameMessage
}

func sameHead(t *testing.T, got, want string) {
	t.Helper()
	fields := func(head string) (list []string) {
		for line := range strings.SplitSeq(strings.TrimSpace(head), "\r\n") {
			if !strings.HasPrefix(line, "Server:") && !strings.HasPrefix(line, "Date:") {
				list = append(list, line)
			}
		}
		return list
	}
	if g, w := strings.Join(fields(got), "\n"), strings.Join(fields(want), "\n"); g != w {
		t.Errorf("head\n%s\nwant\n%s", g, w)
	}
}

// sameAnswer compares two messages by their meaning: the order of members and
// the length of MessagePack's heads are free, as is the wording of errors that
// upstream quotes its own classes in, and of documentation.
func sameAnswer(t *testing.T, cd codec, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	var g, w message
	if len(want) > 0 && want[0] == handshake {
		t.Errorf("got %q, want %q", got, want)
		return
	}
	if err := cd.decode(want, &w); err != nil {
		t.Fatalf("captured %q: %v", want, err)
	}
	if err := cd.decode(got, &g); err != nil {
		t.Fatalf("answer %q: %v", got, err)
	}
	if g.kind != w.kind || g.name != w.name {
		t.Errorf("got  %.300s\nwant %.300s", readable(t, cd, got), readable(t, cd, want))
		return
	}
	switch g.kind {
	case errorMsg:
		own := w.name == nameMessage || w.name == nameDecode || strings.Contains(w.text, "'str'")
		if g.text != w.text && !own {
			t.Errorf("%s says %q, want %q", g.name, g.text, w.text)
		}
	case dataMsg:
		gt, wt := canonical(t, g.value), canonical(t, w.value)
		if gt != wt {
			t.Errorf("got  %.2000s\nwant %.2000s", gt, wt)
		}
	}
}

// canonical writes a value with sorted members and without what is free.
func canonical(t *testing.T, v rpc.Value) string {
	t.Helper()
	text, err := v.AppendJSON(nil, rpc.Form{NonFinite: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(`"commands"`)) && !bytes.Contains(text, []byte(`"health"`)) {
		return string(text)
	}
	var x any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&x); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(comparable(x))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// comparable leaves out documentation and the services that only the captured
// server had, and gives others their present names.
func comparable(x any) any {
	switch x := x.(type) {
	case map[string]any:
		delete(x, "doc")
		for k, v := range x {
			x[k] = comparable(v)
		}
		if x["name"] == "hub" {
			x["name"] = "demo"
		}
		if x["name"] == "range" {
			x["name"] = "count"
		}
		return x
	case []any:
		var list []any
		for _, e := range x {
			name, _ := e.(string)
			if m, ok := e.(map[string]any); ok {
				name, _ = m["name"].(string)
			}
			if name == "file" || strings.HasPrefix(name, "far_") {
				continue
			}
			if e == "hub" {
				e = "demo"
			}
			list = append(list, comparable(e))
		}
		sortByName(list)
		return list
	}
	return x
}

// sortByName sorts services and commands, whose names have changed.
func sortByName(list []any) {
	name := func(x any) string {
		if m, ok := x.(map[string]any); ok {
			if _, isParam := m["kind"]; isParam {
				return ""
			}
			s, _ := m["name"].(string)
			return s
		}
		s, _ := x.(string)
		return s
	}
	for i := range list {
		for j := i; j > 0 && name(list[j]) < name(list[j-1]); j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}
