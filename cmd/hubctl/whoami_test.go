package main

import (
	"strings"
	"testing"
)

// Who may do nothing is not told that all methods are permitted.
func TestWhoamiWithoutScopesPermitsNoMethods(t *testing.T) {
	text, err := new(app).whoamiText([]byte(`{"by":"nobody","scopes":[],"methods":[],"listener":"tcp://127.0.0.1:1"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"nobody: no token was presented\n", "  scopes    none\n", "  methods   those that are open to everybody\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}
