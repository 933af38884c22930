package snekrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// server is a far server that can be stopped and come back.
type server struct {
	t        testing.TB
	table    *rpc.Table
	codec    string
	network  string
	address  string
	l        net.Listener
	accepted atomic.Int32

	mu    sync.Mutex
	conns map[net.Conn]bool
	links map[*rpc.Link]bool
}

// farServer serves a table on a Unix socket; change may be nil.
func farServer(t testing.TB, table *rpc.Table, change func(*server)) *server {
	t.Helper()
	s := &server{t: t, table: table, network: "unix", conns: map[net.Conn]bool{}, links: map[*rpc.Link]bool{}}
	s.address = filepath.Join(t.TempDir(), "s")
	if len(s.address) > 100 {
		s.network, s.address = "tcp", "127.0.0.1:0"
	}
	if change != nil {
		change(s)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) url() string {
	return s.network + "://" + s.address
}

func (s *server) start() {
	s.t.Helper()
	l, err := net.Listen(s.network, s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.l = l
	if s.network == "tcp" {
		s.address = l.Addr().String()
	}
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall}
	sv := New(Config{Table: s.table, Codec: s.codec})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			go sv.Serve(context.Background(), Conn{
				Reader: c, Wire: netWire{c}, Peer: func() *rpc.Peer { return peer }, Transport: s.network,
				OnLink: func(l *rpc.Link) {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.links[l] = true
				},
			})
		}
	}()
}

// running returns how many calls the server runs.
func (s *server) running() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.links {
		n += l.N()
	}
	return n
}

func (s *server) stop() {
	s.l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = map[net.Conn]bool{}
}

// mount offers a service of s in table.
func mount(t testing.TB, table *rpc.Table, alias, service string, s *server, codec string) *Remote {
	t.Helper()
	client, err := NewClient(ClientConfig{URL: s.url(), Codec: codec})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Mount(RemoteConfig{Alias: alias, Service: service, Client: client, Table: table})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// callRow calls a row of the table from Go.
func callRow(t testing.TB, table *rpc.Table, name string, args ...rpc.Value) (string, error) {
	t.Helper()
	m := table.Lookup(name)
	if m == nil {
		return "", fmt.Errorf("no %s", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := rpc.Do(ctx, m, &rpc.Call{Args: rpc.ListArgs(args...), Peer: rpc.Local, Protocol: rpc.Kollabor})
	if err != nil {
		return "", err
	}
	text, err := v.JSON()
	return string(text), err
}

func names(list []*rpc.Method) string {
	var n []string
	for _, m := range list {
		n = append(n, m.Name)
	}
	return strings.Join(n, " ")
}

// Nothing is connected before the first use; from then on the commands of the
// remote are rows like any other.
func TestRemoteIsLearnedAtFirstUse(t *testing.T) {
	s := farServer(t, testTable(t), nil)
	table := rpc.NewTable()
	mount(t, table, "far", "demo", s, "")
	if n := s.accepted.Load(); n != 0 {
		t.Errorf("%d connections before the first use", n)
	}
	if got := names(table.Methods()); got != "" {
		t.Errorf("known before the first use: %s", got)
	}
	if got, err := callRow(t, table, "far.sum", rpc.RawString("[1,2.5]")); got != "3.5" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	if got, want := names(table.Methods()), "far.count far.fail far.sleep far.sum far.upper"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	m := table.Lookup("far.count")
	if !m.StreamOut || len(m.Params) != 1 || m.Params[0].Type.Kind != rpc.KindInteger || !m.Params[0].Required || m.Result.Kind != rpc.KindInteger {
		t.Errorf("%+v", m)
	}
	if m := table.Lookup("far.sum"); !m.Params[0].Stream {
		t.Errorf("%+v", m)
	}
	if m := table.Lookup("far.nope"); m != nil {
		t.Errorf("%+v", m)
	}
	if got, err := callRow(t, table, "far.count", rpc.Int(3)); got != "[0,1,2]" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
	_, err := callRow(t, table, "far.fail", rpc.String("boom"))
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Name != "RemoteError" || e.Message != "RuntimeError: boom" {
		t.Errorf("%v", err)
	}
	if _, err := callRow(t, table, "far.count", rpc.Int(1), rpc.Int(2)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
	if _, err := callRow(t, table, "far.count"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Error(err)
	}
	if n := s.accepted.Load(); n != 1 {
		t.Errorf("%d connections for calls one after another", n)
	}
}

// Values keep what both codecs can carry, whatever is spoken on either side.
func TestRemoteValues(t *testing.T) {
	for _, far := range []string{codecJSON, codecMsgpack} {
		for _, cd := range []codec{jsonCodec{}, msgpackCodec{}} {
			table := rpc.NewTable()
			mount(t, table, "far", "echo", farServer(t, testTable(t), nil), far)
			c := serve(t, table, serveOptions{codec: cd})
			for _, v := range []string{`3.0`, `1`, `18446744073709551615`, `-9223372036854775808`, `"é"`, `null`, `[1,{"a":[2.5]}]`} {
				c.json(`["CommandMessage","far","echo",[],{"value":["Argument",%s]}]`, v)
				c.want(`["DataMessage",%s]`, v)
			}
		}
	}
}

// Streams go through in both directions, item by item.
func TestRemoteStreams(t *testing.T) {
	for _, far := range []string{codecJSON, codecMsgpack} {
		table := rpc.NewTable()
		mount(t, table, "far", "demo", farServer(t, testTable(t), nil), far)
		c := serve(t, table, serveOptions{})
		for range 2 { // unknown, then known
			c.json(`["CommandMessage","far","upper",[],{"lines":["StreamArgument"]}]`)
			c.json(`["StreamStartMessage"]`)
			c.want(`["StreamStartMessage"]`)
			for i := range 20 {
				c.json(`["DataMessage","a%d"]`, i)
				c.want(`["DataMessage","A%d"]`, i)
			}
			c.json(`["StreamEndMessage"]`)
			c.want(`["StreamEndMessage"]`)
		}
		c.json(`["CommandMessage","far","sum",[["StreamArgument"]],{}]`)
		c.json(`["StreamStartMessage"]`)
		c.json(`["DataMessage","x"]`)
		if text := c.wantError("RemoteError"); !strings.HasPrefix(text, "TypeError: ") {
			t.Error(text)
		}
		c.json(`["DataMessage",1]`)
		c.json(`["StreamEndMessage"]`)
		c.json(`["CommandMessage","far","sum",[["StreamArgument"]],{}]`)
		c.json(`["StreamStartMessage"]`)
		c.json(`["DataMessage",4]`)
		c.json(`["StreamEndMessage"]`)
		c.want(`["DataMessage",4]`)
	}
}

// A client that writes all before it reads gets all of its answer through two servers.
func TestRemoteWholeStreamBeforeFirstRead(t *testing.T) {
	const items, size = 160, 64 << 10
	table := rpc.NewTable()
	mount(t, table, "far", "demo", farServer(t, testTable(t), nil), "")
	c := serve(t, table, serveOptions{codec: msgpackCodec{}})
	c.json(`["CommandMessage","far","upper",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	msg, err := appendData(nil, c.codec, rpc.TreeValue(rpc.Bytes{Data: bytes.Repeat([]byte("a"), size)}))
	if err != nil {
		t.Fatal(err)
	}
	for range items {
		c.raw(msg)
	}
	c.json(`["StreamEndMessage"]`)
	c.want(`["StreamStartMessage"]`)
	for range items {
		if got := c.next(); len(got) != len(msg) || got[len(got)-1] != 'A' {
			t.Fatalf("%d bytes", len(got))
		}
	}
	c.want(`["StreamEndMessage"]`)
}

// The end of a call here is the end of the call there.
func TestRemoteCancel(t *testing.T) {
	s := farServer(t, testTable(t), nil)
	table := rpc.NewTable()
	r := mount(t, table, "far", "demo", s, "")
	if err := r.Learn(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := serve(t, table, serveOptions{})
	c.json(`["CommandMessage","far","sleep",[["Argument",600]],{}]`)
	eventually(t, "the call runs there", func() bool { return s.running() == 1 })
	c.net.Close()
	eventually(t, "the call has ended there", func() bool { return s.running() == 0 })
	c.ended()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := rpc.Do(ctx, table.Lookup("far.sleep"), &rpc.Call{Args: rpc.ListArgs(rpc.Int(600)), Peer: rpc.Local})
	if e, ok := errors.AsType[*rpc.Error](err); !ok || e.Code != rpc.CodeDeadlineExceeded {
		t.Error(err)
	}
	eventually(t, "the call has ended there", func() bool { return s.running() == 0 })
	if got, err := callRow(t, table, "far.sum", rpc.RawString("[1]")); got != "1" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}

// A remote that is down stays in the list, without commands, and comes back.
func TestRemoteDownAndBack(t *testing.T) {
	s := farServer(t, testTable(t), func(s *server) { s.network, s.address = "tcp", "127.0.0.1:0" })
	table := testTable(t)
	client, err := NewClient(ClientConfig{URL: s.url()})
	if err != nil {
		t.Fatal(err)
	}
	var changes []string
	var mu sync.Mutex
	r, err := Mount(RemoteConfig{Alias: "far", Service: "demo", Client: client, Table: table, Changed: func(alias string, n int, err error) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, fmt.Sprint(alias, n, err == nil))
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	s.stop()
	c := serve(t, table, serveOptions{change: func(cfg *Config) {
		cfg.Prepare = func(ctx context.Context, service string) {
			if service == "" || service == "far" {
				r.Check(ctx)
			}
		}
	}})
	listed := func(commands string) {
		t.Helper()
		c.json(`["CommandMessage","_meta","service",[["Argument","far"]],{}]`)
		if got := string(c.next()); !strings.Contains(got, `"commands":[`+commands) {
			t.Errorf("%s, want commands %s", got, commands)
		}
	}
	listed(`]`)
	c.json(`["CommandMessage","far","count",[["Argument",2]],{}]`)
	c.wantError("ConnectionError")
	s.start()
	eventually(t, "the remote is found again", func() bool { return r.Learn(t.Context()) == nil })
	listed(`{"name":"count"`)
	c.json(`["CommandMessage","far","count",[["Argument",1]],{}]`)
	c.want(`["StreamStartMessage"]`)
	c.want(`["DataMessage",0]`)
	c.want(`["StreamEndMessage"]`)
	s.stop()
	listed(`]`)
	s.start()
	eventually(t, "the remote is found again", func() bool { return r.Learn(t.Context()) == nil })
	s.stop()
	c.json(`["CommandMessage","far","count",[["Argument",1]],{}]`) // noticed by the call itself
	c.wantError("ConnectionError")
	listed(`]`)
	mu.Lock()
	defer mu.Unlock()
	if len(changes) < 4 || changes[0] != "far0 false" {
		t.Error(changes)
	}
}

// Calls at once have a connection each, and give them back.
func TestRemotePool(t *testing.T) {
	s := farServer(t, testTable(t), nil)
	table := rpc.NewTable()
	mount(t, table, "far", "demo", s, "")
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if got, err := callRow(t, table, "far.sleep", rpc.RawString("0.05")); got != "0.05" || err != nil {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := s.accepted.Load(); n < 2 || n > 65 {
		t.Errorf("%d connections for 64 calls at once", n)
	}
}

// A name that is taken cannot be mounted.
func TestMountConflict(t *testing.T) {
	table := testTable(t)
	client, err := NewClient(ClientConfig{URL: "tcp://127.0.0.1"})
	if err != nil || client.address != "127.0.0.1:12321" {
		t.Fatal(client.address, err)
	}
	for _, alias := range []string{"demo", "a.b", "_x", ""} {
		if _, err := Mount(RemoteConfig{Alias: alias, Service: "demo", Client: client, Table: table}); err == nil {
			t.Errorf("%q was mounted", alias)
		}
	}
	for _, bad := range []string{"ftp://x", "unix://relative/x", "tcp://h/path", "%zz"} {
		if _, err := NewClient(ClientConfig{URL: bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := NewClient(ClientConfig{URL: "tcp://h", Codec: "xml"}); err == nil {
		t.Error("codec xml was taken")
	}
}
