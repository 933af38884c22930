package hub

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// message sends one snekrpc message of JSON and returns the next answer.
func (w *wire) message(text string) string {
	w.t.Helper()
	w.send(string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text)
	return w.snek()
}

func (w *wire) snek() string {
	w.t.Helper()
	var head [4]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		w.t.Fatal(err)
	}
	msg := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(w.r, msg); err != nil {
		w.t.Fatal(err)
	}
	return string(msg)
}

// One socket speaks it beside everything else; the metrics know.
func TestSnekrpcOnEveryListener(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	for _, at := range [][2]string{{"unix", h.socket}, {"tcp", h.tcp}} {
		w := dial(t, at[0], at[1])
		if got := w.message(`["CommandMessage","math","add",[["Argument",2]],{"b":["Argument",40]}]`); got != `["DataMessage",42]` {
			t.Errorf("%s: %s", at[0], got)
		}
		if got := w.message(`["CommandMessage","_meta","status",[],{}]`); got != `["DataMessage",{"codec":"msgpack","transport":"`+at[0]+`","version":"devel"}]` {
			t.Errorf("%s: %s", at[0], got)
		}
		if got := w.message(`["Nonsense"]`); !strings.HasPrefix(got, `["ErrorMessage","ValidationError",`) {
			t.Errorf("%s: %s", at[0], got)
		}
	}
	for _, series := range []string{
		`hubd_connections{protocol="snekrpc",transport="tcp"}`, `hubd_connections{protocol="snekrpc",transport="unix"}`,
	} {
		if n := h.sample(series); n != "1" {
			t.Errorf("%s: %s, want 1", series, n)
		}
	}
	if n := h.sample(`hubd_failed_frames_total{protocol="snekrpc",reason="malformed"}`); n != "2" {
		t.Errorf("failed frames: %s, want 2", n)
	}
	if n := h.sample(`hubd_calls_total{code="ok",method="math.add",protocol="snekrpc"}`); n != "2" {
		t.Errorf("calls: %s, want 2", n)
	}
	w := h.dial()
	w.send("\x01\x00\x00\x01")
	if err := w.ended(); err != nil {
		t.Errorf("a length over the limit: %v", err)
	}
}

// The tunnel keeps to the listener's protocols and to the rules for HTTP.
func TestSnekrpcTunnel(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	head := func(path, host string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	}
	const command = `["CommandMessage","echo","echo",[["Argument",3.0]],{}]`
	chunk := fmt.Sprintf("%X\r\n%s\r\n", len(command), command)
	for _, path := range []string{"/", "/snekrpc"} {
		w := dial(t, "tcp", h.tcp)
		w.send(head(path, h.tcp) + chunk) // what comes with the head is not lost
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%s: %+v %v", path, resp, err)
		}
		for i := range 3 {
			got := make([]byte, len(`["DataMessage",3.0]`))
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != `["DataMessage",3.0]` {
				t.Errorf("%s: %q %v", path, got, err)
			}
			if i < 2 {
				w.send(chunk)
			}
		}
	}
	if status, _ := h.ask("tcp", h.tcp, head("/", "evil.example")+chunk); status != http.StatusMisdirectedRequest {
		t.Errorf("foreign host: %d", status)
	}
	only := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none&protocols=krpc"}})
	if status, _ := only.ask("tcp", only.tcp, head("/", only.tcp)+chunk); status != http.StatusNotFound {
		t.Errorf("listener of another protocol: %d", status)
	}
}

// A client that is busy sending is not given up for taking nothing, for
// however long it sends.
func TestSnekrpcSenderMayStall(t *testing.T) {
	t.Parallel()
	const stall = 1500 * time.Millisecond // long enough for whoever does read
	h := startHub(t, Options{Demo: true, Limits: Limits{WriteStall: stall}})
	w := h.dial()
	frame := func(text string) { w.send(string(binary.BigEndian.AppendUint32(nil, uint32(len(text)))) + text) }
	frame(`["CommandMessage","demo","upper",[["StreamArgument"]],{}]`)
	frame(`["StreamStartMessage"]`)
	item := strings.Repeat("a", 256<<10)
	const n = 24
	for range n / 2 {
		frame(`["DataMessage","` + item + `"]`)
	}
	time.Sleep(2 * stall) // anybody else would have been given up
	for range n - n/2 {
		frame(`["DataMessage","` + item + `"]`)
	}
	frame(`["StreamEndMessage"]`)
	if got := w.snek(); got != `["StreamStartMessage"]` {
		t.Fatal(got)
	}
	for i := range n {
		if got := w.snek(); got != `["DataMessage","`+strings.ToUpper(item)+`"]` {
			t.Fatalf("item %d: %.60s", i, got)
		}
	}
	if got := w.snek(); got != `["StreamEndMessage"]` {
		t.Error(got)
	}
}

// A far hub's service is one of this hub's, in every protocol, from its first use on.
func TestRemoteService(t *testing.T) {
	far := startHub(t, Options{Demo: true})
	h := startHub(t, Options{Remotes: []string{"far=unix://" + far.socket + "#demo", "down=unix://" + far.socket + ".not#demo"}})
	if n := far.sample(`hubd_connections{protocol="snekrpc",transport="unix"}`); n != "0" {
		t.Errorf("%s connections before the first use", n)
	}
	w := h.dial()
	if r := w.call("far.sleep", "[0]"); string(r.Result) != "0" { // the first use
		t.Errorf("%+v", r)
	}
	if r := w.call("far.fail", `{"message":"boom"}`); r.kind() != "handler" || !strings.Contains(*r.Error, "RemoteError: RuntimeError: boom") {
		t.Errorf("%+v %s", r, *r.Error)
	}
	if r := w.call("far.count", `[3]`); string(r.Result) != "[0,1,2]" {
		t.Errorf("%s", r.Result)
	}
	if r := w.call("down.count", `[3]`); r.kind() != "unavailable" || !strings.Contains(*r.Error, "remote down at unix://") {
		t.Errorf("%+v", r)
	}
	if r := w.call("hub.describe", `["far.sum"]`); !strings.Contains(string(r.Result), `"stream_in":true`) {
		t.Errorf("%s", r.Result)
	}
	if r := w.call("hub.methods", `["down"]`); r.kind() != "unavailable" || !strings.HasSuffix(*r.Error, "remote down at unix://"+far.socket+".not: the server cannot be reached: no such file or directory") {
		t.Errorf("%+v", r)
	}
	s := h.dial()
	got := s.message(`["CommandMessage","_meta","service_names",[],{}]`)
	if !strings.Contains(got, `"far"`) || !strings.Contains(got, `"down"`) {
		t.Errorf("%s", got)
	}
	if got := s.message(`["CommandMessage","_meta","service",[["Argument","down"]],{}]`); !strings.Contains(got, `"commands":[]`) {
		t.Errorf("%s", got)
	}
	if got := s.message(`["CommandMessage","far","upper",[["Argument",["a","b"]]],{}]`); got != `["StreamStartMessage"]` {
		t.Errorf("%s", got)
	}
	for _, want := range []string{`["DataMessage","A"]`, `["DataMessage","B"]`, `["StreamEndMessage"]`} {
		if got := s.snek(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if err := far.stop(); err != nil {
		t.Error(err)
	}
	if got := s.message(`["CommandMessage","_meta","service",[["Argument","far"]],{}]`); !strings.Contains(got, `"commands":[]`) {
		t.Errorf("after its end: %s", got)
	}
	if r := w.call("far.sleep", "[0]"); r.kind() != "unavailable" {
		t.Errorf("after its end: %+v", r)
	}
}

// A remote cannot take the name of a service that is there.
func TestRemoteNameIsTaken(t *testing.T) {
	dir := shortDir(t)
	err := Run(t.Context(), Options{
		Listen: []string{"unix://" + dir + "/h.sock"}, State: dir + "/state", Remotes: []string{"hub=tcp://127.0.0.1:9#x"},
	})
	if err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Error(err)
	}
}

// A client that leaves takes its call with it, on both transports.
func TestSnekrpcDisconnectCancels(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	for _, at := range [][2]string{{"unix", h.socket}, {"tcp", h.tcp}} {
		c, err := net.Dial(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		text := `["CommandMessage","demo","sleep",[["Argument",600]],{}]`
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...)); err != nil {
			t.Fatal(err)
		}
		running := func() bool { return strings.Contains(string(h.dial().call("hub.calls", "{}").Result), "demo.sleep") }
		eventually(t, at[0]+": the call runs", running)
		c.Close()
		eventually(t, at[0]+": the call has ended", func() bool { return !running() })
	}
}
