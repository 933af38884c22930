package snekrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A refused stream is read to its end before the next command is looked at.
func TestRefusedStreamIsDrained(t *testing.T) {
	for _, command := range []string{
		`["CommandMessage","echo","nope",[["StreamArgument"]],{}]`,
		`["CommandMessage","nope","x",[],{"values":["StreamArgument"]}]`,
		`["CommandMessage","echo","echo",[["StreamArgument"]],{}]`,
		`["CommandMessage","demo","sum",[["StreamArgument"]],{"values":["StreamArgument"]}]`,
		`["CommandMessage","math","add",[["Argument",1]],{"b":["StreamArgument"]}]`,
	} {
		t.Run(command, func(t *testing.T) {
			c := serve(t, testTable(t), serveOptions{})
			c.json("%s", command)
			var m message
			if err := c.codec.decode(c.next(), &m); err != nil || m.kind != errorMsg {
				t.Fatalf("%+v %v", m, err)
			}
			for range 3 { // the answer came before the stream: it was not waited for
				c.json(`["StreamStartMessage"]`)
			}
			for i := range 100 {
				c.json(`["DataMessage",%d]`, i)
			}
			c.json(`["StreamEndMessage"]`)
			c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
			c.want(`["DataMessage",5]`)
		})
	}
}

// An error in the middle of a stream is answered at once; what follows is dropped.
func TestFailedStreamIsDrained(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{})
	c.json(`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	c.json(`["DataMessage","x"]`)
	c.wantError("TypeError")
	for range 1000 {
		c.json(`["DataMessage",1]`)
	}
	c.json(`["StreamEndMessage"]`)
	c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
	c.want(`["DataMessage",5]`)
}

// What stands out of order in a stream fails the call, and nothing else.
func TestDisorderInStream(t *testing.T) {
	for name, messages := range map[string][]string{
		"no start":      {`["DataMessage",1]`, `["StreamEndMessage"]`},
		"second start":  {`["StreamStartMessage"]`, `["StreamStartMessage"]`, `["StreamEndMessage"]`},
		"end at once":   {`["StreamEndMessage"]`},
		"unknown tag":   {`["StreamStartMessage"]`, `["Nope"]`, `["StreamEndMessage"]`},
		"no message":    {`["StreamStartMessage"]`, `{}`, `["StreamEndMessage"]`},
		"short message": {`["StreamStartMessage"]`, `["DataMessage"]`, `["StreamEndMessage"]`},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, testTable(t), serveOptions{})
			c.json(`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`)
			for _, m := range messages {
				c.json("%s", m)
			}
			var m message
			if err := c.codec.decode(c.next(), &m); err != nil || m.kind != errorMsg {
				t.Fatalf("%+v %v", m, err)
			}
			c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
			c.want(`["DataMessage",5]`)
		})
	}
}

// A command in the middle of a stream means that the client gave the stream up.
func TestCommandInTheMiddleOfStream(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{})
	c.json(`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	c.json(`["DataMessage",1]`)
	c.json(`["CommandMessage","echo","echo",[["Argument","new"]],{}]`)
	c.want(`["DataMessage","new"]`) // nothing was sent for the old one: it never was

	c.json(`["CommandMessage","demo","upper",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	c.json(`["DataMessage","a"]`)
	c.want(`["StreamStartMessage"]`)
	c.want(`["DataMessage","A"]`)
	c.json(`["CommandMessage","echo","echo",[["Argument","swallowed"]],{}]`)
	c.wantError("MessageError") // the one answer of both
	c.json(`["CommandMessage","echo","echo",[["Argument","next"]],{}]`)
	c.want(`["DataMessage","next"]`)

	// Once an answer is complete nobody can tell whose it is: the connection ends.
	c.json(`["CommandMessage","demo","nope",[["StreamArgument"]],{}]`)
	c.wantError("AttributeError")
	c.json(`["CommandMessage","echo","echo",[["Argument","x"]],{}]`)
	c.wantError("MessageError")
	if _, err := c.in.next(); err == nil {
		t.Error("the connection goes on")
	}
}

// A client may end its stream with an error of its own.
func TestStreamEndsWithError(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{})
	c.json(`["CommandMessage","demo","upper",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	c.json(`["ErrorMessage","OSError","disk on fire",""]`)
	c.want(`["StreamStartMessage"]`)
	if text := c.wantError("OSError"); text != "disk on fire" {
		t.Error(text)
	}
	c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
	c.want(`["DataMessage",5]`)
}

// Answers come in the order of the commands, also when those came at once, in
// pieces of any size, and the first of them takes its time.
func TestPipelining(t *testing.T) {
	for _, size := range []int{1, 3, 7, 1 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := serve(t, testTable(t), serveOptions{})
			var all []byte
			for _, m := range []string{
				`["CommandMessage","demo","sleep",[["Argument",0.05]],{}]`,
				`["CommandMessage","echo","echo",[["Argument",1]],{}]`,
				`["CommandMessage","demo","count",[["Argument",2]],{}]`,
				"\x00",
				`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`, `["StreamStartMessage"]`, `["DataMessage",4]`, `["StreamEndMessage"]`,
				`["CommandMessage","echo","echo",[["Argument",2]],{}]`,
			} {
				from := len(all)
				all = endFrame(append(beginFrame(all, false), m...), from, false)
			}
			for len(all) > 0 {
				n := min(size, len(all))
				c.write(all[:n])
				all = all[n:]
			}
			c.want(`["DataMessage",0.05]`)
			c.want(`["DataMessage",1]`)
			c.want(`["StreamStartMessage"]`)
			c.want(`["DataMessage",0]`)
			c.want(`["DataMessage",1]`)
			c.want(`["StreamEndMessage"]`)
			if got := string(c.next()); got != "\x00msgpack" {
				t.Errorf("%q", got)
			}
			c.want(`["DataMessage",4]`)
			c.want(`["DataMessage",2]`)
		})
	}
}

// What a client sends ahead of the running call is bounded: then it is not read.
func TestCommandsAheadAreBounded(t *testing.T) {
	release := make(chan struct{})
	table := testTable(t)
	table.MustAdd(rpc.Handle("demo.wait", func(ctx context.Context, _ struct{}) (int, error) {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return 1, nil
	}))
	c := serve(t, table, serveOptions{})
	c.json(`["CommandMessage","demo","wait",[],{}]`)
	big := strings.Repeat("x", 64<<10)
	const n = 64
	sent := make(chan error, 1)
	go func() {
		for range n {
			p := append(beginFrame(nil, false), `["CommandMessage","echo","echo",[["Argument","`+big+`"]],{}]`...)
			if _, err := c.net.Write(endFrame(p, 0, false)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	close(release)
	c.want(`["DataMessage",1]`)
	for range n {
		c.want(`["DataMessage","%s"]`, big)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// The answer to an item comes before the next item does.
func TestBothStreamsAtOnce(t *testing.T) {
	for _, cd := range []codec{jsonCodec{}, msgpackCodec{}} {
		c := serve(t, testTable(t), serveOptions{codec: cd})
		c.json(`["CommandMessage","demo","upper",[],{"lines":["StreamArgument"]}]`)
		c.json(`["StreamStartMessage"]`)
		c.want(`["StreamStartMessage"]`)
		for i := range 50 {
			c.json(`["DataMessage","a%d"]`, i)
			c.want(`["DataMessage","A%d"]`, i)
			if i == 20 { // asked at any time
				c.raw([]byte{handshake})
				if got := c.next(); got[0] != handshake {
					t.Errorf("%q", got)
				}
			}
		}
		c.json(`["StreamEndMessage"]`)
		c.want(`["StreamEndMessage"]`)
	}
}

// A client that writes all of its stream before it reads gets all of its answer.
func TestWholeStreamBeforeFirstRead(t *testing.T) {
	const size = 64 << 10
	for _, chunked := range []bool{false, true} {
		items := 320 // 20 MiB
		if chunked {
			items = 64
		}
		var patience []bool
		var mu sync.Mutex
		c := serve(t, testTable(t), serveOptions{codec: msgpackCodec{}, chunked: chunked, conn: func(k *Conn) {
			k.Patience = func(on bool) {
				mu.Lock()
				defer mu.Unlock()
				patience = append(patience, on)
			}
		}})
		c.json(`["CommandMessage","demo","upper",[["StreamArgument"]],{}]`)
		c.json(`["StreamStartMessage"]`)
		for i := range items {
			msg, err := appendData(nil, c.codec, rpc.TreeValue(rpc.Bytes{Data: bytes.Repeat([]byte{'a' + byte(i%26)}, size)}))
			if err != nil {
				t.Fatal(err)
			}
			c.raw(msg)
		}
		c.json(`["StreamEndMessage"]`)
		c.want(`["StreamStartMessage"]`)
		for i := range items {
			var m message
			if err := c.codec.decode(c.next(), &m); err != nil {
				t.Fatal(err)
			}
			b, ok := m.value.Tree().(rpc.Bytes)
			if !ok || len(b.Data) != size || b.Data[0] != 'A'+byte(i%26) || b.Data[size-1] != b.Data[0] {
				t.Fatalf("item %d: %d bytes, kind %d", i, len(b.Data), m.kind)
			}
		}
		c.want(`["StreamEndMessage"]`)
		c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
		c.want(`["DataMessage",5]`)
		mu.Lock()
		if fmt.Sprint(patience) != "[true false]" {
			t.Errorf("patience: %v", patience)
		}
		mu.Unlock()
	}
}

// What a client leaves unread while it writes is bounded: the call fails, its
// stream is drained, and the connection goes on.
func TestUnreadAnswersAreBounded(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{codec: msgpackCodec{}, change: func(cfg *Config) {
		cfg.SoftOutbox, cfg.HardOutbox = 64<<10, 1<<20
	}})
	c.json(`["CommandMessage","demo","upper",[["StreamArgument"]],{}]`)
	c.json(`["StreamStartMessage"]`)
	msg, err := appendData(nil, c.codec, rpc.TreeValue(rpc.Bytes{Data: make([]byte, 64<<10)}))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // 64 MB: more than the budget and all buffers of the sockets
		c.raw(msg)
	}
	c.json(`["StreamEndMessage"]`)
	c.want(`["StreamStartMessage"]`)
	for {
		var m message
		if err := c.codec.decode(c.next(), &m); err != nil {
			t.Fatal(err)
		}
		if m.kind == dataMsg {
			continue
		}
		if m.kind != errorMsg || m.name != "OverloadedError" {
			t.Fatalf("%+v", m)
		}
		break
	}
	c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
	c.want(`["DataMessage",5]`)
}

// The end of the connection cancels the running call.
func TestDisconnectCancels(t *testing.T) {
	for _, command := range []string{
		`["CommandMessage","demo","wait",[],{}]`,
		`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`,
	} {
		cancelled := make(chan struct{})
		table := testTable(t)
		table.MustAdd(rpc.Handle("demo.wait", func(ctx context.Context, _ struct{}) (int, error) {
			<-ctx.Done()
			return 1, ctx.Err()
		}))
		c := serve(t, table, serveOptions{})
		go func() {
			<-c.done
			close(cancelled)
		}()
		c.json("%s", command)
		eventually(t, "the call runs", func() bool { return c.link.N() == 1 })
		c.net.Close()
		select {
		case <-cancelled:
		case <-time.After(patience):
			t.Fatal("still running")
		}
	}
}

// A peer that has only said that it sends no more gets its answers.
func TestHalfClosedPeerGetsItsAnswer(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{conn: func(k *Conn) { k.Gone = func() bool { return false } }})
	c.json(`["CommandMessage","demo","sleep",[["Argument",0.02]],{}]`)
	c.json(`["CommandMessage","echo","echo",[["Argument",2]],{}]`)
	if err := c.net.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	c.want(`["DataMessage",0.02]`)
	c.want(`["DataMessage",2]`)
	if _, err := c.in.next(); err != io.EOF {
		t.Error(err)
	}
}

// A length over the limit ends the connection when it is read.
func TestAnnouncedLengthOverLimit(t *testing.T) {
	var reasons []Reason
	c := serve(t, testTable(t), serveOptions{change: func(cfg *Config) { cfg.Observer = observe(func(r Reason) { reasons = append(reasons, r) }) }})
	c.write([]byte{0x01, 0x00, 0x00, 0x01}) // 16 MiB and one byte
	if err := c.ended(); !errors.Is(err, ErrTooLong) {
		t.Errorf("ended with %v", err)
	}
	if fmt.Sprint(reasons) != "[too_long]" {
		t.Error(reasons)
	}
	c = serve(t, testTable(t), serveOptions{chunked: true})
	c.write([]byte("1000001\r\n"))
	if err := c.ended(); !errors.Is(err, ErrTooLong) {
		t.Errorf("ended with %v", err)
	}
}

type observe func(Reason)

func (observe) MessageIn(int)                            {}
func (observe) MessageOut(int)                           {}
func (o observe) FailedFrame(r Reason, _ *Conn, _ error) { o(r) }

// 16 MiB fit, there and back.
func TestLargestMessage(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		c := serve(t, testTable(t), serveOptions{chunked: chunked})
		text := strings.Repeat("x", DefaultMaxFrame-len(`["CommandMessage","echo","echo",[["Argument",""]],{}]`))
		go c.raw([]byte(`["CommandMessage","echo","echo",[["Argument","` + text + `"]],{}]`))
		if got := c.next(); len(got) != len(text)+len(`["DataMessage",""]`) {
			t.Errorf("%d bytes", len(got))
		}
	}
}

// Two megabytes of open brackets are an error message, in both codecs.
func TestNestedTooDeeply(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{})
	c.raw(bytes.Repeat([]byte("["), 2<<20))
	c.wantError("DecodeError")
	c.raw([]byte(strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20)))
	c.wantError("DecodeError")
	c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
	c.want(`["DataMessage",5]`)

	for _, b := range []byte{0x91, 0x81} {
		c = serve(t, testTable(t), serveOptions{codec: msgpackCodec{}})
		head := []byte{0x92, 0xab}
		head = append(head, "DataMessage"...)
		c.raw(append(head, bytes.Repeat([]byte{b}, 2<<20)...))
		c.wantError("DecodeError")
		c.json(`["CommandMessage","echo","echo",[["Argument",5]],{}]`)
		c.want(`["DataMessage",5]`)
	}
}

// Chunks as other clients may write them, and the end of the request.
func TestTunnelIsLiberal(t *testing.T) {
	c := serve(t, testTable(t), serveOptions{chunked: true, conn: func(k *Conn) { k.Gone = func() bool { return false } }})
	msg := `["CommandMessage","echo","echo",[["Argument",5]],{}]`
	for _, head := range []string{"%x\r\n", "%X;name=value\r\n", "000%x\r\n", "%x \r\n", "%x\n"} {
		c.write([]byte(fmt.Sprintf(head, len(msg)) + msg + "\r\n"))
		c.want(`["DataMessage",5]`)
	}
	c.write([]byte("0\r\n\r\n"))
	if line, err := c.in.length(); err != io.EOF {
		t.Errorf("%d %v, want the last chunk", line, err)
	}
	if err := c.ended(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"zz\r\n", "\r\n", "-5\r\n", "5\r\nhelloXX"} {
		c := serve(t, testTable(t), serveOptions{chunked: true})
		c.write([]byte(bad))
		c.net.(interface{ CloseWrite() error }).CloseWrite()
		if err := c.ended(); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// Arguments are bound as Python binds them.
func TestBinding(t *testing.T) {
	table := testTable(t)
	table.MustAdd(
		rpc.Handle("demo.branch", func(_ context.Context, in struct {
			If   string  `rpc:"if"`
			Else *string `rpc:"else"`
			N    int     `rpc:"n" default:"7"`
		}) (string, error) {
			other := "nothing"
			if in.Else != nil {
				other = *in.Else
			}
			return fmt.Sprint(in.If, " ", other, " ", in.N), nil
		}),
		rpc.Handle("demo.list", func(_ context.Context, in struct {
			Values []rpc.Value `rpc:"values,rest"`
		}) (rpc.Value, error) {
			list := make([]any, len(in.Values))
			for i, v := range in.Values {
				list[i] = v
			}
			return rpc.TreeValue(list), nil
		}),
		rpc.Handle("demo.import", func(context.Context, struct{}) (int, error) { return 3, nil }),
		rpc.Handle("demo.ref", func(context.Context, struct {
			Fn *rpc.Ref `rpc:"fn"`
		}) (int, error) {
			return 0, nil
		}),
	)
	c := serve(t, table, serveOptions{})
	for command, want := range map[string]string{
		`"demo","branch",[["Argument","a"]],{}`:                                                    `["DataMessage","a nothing 7"]`,
		`"demo","branch",[],{"if_":["Argument","a"],"else_":["Argument",null],"n":["Argument",7]}`: `["DataMessage","a nothing 7"]`,
		`"demo","branch",[],{"if":["Argument","a"],"else":["Argument","b"]}`:                       `["DataMessage","a b 7"]`,
		`"demo","branch",[],{"else":["Argument","b"]}`:                                             `["ErrorMessage","TypeError","Demo.branch() missing 1 required positional argument: 'if_'",""]`,
		`"demo","branch",[["Argument","a"],["Argument","a"],["Argument",1],["Argument",1]],{}`:     `["ErrorMessage","TypeError","Demo.branch() takes from 2 to 4 positional arguments but 5 were given",""]`,
		`"demo","branch",[["Argument","a"]],{"if_":["Argument","b"]}`:                              `["ErrorMessage","TypeError","Demo.branch() got multiple values for argument 'if_'",""]`,
		`"demo","import_",[],{}`:                             `["DataMessage",3]`,
		`"demo","import",[],{}`:                              `["DataMessage",3]`,
		`"demo","ref",[],{}`:                                 `["ErrorMessage","AttributeError","'Demo' object has no attribute 'ref'",""]`,
		`"math","add",[],{}`:                                 `["ErrorMessage","TypeError","Math.add() missing 2 required positional arguments: 'a' and 'b'",""]`,
		`"math","add",[["Argument","x"],["Argument",1]],{}`:  `["ErrorMessage","TypeError","math.add: expected a number, got a string",""]`,
		`"demo","sum",[["Argument",[1,2.5]]],{}`:             `["DataMessage",3.5]`,
		`"demo","list",[["Argument",1],["Argument","x"]],{}`: `["DataMessage",[1,"x"]]`,
		`"demo","list",[],{}`:                                `["DataMessage",[]]`,
		`"demo","__class__",[],{}`:                           `["ErrorMessage","AttributeError","'Demo' object has no attribute '__class__'",""]`,
		`"_meta","__init__",[],{}`:                           `["ErrorMessage","AttributeError","'Meta' object has no attribute '__init__'",""]`,
	} {
		c.json(`["CommandMessage",%s]`, command)
		if got := readable(t, c.codec, c.next()); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", command, got, want)
		}
	}
	c.json(`["CommandMessage","demo","count",[["Argument",2]],{"delay":["Argument",0.001]}]`) // not published, accepted
	c.want(`["StreamStartMessage"]`)
	c.want(`["DataMessage",0]`)
	c.want(`["DataMessage",1]`)
	c.want(`["StreamEndMessage"]`)
	c.json(`["CommandMessage","_meta","service",[["Argument","demo"]],{}]`)
	var m message
	if err := c.codec.decode(c.next(), &m); err != nil {
		t.Fatal(err)
	}
	raw, _ := m.value.Raw()
	for _, has := range []string{
		`"name":"if_","doc":null,"kind":1,"annotation":"str","default":null,"has_default":false,"hide":false`,
		`"name":"else_","doc":null,"kind":1,"annotation":"str | None","default":null,"has_default":true,"hide":false`,
		`"name":"n","doc":null,"kind":1,"annotation":"int","default":7,"has_default":true,"hide":false`,
		`"name":"import_"`,
		`"name":"values","doc":null,"kind":2,"annotation":"Any","default":null,"has_default":false,"hide":false`,
	} {
		if !bytes.Contains(raw, []byte(has)) {
			t.Errorf("%s misses %s", raw, has)
		}
	}
	for _, no := range []string{`"ref"`, `"delay"`} {
		if bytes.Contains(raw, []byte(no)) {
			t.Errorf("%s has %s", raw, no)
		}
	}
}
