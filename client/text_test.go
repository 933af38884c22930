package client

import (
	"encoding/json"
	"strings"
	"testing"
)

// Arguments that are not UTF-8 are refused: encoding/json would send U+FFFD.
func TestArgumentsAreText(t *testing.T) {
	for name, c := range map[string]struct {
		params any
		where  string // "" for what is sent
	}{
		"plain":              {map[string]any{"a": "b"}, ""},
		"U+FFFD itself":      {map[string]any{"a": "\ufffd"}, ""},
		"an escape in JSON":  {map[string]any{"a": json.RawMessage(`"\ufffd"`)}, ""},
		"bytes":              {map[string]any{"a": []byte("\xff")}, ""},
		"a value":            {map[string]any{"a": "x\xff"}, "a holds"},
		"a value in a slice": {[]any{1, "\xff"}, "an argument holds"},
		"a deep value":       {map[string]any{"event": map[string]any{"text": []string{"\xff"}}}, "event holds"},
		"a name":             {map[string]any{"a\xff": 1}, "the name of an argument holds"},
		"a field":            {struct{ Key string }{"\xff"}, "Key holds"},
		"JSON":               {json.RawMessage("{\"a\":\"\xff\"}"), "invalid UTF-8"},
	} {
		v, err := encode("m", c.params)
		if c.where == "" {
			if err != nil || v.IsUndefined() {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if KindOf(err) != KindInvalidParams || !strings.Contains(err.Error(), c.where) {
			t.Errorf("%s: %v, want one with %q", name, err, c.where)
		}
	}
	if _, err := encode("m\xff", nil); KindOf(err) != KindInvalidParams {
		t.Errorf("a method: %v", err)
	}
}
