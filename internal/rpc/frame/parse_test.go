package frame

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func mustParse(t *testing.T, line string) *Frame {
	t.Helper()
	f := new(Frame)
	if err := Parse([]byte(line), f); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return f
}

func rawOf(v rpc.Value) string {
	raw, _ := v.Raw()
	return string(raw)
}

func TestParseRequest(t *testing.T) {
	f := mustParse(t, ` {"method" : "a.b", "request_id":[1, 2],"params":{"x":[NaN]},"timeout":"7","stream":true,"action":"rpc_request","extra":{"y":null}} `+"\r")
	if f.Action != Request || f.Type != "" || string(f.MethodName()) != "a.b" || string(f.ID()) != "[1, 2]" ||
		rawOf(f.Params) != `{"x":[NaN]}` || rawOf(f.Timeout) != `"7"` || !f.Stream {
		t.Errorf("%+v", f)
	}
	if !f.Params.Traits().Has(rpc.HasNonFinite) || !f.Params.Traits().Has(rpc.HasArray) || f.Params.Traits().Depth != 2 {
		t.Errorf("traits of params: %+v", f.Params.Traits())
	}
	if f.RequestID.Traits().Has(rpc.HasNonFinite) {
		t.Error("traits of one member at another")
	}
	if rawOf(f.Member("extra")) != `{"y":null}` || !f.Member("nothing").IsUndefined() {
		t.Error("members")
	}
	if f = mustParse(t, `{"action":"rpc_request","method":"echo"}`); f.ID() != nil || !f.Params.IsUndefined() || !f.Timeout.IsUndefined() {
		t.Errorf("%+v", f)
	}
}

func TestParseOtherFrames(t *testing.T) {
	f := mustParse(t, `{"action":"rpc_reply","request_id":7,"result":null,"error":"x","error_kind":"handler","error_data":[NaN],"retry":"safe"}`)
	if f.Action != Reply || rawOf(f.RequestID) != "7" || !f.Result.IsNull() || Text(f.Error) != "x" || Text(f.ErrorKind) != "handler" ||
		rawOf(f.ErrorData) != "[NaN]" || Text(f.Retry) != "safe" {
		t.Errorf("%+v", f)
	}
	f = mustParse(t, `{"action":"rpc_chunk","request_id":"a","seq":12,"data":"\ud800"}`)
	if f.Seq != 12 || rawOf(f.Data) != `"\ud800"` {
		t.Errorf("%+v", f)
	}
	if f = mustParse(t, `{"action":"rpc_credit","request_id":"a","n":999999999999999999}`); f.N != 999999999999999999 {
		t.Errorf("%+v", f)
	}
	// An event belongs to a program: it may have what it likes.
	f = mustParse(t, `{"type":"metrics","n":-1.5,"seq":"x","x":NaN,"y":"\udc00","text":"t"}`)
	if f.Type != "metrics" || f.Action != "" || rawOf(f.Whole) == "" || rawOf(f.Member("x")) != "NaN" {
		t.Errorf("%+v", f)
	}
	if f = mustParse(t, `{"\u0061ction":"pi\u006eg","ac\u0074ions":1}`); f.Action != "ping" {
		t.Errorf("escapes: %+v", f)
	}
	if f = mustParse(t, `{"action":null,"type":null}`); f.Action != "" || f.Type != "" {
		t.Errorf("%+v", f)
	}
	if f = mustParse(t, `{"action":"`+strings.Repeat("é", 5000)+`"}`); len(f.Action) > 64 || !utf8.ValidString(f.Action) {
		t.Errorf("%q", f.Action)
	}
}

func TestMethodNames(t *testing.T) {
	for text, want := range map[string]string{`"echo"`: "echo", `"e\u0063ho"`: "echo", `"é"`: "é", `5`: "5", `""`: "", `[1]`: "[1]"} {
		f := mustParse(t, `{"method":`+text+`}`)
		if got := string(f.MethodName()); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat("[", 257) + strings.Repeat("]", 257)
	for _, c := range []struct {
		line   string
		reason Reason
		offset int
	}{
		{``, BadJSON, 0},
		{`  `, BadJSON, 2},
		{`x`, BadJSON, 0},
		{`{`, BadJSON, 1},
		{`{"a"`, BadJSON, 4},
		{`{"a":`, BadJSON, 5},
		{`{"a":1`, BadJSON, 6},
		{`{"a":1,}`, BadJSON, 7},
		{`{"a":1}x`, BadJSON, 7},
		{`{"a":01}`, BadJSON, 6},
		{`{"a":nan}`, BadJSON, 5},
		{`{a:1}`, BadJSON, 1},
		{`{'a':1}`, BadJSON, 1},
		{`{"a" 1}`, BadJSON, 5},
		{`{"a":"` + "\x1f" + `"}`, BadJSON, 6},
		{`{"a":"\x"}`, BadJSON, 7},
		{`[]`, NotObject, 0},
		{` 17 `, NotObject, 1},
		{`NaN`, NotObject, 0},
		{`[] []`, BadJSON, 3},
		{"{\"a\":\"\xff\"}", BadUTF8, 6},
		{"{\"\xff\":1}", BadUTF8, 2},
		{"\xff", BadUTF8, 0},
		{`{"action":"x","action":"x"}`, Duplicate, 14},
		{`{"type":"x","\u0074ype":"x"}`, Duplicate, 12},
		{`{"data":1,"data":1}`, Duplicate, 10},
		{`{"action":1}`, BadType, 1},
		{`{"stream":1}`, BadType, 1},
		{`{"n":1e3}`, BadType, 1},
		{`{"seq":-0}`, BadType, 1},
		{`{"seq":""}`, BadType, 1},
		{`{"n":1000000000000000000}`, BadType, 1},
		{`{"action":"x","y":NaN}`, BadToken, 0},
		{`{"request_id":"\ud800","action":"x"}`, BadToken, 0},
		{`{"action":"x","timeout":"\ud800"}`, BadToken, 0},
		{`{"type":"input","text":"\ud800"}`, BadToken, 0},
		{`{"action":"x","\ud800":1}`, BadToken, 0},
		{`{"params":` + deep + `}`, OverLimit, 266},
		{`{"x":` + strings.Repeat("1", 1001) + `}`, OverLimit, 5},
	} {
		var f Frame
		err := Parse([]byte(c.line), &f)
		e, ok := err.(*Error)
		if !ok || e.Reason != c.reason || e.Offset != c.offset || e.Text == "" || !utf8.ValidString(e.Error()) {
			t.Errorf("%.60q: %v, want %s at %d", c.line, err, c.reason, c.offset)
		}
	}
	if Parse([]byte(`{"action":"x","timeout":NaN}`), new(Frame)) != nil {
		t.Error("a timeout of NaN is for the server to judge")
	}
}

// The id is known when something later is wrong.
func TestPartialFrames(t *testing.T) {
	for line, id := range map[string]string{
		`{"action":"rpc_request","request_id":"a","params":{bad`:              `"a"`,
		`{"request_id":7,"action":"rpc_request","n":"x"}`:                     `7`,
		`{"request_id":"first","request_id":"second","action":"rpc_request"}`: `"first"`,
	} {
		var f Frame
		if err := Parse([]byte(line), &f); err == nil || string(f.ID()) != id {
			t.Errorf("%s: id %s, %v", line, f.ID(), err)
		}
	}
}

func TestFindID(t *testing.T) {
	for head, want := range map[string]string{
		`{"request_id":"a","params":"xxx`:                       `"a"`,
		`{"action":"rpc_request", "request_id" : 17, "para`:     `17`,
		`{"request_id":17`:                                      ``, // it may go on
		`{"request_id":"a"`:                                     `"a"`,
		`{"request_id":"a`:                                      ``,
		`{"request_id":nul`:                                     ``,
		`{"request_id":[1,{"b":2}],`:                            `[1,{"b":2}]`,
		`{"params":{"request_id":"inner"},"request_id":"out",x`: `"out"`,
		`{"params":{"request_id":"inner"`:                       ``,
		`{"x":"\"request_id\":\"no\"","request_id":"yes"`:       `"yes"`,
		`{"request_id":NaN,`:                                    ``,
		`{"request_id":"\ud800",`:                               ``,
		"{\"request_id\":\"\xff\",":                             ``,
		`"request_id":"a"`:                                      ``,
		`{"x":"request_id"`:                                     ``,
		`}}{"request_id":"a"`:                                   ``,
		`{"request_id":`:                                        ``,
		``:                                                      ``,
		`{"x":"\`:                                               ``,
	} {
		if got := string(FindID([]byte(head))); got != want {
			t.Errorf("%s: %q, want %q", head, got, want)
		}
	}
}

func TestParseAllocatesNothing(t *testing.T) {
	line := []byte(requestLine)
	var f Frame
	if n := testing.AllocsPerRun(100, func() {
		if Parse(line, &f) != nil || string(f.MethodName()) != "echo" {
			t.Fatal("parse")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Everything that the encoders write can be read back.
func TestRoundTrip(t *testing.T) {
	id := []byte(`"a\u0000b"`)
	data := rpc.RawString(`{"x":[1.0,NaN,"\ud800"]}`)
	line, err := AppendRequest(nil, id, "m\"\u00e9", data, RequestOptions{Timeout: 2.5, Stream: true})
	f := parseLine(t, line, err)
	if f.Action != Request || string(f.MethodName()) != "m\"é" || string(f.ID()) != string(id) || rawOf(f.Params) != rawOf(data) || rawOf(f.Timeout) != "2.5" || !f.Stream {
		t.Errorf("%s", line)
	}
	line, err = AppendRequest(nil, nil, "m", rpc.Value{}, RequestOptions{})
	if string(line) != `{"action":"rpc_request","request_id":"","method":"m","params":{}}`+"\n" || err != nil {
		t.Errorf("%s", line)
	}
	line, err = AppendReply(nil, id, data)
	if f = parseLine(t, line, err); f.Action != Reply || rawOf(f.Result) != rawOf(data) || !f.Error.IsNull() || !f.ErrorKind.IsNull() {
		t.Errorf("%s", line)
	}
	line = AppendFailure(nil, id, Failure{Kind: "conflict", Text: "no\n\"way\"", Retry: "safe", Data: data})
	if f = parseLine(t, line, nil); Text(f.Error) != "no\n\"way\"" || Text(f.ErrorKind) != "conflict" || Text(f.Retry) != "safe" || rawOf(f.ErrorData) != rawOf(data) {
		t.Errorf("%s", line)
	}
	line = AppendFailure(nil, id, Failure{Kind: "handler", Text: "x", Data: data})
	if f = parseLine(t, line, nil); !f.ErrorData.IsUndefined() || !f.Retry.IsUndefined() {
		t.Errorf("%s", line)
	}
	line, err = AppendChunk(nil, id, 9, data)
	if f = parseLine(t, line, err); f.Action != Chunk || f.Seq != 9 || rawOf(f.Data) != rawOf(data) {
		t.Errorf("%s", line)
	}
	if f = parseLine(t, AppendEnd(nil, id, ""), nil); f.Action != End || !f.Error.IsUndefined() {
		t.Error("end")
	}
	if f = parseLine(t, AppendEnd(nil, id, "broke"), nil); Text(f.Error) != "broke" {
		t.Error("end with an error")
	}
	if f = parseLine(t, AppendCredit(nil, id, 5), nil); f.Action != Credit || f.N != 5 {
		t.Error("credit")
	}
	if f = parseLine(t, AppendCancel(nil, id), nil); f.Action != Cancel || string(f.ID()) != string(id) {
		t.Error("cancel")
	}
	g := Greeting{Version: 1, Features: []string{"a", "b"}, Identity: "me", Token: "t", Server: "hubd/1"}
	if f = parseLine(t, AppendHello(nil, g), nil); f.Action != Hello || rawOf(f.Member("features")) != `["a","b"]` || Text(f.Member("token")) != "t" || Text(f.Member("identity")) != "me" {
		t.Error("hello")
	}
	if f = parseLine(t, AppendWelcome(nil, g), nil); f.Type != Hello || Text(f.Member("server")) != "hubd/1" || !f.Member("token").IsUndefined() {
		t.Error("welcome")
	}
	if f = parseLine(t, AppendError(nil, id, "", "x"), nil); f.Type != "error" || Text(f.Member("msg")) != "x" || string(f.ID()) != string(id) {
		t.Error("error")
	}
}

func TestAppendLeavesNothingBehindOnErrors(t *testing.T) {
	bad := rpc.TreeValue(rpc.NewRef(nil, nil))
	head := []byte("head")
	if out, err := AppendReply(head, nil, bad); err == nil || string(out) != "head" {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := AppendChunk(head, nil, 1, bad); err == nil || string(out) != "head" {
		t.Errorf("%s, %v", out, err)
	}
	if out, err := AppendRequest(head, nil, "m", bad, RequestOptions{}); err == nil || string(out) != "head" {
		t.Errorf("%s, %v", out, err)
	}
	if f := parseLine(t, AppendFailure(nil, nil, Failure{Kind: "k", Text: "t", Retry: "safe", Data: bad}), nil); !f.ErrorData.IsUndefined() || Text(f.Retry) != "safe" {
		t.Error("data that cannot be carried")
	}
}

func parseLine(t *testing.T, line []byte, err error) *Frame {
	t.Helper()
	if err != nil || bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
		t.Fatalf("%q, %v", line, err)
	}
	return mustParse(t, string(line[:len(line)-1]))
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		requestLine, `{"action":"rpc_reply","request_id":7,"result":null,"error":"x","error_kind":"handler"}`,
		`{"type":"x","n":NaN}`, `[]`, `{"a":"\ud800"}`, `{"\u0061ction":"x"}`, "{\"a\":\"\xff\"}", `{"n":5,"n":6}`, `  {} `, `{"a":1,}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') >= 0 {
			return
		}
		before := append([]byte(nil), line...)
		var fr Frame
		err := Parse(line, &fr)
		if !bytes.Equal(line, before) {
			t.Fatal("the line was changed")
		}
		if FindID(line) != nil && !rpc.Valid(FindID(line)) {
			t.Fatalf("found id %q", FindID(line))
		}
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.Reason == "" || e.Offset < 0 || e.Offset > len(line) {
				t.Fatalf("%v", err)
			}
			// What is refused as broken is not JSON for the scanner either.
			if e.Reason == BadJSON && rpc.Valid(line) || e.Reason == BadUTF8 && utf8.Valid(line) {
				t.Fatalf("%v, but the line is fine: %q", err, line)
			}
			return
		}
		if !rpc.Valid(line) {
			t.Fatalf("accepted, but no JSON: %q", line)
		}
		// The standard library sees the same members, where it can read the line.
		var m map[string]json.RawMessage
		if json.Unmarshal(line, &m) != nil || !utf8.Valid(line) {
			return
		}
		for name, v := range map[string]rpc.Value{"request_id": fr.RequestID, "method": fr.Method, "params": fr.Params, "result": fr.Result, "data": fr.Data, "timeout": fr.Timeout} {
			if raw, has := m[name]; has == v.IsUndefined() || has && string(raw) != rawOf(v) {
				t.Fatalf("%s is %s, the library says %s", name, rawOf(v), raw)
			}
		}
	})
}

const requestLine = `{"action":"rpc_request","request_id":"0123456789abcdef0123456789abcdef","method":"echo","params":{"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","n":1},"timeout":30.0}`

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{0, 100, 4096, 1 << 20} {
		line := fmt.Appendf(nil, `{"action": "rpc_request", "request_id": "0123456789abcdef0123456789abcdef", "method": "echo", "params": {"text": "%s"}, "timeout": 30.0}`, strings.Repeat("x", size))
		b.Run(fmt.Sprint("params=", size), func(b *testing.B) {
			var f Frame
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if err := Parse(line, &f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendReply(b *testing.B) {
	id := []byte(`"0123456789abcdef0123456789abcdef"`)
	v := rpc.RawString(`{"text":"` + strings.Repeat("x", 100) + `"}`)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := AppendReply(buf, id, v); err != nil {
			b.Fatal(err)
		}
	}
}
