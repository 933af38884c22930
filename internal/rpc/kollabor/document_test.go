package kollabor

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// block is one conversation of the document.
type block struct {
	line  int
	lines []string
}

// documentBlocks returns the fenced blocks marked "frames".
func documentBlocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile("../../../docs/frame-format.md")
	if err != nil {
		t.Fatal(err)
	}
	var list []block
	inside := false
	for i, l := range strings.Split(string(text), "\n") {
		switch {
		case l == "```frames":
			inside = true
			list = append(list, block{line: i + 2})
		case strings.HasPrefix(l, "```"):
			inside = false
		case inside:
			b := &list[len(list)-1]
			b.lines = append(b.lines, l)
		}
	}
	return list
}

// The document's examples are what the server says, byte for byte.
func TestDocument(t *testing.T) {
	blocks := documentBlocks(t)
	if len(blocks) < 10 {
		t.Fatalf("only %d blocks of frames in the document", len(blocks))
	}
	for _, b := range blocks {
		synctest.Test(t, func(t *testing.T) { converse(t, b) })
	}
}

func converse(t *testing.T, b block) {
	table := testTable()
	table.MustAdd(rpc.NewMethod(&rpc.Method{
		Name: "math.add", Run: rpc.Inline, Scope: rpc.ScopeRead,
		Params: []rpc.Param{{Name: "a", Required: true}, {Name: "b", Required: true}},
	}, func(c *rpc.Call) (rpc.Value, error) {
		x, _ := c.Args.Get(0, "a")
		y, ok := c.Args.Get(1, "b")
		if !ok {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "math.add is missing argument %q", "b")
		}
		return rpc.Add(x, y)
	}))
	r := newRoom("demo")
	r.publish("output", `{"type":"output","rendered":"line one\nline two","ts":1.5,"seq":1}`)
	r.publish("output", `{"type":"output","rendered":"third","ts":2.5,"seq":2}`)
	p := dial(t, setup{cfg: Config{Table: table, Sessions: house{"demo": r}}})
	p.patience = time.Minute
	for i := 0; i < len(b.lines); {
		var send []string
		for ; i < len(b.lines) && strings.HasPrefix(b.lines[i], "> "); i++ {
			send = append(send, b.lines[i][2:])
		}
		if len(send) > 0 {
			p.send(send...)
		}
		for ; i < len(b.lines) && strings.HasPrefix(b.lines[i], "< "); i++ {
			got, err := p.line()
			for err == nil && strings.Contains(got, `"rpc_credit"`) && !strings.Contains(b.lines[i], `"rpc_credit"`) {
				got, err = p.line() // more credit comes whenever the method has taken items
			}
			if err != nil || got != b.lines[i][2:] {
				t.Fatalf("docs/frame-format.md:%d\ngot  %s (%v)\nwant %s", b.line+i, got, err, b.lines[i][2:])
			}
		}
		if i < len(b.lines) && !strings.HasPrefix(b.lines[i], "> ") {
			t.Fatalf("docs/frame-format.md:%d: neither > nor <: %s", b.line+i, b.lines[i])
		}
	}
	p.close()
}

// Every kind, every action and every reason to refuse a line is in the document.
func TestDocumentIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../../docs/frame-format.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds {
		if !strings.Contains(string(text), "`"+kind+"`") {
			t.Errorf("the kind %s is missing", kind)
		}
	}
	for _, action := range Actions() {
		switch action {
		case "event", "control", "error": // labels, not words of the wire
		default:
			if !strings.Contains(string(text), action) {
				t.Errorf("the action %s is missing", action)
			}
		}
	}
	for _, f := range Features() {
		if !strings.Contains(string(text), `"`+f+`"`) {
			t.Errorf("the feature %s is missing", f)
		}
	}
}
