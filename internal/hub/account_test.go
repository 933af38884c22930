package hub

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dialFrom connects over TCP from an address of this machine.
func (h *testHub) dialFrom(ip string) *wire {
	h.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c, err := d.Dial("tcp", h.tcp)
	if err != nil {
		h.t.Skipf("no address %s here: %v", ip, err)
	}
	h.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return &wire{h.t, c, bufio.NewReader(c)}
}

// as connects over TCP and says hello with a token.
func (h *testHub) as(token string) *wire {
	h.t.Helper()
	w := dial(h.t, "tcp", h.tcp)
	if answer := w.greet(token); !strings.Contains(answer, `"hello"`) {
		h.t.Fatal(answer)
	}
	return w
}

// sleeps starts calls that run until their connection ends.
func (w *wire) sleeps(n int) {
	for i := range n {
		w.send(fmt.Sprintf(sleeper, "s"+itoa(i)))
	}
}

// Who uses up what one user may have hurts itself alone, however it came: two
// tokens, two addresses and the user of the Unix socket do not share anything.
func TestAccountsAreSeparate(t *testing.T) {
	t.Parallel()
	t.Run("tokens", func(t *testing.T) {
		t.Parallel()
		h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Limits: Limits{CallsPerUID: 3, SubscriptionsPerUID: 1}})
		greedy, modest := h.token("greedy", ""), h.token("modest", "")
		a, b, c := h.as(greedy), h.as(greedy), h.as(modest)
		a.sleeps(2)
		eventually(t, "both run", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "2" })
		b.sleeps(2) // the same account by another connection
		if r := b.reply(); r.RequestID != "s1" || r.kind() != "overloaded" {
			t.Errorf("the fourth call of one token: %v", r)
		}
		for _, w := range []*wire{c, h.dial()} {
			if r := w.call("demo.sleep", `{"seconds":0}`); r.Error != nil {
				t.Errorf("another account: %s", *r.Error)
			}
		}
		a.Close()
		eventually(t, "its calls have ended", func() bool { return b.call("math.add", "[1,2]").Error == nil })
	})
	t.Run("addresses", func(t *testing.T) {
		t.Parallel()
		h := startHub(t, Options{Demo: true, Listen: []string{anyTCP}, Limits: Limits{CallsPerUID: 2, ConnectionsPerUID: 2}})
		a, b := h.dialFrom("127.0.0.1"), h.dialFrom("127.0.0.2")
		a.sleeps(3)
		if r := a.reply(); r.kind() != "overloaded" {
			t.Errorf("a third call: %v", r)
		}
		if r := b.call("demo.sleep", `{"seconds":0}`); r.Error != nil {
			t.Errorf("another address: %s", *r.Error)
		}
		if r := h.dialFrom("127.0.0.2").call("ping", "{}"); r.Error != nil {
			t.Errorf("its second connection: %s", *r.Error)
		}
		if err := h.dialFrom("127.0.0.2").ended(); err != nil {
			t.Errorf("its third: %v", err)
		}
		if n := h.rejected("connections_per_uid"); n != 1 {
			t.Errorf("counted %d times", n)
		}
	})
}

// A token that has as many connections as one may have gets no further one, and
// nor does a request, and its place is free again when one has ended.
func TestConnectionsOfAToken(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Limits: Limits{ConnectionsPerUID: 3}})
	token := h.token("one", "")
	var open []*wire
	for range 3 {
		open = append(open, h.as(token))
	}
	w := dial(t, "tcp", h.tcp)
	w.send(fmt.Sprintf(`{"action":"hello","version":1,"token":%q}`+"\n", token))
	if rest, err := io.ReadAll(w.r); err != nil && !isReset(err) || strings.Contains(string(rest), `"hello"`) {
		t.Errorf("a fourth connection: %v %q", err, rest)
	}
	request := "GET /-/healthy HTTP/1.1\r\nHost: " + h.tcp + "\r\nAuthorization: Bearer " + token + "\r\n\r\n"
	if status, _ := h.ask("tcp", h.tcp, request); status != http.StatusTooManyRequests {
		t.Errorf("a request: %d", status)
	}
	if n := h.rejected("connections_per_uid"); n != 2 {
		t.Errorf("counted %d times", n)
	}
	other := h.as(h.token("other", ""))
	open[0].Close()
	eventually(t, "a place is free", func() bool {
		status, _ := h.ask("tcp", h.tcp, request)
		return status == http.StatusOK
	})
	if r := other.call("ping", "{}"); r.Error != nil {
		t.Errorf("another token: %s", *r.Error)
	}
}

// One connection serves requests of several tokens, each in its own account:
// nothing of the calls of one is left in that of another.
func TestAccountOfEachRequest(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{listenToken}, Limits: Limits{CallsPerUID: 1}})
	first, second := h.token("first", ""), h.token("second", "")
	busy := h.as(first)
	busy.sleeps(1)
	eventually(t, "it runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	w := dial(t, "tcp", h.tcp)
	const call = `["push",["pipeline",0,["demo","sleep"],[0]]]` + "\n" + `["pull",1]`
	ask := func(token string) string {
		w.send(fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", h.tcp, token, len(call), call))
		resp, err := http.ReadResponse(w.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for range 3 {
		if text := ask(first); !strings.Contains(text, "too many calls in flight for this user") {
			t.Errorf("the token that is busy elsewhere: %s", text)
		}
		if text := ask(second); !strings.Contains(text, `["resolve",1`) {
			t.Errorf("the other token: %s", text)
		}
	}
	// Who authenticates while calls run leaves them where they were counted.
	moving := h.as(second)
	moving.sleeps(1)
	if r := moving.call("authenticate", fmt.Sprintf("[%q]", first)); r.kind() != "overloaded" {
		t.Errorf("a second call: %v", r)
	}
	moving.Close()
	busy.Close()
	eventually(t, "all calls have ended", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "0" })
	for _, token := range []string{first, second} {
		if r := h.as(token).call("demo.sleep", `{"seconds":0}`); r.Error != nil {
			t.Errorf("afterwards: %s", *r.Error)
		}
	}
}

// A connection that authenticates moves to its new account; a call that runs
// stays where it was counted.
func TestConnectionMovesToItsAccount(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true, Listen: []string{anyTCP}, Limits: Limits{CallsPerUID: 2}})
	token := h.token("one", "")
	w := dial(t, "tcp", h.tcp)
	w.sleeps(1) // counts for the address
	if r := w.call("authenticate", fmt.Sprintf("[%q]", token)); r.Error != nil {
		t.Fatal(*r.Error)
	}
	w.send(fmt.Sprintf(sleeper, "a") + fmt.Sprintf(sleeper, "b") + fmt.Sprintf(sleeper, "c"))
	if r := w.reply(); r.RequestID != "c" || r.kind() != "overloaded" {
		t.Errorf("the third call of the token: %v", r)
	}
	other := dial(t, "tcp", h.tcp) // nobody else is of the address any more, but for that call
	other.send(fmt.Sprintf(sleeper, "a") + fmt.Sprintf(sleeper, "b"))
	if r := other.reply(); r.RequestID != "b" || r.kind() != "overloaded" {
		t.Errorf("the third call of the address: %v", r)
	}
	w.Close()
	eventually(t, "the address has a place again", func() bool { return other.call("math.add", "[1,2]").Error == nil })
}
