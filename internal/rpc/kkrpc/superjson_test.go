package kkrpc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What the notes of an envelope make of the arguments, as the hub's other
// protocols see them.
func TestNotes(t *testing.T) {
	for _, tt := range []struct{ args, notes, want string }{
		{`["1970-01-01T00:00:00.000Z"]`, `{"args.0":["Date"]}`, `[time.Time 1970-01-01 00:00:00 +0000 UTC]`},
		{`["12"]`, `{"args.0":["bigint"]}`, `[int64 12]`},
		{`["123456789012345678901234567890"]`, `{"args.0":["bigint"]}`, `[*big.Int 123456789012345678901234567890]`},
		{`[null]`, `{"args.0":["undefined"]}`, `[rpc.Undefined {}]`},
		{`[[1,2]]`, `{"args.0":[["typed-array","Uint8Array"]]}`, `[rpc.Bytes {[1 2] }]`},
		{`[[1,256]]`, `{"args.0":[["typed-array","Uint8Array"]]}`, `[[]interface {} [1 256]]`},
		{`["NaN"]`, `{"args.0":["number"]}`, `[float64 NaN]`},
		{`[{"a.b":"1970-01-01T00:00:00.000Z"}]`, `{"args.0.a\\.b":["Date"]}`, `[*rpc.Map 1970-01-01 00:00:00 +0000 UTC]`},
		{`[[["k","1970-01-01T00:00:00.000Z"]]]`, `{"args.0":["map",{"0.1":["Date"]}]}`, `[*rpc.Map 1970-01-01 00:00:00 +0000 UTC]`},
		// Notes that are wrong change nothing.
		{`["x"]`, `{"args.0":["Date"]}`, `[string x]`},
		{`["x"]`, `{"args.0":["bigint"],"args.9":["Date"],"args.0.a":["Date"],"":["Date"],"args":[]}`, `[string x]`},
		{`["x"]`, `{"args.0":"Date","args.0.":[["typed-array"]]}`, `[string x]`},
		{`["x"]`, `[1]`, `[string x]`},
	} {
		var m message
		if why := parse([]byte(`{"json":{"id":"1","method":"m","args":`+tt.args+`,"type":"request"},"meta":{"values":`+tt.notes+`}}`), &m); why != "" {
			t.Errorf("%s: %s", tt.notes, why)
			continue
		}
		list, _ := m.typed("args", m.args).Expand().([]any)
		var got []string
		for _, x := range list {
			shown := fmt.Sprintf("%T %v", x, x)
			if o, ok := x.(*rpc.Map); ok {
				shown = fmt.Sprintf("%T %v", x, o.Items[0].Value)
			}
			got = append(got, shown)
		}
		if text := "[" + strings.Join(got, " ") + "]"; text != tt.want {
			t.Errorf("%s with %s: got %s, want %s", tt.args, tt.notes, text, tt.want)
		}
	}
}

// The work for the notes of one message is bounded, whatever they say.
func TestNotesAreBounded(t *testing.T) {
	var args, notes strings.Builder
	for i := range 20000 {
		if i > 0 {
			args.WriteByte(',')
			notes.WriteByte(',')
		}
		fmt.Fprintf(&args, `"k%d":"x"`, i)
		fmt.Fprintf(&notes, `"args.0.k%d":["Date"]`, i)
	}
	var m message
	if why := parse([]byte(`{"json":{"id":"1","method":"m","args":[{`+args.String()+`}],"type":"request"},"meta":{"values":{`+notes.String()+`}}}`), &m); why != "" {
		t.Fatal(why)
	}
	a := annotator{left: maxSteps}
	list := m.args.Expand().([]any)
	n := 0
	for key, note := range m.notes.Members() {
		if a.left < 0 {
			break
		}
		n++
		a.at(any(list), splitPath(rpc.Unquote(key))[1:], note, 0)
	}
	if n > maxSteps/20000+2 {
		t.Errorf("%d notes were read", n)
	}
}
