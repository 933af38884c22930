package main

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func counts(t *testing.T, text string) (c topCounts) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// What top shows is what happened between two looks, not since the start.
func TestTopShowsTheTimeBetweenTwoLooks(t *testing.T) {
	before := counts(t, `{"now":10,"methods":[{"method":"a","calls":100,"errors":1,"slow":1,"took":[{"le":0.001,"n":100}]}]}`)
	now := counts(t, `{"now":12,"in_flight":3,"methods":[
		{"method":"a","calls":200,"errors":5,"slow":1,"in_flight":3,"took":[{"le":0.001,"n":100},{"le":0.01,"n":98},{"le":1,"n":2}]},
		{"method":"b","calls":1,"took":[{"le":0.5,"n":1}]}]}`)
	r := between(before, now)
	if r.Seconds != 2 || r.CallsPerSec != 50.5 || r.Errors != 2 || r.Slow != 0 || r.InFlight != 3 || len(r.Methods) != 2 {
		t.Fatalf("got %+v", r)
	}
	a := r.Methods[0]
	if a.CallsPerSec != 50 || a.P50 != 0.01 || a.P99 != 1 || a.InFlight != 3 {
		t.Errorf("a: %+v", a)
	}
	if b := r.Methods[1]; b.CallsPerSec != 0.5 || b.P50 != 0.5 {
		t.Errorf("b: %+v", b)
	}
}

// A hub that was started anew counts from nothing.
func TestTopAfterARestart(t *testing.T) {
	r := between(counts(t, `{"now":1000,"methods":[{"method":"a","calls":900}]}`), counts(t, `{"now":2,"methods":[{"method":"a","calls":4}]}`))
	if r.CallsPerSec != 2 || r.Seconds != 2 {
		t.Errorf("got %+v", r)
	}
}

func TestQuantile(t *testing.T) {
	took := map[float64]uint64{1: 98, 2: 1, 4: 1, 8: 0}
	for q, want := range map[float64]float64{0.5: 1, 0.98: 1, 0.99: 2, 1: 4} {
		if got := quantile(took, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("of nothing: %g", got)
	}
}

func TestTopOrder(t *testing.T) {
	lines := []topLine{{Method: "b", CallsPerSec: 1, P99: 3}, {Method: "a", CallsPerSec: 1, P99: 1}, {Method: "c", CallsPerSec: 2}}
	for sort, want := range map[string]string{"calls": "c a b", "p99": "b a c", "name": "a b c", "errors": "a b c"} {
		order := &topping{sort: sort}
		order.order(lines)
		var got []string
		for _, l := range lines {
			got = append(got, l.Method)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("by %s: %v, want %s", sort, got, want)
		}
	}
}

func TestShortTime(t *testing.T) {
	for seconds, want := range map[float64]string{0: "-", 12.34e-6: "12.3µs", 0.0012: "1.2ms", 12: "12s", math.Inf(1): "+Infs"} {
		if got := shortTime(seconds); got != want {
			t.Errorf("%g is %s, want %s", seconds, got, want)
		}
	}
}
