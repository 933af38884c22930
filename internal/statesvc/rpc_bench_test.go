package statesvc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// benchReply gives its place back when the call is answered.
type benchReply struct {
	room chan struct{}
	err  *rpc.Error
}

func (r *benchReply) Result(*rpc.Batch, *rpc.Call, rpc.Value) { r.room <- struct{}{} }
func (r *benchReply) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	r.err = e
	r.room <- struct{}{}
}
func (r *benchReply) Open(_ *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	return rpc.Collect(c, src)
}
func (r *benchReply) Own() {}

func benchService(b *testing.B) (*rpc.Link, map[string]*rpc.Method) {
	opts, so := Options{}, ServiceOptions{Batches: new(Batches)}
	so.Batches.Install(&opts)
	store := mustOpen(b, b.TempDir(), opts)
	s := NewService(store, so)
	b.Cleanup(s.Close)
	c := newCaller(b, s)
	return c.link, c.methods
}

// BenchmarkRPCPut is state.put through a link, each acknowledged after its sync, with so many in flight.
func BenchmarkRPCPut(b *testing.B) {
	value := `"` + strings.Repeat("x", 100) + `"`
	for _, flight := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) {
			link, methods := benchService(b)
			m := methods["state.put"]
			args := make([]rpc.Value, 1024)
			for i := range args {
				args[i] = mustParse(b, fmt.Sprintf(`{"key":"key/%d","value":%s}`, i, value))
			}
			r := &benchReply{room: make(chan struct{}, flight)}
			for range flight {
				r.room <- struct{}{}
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				<-r.room
				link.Start(nil, m, &rpc.Call{Args: rpc.WholeArgs(args[n%len(args)]), Peer: rpc.Local, Reply: r})
				n++
			}
			for range flight {
				<-r.room
			}
			if r.err != nil {
				b.Fatal(r.err)
			}
		})
	}
}

// BenchmarkRPCGet is state.get on the reader.
func BenchmarkRPCGet(b *testing.B) {
	link, methods := benchService(b)
	r := &benchReply{room: make(chan struct{}, 1)}
	link.Start(nil, methods["state.put"], &rpc.Call{Args: rpc.WholeArgs(mustParse(b, `{"key":"key/1","value":{"a":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}}`)), Peer: rpc.Local, Reply: r})
	<-r.room
	m := methods["state.get"]
	args := rpc.WholeArgs(mustParse(b, `{"key":"key/1"}`))
	b.ReportAllocs()
	for b.Loop() {
		link.Start(nil, m, &rpc.Call{Args: args, Peer: rpc.Local, Reply: r})
		<-r.room
	}
	if r.err != nil {
		b.Fatal(r.err)
	}
}

// countSink takes the items of a watch.
type countSink struct{ got chan struct{} }

func (s *countSink) Item(*rpc.Batch, rpc.Value) { s.got <- struct{}{} }
func (s *countSink) End(*rpc.Batch, *rpc.Error) {}

type watchReply struct {
	benchReply
	sink countSink
}

func (r *watchReply) Open(_ *rpc.Batch, _ *rpc.Call, src rpc.Source) rpc.Sink {
	src.Grant(1 << 30)
	return &r.sink
}

// BenchmarkRPCWatch is one put that so many watchers of the key hear of.
func BenchmarkRPCWatch(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			link, methods := benchService(b)
			got := make(chan struct{}, watchers)
			for range watchers {
				r := &watchReply{sink: countSink{got}}
				link.Start(nil, methods["state.watch"], &rpc.Call{Args: rpc.WholeArgs(mustParse(b, `{"key":"key/1"}`)), Peer: rpc.Local, Reply: r})
				<-got // synced
			}
			r := &benchReply{room: make(chan struct{}, 1)}
			args := rpc.WholeArgs(mustParse(b, `{"key":"key/1","value":1}`))
			b.ReportAllocs()
			for b.Loop() {
				link.Start(nil, methods["state.put"], &rpc.Call{Args: args, Peer: rpc.Local, Reply: r})
				<-r.room
				for range watchers {
					<-got
				}
			}
		})
	}
}
