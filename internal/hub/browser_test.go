package hub

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

//go:embed testdata/foreign.html
var foreignPage string

// browse opens a page, served here from an origin of its own, in a real
// browser, and returns what its script posts to /result.
func browse(t *testing.T, site *httptest.Server, result <-chan string) map[string]string {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (Debian: apt-get install chromium)")
	}
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP hub.test 127.0.0.1", "--user-data-dir="+t.TempDir(), "--remote-debugging-port=0", site.URL+"/")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}()
	select {
	case text := <-result:
		var got map[string]string
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatalf("result %q: %v", text, err)
		}
		return got
	case <-time.After(2 * time.Minute):
		t.Fatal("the page has posted no result")
		return nil
	}
}

// serveSite serves one page and takes its result.
func serveSite(t *testing.T, page func() string) (*httptest.Server, <-chan string) {
	t.Helper()
	result := make(chan string, 1)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, page())
		case "/result":
			text, _ := io.ReadAll(r.Body)
			select {
			case result <- string(text):
			default:
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(site.Close)
	return site, result
}

// A page of another origin gets nothing from a hub that asks nobody who it is,
// whatever it tries, and changes nothing.
func TestPageOfAnotherOriginGetsNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	token := h.token("page", "")
	_, port, _ := strings.Cut(h.tcp, ":")
	site, result := serveSite(t, func() string {
		return strings.NewReplacer("HUB", h.tcp, "REBOUND", "rebound.example:"+port, "TOKEN", token).Replace(foreignPage)
	})
	got := browse(t, site, result)
	if len(got) != 13 {
		t.Errorf("%d attempts: %v", len(got), got)
	}
	for attempt, answer := range got {
		switch answer {
		case "refused", "opaque", "sent": // what was sent is looked for below
		default:
			t.Errorf("%s got %.200q", attempt, answer)
		}
	}
	w := h.dial()
	if r := w.call("state.list", `{}`); strings.Contains(string(r.Result), `"key"`) || r.Error != nil {
		t.Errorf("the page has changed the state: %s %v", r.Result, r.Error)
	}
	for series, least := range map[string]string{
		`hubd_drops_total{protocol="http",reason="origin_not_allowed"}`: "10",
		`hubd_drops_total{protocol="http",reason="host_not_allowed"}`:   "1",
	} {
		if n := h.sample(series); len(n) < len(least) || len(n) == len(least) && n < least {
			t.Errorf("%s is %s, want at least %s: have the attempts arrived?", series, n, least)
		}
	}
	if n := h.sample(`hubd_connections_total{protocol="capnweb",transport="tcp"}`); n != "0" && n != "" {
		t.Errorf("%s Cap'n Web sessions of the page", n)
	}
}

//go:embed testdata/simple.html
var simplePage string

// A name in http.hosts is one to which browsers say nothing about the page that
// sends a request without CORS, such as an image, over plain HTTP. Whatever can be
// sent so changes nothing, also where the hub knows the user of the browser, and
// where calls by GET are on.
func TestPageChangesNothingThroughAListedName(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	for _, auth := range []string{"none", "uid"} {
		for _, get := range []bool{false, true} {
			t.Run(fmt.Sprintf("auth=%s,get=%v", auth, get), func(t *testing.T) {
				h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=" + auth}, Hosts: []string{"hub.test"}, KrpcGet: get})
				_, port, _ := strings.Cut(h.tcp, ":")
				site, result := serveSite(t, func() string {
					return strings.NewReplacer("HUB", "hub.test:"+port).Replace(simplePage)
				})
				got := browse(t, site, result)
				for attempt, answer := range got {
					switch answer {
					case "refused", "opaque", "sent", "loaded": // what was sent is looked for below
					default:
						t.Errorf("%s got %.200q", attempt, answer)
					}
				}
				if len(got) != 20 {
					t.Errorf("%d attempts: %v", len(got), got)
				}
				unchanged := func() {
					t.Helper()
					if r := h.dial().call("state.list", `{}`); strings.Contains(string(r.Result), `"key"`) || r.Error != nil {
						t.Errorf("the page has changed the state: %s %v", r.Result, r.Error)
					}
				}
				unchanged() // before it is waited for what a changed state would not count
				reason := dropProtocol
				if get {
					reason = dropOrigin
				}
				count := func(protocol, reason string) int {
					n, _ := strconv.Atoi(h.sample(`hubd_drops_total{protocol="` + protocol + `",reason="` + reason + `"}`))
					return n
				}
				eventually(t, "the queries have arrived", func() bool { return count("krpc", reason) >= 8 })
				eventually(t, "the others have arrived", func() bool { return count("http", dropOrigin) >= 9 })
				unchanged()
				if n := h.logs.FilterMessageSnippet("reload").Len(); n > 0 {
					t.Errorf("the page has made the hub reload")
				}
			})
		}
	}
}

const listedPage = `<!doctype html><meta charset="utf-8"><script>
const hub = "HUB", token = "TOKEN", got = {};
const add = '["push",["pipeline",0,["math","add"],[3,4]]]\n["pull",1]';
(async () => {
  try {
    const r = await fetch("http://" + hub + "/capnweb", { method: "POST", body: add, headers: { Authorization: "Bearer " + token } });
    got.fetch = await r.text();
  } catch (e) { got.fetch = "refused " + e; }
  const traced = { Authorization: "Bearer " + token, traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", tracestate: "a=b" };
  const krpc = async (call, headers) => {
    try {
      const r = await fetch("http://" + hub + "/krpc", { method: "POST", headers, body: new URLSearchParams({ json: JSON.stringify(call) }) });
      return r.status + " " + await r.text();
    } catch (e) { return "refused " + e; }
  };
  const sum = { method: "math_add", params: [3, 4] };
  got.krpc = await krpc(sum, traced);
  got.simple = await krpc({ ...sum, pmhparams: token });
  got.bytes = await krpc({ method: "file_download", params: ["notes.txt"] }, traced);
  got.missing = await krpc({ method: "no_such" }, traced);
  try {
    const r = await fetch("http://" + hub + "/krpc", { method: "POST", headers: { ...traced, "Content-Type": "text/plain" }, body: "x" });
    got.type = r.status + "";
  } catch (e) { got.type = "refused " + e; }
  got.socket = await new Promise((done) => {
    const ws = new WebSocket("ws://" + hub + "/capnweb", ["hubd", "hubd.bearer." + token]);
    ws.onopen = () => { for (const line of add.split("\n")) ws.send(line); };
    ws.onmessage = (e) => done(ws.protocol + " " + e.data);
    ws.onclose = ws.onerror = () => done("refused");
  });
  got.alone = await new Promise((done) => {
    const ws = new WebSocket("ws://" + hub + "/capnweb", "hubd.bearer." + token);
    ws.onopen = () => done("open");
    ws.onclose = ws.onerror = () => done("refused");
  });
  got.wrong = await new Promise((done) => {
    const ws = new WebSocket("ws://" + hub + "/capnweb", ["hubd", "hubd.bearer.wrong"]);
    ws.onopen = () => done("open");
    ws.onclose = ws.onerror = () => done("refused");
  });
  await fetch("/result", { method: "POST", body: JSON.stringify(got) });
})();
</script>`

// A page of a listed origin calls with its token, by fetch and by WebSocket:
// what was refused above was refused because of the origin.
func TestPageOfAListedOriginCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	var page atomic.Value // known when the hub is, which must know the site
	site, result := serveSite(t, func() string { return page.Load().(string) })
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "notes.txt"), []byte("some text"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Origins: []string{site.URL}, FileRoot: root})
	page.Store(strings.NewReplacer("HUB", h.tcp, "TOKEN", h.token("page", "")).Replace(listedPage))
	got := browse(t, site, result)
	for attempt, want := range map[string]string{
		"krpc": `200 {"result": 7}`, "simple": `200 {"result": 7}`, "bytes": "200 some text", "type": "415",
		"missing": `200 {"error": {"code": -32601, "message": "Method not found."}}`,
		"fetch":   `["resolve",1,7]`, "socket": `hubd ["resolve",1,7]`, "alone": "open", "wrong": "refused",
	} {
		if got[attempt] != want {
			t.Errorf("%s: %q, want %q", attempt, got[attempt], want)
		}
	}
}

// chunked is a body, behind the end of a head.
func chunked(body string) string {
	if body == "" {
		return "\r\n0\r\n\r\n"
	}
	return fmt.Sprintf("\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
}

func TestCORS(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Listen: []string{listenToken}, Origins: []string{"https://app.example"}})
	token := h.token("page", "")
	ask := func(head string) *http.Response {
		t.Helper()
		w := dial(t, "tcp", h.tcp)
		w.send(head + "Host: " + h.tcp + "\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	preflight := "OPTIONS /capnweb HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
	r := ask(preflight + "Origin: https://app.example\r\n")
	if r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		!strings.Contains(r.Header.Get("Access-Control-Allow-Headers"), "Authorization") || r.Header.Get("Vary") != "Origin" {
		t.Errorf("preflight of a listed origin: %d %v", r.StatusCode, r.Header)
	}
	for _, head := range []string{
		preflight + "Origin: https://other.example\r\n", preflight + "Origin: null\r\n", preflight + "Origin: http://" + h.tcp + "\r\n", preflight,
		"GET /-/healthy HTTP/1.1\r\nOrigin: https://other.example\r\n", "GET /-/healthy HTTP/1.1\r\nOrigin: http://" + h.tcp + "\r\n",
	} {
		if r := ask(head); r.Header.Get("Access-Control-Allow-Origin") != "" || r.StatusCode == 204 {
			t.Errorf("%q: %d %v", head, r.StatusCode, r.Header)
		}
	}
	if allowed := r.Header.Get("Access-Control-Allow-Headers"); !strings.Contains(allowed, "Traceparent") || !strings.Contains(allowed, "Tracestate") {
		t.Errorf("a page may send %s", allowed)
	}
	// Who writes the head of an answer itself says the same.
	const body = "Transfer-Encoding: chunked\r\nOrigin: https://app.example\r\nAuthorization: Bearer "
	const command = `["CommandMessage","echo","echo",[["Argument",3.0]],{}]`
	for what, request := range map[string]string{
		"a call":     "POST /krpc HTTP/1.1\r\nContent-Type: application/json\r\n" + chunked(`{"method":"echo","params":[1]}`),
		"no call":    "POST /krpc HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\n" + chunked("x=y"),
		"not JSON":   "POST /krpc HTTP/1.1\r\nContent-Type: application/json\r\n" + chunked("{"),
		"a tunnel":   "POST /snekrpc HTTP/1.1\r\nContent-Type: application/octet-stream\r\n" + chunked(command),
		"a batch":    "POST /capnweb HTTP/1.1\r\n" + chunked(""),
		"a bad type": "POST /krpc HTTP/1.1\r\nContent-Type: text/csv\r\n" + chunked("x"),
	} {
		head, rest, _ := strings.Cut(request, "\r\n\r\n")
		w := dial(t, "tcp", h.tcp)
		w.send(head + "\r\n" + body + token + "\r\nHost: " + h.tcp + "\r\n\r\n" + rest)
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if resp.Header.Get("Access-Control-Allow-Origin") != "https://app.example" || resp.Header.Get("Vary") != "Origin" || len(resp.Header["Content-Type"]) != 1 {
			t.Errorf("%s: %d %v", what, resp.StatusCode, resp.Header)
		}
	}
	if r := ask("GET /metrics HTTP/1.1\r\nOrigin: https://app.example\r\n"); r.StatusCode != 401 || r.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Errorf("a listed origin without a token: %d %v", r.StatusCode, r.Header)
	}
}
