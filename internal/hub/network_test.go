package hub

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// network is a machine of its own, as far as TCP is concerned: a network
// namespace that a cable joins to this one.
type network struct {
	t          *testing.T
	name       string
	cable      string // this end
	near, far  string // addresses
	namespaces [2]int // here and there
}

var networks atomic.Int32 // that were made by this process

// newNetwork lays the cable. Only root can, and not in every container.
func newNetwork(t *testing.T) *network {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can make a network namespace")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("there is no ip command (Debian: iproute2)")
	}
	id := (os.Getpid() + int(networks.Add(1))<<15) % 64516
	n := &network{
		t: t, name: fmt.Sprintf("hubd%d", id), cable: fmt.Sprintf("hubd%d", id),
		near: fmt.Sprintf("198.18.%d.%d", id/252, id%252+1), far: fmt.Sprintf("198.19.%d.%d", id/252, id%252+1), // RFC 2544: of no network
	}
	if out, err := exec.Command("ip", "netns", "add", n.name).CombinedOutput(); err != nil {
		t.Skipf("no network namespace can be made here: %s", bytes.TrimSpace(out))
	}
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", n.cable).Run()
		exec.Command("ip", "netns", "del", n.name).Run()
	})
	if out, err := exec.Command("ip", "link", "add", n.cable, "type", "veth", "peer", "name", "far", "netns", n.name).CombinedOutput(); err != nil {
		t.Skipf("no cable between two namespaces can be made here: %s", bytes.TrimSpace(out))
	}
	n.ip("addr", "add", n.near+"/32", "peer", n.far, "dev", n.cable)
	n.ip("link", "set", n.cable, "up")
	n.ip("-n", n.name, "addr", "add", n.far+"/32", "peer", n.near, "dev", "far")
	n.ip("-n", n.name, "link", "set", "far", "up")
	for i, path := range []string{"/proc/self/ns/net", "/run/netns/" + n.name} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Skipf("%s: %v", path, err)
		}
		n.namespaces[i] = fd
		t.Cleanup(func() { unix.Close(fd) })
	}
	return n
}

func (n *network) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v %s", strings.Join(args, " "), err, out)
	}
}

// cut takes the cable out of the far machine: from now on nothing passes in
// either direction, no FIN and no RST.
func (n *network) cut() { n.ip("-n", n.name, "link", "set", "far", "down") }

// dial connects from the far machine. A socket stays in the namespace that its
// thread was in when it was made.
func (n *network) dial(address string) *wire {
	n.t.Helper()
	type dialled struct {
		c   net.Conn
		err error
	}
	done := make(chan dialled, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(n.namespaces[1], unix.CLONE_NEWNET); err != nil {
			done <- dialled{nil, err}
			return // and its thread ends with it
		}
		c, err := net.Dial("tcp", address)
		if unix.Setns(n.namespaces[0], unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- dialled{c, err}
	}()
	d := <-done
	if d.err != nil {
		n.t.Fatal(d.err)
	}
	return newWire(n.t, d.c)
}

// A peer whose network is cut sends no FIN: the hub finds out by itself, in
// bounded time, in every protocol, and gives everything back that it held.
func TestPeersBehindACutCable(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	a := newAuthority(t)
	dir := t.TempDir()
	cert, key := a.files(dir, 1)
	// Nothing but the cable may end anything within the patience of this test.
	long := time.Hour
	h := startHub(t, Options{
		Demo: true, AllowInsecure: true, TLSCert: cert, TLSKey: key,
		Listen: []string{"tcp://" + n.near + ":0?auth=none", "tls://" + n.near + ":0?auth=none"},
		Limits: Limits{
			TCPSilence: 2 * time.Second, WriteStall: long, PartialFrame: long, HTTPBody: long, HTTPIdle: long, HTTPHead: long,
			WebSocketPing: long, EphemeralGrace: time.Millisecond,
		},
	})
	plain, secure := strings.TrimPrefix(h.info.Listeners[1], "tcp://"), strings.TrimPrefix(h.info.Listeners[2], "tls://")
	before := h.gauges()
	sleep := `{"action":"rpc_request","request_id":"1","method":"demo.sleep","params":[3600],"timeout":3600}` + "\n"
	upgrade := func(path string, messages ...string) *wire {
		w := n.dial(plain)
		w.send("GET " + path + " HTTP/1.1\r\nHost: " + plain + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, m := range messages {
			w.send(wsFrame(1, m))
		}
		return w
	}

	// Silent ones, with a call that runs or something half said.
	calling := n.dial(plain)
	calling.send(sleep)
	mark := n.dial(plain)
	if r := mark.call("state.put", `{"key":"here","value":1,"ephemeral":true}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	provider := n.dial(plain)
	if r := provider.call("hub.provide", `{"service":"far","methods":["run"]}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	asking := h.dial() // of this machine
	asking.send(`{"action":"rpc_request","request_id":"far","method":"far.run","params":[],"timeout":3600}` + "\n")
	provider.request("rpc_request")
	follower := n.dial(plain)
	follower.send(`{"action":"attach","mode":"interactive","client_id":"far"}` + "\n")
	follower.line()
	upgrade("/capnweb", `["push",["pipeline",0,["demo","sleep"],[3600]]]`, `["pull",1]`)
	upgrade("/kkrpc", `{"t":"q","id":"1","op":"call","p":["demo","sleep"],"a":[20]}`)
	n.dial(plain).frame(`["CommandMessage","health","ping",[["Argument",0],["Argument",3600]],{}]`)
	upload := krpcUpload(`{"method":"demo_file_info","params":[]}`, "x", strings.Repeat("x", 200<<10))
	n.dial(plain).send(strings.Replace(upload[:150<<10], "Host: hub\r\n", "Host: "+plain+"\r\n", 1))
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	sealed := tls.Client(n.dial(secure).Conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
	if _, err := sealed.Write([]byte(sleep)); err != nil {
		t.Fatal(err)
	}

	// Ones that the hub sends to, much and little.
	watching := n.dial(plain)
	watching.send(`{"action":"rpc_request","request_id":"w","method":"state.watch","params":{"prefix":""},"stream":true}` + "\n")
	watching.line()
	ticking := upgrade("/capnweb", `["push",["pipeline",0,["health","ping"],[0,0.05]]]`, `["pull",1]`)
	ticking.readFrame()
	owner := h.dial()
	if r := owner.call("state.put", fmt.Sprintf(`{"key":"large","value":%q}`, strings.Repeat("x", 900<<10))); r.Error != nil {
		t.Fatal(*r.Error)
	}
	eventually(t, "all is under way", func() bool {
		g := h.gauges()
		return g["connections"] >= before["connections"]+11 && g["calls"] >= before["calls"]+8 && g["spool"] > 0
	})
	slow := n.dial(plain) // takes nothing: its window is full when the cable is cut
	for i := range 16 {
		slow.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"%d","method":"state.get","params":["large"]}`+"\n", i))
	}

	n.cut()
	if r := owner.call("state.put", `{"key":"news","value":"that the watcher is to be told"}`); r.Error != nil {
		t.Fatal(*r.Error)
	}
	if r := asking.reply(); r.kind() != "unavailable" {
		t.Errorf("who waits for a provider that is gone got %q", r.kind())
	}
	asking.Close()
	owner.Close()
	eventually(t, "everything is given back", func() bool {
		g := h.gauges()
		return g["connections"] == before["connections"] && g["calls"] == before["calls"] && g["attached"] == before["attached"] && g["spool"] == 0
	})
	late := h.dial()
	if r := late.call("far.run", `[]`); r.kind() != "not_found" {
		t.Errorf("its methods are still there: %q", r.kind())
	}
	eventually(t, "the ephemeral key is gone", func() bool { return late.call("state.get", `{"key":"here"}`).kind() == "not_found" })
}

// A WebSocket peer that says nothing and answers no ping is gone, however much
// its kernel acknowledges; where the kernel is gone as well, TCP need not tell.
func TestWebSocketPingBehindACutCable(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	h := startHub(t, Options{
		Demo: true, AllowInsecure: true, Listen: []string{"tcp://" + n.near + ":0?auth=none"},
		Limits: Limits{TCPSilence: time.Hour, WriteStall: time.Hour, WebSocketPing: 300 * time.Millisecond},
	})
	w := n.dial(h.tcp)
	w.send("GET /capnweb HTTP/1.1\r\nHost: " + h.tcp + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if resp, err := http.ReadResponse(w.r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	w.send(wsFrame(1, `["push",["pipeline",0,["demo","sleep"],[3600]]]`))
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="capnweb"}`) == "1" })
	n.cut()
	eventually(t, "the call has ended", func() bool { return h.sample(`hubd_calls_in_flight{protocol="capnweb"}`) == "0" })
	eventually(t, "the connection is closed", func() bool { return h.sample(`hubd_connections{protocol="capnweb",transport="tcp"}`) == "0" })
}

// gauges adds up what the hub holds, of all protocols; the question's own
// connection is among it.
func (h *testHub) gauges() map[string]float64 {
	h.t.Helper()
	_, body := h.get("/metrics")
	sums := map[string]float64{}
	for line := range strings.Lines(body) {
		for name, prefix := range map[string]string{
			"connections": "hubd_connections{", "calls": "hubd_calls_in_flight{", "attached": "hubd_attached_clients ", "spool": "hubd_spool_bytes ",
		} {
			if strings.HasPrefix(line, prefix) {
				var v float64
				fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v)
				sums[name] += v
			}
		}
	}
	return sums
}
