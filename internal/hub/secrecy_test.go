package hub

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// inside is what an answer tells of the program when it should not: a stack, a
// source file, a Go type or package, the folder of the state.
var inside = regexp.MustCompile(`goroutine|\.go:\d|panic|runtime error|interface \{\}|\*?\b(rpc|hub|json|reflect|strconv|trust|statesvc|session|errors|url|http|net|time|map)\.[A-Z][A-Za-z]*|\b(map|func)\[|\bu?int64\b|float64|<nil>|0x[0-9a-f]{6,}|internal/`)

// Whatever is wrong with a call, the answer says nothing of the program's
// inside, and the log nothing of what was sent: over the whole table.
func TestErrorsAndLogKeepSecrets(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true})
	owner := h.dial()
	r := owner.call("hub.methods", `{}`)
	var methods []struct {
		Name      string
		StreamOut bool `json:"stream_out"`
		StreamIn  bool `json:"stream_in"`
		Params    []struct{ Name string }
	}
	if r.Error != nil || json.Unmarshal(r.Result, &methods) != nil {
		t.Fatal(r)
	}
	const secret = "s3cr3t-s3cr3t"
	wrong := []string{
		`"` + secret + `"`, `{"` + secret + `":1}`, `["` + secret + `",{"` + secret + `":[]},null,true,1e400,[],"x"]`, `[[["` + secret + `"]]]`,
		`[-9223372036854775809,1e300,"` + secret + `"]`, `[{"a":{"b":{"c":"` + secret + `"}}}]`, `["\u0000` + secret + `"]`,
	}
	answers := 0
	for _, m := range methods {
		if m.StreamIn || m.Name == "echo" || m.Name == "hub.debug" || m.Name == "hub.diagnose" {
			continue
		}
		params := wrong
		for _, bad := range []string{`"` + secret + `"`, `{"` + secret + `":1}`, `["` + secret + `"]`, `-1`, `1e300`, `true`} {
			var members []string
			for _, p := range m.Params {
				members = append(members, fmt.Sprintf("%q:%s", p.Name, bad))
			}
			params = append(params, "{"+strings.Join(members, ",")+"}")
		}
		w := h.dial() // one that waits does not hold up the others
		for i, p := range params {
			w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"%d","method":%q,"params":%s,"timeout":0.5}`+"\n", i, m.Name, p))
		}
		w.SetDeadline(time.Now().Add(patience))
		for range params {
			r := w.reply()
			if r.Error == nil {
				continue
			}
			answers++
			text := strings.ReplaceAll(*r.Error, secret, "") // a method may quote what is wrong
			if found := inside.FindString(text); found != "" || strings.Contains(text, h.dir) {
				t.Errorf("%s %s: %q tells of the inside (%q)", m.Name, params[0], *r.Error, found)
			}
			if len(*r.Error) > 1100 {
				t.Errorf("%s: an error of %d bytes", m.Name, len(*r.Error))
			}
		}
		w.Close()
	}
	if answers < 200 {
		t.Errorf("%d errors only", answers)
	}
	for _, e := range h.logs.All() {
		switch e.Message {
		case "session opened", "session closed", "token created", "token revoked": // the name of what they are about
			continue
		}
		if line := e.Message + fmt.Sprint(e.ContextMap()); strings.Contains(line, secret) {
			t.Errorf("the log has a parameter: %s", line)
		}
	}
}
