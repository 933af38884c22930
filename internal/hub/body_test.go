package hub

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A client that waits to be told to send its body gets a refusal at once: the body
// is not waited for, neither by the handler nor by the server. What is taken is
// asked for.
func TestExpectedBodies(t *testing.T) {
	t.Parallel()
	limits := Limits{HTTPBody: time.Hour, PartialFrame: time.Hour} // a body that is waited for makes the test hang
	asks := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Limits: limits})
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}, Limits: limits})
	const sum = `["push",["pipeline",0,["math","add"],[3,4]]]` + "\n" + `["pull",1]`
	const call = `json={"method":"math_add","params":[3,4]}`
	const form = "Content-Type: application/x-www-form-urlencoded\r\n"
	for _, c := range []struct {
		what                string
		at                  *testHub
		request, head, body string
		length, status      int
		has                 string
	}{
		{"a batch without a token", asks, "POST /-/reload", "", "", 10, 401, ""},
		{"a wrong token", asks, "POST /capnweb", "Authorization: Bearer no\r\n", "", 10, 401, ""},
		{"nothing is there", h, "POST /nothing", "", "", 10, 404, ""},
		{"no such method", h, "PUT /capnweb", "", "", 10, 405, ""},
		{"no such method at an unclaimed path", h, "PUT /x", "", "", 10, 405, ""},
		{"nothing to post to", h, "POST /metrics", "", "", 10, 405, ""},
		{"of another type", h, "POST /krpc", "Content-Type: text/csv\r\n", "", 10, 415, "application/json"},
		{"another name", h, "POST /capnweb", "Host: other.example\r\n", "", 10, 421, ""},
		{"another page", h, "POST /capnweb", "Origin: http://other.example\r\n", "", 10, 403, ""},
		{"too large a batch", h, "POST /capnweb", "", "", 1 << 40, 413, "too large"},
		{"too large a call", h, "POST /krpc", form, "", 1 << 40, 413, ""},
		{"a batch", h, "POST /capnweb", "", sum, len(sum), 200, "7]"},
		{"a call", h, "POST /krpc", form, call, len(call), 200, `{"result": 7}`},
	} {
		if !strings.Contains(c.head, "Host: ") {
			c.head += "Host: " + c.at.tcp + "\r\n"
		}
		w := dial(t, "tcp", c.at.tcp)
		w.send(fmt.Sprintf("%s HTTP/1.1\r\n%sContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", c.request, c.head, c.length))
		resp, err := http.ReadResponse(w.r, &http.Request{Method: "POST"})
		if err == nil && resp.StatusCode == 100 && c.body != "" {
			w.send(c.body)
			resp, err = http.ReadResponse(w.r, &http.Request{Method: "POST"})
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		text, err := io.ReadAll(resp.Body)
		if resp.StatusCode != c.status || err != nil || !strings.Contains(string(text), c.has) {
			t.Errorf("%s: %d %s %v, want %d with %q", c.what, resp.StatusCode, text, err, c.status, c.has)
		}
		w.Close()
	}
	// A tunnel takes its body as it comes, so it says at once that it may.
	w := h.dial()
	w.send("POST /snekrpc HTTP/1.1\r\nHost: h\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
	if line := w.line(); line != "HTTP/1.1 100 Continue\r" || w.line() != "\r" {
		t.Fatalf("a tunnel answers %q", line)
	}
	const command = `["CommandMessage","echo","echo",[["Argument",3.0]],{}]`
	w.send(fmt.Sprintf("%X\r\n%s\r\n", len(command), command))
	if line := w.line(); line != "HTTP/1.1 200 OK\r" {
		t.Errorf("a tunnel answers %q", line)
	}
}

// An announced length over the limit is refused when the head has come.
func TestAnnouncedBodiesOverTheLimit(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Limits: Limits{HTTPBody: time.Hour, PartialFrame: time.Hour, CapnwebMessage: 4096, Frame: 65536, Upload: 4096}})
	for what, head := range map[string]string{
		"batch": "POST /capnweb HTTP/1.1\r\nContent-Length: 4097\r\n",
		"form":  "POST /krpc HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000000000000\r\n",
		"JSON":  "POST /krpc HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 65537\r\n",
		"parts": "POST /krpc HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000000000\r\n",
	} {
		if status, body := h.ask("unix", h.socket, head+"Host: h\r\n\r\n"); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", what, status, body)
		}
	}
}

// A body that is compressed is refused with a word about that, on every path.
func TestCompressedBodies(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true})
	var text bytes.Buffer
	z := gzip.NewWriter(&text)
	io.WriteString(z, `json={"method":"math_add","params":[3,4]}`)
	z.Close()
	for _, head := range []string{
		"POST /krpc HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n", "POST /krpc HTTP/1.1\r\nContent-Type: application/json\r\n",
		"POST / HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n", "POST /capnweb HTTP/1.1\r\n",
	} {
		status, body := h.ask("unix", h.socket, fmt.Sprintf("%sHost: h\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", head, text.Len(), text.String()))
		if status != http.StatusUnsupportedMediaType || !strings.Contains(body, "Content-Encoding") {
			t.Errorf("%q: %d %s", head, status, body)
		}
	}
	plain := `{"method":"math_add","params":[3,4]}`
	if status, body := h.ask("unix", h.socket, fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: h\r\nContent-Encoding: identity\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(plain), plain)); body != `{"result": 7}` {
		t.Errorf("identity: %d %s", status, body)
	}
	if status, body := h.ask("unix", h.socket, fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
		len(plain), plain)); status != http.StatusUnsupportedMediaType || !strings.Contains(body, "application/json") {
		t.Errorf("JSON as text: %d %s", status, body)
	}
}
