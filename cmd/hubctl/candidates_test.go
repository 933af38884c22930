package main

import (
	"strings"
	"testing"
)

// With alias hubctl='hubctl --socket ADDRESS' the scripts run the hidden command
// behind flags: what a shell would evaluate must not pass there either.
func TestCompletionBehindAnAliasWithFlags(t *testing.T) {
	for line, want := range map[string]bool{
		"__complete state get conf":                   true,
		"__completeNoDesc state get conf":             true,
		"--socket /run/h.sock __complete state get x": true,
		"--socket=/run/h.sock -q __complete state x":  true,
		"state get __complete":                        false,
		"--socket /run/h.sock echo __complete":        false,
		"":                                            false,
	} {
		if got := isCompletion(strings.Fields(line)); got != want {
			t.Errorf("%q: got %v, want %v", line, got, want)
		}
	}
}
