package hub

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// krpcForm is a call as the client posts it.
func krpcForm(call string) string {
	body := "json=" + url.QueryEscape(call)
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: hub\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		len(body), body)
}

// over is a request as it must be on that network, of a program that says that it is one.
func (h *testHub) over(network, request string) string {
	if network == "tcp" {
		return strings.Replace(request, "Host: hub\r\n", "Host: "+h.tcp+"\r\nSec-Hubd: 1\r\n", 1)
	}
	return request
}

// krpcUpload is a call with one file.
func krpcUpload(call, name, data string) string {
	const b = "-----KrOnOsThEwIzArD"
	body := "--" + b + "\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n" + call + "\r\n--" + b +
		"\r\nContent-Disposition: form-data; name=\"__file__:1\"; filename=\"" + name + "\"\r\nContent-Type: ('text/plain', None)\r\n\r\n" + data +
		"\r\n--" + b + "--\r\n\r\n"
	return fmt.Sprintf("POST /up HTTP/1.1\r\nHost: hub\r\nContent-Type: multipart/form-data; boundary=%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		b, len(body), body)
}

func (h *testHub) krpc(call string) string {
	h.t.Helper()
	status, body := h.ask("unix", h.socket, krpcForm(call))
	if status != 200 {
		h.t.Errorf("%s: status %d %s", call, status, body)
	}
	return body
}

func TestKrpcRoutes(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}, KrpcGet: true})
	call := `{"method": "math_add", "params": [1, 2], "pmhparams": null}`
	query := "json=" + url.QueryEscape(call)
	json := fmt.Sprintf("Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(call), call)
	for _, c := range []struct {
		request string
		status  int
		has     string
	}{
		{"GET /?" + query + " HTTP/1.1\r\nHost: hub\r\n\r\n", 200, `{"result": 3}`},
		{"GET /krpc?" + query + " HTTP/1.0\r\nHost: hub\r\n\r\n", 200, `{"result": 3}`},
		{"GET /any/path?" + query + " HTTP/1.1\r\nHost: hub\r\n\r\n", 200, `{"result": 3}`},
		{"GET /krpc HTTP/1.1\r\nHost: hub\r\n\r\n", 400, "Missing 'json' parameter"},
		{"POST /krpc HTTP/1.1\r\nHost: hub\r\n" + json, 200, `{"result": 3}`},
		{"POST /other HTTP/1.1\r\nHost: hub\r\n" + json, 404, ""},
		{"PUT / HTTP/1.1\r\nHost: hub\r\nContent-Length: 0\r\n\r\n", 405, ""},
		{"GET /metrics?" + query + " HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n", 200, "hubd_build_info"},
		{krpcForm(call), 200, `{"result": 3}`},
		{krpcForm(`{"method": "demo.fail", "params": ["boom"]}`), 200, `"info": "boom"`},
		{krpcForm(`{"method": "no_such"}`), 200, `-32601`},
		{krpcForm(`{"method": "echo", "params": {"value": {"a": 1.0}}}`), 200, `{"result": {"a": 1.0}}`},
	} {
		for network, at := range map[string]string{"unix": h.socket, "tcp": h.tcp} {
			request := h.over(network, c.request)
			status, body := h.ask(network, at, request)
			if status != c.status || !strings.Contains(body, c.has) {
				t.Errorf("%s %.60q: %d %.200s", network, request, status, body)
			}
		}
	}
	if got := h.sample(`hubd_calls_total{code="ok",method="math.add",protocol="krpc"}`); got == "" || got == "0" {
		t.Errorf("calls are not counted: %q", got)
	}
	if got := h.sample(`hubd_failed_frames_total{protocol="krpc",reason="no_call"}`); got != "2" {
		t.Errorf("refused requests: %q", got)
	}
}

// Calls by GET are off on TCP; where they are on, they show that no page has sent
// them. A Unix socket, which no page reaches, takes them.
func TestCallsByGet(t *testing.T) {
	t.Parallel()
	off := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	on := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}, Hosts: []string{"hub.test"}, KrpcGet: true})
	asks := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0"}, KrpcGet: true})
	token := asks.token("page", "")
	bearer := "Authorization: Bearer " + token + "\r\n"
	_, port, _ := net.SplitHostPort(on.tcp)
	const program, sum, unproven = "Sec-Hubd: 1\r\n", `{"result": 3}`, "unauthenticated: a call by GET needs a token"
	call := func(pmhparams string) string {
		return "json=" + url.QueryEscape(`{"method": "math_add", "params": [1, 2], "pmhparams": `+pmhparams+`}`)
	}
	for _, c := range []struct {
		at          *testHub
		what, host  string
		query, head string
		status      int
		has         string
	}{
		{off, "off", off.tcp, call("null"), program, 405, "krpc.get"},
		{off, "off, the other spelling", off.tcp, strings.Replace(call("null"), "json", "JSON", 1), program, 405, "krpc.get"},
		{off, "off, of a page of the hub", off.tcp, call("null"), "Sec-Fetch-Site: same-origin\r\n", 405, "krpc.get"},
		{off, "no call", off.tcp, "", "", 400, "Missing 'json' parameter"},
		{on, "a program", on.tcp, call("null"), program, 200, sum},
		{on, "a program at another name of this machine", "localhost:" + port, call("null"), program, 200, sum},
		{on, "a page of the hub", on.tcp, call("null"), "Sec-Fetch-Site: same-origin\r\n", 200, sum},
		{on, "who says nothing", on.tcp, call("null"), "", 200, unproven},
		{on, "another name", "hub.test", call("null"), "", 200, unproven},
		{on, "another name, of a program", "hub.test", call("null"), program, 200, unproven},
		{on, "another name, of a browser", "hub.test", call("null"), "Sec-Fetch-Site: same-origin\r\n", 200, unproven},
		{on, "another page", on.tcp, call("null"), "Sec-Fetch-Site: cross-site\r\n", 403, ""},
		{on, "a link", on.tcp, call("null"), "Sec-Fetch-Site: none\r\n", 403, "a link"},
		{on, "what is no token", "hub.test", call(`"cookie"`), "", 200, unproven},
		{asks, "a token", asks.tcp, call("null"), bearer, 200, sum},
		{asks, "a token in the call", asks.tcp, call(`"` + token + `"`), "", 200, sum},
		{asks, "no token", asks.tcp, call("null"), program, 200, "unauthenticated: "},
	} {
		request := "GET /krpc?" + c.query + " HTTP/1.1\r\nHost: " + c.host + "\r\n" + c.head + "Connection: close\r\n\r\n"
		if status, body := c.at.ask("tcp", c.at.tcp, request); status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s: %d %s, want %d with %s", c.what, status, body, c.status, c.has)
		}
	}
	if _, body := off.get("/krpc?" + call("null")); body != sum {
		t.Errorf("over the Unix socket: %s", body)
	}
	if n := on.sample(`hubd_calls_total{code="ok",method="math.add",protocol="krpc"}`); n != "3" {
		t.Errorf("%s calls have run", n)
	}
}

// A listener that is restricted to other protocols does not know krpc.
func TestKrpcIsHiddenWhereItIsNotSpoken(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none&protocols=capnweb"}})
	status, _ := h.ask("tcp", h.tcp, h.over("tcp", krpcForm(`{"method": "echo", "params": [1]}`)))
	if status != 404 {
		t.Errorf("status %d", status)
	}
}

func TestKrpcFiles(t *testing.T) {
	root := t.TempDir()
	h := startHub(t, Options{Demo: true, FileRoot: root})
	data := strings.Repeat("some file\n", 50000)
	status, body := h.ask("unix", h.socket, krpcUpload(`{"method": "demo_file_info", "params": ["__file__:1"]}`, "ä b.txt", data))
	if status != 200 || !strings.Contains(body, `"name":"ä b.txt","size":500000`) {
		t.Errorf("%d %s", status, body)
	}
	_, body = h.ask("unix", h.socket, krpcUpload(`{"method": "file_upload", "params": ["__file__:1", "up.txt"]}`, "x", data))
	if got, err := os.ReadFile(filepath.Join(root, "up.txt")); body != `{"result": "up.txt"}` || err != nil || string(got) != data {
		t.Errorf("%s, %v", body, err)
	}
	if got := h.krpc(`{"method": "file_download", "params": ["up.txt", 499990]}`); got != "some file\n" {
		t.Errorf("%.100q", got)
	}
	if got := h.krpc(`{"method": "file_paths"}`); got != `{"result": ["up.txt"]}` {
		t.Errorf("%s", got)
	}
	if got := h.krpc(`{"method": "file_download", "params": ["../x"]}`); !strings.Contains(got, `"info": "OSError: Permission denied: '../x'"`) {
		t.Errorf("%s", got)
	}
	if r := h.dial().call("demo.file_info", `[]`); r.kind() != "invalid_params" {
		t.Errorf("files over another protocol: %+v", r)
	}
	eventually(t, "the spool is empty", func() bool { return h.sample("hubd_spool_bytes") == "0" })
}

// Files that a crash has left in the spool are gone after the next start.
func TestSpoolIsCleanedAtStart(t *testing.T) {
	state := t.TempDir()
	spool := filepath.Join(state, "spool")
	if err := os.Mkdir(spool, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"upload-123", "of-somebody-else"} {
		if err := os.WriteFile(filepath.Join(spool, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startHub(t, Options{State: state})
	left, err := os.ReadDir(spool)
	if err != nil || len(left) != 1 || left[0].Name() != "of-somebody-else" {
		t.Errorf("left: %v, %v", left, err)
	}
	if st, _ := os.Stat(spool); st.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", st.Mode())
	}
}

// A token that comes as pmhparams says who calls.
func TestKrpcAuthenticatesByPmhparams(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0"}})
	token := h.token("reader", `,"scopes":["read"]`)
	for _, c := range []struct{ pmhparams, method, want string }{
		{"null", "math_add", "unauthenticated"}, {`"guess"`, "math_add", "unauthenticated"}, {`"hubd_guess"`, "math_add", "unauthenticated: "},
		{`"` + token + `"`, "math_add", `{"result": 3}`}, {`["` + token + `"]`, "math_add", `{"result": 3}`},
		{`{"token": "` + token + `"}`, "math_add", `{"result": 3}`}, {`"` + token + `"`, "state_delete", "permission_denied"},
	} {
		call := fmt.Sprintf(`{"method": %q, "params": [1, 2], "pmhparams": %s}`, c.method, c.pmhparams)
		status, body := h.ask("tcp", h.tcp, h.over("tcp", krpcForm(call)))
		if status != 200 || !strings.Contains(body, c.want) {
			t.Errorf("%.30s %s: %d %s", c.pmhparams, c.method, status, body)
		}
	}
}

// The hook of the configuration runs before each call.
func TestKrpcHookOfTheConfiguration(t *testing.T) {
	h := startHub(t, Options{Demo: true, KrpcHook: "demo.authenticate"})
	if got := h.krpc(`{"method": "math.add", "params": [1, 2], "pmhparams": "cookie-123"}`); got != `{"result": 3}` {
		t.Errorf("%s", got)
	}
	if got := h.krpc(`{"method": "math.add", "params": [1, 2], "pmhparams": "other"}`); !strings.Contains(got, "invalid session") {
		t.Errorf("%s", got)
	}
}

// A client that is gone takes its call along; one that has ended its sending
// side waits for its answer.
func TestKrpcClientGoesAway(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	for network, at := range map[string]string{"unix": h.socket, "tcp": h.tcp} {
		request := func(call string) string { return h.over(network, krpcForm(call)) }
		half := dial(t, network, at)
		half.send(request(`{"method": "demo.sleep", "params": [0.3]}`))
		half.Conn.(testkit.Conn).CloseWrite()
		if all, err := io.ReadAll(half.r); err != nil || !strings.Contains(string(all), `{"result": 0.3}`) {
			t.Errorf("%s, half closed: %s, %v", network, all, err)
		}

		gone := dial(t, network, at)
		gone.send(request(`{"method": "demo.sleep", "params": [3000]}`))
		running := func() int { return strings.Count(string(h.dial().call("hub.calls", `[]`).Result), `"demo.sleep"`) }
		eventually(t, network+": the call runs", func() bool { return running() == 1 })
		gone.Close()
		eventually(t, network+": the call has ended", func() bool { return running() == 0 })
	}
}

// A body that stands still is given up, and answered as what it is.
func TestKrpcSlowBody(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{HTTPBody: 50e6}})
	whole := krpcUpload(`{"method": "demo_file_info", "params": ["__file__:1"]}`, "f", strings.Repeat("x", 1<<20))
	form := krpcForm(`{"method": "echo", "params": [1]}`)
	for _, request := range []string{whole[:len(whole)-500], whole[:300], form[:len(form)-5]} {
		if status, body := h.ask("unix", h.socket, request); status != 408 {
			t.Errorf("%d %s", status, body)
		}
	}
	if got := h.sample(`hubd_rejected_total{limit="http_body"}`); got != "3" {
		t.Errorf("counted %s", got)
	}
	eventually(t, "the spool is empty", func() bool { return h.sample("hubd_spool_bytes") == "0" })
}

// Whatever runs or is being read does not hold up the end of the hub.
func TestKrpcAtShutdown(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: 50e6}})
	whole := krpcUpload(`{"method": "demo_file_info", "params": ["__file__:1"]}`, "f", strings.Repeat("x", 1<<20))
	var open []net.Conn
	for _, request := range []string{whole[:len(whole)-500], krpcForm(`{"method": "demo.sleep", "params": [3000]}`), whole[:200]} {
		w := h.dial()
		w.send(request)
		open = append(open, w)
	}
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="krpc"}`) == "1" })
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	for _, c := range open {
		c.Close()
	}
}

// Files go in and out over the native protocol in base64.
func TestFilesOverTheNativeWire(t *testing.T) {
	root := t.TempDir()
	h := startHub(t, Options{FileRoot: root, Limits: Limits{Upload: 4096}})
	w := h.dial()
	data := base64.StdEncoding.EncodeToString([]byte("native"))
	if r := w.call("file.upload", fmt.Sprintf(`{"src": [%q, %q], "dst_path": "n"}`, data, data)); string(r.Result) != `"n"` {
		t.Errorf("%+v", r)
	}
	if r := w.call("file.download", `{"src_path": "n", "offset": 6}`); string(r.Result) != fmt.Sprintf("[%q]", data) {
		t.Errorf("%+v", r)
	}
	big := base64.StdEncoding.EncodeToString(make([]byte, 5000))
	if r := w.call("file.upload", fmt.Sprintf(`{"src": [%q], "dst_path": "n"}`, big)); r.kind() != "too_large" {
		t.Errorf("%+v", r)
	}
	if list, _ := os.ReadDir(root); len(list) != 1 {
		t.Errorf("left: %v", list)
	}
}

func TestNoFilesWithoutARoot(t *testing.T) {
	h := startHub(t, Options{})
	if r := h.dial().call("file.paths", `[]`); r.kind() != "not_found" {
		t.Errorf("%+v", r)
	}
	if r := h.dial().call("hub.methods", `["file"]`); string(r.Result) != "[]" {
		t.Errorf("%s", r.Result)
	}
}
