package hub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

const (
	secretText = "s3cr3tw0rd"
	aToken     = "hubd_abcdefgh_abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnopqrst"
)

func TestRedact(t *testing.T) {
	for _, test := range []struct {
		protocol rpc.Protocol
		text     string
		keeps    string // must still be there
	}{
		{rpc.Kollabor, `{"action":"hello","token":"` + secretText + `","version":1}` + "\n", `"version":1`},
		{rpc.Kollabor, `{"action":"rpc_request","method":"x","params":{"password" : "a\"` + secretText + `","n":5}}`, `"n":5`},
		{rpc.Kollabor, `{"method":"x","params":{"auth":{"session_token":{"a":["` + secretText + `"]}},"n":5}}`, `"n":5`},
		{rpc.Kollabor, `{"params":["` + secretText + `"],"method":"demo.authenticate"}`, `authenticate`},
		{rpc.Kollabor, `{"result":{"text":"the one is ` + aToken + `, keep it"}}`, `, keep it`},
		{rpc.Kkrpc, `{"json":"{\"method\":\"x\",\"args\":[{\"apiKey\":\"` + secretText + `\",\"n\":5}]}"}`, `\"n\":5`},
		{rpc.Kkrpc, `{"t":"q","op":"call","p":["authenticate"],"a":["` + secretText + `"]}`, `authenticate`},
		{rpc.Capnweb, `["push",["pipeline",0,["authenticate"],["` + secretText + `"]]]`, `authenticate`},
		{protocolHTTP, "POST /krpc?token=" + secretText + "&x=1 HTTP/1.1\r\nHost: h\r\n\r\n", "&x=1"},
		{protocolHTTP, "GET / HTTP/1.1\r\nauthorization: Bearer " + secretText + "\r\nHost: h\r\n\r\n", "Host: h"},
		{protocolHTTP, "GET / HTTP/1.1\r\nCookie: a=" + secretText + "\r\nHost: h\r\n\r\n", "Host: h"},
		{rpc.Krpc, "json=%7B%22method%22%3A+%22x%22%2C+%22pmhparams%22%3A+%7B%22u%22%3A+%22" + secretText + "%22%7D%7D&more=1", "more=1"},
		{rpc.Krpc, "method=x&pmhparams=%7B" + secretText + "%7D&kwargs=%7B%7D", "kwargs"},
		{rpc.Krpc, "--b\r\nContent-Disposition: form-data; name=\"pmhparams\"\r\nContent-Type: text/plain\r\n\r\n{\"a\":\"" + secretText + "\"}\r\n--b\r\nnext", "next"},
		{rpc.Krpc, `{"method":"x","pmhparams":{"user":"u","key":"` + secretText + `"},"kwargs":{}}`, "kwargs"},
		{rpc.Snekrpc, "\x83\xa1m\x01\xa5token\xaa" + secretText + "\xa4next\x05", "next"},
		{rpc.Snekrpc, "\x81\xa8password\xd9\x0a" + secretText + "\xa4next\x05", "next"},
	} {
		// At once, and in two parts at every place.
		for cut := range len(test.text) {
			var v view
			shown := ""
			for _, part := range []string{test.text[:cut], test.text[cut:]} {
				before, plain := v.follow(test.protocol, []byte(part))
				shown += string(shownOf(before, plain))
			}
			if len(shown) != len(test.text) {
				t.Fatalf("%s %q, cut at %d: %d bytes of %d", test.protocol, test.text, cut, len(shown), len(test.text))
			}
			// A word that is cut in two is recognised only behind the cut.
			if cut == 0 && (strings.Contains(shown, secretText) || strings.Contains(shown, aToken[16:]) || !strings.Contains(shown, test.keeps)) {
				t.Errorf("%s: %q is shown", test.protocol, shown)
			}
			if secret := strings.Index(test.text, secretText); secret > 0 && cut <= secret && cut > 0 && strings.Contains(shown, secretText) &&
				!strings.Contains(test.text[secret:], "authenticate") {
				t.Errorf("%s, cut at %d: %q is shown", test.protocol, cut, shown)
			}
		}
	}
	for _, harmless := range []string{
		`{"action":"rpc_request","method":"math.add","params":{"tokens":5,"text":"hubd_calls_total"}}`,
		`{"t":"r","id":"1","e":{"n":"PermissionDenied","code":"unauthenticated","ran":"no"}}`,
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nhubd_calls_total{method=\"authenticated\"} 1\n",
	} {
		if got := string(shownOf(nil, []byte(harmless))); got != harmless {
			t.Errorf("%q is shown as %q", harmless, got)
		}
	}
}

// What WebSocket clients send is shown as they meant it, in however many parts
// it is read, and so is not hidden from redaction by their masks.
func TestViewTakesMasksOff(t *testing.T) {
	stream := ws.AppendFrame(nil, ws.OpText, []byte(`["push",["pipeline",0,["x"],[{"token":"`+secretText+`"}]]]`), true)
	stream = ws.AppendFrame(stream, ws.OpText, []byte(`["pull",1]`+strings.Repeat(" ", 300)), true)
	for size := 1; size <= len(stream); size++ {
		var v view
		var shown []byte
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			before, plain := v.follow(rpc.Capnweb, rest[:n])
			shown = append(shown, shownOf(before, plain)...)
			rest = rest[n:]
		}
		if bytes.Contains(shown, []byte(secretText)) {
			t.Fatalf("in parts of %d bytes: %q", size, shown)
		}
		if size == len(stream) && !bytes.Contains(shown, []byte(`["pull",1]`)) {
			t.Errorf("at once: %q", shown)
		}
	}
}

// A monitor of raw bytes sees what a real client sends, and no token of it.
func TestMonitorHidesTokens(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	token := h.token("watched", "")
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"m","method":"hub.monitor","params":{"raw":true,"rate":10000},"stream":true}` + "\n")
	var seen bytes.Buffer
	next := func() (event string) {
		t.Helper()
		var f struct {
			Data monitorEvent `json:"data"`
		}
		if err := json.Unmarshal([]byte(w.line()), &f); err != nil {
			t.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(f.Data.Data)
		if err != nil {
			t.Fatal(err)
		}
		seen.Write(data)
		return f.Data.Event
	}
	for next() != sawBegin {
	}
	other := h.dial()
	other.send(fmt.Sprintf(`{"action":"hello","token":%q,"version":1}`+"\n", token))
	if line := other.line(); !strings.Contains(line, `"type":"hello"`) {
		t.Fatalf("hello is answered with %s", line)
	}
	h.ask("unix", h.socket, "GET /-/ready HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer "+token+"\r\nX-After: it\r\nConnection: close\r\n\r\n")
	for !strings.Contains(seen.String(), "X-After: it") {
		next()
	}
	if strings.Contains(seen.String(), token[16:]) || !strings.Contains(seen.String(), `"action":"hello"`) {
		t.Errorf("a monitor is shown\n%s", seen.String())
	}
}

// Whatever is read, in whatever parts, as much is shown as was read.
func FuzzView(f *testing.F) {
	f.Add([]byte(`{"token":"a\"b","c":{"password":[1,{"d":2}]}}`), 7, false)
	f.Add([]byte("--b\r\nname=\"pmhparams\"\r\n\r\nx\r\n--b"), 3, false)
	f.Add([]byte("\x81\xfe\x00\x05abcdtoken\x81\xff\x00\x00\x00\x00\x00\x00\x00\x01abcdx"), 2, true)
	f.Add([]byte("\xa5token\xdb\xff\xff\xff\xffabc"), 5, false)
	f.Fuzz(func(t *testing.T, text []byte, size int, socket bool) {
		protocol := rpc.Krpc
		if socket {
			protocol = rpc.Capnweb
		}
		var v view
		for rest := text; len(rest) > 0; {
			n := min(max(size, 1), len(rest))
			before, plain := v.follow(protocol, rest[:n])
			if shown := shownOf(before, plain); len(shown) != min(n, monitorRaw) || len(v.recent) > lookback {
				t.Fatalf("%d bytes are shown of %d, %d are kept", len(shown), n, len(v.recent))
			}
			rest = rest[n:]
		}
	})
}
