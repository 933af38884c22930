package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func parse(t testing.TB, text string) rpc.Value {
	t.Helper()
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return v
}

func TestEventText(t *testing.T) {
	now := time.UnixMicro(1763701447_000042)
	for _, c := range []struct{ name, in, want string }{
		{"plain", `{"type":"output","rendered":"x"}`, `{"type":"output","rendered":"x","ts":1763701447.000042,"seq":7}`},
		{"own ts", `{"ts": 1.5, "type": "a"}`, `{"ts": 1.5, "type": "a","seq":7}`},
		{"ts null counts", `{"type":"a","ts":null}`, `{"type":"a","ts":null,"seq":7}`},
		{"seq replaced", `{"seq":99,"type":"a","ts":1}`, `{"type":"a","ts":1,"seq":7}`},
		{"seq twice, escaped", `{"seq":1,"type":"a","\u0073eq":{"seq":2},"ts":1}`, `{"type":"a","ts":1,"seq":7}`},
		{"inner seq kept", `{"type":"a","ts":1,"x":{"seq":3}}`, `{"type":"a","ts":1,"x":{"seq":3},"seq":7}`},
		{"bytes kept", `{"type":"a","ts":1,"n":[1.0,1e-07,9223372036854775809,-0.0],"s":"\ud800\u00e9\/"}`,
			`{"type":"a","ts":1,"n":[1.0,1e-07,9223372036854775809,-0.0],"s":"\ud800\u00e9\/","seq":7}`},
		{"python tokens", `{"type":"a","ts":1,"n":[NaN,-Infinity]}`, `{"type":"a","ts":1,"n":[NaN,-Infinity],"seq":7}`},
		{"lines joined", "{\"type\":\"a\",\n\"ts\":1}", `{"type":"a", "ts":1,"seq":7}`},
		{"doubled names kept", `{"type":"a","ts":1,"x":1,"x":2}`, `{"type":"a","ts":1,"x":1,"x":2,"seq":7}`},
		{"blanks at the end", `{"type":"a","ts":1  }`, `{"type":"a","ts":1  ,"seq":7}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := draftOf(parse(t, c.in))
			if err != nil {
				t.Fatal(err)
			}
			e := d.event(7, now)
			if string(e.JSON) != c.want {
				t.Errorf("got  %s\nwant %s", e.JSON, c.want)
			}
		})
	}
}

func TestEventOfTree(t *testing.T) {
	m := &rpc.Map{}
	m.Set("type", "blob")
	m.Set("ts", int64(3))
	m.Set("data", rpc.Bytes{Data: []byte("hi")})
	d, err := draftOf(rpc.TreeValue(m))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(d.event(1, time.Now()).JSON), `{"type":"blob","ts":3,"data":"aGk=","seq":1}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEventRefused(t *testing.T) {
	for _, c := range []struct {
		name, in string
		code     rpc.Code
	}{
		{"array", `[{"type":"a"}]`, rpc.CodeInvalidParams},
		{"string", `"type"`, rpc.CodeInvalidParams},
		{"null", `null`, rpc.CodeInvalidParams},
		{"empty", `{}`, rpc.CodeInvalidParams},
		{"type is a number", `{"type":1}`, rpc.CodeInvalidParams},
		{"type is empty", `{"type":""}`, rpc.CodeInvalidParams},
		{"type is long", `{"type":"` + strings.Repeat("x", MaxType+1) + `"}`, rpc.CodeInvalidParams},
		{"second type is not a string", `{"type":"a","type":1}`, rpc.CodeInvalidParams},
		{"looks like a reply", `{"type":"a","action":"rpc_reply","request_id":"1","result":1}`, rpc.CodeInvalidParams},
		{"looks like a reply, escaped", `{"type":"a","\u0061ction":"\u0072pc_reply"}`, rpc.CodeInvalidParams},
		{"too large", `{"type":"a","x":"` + strings.Repeat("x", MaxEvent) + `"}`, rpc.CodeTooLarge},
		{"too deep", `{"type":"a","x":` + strings.Repeat("[", 250) + strings.Repeat("]", 250) + `}`, rpc.CodeInvalidParams},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := draftOf(parse(t, c.in))
			if !errors.Is(err, &rpc.Error{Code: c.code}) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
	if _, err := draftOf(rpc.Value{}); err == nil {
		t.Error("undefined was taken")
	}
}

// FuzzEvent checks that whatever is taken as an event comes out as one line of
// JSON with the same members in the same order, and our number.
func FuzzEvent(f *testing.F) {
	for _, seed := range []string{
		`{"type":"output","rendered":"a\nb"}`, `{"seq":1,"type":"x","seq":2}`, "{\n\"type\" : \"a\" ,\"ts\":\n1 }",
		`{"type":"a","n":NaN}`, `{"type":"\ud800","seq":[{"seq":1}]}`, `{"type":"é","ts":"","x":{}}`, `[]`, `{"type":{}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := rpc.Parse(text)
		if err != nil {
			return
		}
		before := bytes.Clone(text)
		d, err := draftOf(v)
		if err != nil {
			return
		}
		e := d.event(41, time.UnixMicro(1))
		if !bytes.Equal(before, text) {
			t.Fatal("the publisher's bytes were changed")
		}
		if bytes.ContainsAny(e.JSON, "\r\n") {
			t.Fatalf("more than one line: %q", e.JSON)
		}
		out, err := rpc.Parse(e.JSON)
		if err != nil {
			t.Fatalf("%q: %v", e.JSON, err)
		}
		if got := out.Traits(); got.Flags&^e.traits.Flags != 0 || got.Depth > e.traits.Depth {
			t.Fatalf("traits %+v do not cover %+v", e.traits, got)
		}
		want := membersOf(v)
		if _, has := v.Member("ts"); !has {
			want = append(want, member{"ts", "0.000001"})
		}
		want = append(want, member{"seq", "41"})
		got := allMembers(out)
		if len(got) != len(want) {
			t.Fatalf("%d members, want %d: %s", len(got), len(want), e.JSON)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("member %d is %v, want %v", i, got[i], want[i])
			}
		}
	})
}

type member struct{ name, value string }

// membersOf returns the members but for seq, with line ends as blanks as on the wire.
func membersOf(v rpc.Value) []member {
	var list []member
	for _, m := range allMembers(v) {
		if m.name != "seq" {
			list = append(list, m)
		}
	}
	return list
}

func allMembers(v rpc.Value) []member {
	var list []member
	for name, m := range v.Members() {
		raw, _ := m.Raw()
		list = append(list, member{rpc.Unquote(name), strings.NewReplacer("\n", " ", "\r", " ").Replace(string(raw))})
	}
	return list
}

func TestGapEvent(t *testing.T) {
	var got struct {
		Type         string
		Dropped, Seq uint64
	}
	if err := json.Unmarshal(gapEvent(3, 17).JSON, &got); err != nil || got.Type != "gap" || got.Dropped != 3 || got.Seq != 17 {
		t.Errorf("%+v, %v", got, err)
	}
}

// A naive reference for the window: a slice.
func TestWindowAgainstSlice(t *testing.T) {
	for _, size := range []struct{ events, bytes int }{{0, 1000}, {1, 1000}, {5, 1 << 20}, {1000, 700}, {17, 900}} {
		w := newWindow(size.events, size.bytes)
		var want []Event
		for seq := uint64(1); seq <= 500; seq++ {
			e := Event{Seq: seq, JSON: make([]byte, int(seq*37%200))}
			w.add(e)
			want = append(want, e)
			for bytes := 0; ; bytes = 0 {
				for i := range want {
					bytes += cost(&want[i])
				}
				if len(want) <= size.events && (bytes <= size.bytes || len(want) == 1) {
					break
				}
				want = want[1:]
			}
			if seq%100 == 60 {
				w.dropUpTo(seq - 3)
				for len(want) > 0 && want[0].Seq <= seq-3 {
					want = want[1:]
				}
			}
			if w.n != len(want) {
				t.Fatalf("%+v: %d events after %d, want %d", size, w.n, seq, len(want))
			}
			for i := range want {
				if w.at(i).Seq != want[i].Seq {
					t.Fatalf("%+v: event %d is %d, want %d", size, i, w.at(i).Seq, want[i].Seq)
				}
			}
			if len(want) > 0 {
				if i := w.after(want[0].Seq); i != 1 {
					t.Fatalf("after the oldest comes index %d", i)
				}
			}
		}
	}
}
