package capnweb

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// nestedArrays and nestedObjects return an expression with n of them around a number.
func nestedArrays(n int) string { return strings.Repeat("[[", n) + "1" + strings.Repeat("]]", n) }

func nestedObjects(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }

// The depths at which npm capnweb 0.12.0 begins to refuse, as a receiver.
func TestDepthIsThatOfTheLibrary(t *testing.T) {
	for _, c := range []struct {
		name string
		text func(n int) string
		most int
	}{
		{"arrays", func(n int) string { return `["push",` + nestedArrays(n) + `]` }, 255},
		{"objects", func(n int) string { return `["push",` + nestedObjects(n) + `]` }, 255},
		{"arrays with a tag in them", func(n int) string { return `["push",` + strings.Replace(nestedArrays(n), "1", `["nan"]`, 1) + `]` }, 255},
		{"empty array inside", func(n int) string { return `["push",` + strings.Replace(nestedArrays(n-1), "1", "[[]]", 1) + `]` }, 256},
		{"arrays as an argument", func(n int) string { return `["push",["pipeline",0,["echo"],[` + nestedArrays(n) + `]]]` }, 254},
		{"objects as an argument", func(n int) string { return `["push",["pipeline",0,["echo"],[` + nestedObjects(n) + `]]]` }, 254},
		{"argument of an argument", func(n int) string {
			return `["push",["pipeline",0,["echo"],[["pipeline",0,["echo"],[` + nestedArrays(n) + `]]]]]`
		}, 253},
		{"calls", func(n int) string {
			return `["push",` + strings.Repeat(`["pipeline",0,["echo"],[`, n) + "1" + strings.Repeat("]]", n) + `]`
		}, 255},
		{"properties of an error", func(n int) string { return `["push",["error","Error","m",null,{"a":` + nestedObjects(n) + `}]]` }, 254},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, tp, _ := testSession(t)
			say(t, s, c.text(c.most), `["pull",1]`)
			if got := tp.waitFor(1); len(got) != 1 || !strings.HasPrefix(got[0], `["resolve",1,`) {
				t.Errorf("at the limit: %.100s", got)
			}
			if err := s.Receive(nil, []byte(c.text(c.most+1))); err != errDeep {
				t.Errorf("beyond it: %v", err)
			}
		})
	}
	for _, text := range []string{strings.Repeat("[", 1<<20), strings.Repeat(`{"a":`, 1<<20), `["push",` + nestedArrays(100000) + `]`} {
		s, _, _ := testSession(t)
		if err := s.Receive(nil, []byte(text)); err != errDeep {
			t.Errorf("%.20s...: %v", text, err)
		}
	}
}

// What the library would abort its session for is not sent.
func TestNothingIsSentThatEndsTheSessionOfItsReceiver(t *testing.T) {
	tree := func(n int) any {
		var x any = int64(1)
		for range n {
			x = []any{x}
		}
		return x
	}
	values := map[string]rpc.Value{
		"tree 255":   rpc.TreeValue(tree(255)),
		"tree 256":   rpc.TreeValue(tree(256)),
		"raw 255":    rpc.RawString(strings.Repeat("[", 255) + "1" + strings.Repeat("]", 255)),
		"raw 256":    rpc.RawString(strings.Repeat("[", 256) + "1" + strings.Repeat("]", 256)),
		"odd bytes":  rpc.TreeValue(rpc.Bytes{Data: make([]byte, 3), Kind: "Int16Array"}),
		"what bytes": rpc.TreeValue(rpc.Bytes{Data: make([]byte, 3), Kind: "Float16Array"}),
		"big":        rpc.TreeValue(new(big.Int).Exp(big.NewInt(10), big.NewInt(16384), nil)),
		"long":       rpc.TreeValue(rpc.Bytes{Data: make([]byte, 24<<20)}), // 32 MiB as base64
	}
	demo := func(t *testing.T) (*Session, *tape) {
		s, tp, d := testSession(t)
		d.Table.MustAdd(rpc.Handle("give", func(_ context.Context, in struct {
			Name string `rpc:"name"`
		}) (rpc.Value, error) {
			return values[in.Name], nil
		}), rpc.Handle("give.to", func(ctx context.Context, in struct {
			Name string   `rpc:"name"`
			Fn   *rpc.Ref `rpc:"fn"`
		}) (rpc.Value, error) {
			return in.Fn.Call(ctx, values[in.Name])
		}))
		say(t, s, `["push",["url","http://x/"]]`) // a peer of today
		return s, tp
	}
	nines := strings.Repeat("9", 16384)
	const ok, not = `["resolve",2,`, `["reject",2,["error","TypeError","`
	for _, c := range []struct{ call, want string }{
		{`["give"],["tree 255"]`, ok},
		{`["give"],["tree 256"]`, not + "Serialization exceeded maximum allowed depth."},
		{`["give"],["raw 255"]`, ok},
		{`["give"],["raw 256"]`, not + "Serialization exceeded maximum allowed depth."},
		{`["give","to"],["tree 255",["export",-1]]`, not + "Serialization exceeded maximum allowed depth."},
		{`["give","to"],["raw 255",["export",-1]]`, not + "Serialization exceeded maximum allowed depth."},
		{`["give"],["odd bytes"]`, ok + `["bytes","AAAA"]]`},
		{`["give"],["what bytes"]`, ok + `["bytes","AAAA"]]`},
		{`["give"],["long"]`, not + "Cannot serialize value: the message would be longer than 33554432 bytes"},
		{`["give","to"],["long",["export",-1]]`, not + "Cannot serialize value: the message would be longer than 33554432 bytes"},
		{`["echo"],[["bigint","` + nines + `"]]`, ok},
		{`["give"],["big"]`, not + "Cannot serialize value: an integer of more than 16384 digits"},
	} {
		t.Run(fmt.Sprintf("%.40s", c.call), func(t *testing.T) {
			s, tp := demo(t)
			say(t, s, `["push",["pipeline",0,`+c.call+`]]`, `["pull",2]`)
			var last string
			eventually(t, "an answer", func() bool {
				tp.mu.Lock()
				defer tp.mu.Unlock()
				if len(tp.sent) > 0 {
					last = tp.sent[len(tp.sent)-1]
				}
				return strings.Contains(last, `",2,`)
			})
			if !strings.HasPrefix(last, c.want) {
				t.Errorf("%.200s", last)
			}
			say(t, s, `["release",2,1]`, `["push",["pipeline",0,["echo"],[1]]]`, `["pull",3]`)
			if exports, imports := s.Entries(); exports != 2 || imports != 0 {
				t.Errorf("%d exports, %d imports", exports, imports)
			}
		})
	}
	s, _, _ := testSession(t)
	if err := s.Receive(nil, []byte(`["push",["bigint","-`+nines+`"]]`)); err == nil {
		t.Error("a sign and 16384 digits: accepted")
	}
}

// An error whose properties make it too long leaves without them.
func TestLongErrorsAreCut(t *testing.T) {
	s, tp, _ := testSession(t)
	big := strings.Repeat("x", 12<<20)
	say(t, s, `["push","`+big+`"]`, `["push",["pipeline",0,["echo"],[["promise",-1]]]]`, `["pull",2]`,
		`["reject",-1,["error","RangeError","m",null,{"a":["pipeline",1],"b":["pipeline",1],"c":["pipeline",1]}]]`)
	got := tp.waitFor(2)
	if len(got) != 2 || !strings.HasPrefix(got[1], `["reject",2,["error",`) || len(got[1]) > DefaultMaxMessage {
		t.Errorf("%.200s", got)
	}
}

// Nothing may follow the operands of most tags.
func TestExactTags(t *testing.T) {
	for _, text := range []string{
		`["pipeline",0,["echo"],[1],2]`, `["import",0,["echo"],[1],2]`, `["remap",0,[],[],[1],2]`, `["undefined",1]`, `["url","http://x/",1]`,
		`["headers",[["a","b"]],1]`, `["request","http://x/",{},1]`, `["response",null,{},1]`,
	} {
		for _, message := range []string{`["push",` + text + `]`, `["push",["pipeline",0,["echo"],[` + text + `]]]`} {
			s, _, _ := testSession(t)
			if err := s.Receive(nil, []byte(message)); err == nil || !strings.HasPrefix(err.Error(), "unknown special value: ") {
				t.Errorf("%s: %v", message, err)
			}
		}
	}
	s, tp, _ := testSession(t)
	say(t, s, `["push",[[["inf",1],["bigint","5",1],["date",1,2]]]]`, `["pull",1]`)
	wantSent(t, tp, `["resolve",1,[[["inf"],["bigint","5"],["date",1]]]]`)
}

// What is written behind the end of a stream is told why it is refused.
func TestWritesBehindTheEnd(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["pipe"]`, `["stream",["pipeline",1,["close"],[]]]`, `["stream",["pipeline",1,["write"],[1]]]`, `["stream",["pipeline",1,["close"],[]]]`,
		`["pipe"]`, `["stream",["pipeline",5,["abort"],[["error","RangeError","enough"]]]]`, `["stream",["pipeline",5,["write"],[1]]]`)
	wantSent(t, tp, `["resolve",2,["undefined"]]`, `["reject",3,["error","TypeError","the stream was closed"]]`, `["reject",4,["error","TypeError","the stream was closed"]]`,
		`["resolve",6,["undefined"]]`, `["reject",7,["error","RangeError","enough"]]`)
	say(t, s, `["release",1,1]`, `["release",5,1]`)
	if exports, imports := s.Entries(); exports+imports != 0 {
		t.Errorf("%d exports, %d imports", exports, imports)
	}
}
