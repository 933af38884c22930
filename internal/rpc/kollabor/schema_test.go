package kollabor

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// schema is a JSON Schema as far as docs/frame-format.schema.json needs it. A
// keyword that it does not know is an error, so that none is passed over.
type schema struct {
	root map[string]any
}

var loadSchema = sync.OnceValues(func() (*schema, error) {
	text, err := os.ReadFile("../../../docs/frame-format.schema.json")
	if err != nil {
		return nil, err
	}
	s := new(schema)
	return s, json.Unmarshal(text, &s.root)
})

// check says why the frame in text does not fit the definition; nil if it does.
func checkFrame(t *testing.T, definition, text string) error {
	t.Helper()
	s, err := loadSchema()
	if err != nil {
		t.Fatal(err)
	}
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		return err
	}
	return s.fits(map[string]any{"$ref": "#/$defs/" + definition}, plain(v))
}

func (s *schema) fits(rule map[string]any, v any) error {
	for word, arg := range rule {
		if err := s.word(rule, word, arg, v); err != nil {
			return err
		}
	}
	return nil
}

func (s *schema) word(rule map[string]any, word string, arg, v any) error {
	object, isObject := v.(map[string]any)
	switch word {
	case "$schema", "$defs", "title", "description":
	case "$ref":
		name := strings.TrimPrefix(arg.(string), "#/$defs/")
		to, ok := s.root["$defs"].(map[string]any)[name].(map[string]any)
		if !ok {
			return fmt.Errorf("no definition %s", name)
		}
		if err := s.fits(to, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	case "anyOf", "oneOf":
		n := 0
		var errs []string
		for _, r := range arg.([]any) {
			if err := s.fits(r.(map[string]any), v); err != nil {
				errs = append(errs, err.Error())
			} else {
				n++
			}
		}
		if n == 0 || word == "oneOf" && n > 1 {
			return fmt.Errorf("%d of %s fit: %s", n, word, strings.Join(errs, "; "))
		}
	case "not":
		if s.fits(arg.(map[string]any), v) == nil {
			return fmt.Errorf("fits what it may not")
		}
	case "type":
		names, ok := arg.([]any)
		if !ok {
			names = []any{arg}
		}
		if !slices.ContainsFunc(names, func(n any) bool { return isType(n.(string), v) }) {
			return fmt.Errorf("%v is no %v", v, arg)
		}
	case "const":
		if !reflect.DeepEqual(arg, v) {
			return fmt.Errorf("%v is not %v", v, arg)
		}
	case "enum":
		if !slices.ContainsFunc(arg.([]any), func(e any) bool { return reflect.DeepEqual(e, v) }) {
			return fmt.Errorf("%v is not among %v", v, arg)
		}
	case "required":
		for _, name := range arg.([]any) {
			if _, ok := object[name.(string)]; !ok && isObject {
				return fmt.Errorf("%v is missing", name)
			}
		}
	case "properties":
		for name, r := range arg.(map[string]any) {
			if m, ok := object[name]; ok {
				if err := s.fits(r.(map[string]any), m); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
		}
	case "additionalProperties":
		known, _ := rule["properties"].(map[string]any)
		for name := range object {
			if _, ok := known[name]; !ok && arg == false {
				return fmt.Errorf("unknown member %s", name)
			}
		}
	case "items":
		list, _ := v.([]any)
		for i, e := range list {
			if err := s.fits(arg.(map[string]any), e); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
	case "minLength":
		if text, ok := v.(string); ok && float64(utf8.RuneCountInString(text)) < arg.(float64) {
			return fmt.Errorf("too short")
		}
	case "minimum", "exclusiveMinimum":
		if n, ok := v.(json.Number); ok {
			f, err := n.Float64()
			if err != nil || f < arg.(float64) || word == "exclusiveMinimum" && f == arg.(float64) {
				return fmt.Errorf("%v is below %v", n, arg)
			}
		}
	case "maximum":
		if n, ok := v.(json.Number); ok {
			if f, err := n.Float64(); err != nil || f > arg.(float64) {
				return fmt.Errorf("%v is above %v", n, arg)
			}
		}
	default:
		return fmt.Errorf("unknown keyword %s", word)
	}
	return nil
}

func isType(name string, v any) bool {
	switch v := v.(type) {
	case nil:
		return name == "null"
	case bool:
		return name == "boolean"
	case string:
		return name == "string"
	case json.Number:
		return name == "number" || name == "integer" && !strings.ContainsAny(string(v), ".eENI")
	case []any:
		return name == "array"
	case map[string]any:
		return name == "object"
	}
	return false
}

func TestSchemaRefuses(t *testing.T) {
	for _, c := range []struct{ definition, text string }{
		{"server", `{"action":"rpc_reply","request_id":"a","result":1,"error":null}`},
		{"server", `{"action":"rpc_reply","request_id":"a","result":1,"error":null,"error_kind":null,"retry":"safe"}`},
		{"server", `{"action":"rpc_reply","request_id":"a","result":null,"error":"","error_kind":"handler"}`},
		{"server", `{"action":"rpc_reply","request_id":"a","result":null,"error":"x","error_kind":"odd"}`},
		{"server", `{"type":"pong"}`},
		{"server", `{"msg":"x"}`},
		{"client", `{"action":"rpc_request","request_id":"a"}`},
		{"client", `{"action":"rpc_request","request_id":"a","method":5}`},
		{"client", `{"action":"rpc_request","request_id":"a","method":"m","timeout":0}`},
		{"client", `{"action":"rpc_request","request_id":"a","method":"m","hops":9}`},
		{"client", `{"action":"rpc_credit","request_id":"a","n":1.5}`},
		{"client", `{"action":"nope"}`},
		{"client", `[]`},
	} {
		if checkFrame(t, c.definition, c.text) == nil {
			t.Errorf("%s fits %s", c.text, c.definition)
		}
	}
}

// What the recorded clients send fits the schema; that their server's answers
// do is not asked, but this server's do: see replay.
func TestSchemaFitsRecordings(t *testing.T) {
	bad := map[string]bool{ // recordings of frames that are wrong on purpose
		"rpc_malformed": true, "invalid_frames_ignored": true, "non_object_frame_closes": true,
		"attach_non_object_closes": true, "attach_interactive_raw": true,
	}
	frames := 0
	for name := range replays {
		for _, e := range readCapture(t, name) {
			if e.Dir != "c2s" || e.Event != "" || bad[name] {
				continue
			}
			frames++
			if err := checkFrame(t, "client", strings.TrimSpace(e.text(t))); err != nil {
				t.Errorf("%s: %v in %s", name, err, cutText(e.Data))
			}
		}
	}
	if frames < 100 {
		t.Errorf("only %d frames", frames)
	}
}

// So do the examples of the document; the section on bad lines is about others.
func TestSchemaFitsDocument(t *testing.T) {
	for _, b := range documentBlocks(t) {
		for i, l := range b.lines {
			direction, text, _ := strings.Cut(l, " ")
			definition := map[string]string{">": "client", "<": "server"}[direction]
			err := checkFrame(t, definition, text)
			refused := direction == ">" && i+1 < len(b.lines) && strings.HasPrefix(b.lines[i+1], "< ") &&
				(strings.Contains(b.lines[i+1], `"type":"error"`) || strings.Contains(b.lines[i+1], ` is missing"`) || strings.Contains(b.lines[i+1], "timeout must") ||
					strings.Contains(b.lines[i+1], " at byte "))
			if (err != nil) != refused {
				t.Errorf("docs/frame-format.md:%d: %v: %s", b.line+i, err, text)
			}
		}
	}
}
