package hub

import (
	"fmt"
	"strings"
	"testing"
)

// Numbers of a declaration are what they should be, or it is refused: what is
// no number of seconds is no deadline, and none of them means another thing.
func TestProvideChecksTheNumbersOfADeclaration(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	offer := func(rest string) reply {
		return w.call("hub.provide", `{"service":"s","methods":[{"name":"m",`+rest+`}]}`)
	}
	for _, rest := range []string{
		`"deadline":-1`, `"deadline":-0.5`, `"deadline":NaN`, `"deadline":Infinity`, `"deadline":-Infinity`, `"deadline":3601`,
		`"deadline":0.0001`, `"deadline":1e400`, `"deadline":"5"`,
		`"params":[{"name":"p","default":NaN}]`, `"params":[{"name":"p","default":[{"x":Infinity}]}]`,
	} {
		if r := offer(rest); r.kind() != "invalid_params" {
			t.Errorf("%s: %v", rest, r)
			w.call("hub.unprovide", `{"service":"s"}`)
		}
	}
	for deadline, want := range map[string]string{`0`: `null`, `0.001`: `0.001`, `3600`: `3600`, `null`: `30`, `2.5`: `2.5`} {
		if r := offer(`"deadline":` + deadline); r.kind() != "" {
			t.Errorf("deadline %s: %v", deadline, r)
			continue
		}
		if r := w.call("hub.describe", `["s.m"]`); !strings.Contains(string(r.Result), `"deadline":`+want+`,`) {
			t.Errorf("deadline %s: %s, want %s", deadline, r.Result, want)
		}
		w.call("hub.unprovide", `{"service":"s"}`)
	}
}

// What a provider declares is bounded, defaults included: each of them, a
// method, a service, and all that a user offers.
func TestProvideBoundsWhatADeclarationHolds(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	text := func(n int) string { return `"` + strings.Repeat("x", n) + `"` }
	param := func(i, n int) string { return fmt.Sprintf(`{"name":"p%d","default":%s}`, i, text(n)) }
	list := func(n int, item func(int) string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = item(i)
		}
		return `[` + strings.Join(items, ",") + `]`
	}
	method := func(i, params, size int) string {
		return fmt.Sprintf(`{"name":"m%d","params":%s}`, i, list(params, func(i int) string { return param(i, size) }))
	}
	offer := func(service, methods string) string {
		r := w.call("hub.provide", fmt.Sprintf(`{"service":%q,"methods":%s}`, service, methods))
		if r.Error != nil {
			return r.kind() + ": " + *r.Error
		}
		return "taken"
	}
	for name, c := range map[string]struct{ methods, want string }{
		"a default of 14 MiB":    {list(1, func(int) string { return method(0, 1, 14<<20) }), "invalid_params: method 1: parameter p0: a default has at most 4096 bytes"},
		"a nested default":       {`[{"name":"m","params":[{"name":"p","default":[[` + strings.Repeat("{},", 3000) + `{}]]}]}]`, "a default has at most 4096 bytes"},
		"a method of 96 KiB":     {list(1, func(int) string { return method(0, 24, 4000) }), "its description takes 96"},
		"a service of 2 MiB":     {list(50, func(i int) string { return method(i, 10, 4000) }), "1048576 are allowed"},
		"a service of 500 KiB":   {list(50, func(i int) string { return method(i, 5, 2000) }), "taken"},
		"a default at the limit": {list(1, func(int) string { return method(0, 1, 4094) }), "taken"},
	} {
		if got := offer("s", c.methods); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
		w.call("hub.unprovide", `{"service":"s"}`)
	}
	names := list(256, func(i int) string { return fmt.Sprintf(`"m%d"`, i) })
	for i := range 4 {
		if got := offer(fmt.Sprintf("s%d", i), names); got != "taken" {
			t.Errorf("service %d: %s", i, got)
		}
	}
	if got := offer("s4", `["m"]`); got != "overloaded: this user offers 1024 methods already" {
		t.Error(got)
	}
	if got := h.dial().call("hub.provide", `{"service":"s4","methods":["m"]}`); got.kind() != "overloaded" {
		t.Errorf("another connection of the user: %v", got)
	}
	w.Close()
	other := h.dial()
	eventually(t, "the places are free again", func() bool {
		return other.call("hub.provide", `{"service":"s4","methods":["m"]}`).kind() == ""
	})
}
