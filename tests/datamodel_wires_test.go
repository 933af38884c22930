package tests

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

// valueWire is a bare client of one protocol for one call at a time. It knows
// frames, not values: what it sends and what it hands out are the bytes of the
// wire. A failed read or write fails the test.
type valueWire interface {
	// start calls a method with positional arguments.
	start(method string, args ...string)
	// answer waits for the result of the call; failed is what came in its place.
	answer() (result, failed string)
	// text, list and object write values; an object is names and values in turn.
	text(s string) string
	list(values ...string) string
	object(members ...string) string
	// parts takes an array or an object apart; an array has no names.
	parts(value string) (names, values []string)
}

// valueProvider is a valueWire that the hub can call.
type valueProvider interface {
	valueWire
	// asked waits for a call and returns its only argument.
	asked() string
	// reply answers that call.
	reply(value string)
}

// valueWires opens a connection for each column of the table of examples in
// docs/data-model.md, under its heading.
func valueWires(t *testing.T, d *daemon) map[string]valueWire {
	t.Helper()
	return map[string]valueWire{
		"native":               &nativeValues{w: d.dial()},
		"kkrpc classic":        &kkrpcValues{wsWire: dialWS(t, d, "kkrpc")},
		"kkrpc compact":        &kkrpcValues{wsWire: dialWS(t, d, "kkrpc"), compact: true},
		"Cap'n Web":            &capnwebValues{wsWire: dialWS(t, d, "capnweb")},
		"krpc":                 &krpcValues{d: d},
		"snekrpc, JSON":        &snekValues{t: t, c: d.dial()},
		"snekrpc, MessagePack": &snekPackValues{snekValues: snekValues{t: t, c: d.dial()}},
	}
}

// mustCall is a call that has to succeed.
func mustCall(t *testing.T, w valueWire, method string, args ...string) string {
	t.Helper()
	w.start(method, args...)
	result, failed := w.answer()
	if failed != "" {
		t.Fatalf("%s: %s", method, failed)
	}
	return result
}

// memberOf returns a member of an object; ok is false when it is not there.
func memberOf(w valueWire, object, name string) (value string, ok bool) {
	names, values := w.parts(object)
	for i, n := range names {
		if n == name {
			return values[i], true
		}
	}
	return "", false
}

// jsonText has what the protocols of JSON text have in common.
type jsonText struct{}

func (jsonText) text(s string) string                        { return strconv.Quote(s) } // of ASCII
func (jsonText) list(values ...string) string                { return "[" + strings.Join(values, ",") + "]" }
func (jsonText) parts(value string) (names, values []string) { return jsonParts(value) }

func (jsonText) object(members ...string) string {
	var b strings.Builder
	for i := 0; i < len(members); i += 2 {
		fmt.Fprintf(&b, `,"%s":%s`, members[i], members[i+1])
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

// jsonParts cuts without looking at the values, whose tokens may be none of
// JSON, such as NaN.
func jsonParts(text string) (names, values []string) {
	text = strings.TrimSpace(text)
	if len(text) < 2 || text[0] != '{' && text[0] != '[' {
		return nil, nil
	}
	object := text[0] == '{'
	depth, from := 0, 1
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			continue
		case '[', '{':
			depth++
			continue
		case ']', '}':
			depth--
		case ',':
		default:
			continue
		}
		if depth > 0 || depth == 0 && text[i] != ',' {
			continue
		}
		part := text[from:i]
		from = i + 1
		if object && part != "" {
			end := 1 + strings.IndexByte(part[1:], '"') // the names that tests look for have no escapes
			names = append(names, part[1:end])
			part = part[strings.IndexByte(part[end:], ':')+end+1:]
		}
		if part = strings.TrimSpace(part); part != "" {
			values = append(values, part)
		}
	}
	return names, values
}

// nativeValues speaks NDJSON.
type nativeValues struct {
	jsonText
	w  *wire
	id string // of the hub's call
}

func (n *nativeValues) start(method string, args ...string) {
	n.w.send(request("v", method, "["+strings.Join(args, ",")+"]"))
}

func (n *nativeValues) answer() (result, failed string) {
	f := n.w.frame()
	if f.Error != nil {
		return "", f.kind() + ": " + f.text()
	}
	return n.w.result(f), ""
}

func (n *nativeValues) asked() string {
	n.w.t.Helper()
	line := n.w.line()
	params, ok := memberOf(n, line, "params")
	_, args := n.parts(params)
	if n.id, _ = memberOf(n, line, "request_id"); !ok || len(args) != 1 {
		n.w.t.Fatalf("got %s, want a call with one argument", line)
	}
	return args[0]
}

func (n *nativeValues) reply(value string) {
	n.w.send(`{"action":"rpc_reply","request_id":` + n.id + `,"result":` + value + `,"error":null,"error_kind":null}` + "\n")
}

// wsWire is a WebSocket of text messages.
type wsWire struct {
	jsonText
	t   *testing.T
	ws  *websocket.Conn
	ctx context.Context
}

func dialWS(t *testing.T, d *daemon, path string) wsWire {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(stop)
	ws, resp, err := websocket.Dial(ctx, "ws://hub/"+path, &websocket.DialOptions{HTTPClient: d.http})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		resp.Body.Close()
	}
	t.Cleanup(func() { ws.CloseNow() })
	return wsWire{t: t, ws: ws, ctx: ctx}
}

func (w wsWire) say(format string, args ...any) {
	w.t.Helper()
	if err := w.ws.Write(w.ctx, websocket.MessageText, fmt.Appendf(nil, format, args...)); err != nil {
		w.t.Fatal(err)
	}
}

func (w wsWire) hear() string {
	w.t.Helper()
	_, msg, err := w.ws.Read(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(msg)
}

// kkrpcValues speaks one of the two dialects.
type kkrpcValues struct {
	wsWire
	compact bool
	id      string // of the hub's call
}

func (k *kkrpcValues) start(method string, args ...string) {
	list := strings.Join(args, ",")
	if k.compact {
		k.say(`{"t":"q","id":"v","op":"call","p":["%s"],"a":[%s]}`, strings.ReplaceAll(method, ".", `","`), list)
		return
	}
	k.say(`{"id":"v","method":"%s","args":[%s],"type":"request","version":"json"}`+"\n", method, list)
}

func (k *kkrpcValues) answer() (result, failed string) {
	msg := k.hear()
	if k.compact {
		for kind, _ := memberOf(k, msg, "t"); kind == `"cbr"`; kind, _ = memberOf(k, msg, "t") {
			msg = k.hear() // the hub let go of a function first
		}
		result, _ = memberOf(k, msg, "v")
		failed, _ = memberOf(k, msg, "e")
		return result, failed
	}
	args, _ := memberOf(k, msg, "args")
	result, _ = memberOf(k, args, "result")
	failed, _ = memberOf(k, args, "error")
	return result, failed
}

func (k *kkrpcValues) asked() string {
	k.t.Helper()
	msg := k.hear()
	name := "args"
	if k.compact {
		name = "a"
	}
	list, _ := memberOf(k, msg, name)
	_, args := k.parts(list)
	if k.id, _ = memberOf(k, msg, "id"); len(args) != 1 {
		k.t.Fatalf("got %s, want a call with one argument", msg)
	}
	return args[0]
}

func (k *kkrpcValues) reply(value string) {
	if k.compact {
		k.say(`{"t":"r","id":%s,"v":%s}`, k.id, value)
		return
	}
	k.say(`{"id":%s,"method":"","args":{"result":%s},"type":"response","version":"json"}`+"\n", k.id, value)
}

// capnwebValues counts its own calls and those of the hub: ids are not told.
type capnwebValues struct {
	wsWire
	calls, served int
}

func (c *capnwebValues) start(method string, args ...string) {
	c.calls++
	c.say(`["push",["pipeline",0,["%s"],[%s]]]`, strings.ReplaceAll(method, ".", `","`), strings.Join(args, ","))
	c.say(`["pull",%d]`, c.calls)
}

func (c *capnwebValues) answer() (result, failed string) {
	for {
		_, msg := jsonParts(c.hear())
		if len(msg) != 3 || msg[1] != strconv.Itoa(c.calls) {
			continue
		}
		switch msg[0] {
		case `"resolve"`:
			return msg[2], ""
		case `"reject"`:
			return "", msg[2]
		}
	}
}

func (c *capnwebValues) asked() string {
	c.t.Helper()
	for {
		text := c.hear()
		_, msg := jsonParts(text)
		if len(msg) != 2 || msg[0] != `"push"` {
			continue
		}
		c.served++
		_, call := jsonParts(msg[1]) // pipeline, 0, path, arguments
		if len(call) != 4 {
			c.t.Fatalf("got %s, want a call", text)
		}
		_, args := jsonParts(call[3])
		if len(args) != 1 {
			c.t.Fatalf("got %s, want a call with one argument", text)
		}
		return args[0]
	}
}

func (c *capnwebValues) reply(value string) { c.say(`["resolve",%d,%s]`, c.served, value) }

func (c *capnwebValues) list(values ...string) string { return "[[" + strings.Join(values, ",") + "]]" }

func (c *capnwebValues) parts(value string) (names, values []string) {
	if names, values = jsonParts(value); names == nil && len(values) == 1 {
		return jsonParts(values[0]) // an array within an array
	}
	return names, values
}

// krpcValues makes a connection for each call.
type krpcValues struct {
	jsonText
	d *daemon
	c *wire
}

func (k *krpcValues) start(method string, args ...string) {
	k.d.t.Helper()
	body := `{"method": "` + strings.ReplaceAll(method, ".", "_") + `", "params": [` + strings.Join(args, ",") + `]}`
	k.c = k.d.dial()
	k.c.send("POST /krpc HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: " +
		strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}

func (k *krpcValues) answer() (result, failed string) {
	k.d.t.Helper()
	defer k.c.Close()
	resp, err := http.ReadResponse(k.c.r, nil)
	if err != nil {
		k.d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		k.d.t.Fatal(err)
	}
	result, _ = memberOf(k, string(body), "result")
	failed, _ = memberOf(k, string(body), "error")
	return result, failed
}

// snekValues speaks the codec JSON.
type snekValues struct {
	jsonText
	t *testing.T
	c net.Conn
}

func (s *snekValues) send(msg string) {
	s.t.Helper()
	if _, err := s.c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *snekValues) receive() string {
	s.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(s.c, head[:]); err != nil {
		s.t.Fatal(err)
	}
	msg := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(s.c, msg); err != nil {
		s.t.Fatal(err)
	}
	return string(msg)
}

func (s *snekValues) start(method string, args ...string) {
	service, command, _ := strings.Cut(method, ".")
	for i, a := range args {
		args[i] = `["Argument",` + a + `]`
	}
	s.send(`["CommandMessage","` + service + `","` + command + `",[` + strings.Join(args, ",") + `],{}]`)
}

func (s *snekValues) answer() (result, failed string) {
	_, msg := jsonParts(s.receive())
	if len(msg) == 2 && msg[0] == `"DataMessage"` {
		return msg[1], ""
	}
	return "", strings.Join(msg, " ")
}

// snekPackValues speaks the codec MessagePack. Its values are the bytes.
type snekPackValues struct{ snekValues }

func (s *snekPackValues) text(v string) string {
	return "\xd9" + string(rune(len(v))) + v // of ASCII, shorter than 128 bytes
}

func (s *snekPackValues) list(values ...string) string {
	return string([]byte{0x90 + byte(len(values))}) + strings.Join(values, "")
}

func (s *snekPackValues) object(members ...string) string {
	text := string([]byte{0x80 + byte(len(members)/2)})
	for i := 0; i < len(members); i += 2 {
		text += s.text(members[i]) + members[i+1]
	}
	return text
}

func (s *snekPackValues) start(method string, args ...string) {
	service, command, _ := strings.Cut(method, ".")
	for i, a := range args {
		args[i] = s.list(s.text("Argument"), a)
	}
	s.send(s.list(s.text("CommandMessage"), s.text(service), s.text(command), s.list(args...), s.object()))
}

func (s *snekPackValues) answer() (result, failed string) {
	msg := s.receive()
	_, parts := s.parts(msg)
	if len(parts) == 2 && strings.HasSuffix(parts[0], "DataMessage") {
		return parts[1], ""
	}
	return "", fmt.Sprintf("%q", msg)
}

func (s *snekPackValues) parts(value string) (names, values []string) {
	s.t.Helper()
	kind, n, at := packHead(value)
	if kind != 'a' && kind != 'm' {
		s.t.Fatalf("%x is no array and no map", value)
	}
	for range n {
		if kind == 'm' {
			end := at + packSize(value[at:])
			name := value[at:end]
			if kind, _, from := packHead(name); kind == 's' {
				name = name[from:]
			}
			names = append(names, name)
			at = end
		}
		end := at + packSize(value[at:])
		values = append(values, value[at:end])
		at = end
	}
	return names, values
}

// packSize returns how many bytes the first value of p has.
func packSize(p string) int {
	kind, n, at := packHead(p)
	switch kind {
	case 'a', 'm':
		if kind == 'm' {
			n *= 2
		}
		for range n {
			at += packSize(p[at:])
		}
		return at
	default:
		return at + n
	}
}

// packHead reads the head of a MessagePack value: (a)rray or (m)ap with n
// elements from at on, or (s)tring or another one with n bytes from at on.
func packHead(p string) (kind byte, n, at int) {
	b := p[0]
	size := func(width int) int {
		var whole [8]byte
		copy(whole[8-width:], p[1:1+width])
		return int(binary.BigEndian.Uint64(whole[:]))
	}
	switch {
	case b <= 0x7f || b >= 0xe0 || b >= 0xc0 && b <= 0xc3:
		return 0, 0, 1
	case b <= 0x8f:
		return 'm', int(b & 15), 1
	case b <= 0x9f:
		return 'a', int(b & 15), 1
	case b <= 0xbf:
		return 's', int(b & 31), 1
	case b <= 0xc6: // bin
		w := 1 << (b - 0xc4)
		return 0, size(w), 1 + w
	case b <= 0xc9: // ext
		w := 1 << (b - 0xc7)
		return 0, size(w), 2 + w
	case b <= 0xcb: // float
		return 0, 4 << (b - 0xca), 1
	case b <= 0xcf:
		return 0, 1 << (b - 0xcc), 1
	case b <= 0xd3:
		return 0, 1 << (b - 0xd0), 1
	case b <= 0xd8: // fixext
		return 0, 1 << (b - 0xd4), 2
	case b <= 0xdb:
		w := 1 << (b - 0xd9)
		return 's', size(w), 1 + w
	case b <= 0xdd:
		w := 2 << (b - 0xdc)
		return 'a', size(w), 1 + w
	default:
		w := 2 << (b - 0xde)
		return 'm', size(w), 1 + w
	}
}
