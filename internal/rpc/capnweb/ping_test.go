package capnweb

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// ends tells when sessions end.
type ends struct {
	sessions
	ended chan error
}

func (o ends) SessionEnded(_ *Session, err error) { o.ended <- err }

// TestPing opens a session that answers pings, which lives on, and one that
// does not, which ends with everything that it holds.
func TestPing(t *testing.T) {
	const every = 20 * time.Millisecond
	o := ends{sessions{make(chan *Session, 2)}, make(chan error, 2)}
	sv, socket, demo := startServer(t, func(c *Config) { c.Ping, c.Observer = every, o })
	answers := dial(t, socket, DialOptions{})

	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	silent, _, err := websocket.Dial(t.Context(), "ws://x/capnweb", &websocket.DialOptions{HTTPClient: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.CloseNow() // until then nobody reads, so no ping is answered
	for _, msg := range []string{`["push",["pipeline",0,["demo","counter"],[1]]]`, `["push",["pipeline",0,["demo","sleep"],[1000]]]`} {
		if err := silent.Write(t.Context(), websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-o.ended; err != nil && IsProtocolError(err) {
		t.Errorf("ended with %v", err)
	}
	eventually(t, "what it held is given back", func() bool { return demo.Counters.Load() == 0 && demo.Running.Load() == 0 })
	v, err := answers.Call(t.Context(), "echo", rpc.Int(1))
	wantJSON(t, v, err, `1`)
	if n := sv.Sessions(); n != 1 {
		t.Errorf("%d sessions are open", n)
	}
}
