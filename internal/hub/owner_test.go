package hub

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A connection that was reset leaves its addresses to the next one from the
// same port, which may be anybody's: the first is nobody's then, whatever it has
// sent before.
func TestOwnerOfAResetConnectionIsNobody(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted := func() *conn {
		t.Helper()
		nc, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		raw, err := nc.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		return &conn{net: nc, raw: raw}
	}
	c := accepted()
	if uid, err := c.socketOwner(); err != nil || uid != os.Geteuid() {
		t.Fatalf("an open connection: user %d, %v", uid, err)
	}
	if _, err := io.WriteString(first, "what the first one says\n"); err != nil {
		t.Fatal(err)
	}
	port := first.LocalAddr().(*net.TCPAddr)
	first.(*net.TCPConn).SetLinger(0)
	first.Close()
	second, err := (&net.Dialer{LocalAddr: port}).Dial("tcp", l.Addr().String())
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	defer second.Close()
	if uid, err := c.socketOwner(); err == nil {
		t.Errorf("the connection that was reset belongs to user %d", uid)
	}
	if uid, err := accepted().socketOwner(); err != nil || uid != os.Geteuid() {
		t.Errorf("the one that came after it: user %d, %v", uid, err)
	}

	// A peer that has ended its own stream is still there.
	if err := second.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	third, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	c = accepted()
	if err := third.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(c.net); err != nil {
		t.Fatal(err)
	}
	if uid, err := c.socketOwner(); err != nil || uid != os.Geteuid() {
		t.Errorf("a half-closed connection: user %d, %v", uid, err)
	}
}

// With auth=uid another user gets nothing by any spelling of the address: IPv6,
// IPv4 in a socket of the IPv6 family, a listener for both.
func TestUIDByEveryFamily(t *testing.T) {
	t.Parallel()
	s := anotherUser(t)
	if l, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("there is no IPv6 here: %v", err)
	} else {
		l.Close()
	}
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=uid", "tcp://[::1]:0?auth=uid", "tcp://[::ffff:127.0.0.1]:0?auth=uid"}})
	var ports []string
	for _, l := range h.info.Listeners[1:] {
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(l, "tcp://"))
		ports = append(ports, port)
	}
	for _, at := range []string{
		"127.0.0.1:" + ports[0], "[::ffff:127.0.0.1]:" + ports[0], "[::1]:" + ports[1], "127.0.0.1:" + ports[2], "[::ffff:7f00:1]:" + ports[2],
	} {
		if got := s.say("tcp://"+at, nil, lineOf("1", "echo", "[1]")); strings.Contains(got, "action") {
			t.Errorf("another user at %s: %s", at, got)
		}
		if r := dial(t, "tcp", at).call("echo", "[1]"); string(r.Result) != "1" {
			t.Errorf("the own user at %s: %v", at, r)
		}
	}
	if n := h.sample(`hubd_drops_total{protocol="",reason="peer_not_allowed"}`); n != "5" {
		t.Errorf("%s were turned away", n)
	}
}

// What a page sends needs a token with auth=uid, also where the browser sends no
// Origin; and a link that another program hands to the browser calls nothing.
func TestBrowsersOfTheOwnUser(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "app.js"), []byte("// 7"), 0o644); err != nil {
		t.Fatal(err)
	}
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=uid"}, WebRoot: root, KrpcGet: true})
	none := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}, KrpcGet: true})
	const call = "/krpc?json=%7B%22method%22%3A%22math.add%22%2C%22params%22%3A%5B3%2C4%5D%7D"
	token := h.token("page", "")
	for _, c := range []struct {
		what       string
		at         *testHub
		path, head string
		status     int
	}{
		{"a program", h, call, "Sec-Hubd: 1\r\n", 200},
		{"a page of the hub's own origin", h, call, "Sec-Fetch-Site: same-origin\r\n", 401},
		{"it scrapes", h, "/metrics", "Sec-Fetch-Site: same-origin\r\n", 401},
		{"with a token", h, call, "Sec-Fetch-Site: same-origin\r\nAuthorization: Bearer " + token + "\r\n", 200},
		{"a link", h, call, "Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n", 403},
		{"a link, in upper case", h, strings.Replace(call, "json", "JSON", 1), "Sec-Fetch-Site: none\r\n", 403},
		{"a link at another path", h, strings.Replace(call, "krpc", "", 1), "Sec-Fetch-Site: none\r\n", 403},
		{"a script of a page in web.root", h, "/web/app.js", "Sec-Fetch-Site: same-origin\r\n", 200},
		{"a call where files are", none, strings.Replace(call, "krpc", "web/x", 1), "Sec-Fetch-Site: none\r\n", 403},
		{"typed", h, "/metrics", "Sec-Fetch-Site: none\r\n", 200},
		{"typed, a page", h, "/", "Sec-Fetch-Site: none\r\nAccept: text/html\r\n", 200},
		{"another page, oddly written", h, "/metrics", "Sec-Fetch-Site: Cross-Site\r\n", 403},
		{"a link, auth=none", none, call, "Sec-Fetch-Site: none\r\n", 403},
		{"the hub's own page, auth=none", none, call, "Sec-Fetch-Site: same-origin\r\n", 200},
	} {
		status, answer := c.at.ask("tcp", c.at.tcp, "GET "+c.path+" HTTP/1.1\r\nHost: "+c.at.tcp+"\r\n"+c.head+"Connection: close\r\n\r\n")
		if status != c.status || c.path == call && (status == 200) != strings.Contains(answer, "7") {
			t.Errorf("%s: %d %.200s, want %d", c.what, status, answer, c.status)
		}
	}
}

// The tokens are read only where nobody else can read or change them.
func TestTokensThatOthersCanRead(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	h := startHubAt(t, filepath.Join(dir, "h.sock"), Options{State: state})
	h.token("t", "")
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(state, tokenFile)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		err := runOnce(t, Options{Listen: []string{"unix://" + filepath.Join(dir, "h.sock")}, State: state})
		if ExitCode(err) != ExitState || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %s: %v, exit code %d", strconv.FormatUint(uint64(mode), 8), err, ExitCode(err))
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if err := runOnce(t, Options{Listen: []string{"unix://" + filepath.Join(dir, "h.sock")}, State: state}); ExitCode(err) != ExitState {
		t.Errorf("a link: %v", err)
	}
}
