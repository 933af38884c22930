package statesvc

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// backup returns the objects of a state.snapshot.
func (c *caller) backup() []string {
	c.t.Helper()
	_, r := c.start("state.snapshot", `{}`)
	if _, err := c.wait(r); err != nil {
		c.t.Fatal(err)
	}
	var items []string
	for item := range r.items {
		items = append(items, item)
	}
	return items
}

func TestBackupAndRestore(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	c.must("state.put", `["a",{"x": 1.50}]`)
	c.must("state.put", `["doomed",1]`)
	c.must("state.delete", `["doomed"]`)
	c.must("state.put", `{"key":"t","value":1,"ttl":500}`)
	c.must("state.put", `{"key":"mine","value":1,"ephemeral":true}`)
	for i, tt := range modelValues {
		_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String(fmt.Sprintf("v/%d", i)), rpc.TreeValue(tt.tree)), 0)
		if _, err := c.wait(r); err != nil {
			t.Fatal(err)
		}
	}
	for i, text := range []string{"[1,\n2]", "NaN", `"\ud800"`, "123456789012345678901234567890", "true"} {
		_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String(fmt.Sprintf("j/%d", i)), mustParse(t, text)), 0)
		if _, err := c.wait(r); err != nil {
			t.Fatal(err)
		}
	}
	items := c.backup()
	if got := stable(items[1]); got != `{"type":"item","key":"a","value":{"x": 1.50},"revision":1}` {
		t.Error(got)
	}
	for _, item := range items {
		if strings.ContainsAny(item, "\n") || strings.Contains(item, "NaN") {
			t.Errorf("%s is no line of JSON", item)
		}
	}

	other := newService(t, Options{}, ServiceOptions{})
	d := newCaller(t, other)
	list := `[` + strings.Join(items, ",") + `]`
	want := fmt.Sprintf(`{"revision":%d,"keys":%d}`, s.Store().Info().Revision, s.Store().Stats().Keys)
	if got := d.must("state.restore", `{"items":`+list+`}`); got != want {
		t.Errorf("restored %s, want %s", got, want)
	}
	again := d.backup()
	if len(again) != len(items) {
		t.Fatalf("%d objects became %d", len(items), len(again))
	}
	for i := 1; i < len(items); i++ {
		if i < len(items)-1 && strings.Contains(items[i], `"ttl"`) {
			continue // time goes by
		}
		if items[i] != again[i] {
			t.Errorf("object %d is\n%s\nwas\n%s", i, again[i], items[i])
		}
	}
	it, err := other.Store().Get("t")
	if left, ok := it.TTL(); err != nil || !ok || left > 500*time.Second || left < 400*time.Second || it.Lease.TTL != 500*time.Second {
		t.Errorf("time left: %v", left)
	}

	if _, err := d.call("state.restore", `{"items":`+list+`}`); errorText(err) != "conflict ran=no" {
		t.Errorf("over existing data: %v", err)
	}
	_, w := d.start("state.watch", `{}`)
	d.next(w)
	if got := d.must("state.restore", `{"items":[{"key":"only","value":[]}],"overwrite":true}`); !strings.Contains(got, `"keys":1`) {
		t.Error(got)
	}
	if _, err := d.wait(w); err == nil || err.Code != rpc.CodeCompacted {
		t.Errorf("a watch over a restore ended with %v", err)
	}
	if got := d.must("state.list", `{"keys_only":true}`); strings.Count(got, `"key"`) != 1 {
		t.Error(got)
	}
}

func TestRestoreRefusals(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	head := `{"type":"snapshot","format":1,"revision":5,"keys":1,"bytes":1,"time":"2026-01-01T00:00:00Z"}`
	item := `{"type":"item","key":"a","value":1,"revision":3}`
	for name, items := range map[string]string{
		"cut off":             head + `,` + item,
		"a key short":         head + `,{"type":"end","revision":5,"keys":1}`,
		"goes on":             head + `,` + item + `,{"type":"end"},` + item,
		"an end alone":        `{"type":"end"}`,
		"a newer format":      `{"type":"snapshot","format":2,"revision":5,"keys":0},{"type":"end"}`,
		"no revision":         `{"type":"snapshot","format":1}`,
		"a huge revision":     `{"type":"snapshot","format":1,"revision":18446744073709551615,"keys":0},{"type":"end"}`,
		"no key":              `{"value":1}`,
		"no value":            `{"key":"a"}`,
		"both values":         `{"key":"a","value":1,"encoding":"json","data":"MQ=="}`,
		"no object":           `7`,
		"unknown type":        `{"type":"x","key":"a","value":1}`,
		"unknown member":      `{"key":"a","value":1,"colour":1}`,
		"unknown encoding":    `{"key":"a","encoding":"x","data":"MQ=="}`,
		"data is no base64":   `{"key":"a","encoding":"json","data":"*"}`,
		"data is not JSON":    `{"key":"a","encoding":"json","data":"e30gMQ=="}`,
		"data is not typed":   `{"key":"a","encoding":"typed","data":"/w=="}`,
		"a bad time":          `{"key":"a","value":1,"created":"yesterday"}`,
		"a bad time to live":  `{"key":"a","value":1,"ttl":-1,"limit":-1}`,
		"a bad key":           `{"key":"a\u0000","value":1}`,
		"the second is wrong": item + `,{"key":""}`,
	} {
		if _, err := c.call("state.restore", `{"items":[`+items+`]}`); errorText(err) != "invalid_params ran=no" {
			t.Errorf("%s: %v", name, errorText(err))
		}
	}
	if i := s.Store().Info(); i.Revision != 0 {
		t.Errorf("something was restored: %+v", i)
	}
	if got := c.must("state.restore", `{"items":[`+head+`,`+item+`,{"type":"end","revision":5,"keys":1}]}`); got != `{"revision":5,"keys":1}` {
		t.Error(got)
	}
}

// The items of a restore may come as the caller's stream.
func TestRestoreFromStream(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	m := c.methods["state.restore"]
	in := rpc.NewReader(nil)
	r := &reply{done: make(chan struct{})}
	c.link.Start(nil, m, &rpc.Call{Method: m, Input: in, Peer: rpc.Local, Reply: r, Unary: true})
	for i := range 100 {
		in.Item(nil, mustParse(t, fmt.Sprintf(`{"key":"k%d","value":%d}`, i, i)))
	}
	in.End(nil, nil)
	v, err := c.wait(r)
	if text, _ := v.JSON(); err != nil || string(text) != `{"revision":1,"keys":100}` {
		t.Errorf("%s, %v", text, err)
	}
}

// A snapshot holds memory, so there is a limit to how many are sent at a time.
func TestSnapshotsAreLimited(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	c.must("state.put", `["a",1]`)
	var open []*reply
	for range maxCopies {
		_, r := c.startArgs("state.snapshot", rpc.Args{}, 1)
		c.next(r)
		open = append(open, r)
	}
	_, r := c.start("state.snapshot", `{}`)
	if _, err := c.wait(r); errorText(err) != "overloaded ran=no" {
		t.Error(err)
	}
	for _, r := range open {
		r.src.Grant(10)
		if _, err := c.wait(r); err != nil {
			t.Error(err)
		}
	}
	if n := len(c.backup()); n != 3 {
		t.Errorf("%d objects", n)
	}
}
