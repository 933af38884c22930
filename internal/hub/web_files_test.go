package hub

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// talk sends a raw request on a new connection and returns the whole answer.
func talk(t *testing.T, network, address, request string) string {
	t.Helper()
	w := dial(t, network, address)
	defer w.Close()
	w.send(request)
	answer, err := io.ReadAll(w.r)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestWebFiles(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("secret", "outside")
	write("root/index.html", "<p>index")
	write("root/app.mjs", "export {}")
	write("root/.env", "hidden")
	write("root/sub/index.html", "<p>sub")
	write("root/empty/x", "x")
	write("root/.git/config", "hidden")
	for link, to := range map[string]string{"root/out": "../secret", "root/absolute": filepath.Join(dir, "secret"), "root/in": "app.mjs"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0"}, WebRoot: root}) // a listener that wants tokens
	for _, c := range []struct {
		request string
		status  string
		has     string
	}{
		{"GET /web/", "200", "<p>index"},
		{"GET /web", "301", "Location: web/\r\n"},
		{"GET /web?a=b", "301", "Location: web/?a=b\r\n"},
		{"HEAD /web", "301", "Location: web/\r\n"},
		{"POST /web", "405", ""},
		{"GET /webroot", "404", ""},
		{"GET /web/index.html", "200", "text/html"},
		{"GET /web/app.mjs", "200", "text/javascript"},
		{"HEAD /web/app.mjs", "200", "Content-Length: 9"},
		{"GET /web/in", "200", "export {}"},
		{"GET /web/sub", "301", "Location: sub/"},
		{"GET /web/sub/", "200", "<p>sub"},
		{"GET /web/empty/", "404", ""},
		{"GET /web/nothing", "404", ""},
		{"GET /web/.env", "404", ""},
		{"GET /web/.git/config", "404", ""},
		{"GET /web/out", "404", ""},
		{"GET /web/absolute", "404", ""},
		{"GET /web/fifo", "404", ""},
		{"GET /web/../secret", "404", ""},
		{"GET /web/%2e%2e/secret", "404", ""},
		{"GET /web/..%2fsecret", "404", ""},
		{"GET /web//etc/passwd", "404", ""},
		{"GET /web/sub/../app.mjs", "404", ""},
		{"GET /web/app.mjs%00", "404", ""},
		{"POST /web/app.mjs", "405", ""},
	} {
		answer := talk(t, "tcp", h.tcp, c.request+" HTTP/1.1\r\nHost: "+h.tcp+"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 "+c.status) || !strings.Contains(answer, c.has) {
			t.Errorf("%s: %.300q, want %s with %q", c.request, answer, c.status, c.has)
		}
		if strings.Contains(answer, "outside") || strings.Contains(answer, "hidden") {
			t.Errorf("%s shows what it must not: %q", c.request, answer)
		}
	}

	without := startHub(t, Options{})
	if status, _ := without.ask("unix", without.socket, "GET /web/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); status == 200 {
		t.Error("files are served although no folder was named")
	}
}

func TestPage(t *testing.T) {
	h := startHub(t, Options{})
	get := func(head string) string {
		return talk(t, "unix", h.socket, head+"\r\nHost: h\r\nConnection: close\r\n\r\n")
	}
	answer := get("GET / HTTP/1.1\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8")
	for _, want := range []string{"HTTP/1.1 200", "text/html", "Content-Security-Policy: default-src 'none'", "script-src 'sha256-", "<title>hubd</title>"} {
		if !strings.Contains(answer, want) {
			t.Errorf("the page has no %q: %.600q", want, answer)
		}
	}
	for _, head := range []string{"GET / HTTP/1.1", "GET / HTTP/1.1\r\nAccept: */*", "GET /?json=%7B%7D HTTP/1.1\r\nAccept: text/html", "GET /krpc HTTP/1.1\r\nAccept: text/html"} {
		if answer := get(head); strings.Contains(answer, "<title>") {
			t.Errorf("%q gets the page", head)
		}
	}
}
