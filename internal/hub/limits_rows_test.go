package hub

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// What follows is the table of limits, row by row.

const (
	anyTCP  = "tcp://127.0.0.1:0?auth=none"
	sleeper = `{"action":"rpc_request","request_id":"%s","method":"demo.sleep","params":{"seconds":60},"timeout":600}` + "\n"
	nesting = `{"action":"rpc_request","request_id":"n","method":"echo","params":%s}` + "\n"
	badJSON = `hubd_failed_frames_total{protocol="kollabor",reason="limit"}`
)

func small(l Limits, listen ...string) Options { return Options{Limits: l, Listen: listen} }

// errorReply reads one reply and checks its kind; the connection goes on.
func (h *limitTest) errorReply(w *wire, kind string) {
	h.Helper()
	if r := w.reply(); r.kind() != kind {
		h.Errorf("got %v with kind %q, want %q", r, r.kind(), kind)
	}
	h.served(w)
}

// provideMuch offers what takes more than 64 KiB, and then what takes less.
func provideMuch(h *limitTest) {
	w := h.dial()
	methods := func(n int) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(`"m%d"`, i)
		}
		return `{"service":"much","methods":[` + strings.Join(list, ",") + `]}`
	}
	if r := w.call("hub.provide", methods(20)); r.kind() != "overloaded" {
		h.Errorf("20 methods: %v", r)
	}
	if r := w.call("hub.provide", methods(2)); r.kind() != "" {
		h.Errorf("2 methods: %v", r)
	}
	if h.sample("hubd_kept_bytes") == "0" {
		h.Error("what is provided is not charged")
	}
	w.Close()
	eventually(h.T, "the charge is gone", func() bool { return h.sample("hubd_kept_bytes") == "0" })
}

// served sees that the connection goes on being read.
func (h *limitTest) served(w *wire) {
	h.Helper()
	if r := w.call("math.add", "[1,2]"); string(r.Result) != "3" {
		h.Errorf("the connection does not go on: %v", r)
	}
}

// closed reads to the end of the connection, which comes in bounded time, and
// returns what came before.
func (h *limitTest) closed(w *wire) string {
	h.Helper()
	rest, err := io.ReadAll(w.r)
	if err != nil && !isReset(err) {
		h.Errorf("still open: %v (%.200q)", err, rest)
	}
	return string(rest)
}

// upgraded opens a WebSocket.
func (h *limitTest) upgraded(path string) *wire {
	h.Helper()
	w := h.dial()
	w.send("GET " + path + " HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if resp, err := http.ReadResponse(w.r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		h.Fatalf("%v, %v", resp, err)
	}
	return w
}

// asks sends a request and checks the status of the answer.
func (h *limitTest) asks(request string, status int) {
	h.Helper()
	if got, body := h.ask("unix", h.socket, request); got != status {
		h.Errorf("%.60q: %d %.200s, want %d", request, got, body, status)
	}
}

func batch(body string) string {
	return fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: hub\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// inFlight waits until that many native calls run.
func (h *limitTest) inFlight(n int) {
	h.Helper()
	eventually(h.T, itoa(n)+" calls run", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == itoa(n) })
}

var limitRows = []limitRow{
	{
		name: "frame, native", keys: []string{"frame"}, limit: "frame", options: small(Limits{Frame: 64 << 10}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"rpc_request","request_id":"big","method":"echo","params":["` + strings.Repeat("x", 64<<10) + `"]}` + "\n")
			if r := w.reply(); r.RequestID != "big" || r.kind() != "too_large" {
				h.Errorf("%v", r)
			}
			w.Conn.(testkit.Conn).CloseWrite() // the rest of the line was skipped
			h.closed(w)
		},
	},
	{
		name: "lines of the log", limit: limitLogLines, atLeast: true,
		exceed: func(h *limitTest) {
			w := h.dial()
			for range 4 * logBurst {
				w.send("what is this\n")
				if line, err := w.r.ReadString('\n'); err != nil || !strings.Contains(line, `"type":"error"`) {
					h.Fatalf("%s, %v", line, err)
				}
			}
		},
	},
	{
		name: "frame, snekrpc", limit: "frame",
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send("\xff\xff\xff\xff")
			h.closed(w)
		},
	},
	{
		name: "frame, kkrpc over WebSocket", limit: "frame",
		exceed: func(h *limitTest) {
			w := h.upgraded("/kkrpc")
			w.send("\x81\xff\x00\x00\x00\x01\x00\x00\x00\x00\x01\x02\x03\x04")
			if end := h.closed(w); !strings.Contains(end, "\x03\xf1") { // 1009
				h.Errorf("no close frame 1009: %q", end)
			}
		},
	},
	{
		name: "frame, JSON of krpc", limit: "frame", options: small(Limits{Frame: 64 << 10}),
		exceed: func(h *limitTest) {
			h.asks(krpcUpload(`{"method":"echo","params":["`+strings.Repeat("x", 65<<10)+`"]}`, "f", "data"), 413)
		},
	},
	{
		name: "message of Cap'n Web", keys: []string{"capnweb_message"}, limit: "capnweb_message",
		exceed: func(h *limitTest) {
			w := h.upgraded("/capnweb")
			w.send("\x81\xff\x00\x00\x00\x01\x00\x00\x00\x00\x01\x02\x03\x04")
			if end := h.closed(w); !strings.Contains(end, "\x03\xf1") {
				h.Errorf("no close frame 1009: %q", end)
			}
		},
	},
	{
		name: "fragments of Cap'n Web", limit: "capnweb_message", options: small(Limits{CapnwebMessage: 64 << 10}),
		exceed: func(h *limitTest) {
			w := h.upgraded("/capnweb")
			for op := byte(1); ; op = 0 {
				frame := []byte(wsFrame(op, strings.Repeat("x", 40<<10)))
				frame[0] &= 0x7f // not the last
				if _, err := w.Write(frame); err != nil || op == 0 {
					break
				}
			}
			h.closed(w)
		},
	},
	{
		name: "batch of Cap'n Web", limit: "capnweb_message", options: small(Limits{CapnwebMessage: 64 << 10}),
		exceed: func(h *limitTest) { h.asks(batch(strings.Repeat(" ", 65<<10)), 413) },
	},
	{
		name: "unfinished frames", keys: []string{"unfinished"}, limit: "unfinished",
		options: small(Limits{Unfinished: 256 << 10, PartialFrame: 500 * time.Millisecond}),
		exceed: func(h *limitTest) {
			line := `{"action":"rpc_request","request_id":"1","method":"echo","params":["` + strings.Repeat("x", 150<<10)
			large, other := h.dial(), h.dial()
			large.send(line + strings.Repeat("y", 100<<10))
			eventually(h.T, "the frame is counted", func() bool { return h.count("hubd_unfinished_frame_bytes") > 150<<10 })
			go io.WriteString(other, line+"\"]}\n") // waits for room
			if end := h.closed(large); end != "" {
				h.Errorf("the largest got %.100q", end)
			}
			if r := other.reply(); r.Error != nil {
				h.Errorf("the one that waited: %s", *r.Error)
			}
		},
	},
	{
		name: "memory of requests", keys: []string{"request_memory"}, limit: "request_memory",
		options: small(Limits{RequestMemory: 256 << 10}),
		exceed: func(h *limitTest) {
			w := h.dial()
			room := strings.Repeat(" ", 300<<10)
			w.send(strings.Replace(fmt.Sprintf(sleeper, "1"), "60}", "60"+room+"}", 1))
			h.inFlight(1)
			w.send(strings.Replace(fmt.Sprintf(sleeper, "2"), "60}", "60"+room+"}", 1))
			if r := w.reply(); r.RequestID != "2" || r.kind() != "overloaded" {
				h.Errorf("the one that found no room: %v", r)
			}
			w.send(`{"action":"rpc_cancel","request_id":"1"}` + "\n")
			if r := w.reply(); r.RequestID != "1" || r.kind() != "cancelled" {
				h.Errorf("the cancelled one: %v", r)
			}
			w.send(strings.Replace(fmt.Sprintf(sleeper, "3"), "60}", "60"+room+"}", 1)) // there is room again
			h.inFlight(1)
			h.served(w)
		},
	},
	{
		name: "memory of the process", keys: []string{"memory"}, limit: "memory",
		options: Options{Limits: Limits{Memory: 1 << 30}, memoryInUse: func() int64 { return 950 << 20 }},
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(fmt.Sprintf(sleeper, "1"))
			h.errorReply(w, "overloaded")
			if r := w.call("ping", "{}"); r.Error != nil {
				h.Errorf("ping: %s", *r.Error)
			}
		},
	},
	{
		name: "nesting", series: badJSON,
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(fmt.Sprintf(nesting, strings.Repeat("[", 300)+strings.Repeat("]", 300)))
			h.errorReply(w, "invalid_params")
		},
	},
	{
		name: "digits of a number", series: badJSON,
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(fmt.Sprintf(nesting, "["+strings.Repeat("1", 1001)+"]"))
			h.errorReply(w, "invalid_params")
		},
	},
	{
		name: "members of objects", series: badJSON,
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(fmt.Sprintf(nesting, "[{"+strings.TrimSuffix(strings.Repeat(`"":0,`, 1_000_001), ",")+"}]"))
			h.errorReply(w, "invalid_params")
		},
	},
	{
		name: "request id", series: `hubd_failed_frames_total{protocol="kollabor",reason="type"}`,
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"rpc_request","request_id":"` + strings.Repeat("i", 300) + `","method":"ping"}` + "\n")
			h.errorReply(w, "invalid_params")
		},
	},
	{
		name: "method name", series: `hubd_calls_total{code="not_found",method="other",protocol="kollabor"}`,
		exceed: func(h *limitTest) {
			w := h.dial()
			r := w.call(strings.Repeat("m", 5000), "{}")
			if r.kind() != "not_found" || len(*r.Error) > 1024 {
				h.Errorf("%d bytes: %.100s", len(*r.Error), *r.Error)
			}
			h.served(w)
		},
	},
	{
		name: "state key", limit: "state_key",
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"rpc_request","request_id":"k","method":"state.put","params":{"key":"` + strings.Repeat("k", 1025) + `","value":1}}` + "\n")
			h.errorReply(w, "too_large")
		},
	},
	{
		name: "state value", keys: []string{"state_value"}, limit: "state_value", options: small(Limits{StateValue: 1 << 10}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"rpc_request","request_id":"k","method":"state.put","params":{"key":"k","value":"` + strings.Repeat("v", 1<<10) + `"}}` + "\n")
			h.errorReply(w, "too_large")
		},
	},
	{
		name: "state total", keys: []string{"state_total"}, limit: "state_total", options: small(Limits{StateTotal: 64 << 10}),
		exceed: func(h *limitTest) {
			w := h.dial()
			value := strings.Repeat("v", 40<<10)
			if r := w.call("state.put", `{"key":"a","value":"`+value+`"}`); r.Error != nil {
				h.Fatal(*r.Error)
			}
			w.send(`{"action":"rpc_request","request_id":"k","method":"state.put","params":{"key":"b","value":"` + value + `"}}` + "\n")
			h.errorReply(w, "too_large")
		},
	},
	{
		name: "state history", keys: []string{"state_history_events"}, options: small(Limits{StateHistoryEvents: 2}),
		series: `hubd_calls_total{code="compacted",method="state.watch",protocol="kollabor"}`,
		exceed: func(h *limitTest) {
			w := h.dial()
			for range 50 {
				if r := w.call("state.put", `{"key":"a","value":1}`); r.Error != nil {
					h.Fatal(*r.Error)
				}
			}
			w.send(`{"action":"rpc_request","request_id":"w","method":"state.watch","params":{"prefix":"","from_revision":1},"stream":true}` + "\n")
			h.errorReply(w, "compacted")
		},
	},
	{
		name: "calls of a connection", keys: []string{"calls_per_connection"}, limit: "calls_per_connection",
		options: small(Limits{CallsPerConnection: 2}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(fmt.Sprintf(sleeper, "1") + fmt.Sprintf(sleeper, "2") + fmt.Sprintf(sleeper, "3"))
			if r := w.reply(); r.RequestID != "3" || r.kind() != "overloaded" {
				h.Errorf("%v", r)
			}
			w.send(`{"action":"rpc_cancel","request_id":"1"}` + "\n") // the connection is read on
			if r := w.reply(); r.RequestID != "1" || r.kind() != "cancelled" {
				h.Errorf("%v", r)
			}
		},
	},
	{
		name: "calls of a user", keys: []string{"calls_per_uid"}, limit: "calls_per_uid",
		options: small(Limits{CallsPerUID: 2}, anyTCP),
		exceed: func(h *limitTest) { // over TCP: its address, not the user of the other client
			a, b := dial(h.T, "tcp", h.tcp), dial(h.T, "tcp", h.tcp)
			a.send(fmt.Sprintf(sleeper, "1"))
			b.send(fmt.Sprintf(sleeper, "2"))
			h.inFlight(2)
			b.send(fmt.Sprintf(sleeper, "3"))
			if r := b.reply(); r.RequestID != "3" || r.kind() != "overloaded" {
				h.Errorf("%v", r)
			}
		},
	},
	{
		name: "calls in all", keys: []string{"calls"}, limit: "calls", options: small(Limits{Calls: 2}), forAll: true,
		exceed: func(h *limitTest) {
			a, b := h.dial(), h.dial()
			a.send(fmt.Sprintf(sleeper, "1"))
			b.send(fmt.Sprintf(sleeper, "2"))
			h.inFlight(2)
			b.send(fmt.Sprintf(sleeper, "3"))
			if r := b.reply(); r.RequestID != "3" || r.kind() != "overloaded" {
				h.Errorf("%v", r)
			}
			a.Close()
			h.inFlight(1)
		},
	},
	{
		name: "timeout of a request", series: `hubd_cancels_total{cause="deadline",protocol="kollabor"}`,
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(strings.Replace(fmt.Sprintf(sleeper, "1"), `:600`, `:1e-9`, 1)) // raised to 1 ms
			h.errorReply(w, "timeout")
			for _, bad := range []string{"-1", "NaN", "[]", "true"} {
				w.send(strings.Replace(fmt.Sprintf(sleeper, "2"), `:600`, ":"+bad, 1))
				if r := w.reply(); r.kind() != "invalid_params" {
					h.Errorf("timeout %s: %v", bad, r)
				}
			}
		},
	},
	{
		name: "connections", keys: []string{"connections"}, limit: "connections", atLeast: true, options: small(Limits{Connections: 8}),
		exceed: func(h *limitTest) {
			// The other client has a place. That of the look at the metrics before
			// is free again soon.
			place := func() (w *wire) {
				eventually(h.T, "there is room", func() bool {
					w = h.dial()
					_, err := w.Write([]byte(`{"action":"rpc_request","request_id":"t","method":"ping"}` + "\n"))
					line, _ := w.r.ReadString('\n')
					return err == nil && line != ""
				})
				return w
			}
			first := place()
			var others []*wire
			for range 6 {
				others = append(others, place())
			}
			for range 5 {
				h.closed(h.dial())
			}
			for _, w := range others {
				w.Close()
			}
			eventually(h.T, "there is room again", func() bool {
				var peers []json.RawMessage
				err := json.Unmarshal(first.call("hub.peers", "{}").Result, &peers)
				return err == nil && len(peers) == 2
			})
		},
	},
	{
		name: "connections of a user", keys: []string{"connections_per_uid"}, limit: "connections_per_uid",
		options: small(Limits{ConnectionsPerUID: 4}, anyTCP),
		exceed: func(h *limitTest) {
			for range 4 {
				h.served(dial(h.T, "tcp", h.tcp))
			}
			h.closed(dial(h.T, "tcp", h.tcp))
		},
	},
	{
		name: "connections that must authenticate", keys: []string{"connections_unauthenticated"}, limit: "connections_unauthenticated",
		options: small(Limits{ConnectionsUnauthenticated: 1}, listenToken),
		exceed: func(h *limitTest) {
			oldest := dial(h.T, "tcp", h.tcp)
			if r := oldest.call("ping", "{}"); r.kind() != "unauthenticated" {
				h.Errorf("%v", r)
			}
			dial(h.T, "tcp", h.tcp)
			h.closed(oldest)
		},
	},
	{
		name: "time to authenticate", keys: []string{"handshake"}, limit: "handshake",
		options: small(Limits{Handshake: 100 * time.Millisecond, FirstByte: time.Minute}, listenToken),
		exceed:  func(h *limitTest) { h.closed(dial(h.T, "tcp", h.tcp)) },
	},
	{
		name: "first byte", keys: []string{"first_byte"}, limit: "first_byte", options: small(Limits{FirstByte: 100 * time.Millisecond}, anyTCP),
		exceed: func(h *limitTest) { h.closed(dial(h.T, "tcp", h.tcp)) },
	},
	{
		name: "queue of a follower", keys: []string{"session_queue"}, options: small(Limits{SessionQueue: 8 << 10}),
		series: `hubd_drops_total{protocol="kollabor",reason="slow_follower"}`, atLeast: true,
		exceed: func(h *limitTest) {
			slow, w := h.dial(), h.dial()
			slow.send(`{"action":"rpc_request","request_id":"f","method":"session.follow","params":{"session":"demo"},"stream":true}` + "\n" +
				`{"action":"rpc_credit","request_id":"f","n":1}` + "\n")
			event := `{"session":"demo","event":{"type":"output","data":"` + strings.Repeat("o", 64<<10) + `"}}`
			eventually(h.T, "it follows", func() bool { return h.sample("hubd_session_followers") == "1" })
			for range 100 { // more than the session remembers for everybody
				if r := w.call("session.publish", event); r.Error != nil {
					h.Fatal(*r.Error)
				}
			}
			slow.send(`{"action":"rpc_credit","request_id":"f","n":1000}` + "\n")
			for line := slow.line(); !strings.Contains(line, `"gap"`); line = slow.line() {
			}
		},
	},
	{
		name: "subscriptions of a connection", keys: []string{"subscriptions_per_connection"}, limit: "subscriptions_per_connection",
		options: small(Limits{SubscriptionsPerConnection: 1}),
		exceed: func(h *limitTest) {
			w := h.dial()
			h.watches(w, "1", "2")
			if r := w.reply(); r.RequestID != "2" || r.kind() != "overloaded" {
				h.Errorf("%v", r)
			}
		},
	},
	{
		name: "subscriptions of a user", keys: []string{"subscriptions_per_uid"}, limit: "subscriptions_per_uid",
		options: small(Limits{SubscriptionsPerUID: 1}),
		exceed: func(h *limitTest) {
			h.watches(h.dial(), "1")
			h.inFlight(1)
			w := h.dial()
			h.watches(w, "2")
			h.errorReply(w, "overloaded")
		},
	},
	{
		name: "outgoing bytes", keys: []string{"outbox"}, limit: "outbox", atLeast: true,
		options: small(Limits{Outbox: 64 << 10, WriteStall: time.Minute}),
		exceed: func(h *limitTest) {
			w := h.dial()
			call := `{"action":"rpc_request","request_id":"%d","method":"echo","params":["` + strings.Repeat("e", 100<<10) + `"]}` + "\n"
			for i := range 200 {
				if _, err := fmt.Fprintf(w, call, i); err != nil {
					break // closed
				}
				if h.rejected("outbox") > 0 {
					break
				}
			}
			w.Close()
		},
	},
	{
		name: "write stall", keys: []string{"write_stall"}, limit: "write_stall", options: small(Limits{WriteStall: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"rpc_request","request_id":"1","method":"echo","params":["` + strings.Repeat("e", 4<<20) + `"]}` + "\n")
			eventually(h.T, "the connection is closed", func() bool { return h.rejected("write_stall") > 0 })
			if end := h.closed(w); strings.HasSuffix(end, "\n") {
				h.Error("all of it came")
			}
		},
	},
	{
		name: "partial frame", keys: []string{"partial_frame"}, limit: "partial_frame", options: small(Limits{PartialFrame: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send(`{"action":"pi`)
			h.closed(w)
		},
	},
	{
		name: "time of a head", keys: []string{"http_head"}, limit: "http_head", options: small(Limits{HTTPHead: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send("GET /metrics HTTP/1.1\r\nHost: hub\r\nX: ")
			h.closed(w)
		},
	},
	{
		name: "size of a head", keys: []string{"http_head_bytes"}, limit: "http_head_bytes", options: small(Limits{HTTPHeadBytes: 4 << 10}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send("GET /metrics HTTP/1.1\r\nHost: hub\r\nX: " + strings.Repeat("x", 16<<10))
			if end := h.closed(w); !strings.HasPrefix(end, "HTTP/1.1 431 ") {
				h.Errorf("%.100q", end)
			}
		},
	},
	{
		name: "idle HTTP", keys: []string{"http_idle"}, limit: "http_idle", options: small(Limits{HTTPIdle: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send("GET /-/healthy HTTP/1.1\r\nHost: hub\r\n\r\n")
			if end := h.closed(w); !strings.HasPrefix(end, "HTTP/1.1 200 ") {
				h.Errorf("%.100q", end)
			}
		},
	},
	{
		name: "slow body", keys: []string{"http_body"}, limit: "http_body", options: small(Limits{HTTPBody: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			w := h.dial()
			w.send("POST /krpc HTTP/1.1\r\nHost: hub\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
			h.closed(w)
		},
	},
	{
		name: "upload", keys: []string{"upload"}, limit: "upload", options: small(Limits{Upload: 32 << 10}),
		exceed: func(h *limitTest) {
			h.asks(krpcUpload(`{"method":"demo.file_info","params":["__file__:1"]}`, "f", strings.Repeat("x", 40<<10)), 413)
			h.spoolIsEmpty()
		},
	},
	{
		name: "spool", keys: []string{"spool"}, limit: "spool", options: small(Limits{Spool: 32 << 10}),
		exceed: func(h *limitTest) {
			h.asks(krpcUpload(`{"method":"demo.file_info","params":["__file__:1"]}`, "f", strings.Repeat("x", 40<<10)), 507)
			h.spoolIsEmpty()
		},
	},
	{
		name: "parts of a body", limit: "multipart_parts",
		exceed: func(h *limitTest) { h.asks(multipart(strings.Repeat(onePart, 1001)), 400) },
	},
	{
		name: "head of a part", limit: "multipart_parts",
		exceed: func(h *limitTest) {
			h.asks(multipart("--b\r\nX: "+strings.Repeat("x", 65<<10)+"\r\n\r\n\r\n"), 400)
		},
	},
	{
		name: "WebSocket ping", keys: []string{"websocket_ping"}, limit: "websocket_ping", options: small(Limits{WebSocketPing: 50 * time.Millisecond}),
		exceed: func(h *limitTest) { h.closed(h.upgraded("/capnweb")) }, // which answers no ping
	},
	{
		name: "entries of Cap'n Web", keys: []string{"capnweb_entries"}, limit: "capnweb_entries", options: small(Limits{CapnwebEntries: 16}),
		exceed: func(h *limitTest) {
			w := h.upgraded("/capnweb")
			for range 20 {
				w.send(wsFrame(1, `["push",1]`))
			}
			h.aborted(w)
		},
	},
	{
		name: "what a user makes the hub keep", keys: []string{"kept_per_uid"}, limit: "kept_per_uid", options: small(Limits{KeptPerUID: 64 << 10}),
		exceed: provideMuch,
	},
	{
		name: "what all users make the hub keep", keys: []string{"kept"}, limit: "kept", options: small(Limits{Kept: 64 << 10}),
		exceed: provideMuch,
	},
	{
		name: "values that Cap'n Web keeps", keys: []string{"capnweb_values"}, limit: "capnweb_values", options: small(Limits{CapnwebValues: 64 << 10}),
		exceed: func(h *limitTest) {
			w := h.upgraded("/capnweb")
			for range 2 { // neither is released
				w.send(wsFrame(1, `["push",["pipeline",0,["echo"],["`+strings.Repeat("v", 40<<10)+`"]]]`))
			}
			w.send(wsFrame(1, `["pull",2]`))
			text := make([]byte, 256)
			if _, err := io.ReadAtLeast(w.r, text, 64); err != nil || !strings.Contains(string(text), `["reject",2`) {
				h.Errorf("%v %.200q", err, text)
			}
			w.send(wsFrame(1, `["push",["pipeline",0,["math","add"],[1,2]]]`) + wsFrame(1, `["pull",3]`))
			for !strings.Contains(string(text), `["resolve",3,3]`) {
				n, err := w.r.Read(text[:cap(text)])
				if err != nil {
					h.Fatalf("the session does not go on: %v", err)
				}
				text = text[:n]
			}
		},
	},
	{
		name: "operations of Cap'n Web", keys: []string{"capnweb_operations"}, limit: "capnweb_operations", options: small(Limits{CapnwebOperations: 16}),
		exceed: func(h *limitTest) {
			w := h.upgraded("/capnweb")
			w.send(wsFrame(1, `["push",["pipeline",0,["echo"],[[[`+strings.TrimSuffix(strings.Repeat(`["pipeline",0,["x"]],`, 20), ",")+`]]]]]`))
			h.aborted(w)
		},
	},
	{
		name: "batch that waits", keys: []string{"capnweb_batch"}, limit: "capnweb_batch", options: small(Limits{CapnwebBatch: 100 * time.Millisecond}),
		exceed: func(h *limitTest) {
			h.asks(batch(`["push",["pipeline",0,["demo","sleep"],[60]]]`+"\n"+`["pull",1]`), 504)
		},
	},
}

const onePart = "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nx\r\n"

func multipart(parts string) string {
	body := parts + "--b--\r\n"
	return fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: hub\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		len(body), body)
}

func (h *limitTest) watches(w *wire, ids ...string) {
	for _, id := range ids {
		w.send(`{"action":"rpc_request","request_id":"` + id + `","method":"state.watch","params":{"prefix":""},"stream":true}` + "\n")
	}
}

// aborted sees that a session of Cap'n Web ends with its message for that.
func (h *limitTest) aborted(w *wire) {
	h.Helper()
	if end := h.closed(w); !strings.Contains(end, `["abort"`) {
		h.Errorf("no abort: %.200q", end)
	}
}

func (h *limitTest) spoolIsEmpty() {
	h.Helper()
	eventually(h.T, "the spool is empty", func() bool { return h.sample("hubd_spool_bytes") == "0" })
}
