package kkrpc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// FuzzSession feeds a session whatever comes. It must not panic, must send
// nothing but single JSON objects on one line, must never answer more often
// than it was asked, and must hold nothing at the end.
func FuzzSession(f *testing.F) {
	for _, file := range []string{"v1-superjson-ws-js-0.6.1", "v2-streaming-ws-js-2.1.0", "malformed-v1-ws-js-0.7.0", "malformed-v2-ws-js-2.1.0"} {
		steps, byStep := readCapture(f, "testdata/"+file+".jsonl")
		for _, step := range steps {
			if line := byStep[step][0]; line.Len == 0 && step != "concurrent" && step != "client-timeout" { // those sleep
				f.Add(line.Data, "")
			}
		}
	}
	f.Add(`{"id":"1","method":"hub.count","args":[3],"type":"request"}`, `{"id":"1","method":"","args":{},"type":"stream-cancel"}`)
	f.Add(`{"t":"q","id":"1","op":"call","p":["hub","sum"],"a":[{"__kkrpc_next_stream__":"async-iterable","id":"s"}]}`, `{"t":"sr","id":"x","sid":"s","d":false,"v":1}`)
	f.Add(`{"json":{"id":"1","method":"echo","args":[[[1,2]]],"type":"request"},"meta":{"values":{"args.0":["map",{"0.1":["Date"]}]}}}`, "")
	d := newDemo()
	f.Fuzz(func(t *testing.T, first, second string) {
		rec := &recorder{}
		link := rpc.NewLink(&rpc.Gate{Deadline: -1})
		s := newSession(rec, link, &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{MaxEntries: 100}, len(first)%2 == 0)
		s.wants.Streams = len(second)%2 == 0
		sock := &socket{Conn: new(ws.Conn)}
		for _, text := range []string{first, second, first} {
			buf := []byte(text)
			sock.message(s, buf)
			for i := range buf {
				buf[i] = '#'
			}
		}
		link.Close(rpc.ErrPeerGone, patience)
		s.End(rpc.ErrPeerGone)
		if n := s.Counts(); n != (Counts{}) {
			t.Errorf("left behind: %+v", n)
		}
		for _, r := range d.takeKept() {
			r.Release()
		}
		if len(rec.odd) > 0 {
			t.Errorf("sent %q", rec.odd)
		}
	})
}

// FuzzFindRequest looks at the head of a line over the limit.
func FuzzFindRequest(f *testing.F) {
	f.Add(`{"id":"x","method":"echo","args":["`)
	f.Add(`{"t":"q","id":"x","op":"call","p":["`)
	f.Fuzz(func(t *testing.T, head string) {
		d, id, ok := findRequest([]byte(head))
		if !ok {
			return
		}
		out := appendFailure(nil, d, id, errTooLarge, false, rpc.Form{ASCII: true})
		if !json.Valid(out) || strings.ContainsAny(string(out), "\n\r") {
			t.Errorf("%q is answered with %q", head, out)
		}
	})
}
