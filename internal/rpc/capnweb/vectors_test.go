package capnweb

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb/capnwebtest"
)

// tape is a transport that keeps what is sent.
type tape struct {
	mu      sync.Mutex
	sent    []string
	aborted string
	more    chan struct{}
}

func newTape() *tape { return &tape{more: make(chan struct{}, 1)} }

func (t *tape) note() {
	select {
	case t.more <- struct{}{}:
	default:
	}
}

func (t *tape) send(_ *rpc.Batch, msg []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent = append(t.sent, string(msg))
	t.note()
	return nil
}

func (t *tape) abort(msg []byte, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if msg != nil {
		t.sent = append(t.sent, string(msg))
	}
	t.aborted = reason
	t.note()
}

// wait returns what was sent once ok holds of it, or after ten seconds.
func (t *tape) wait(ok func(sent []string) bool) []string {
	limit := time.After(10 * time.Second)
	for {
		t.mu.Lock()
		sent := append([]string(nil), t.sent...)
		t.mu.Unlock()
		if ok(sent) {
			return sent
		}
		select {
		case <-t.more:
		case <-limit:
			return sent
		}
	}
}

func (t *tape) waitFor(n int) []string { return t.wait(func(s []string) bool { return len(s) >= n }) }

// testSession returns a session on a tape with the demo table.
func testSession(t testing.TB) (*Session, *tape, *capnwebtest.Demo) {
	t.Helper()
	demo := capnwebtest.New()
	tp := newTape()
	peer := &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall}
	s := newSession(tp, rpc.NewLink(nil), peer, &mainObject{table: demo.Table}, Limits{})
	t.Cleanup(func() {
		s.End(rpc.ErrPeerGone)
		s.link.Close(rpc.ErrPeerGone, 10*time.Second)
	})
	return s, tp, demo
}

// frame is one line of a capture.
type frame struct {
	Case   string `json:"case"`
	Dir    string `json:"dir"`
	Data   string `json:"data"`
	Len    int    `json:"len"`
	Head   string `json:"head"`
	Tail   string `json:"tail"`
	Binary bool   `json:"binary"`
	Close  *struct {
		Code   int    `json:"code"`
		Reason string `json:"reason"`
	} `json:"close"`
}

// text returns the message; of one that was too long to be kept the middle is
// filled in, which is of one character.
func (f frame) text(t *testing.T) string {
	t.Helper()
	if f.Len == 0 {
		return f.Data
	}
	fill := f.Len - len(f.Head) - len(f.Tail)
	if fill < 0 || f.Head[len(f.Head)-1] != f.Tail[0] {
		t.Fatalf("the text of %d bytes cannot be restored", f.Len)
	}
	return f.Head + strings.Repeat(f.Tail[:1], fill) + f.Tail
}

func readCapture(t *testing.T, path string) []frame {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []frame
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var fr frame
		if err := json.Unmarshal(sc.Bytes(), &fr); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		fr.Data = strings.ReplaceAll(fr.Data, `"hub"`, `"demo"`)
		fr.Data = strings.ReplaceAll(fr.Data, `"countStream"`, `"count"`)
		list = append(list, fr)
	}
	return list
}

var abortName = regexp.MustCompile(`^\["abort",\["error","(\w+)"`)

// TestRawFrames plays the captured frames of a bare client. Where the
// reference server aborts we abort with the same class of error, where it
// answers we answer the same. Where we differ on purpose, it is to what is
// written here.
func TestRawFrames(t *testing.T) {
	ours := map[string][]string{
		// The main object lives as long as the session: later uses of it go on.
		"release-bootstrap": {},
		// A count below one is no count: the reference server lets the peer gain holds with it.
		"release-negative-count": {`["abort",["error","Error","bad release count: -1"]]`},
		"release-zero-count":     {`["abort",["error","Error","bad release count: 0"]]`},
		// Names are kept: Python's clients know more than JavaScript's do.
		"error-unknown-name": {`["resolve",1,["error","Wat","m"]]`},
		// Positive ids are the importer's to choose: an exporter cannot have one.
		"export-positive-id": {`["abort",["error","Error","bad export ID: 5"]]`},
	}
	anyOrder := map[string]bool{
		"pipe-manual": true, // the method and the acknowledgement of the end do not wait for each other
	}
	elsewhere := map[string]string{
		"binary-frame": "what is no text does not reach the session: TestBinaryFrameAborts",
	}
	groups := map[string][]frame{}
	var order []string
	for _, f := range readCapture(t, "testdata/raw-frames.jsonl") {
		if groups[f.Case] == nil {
			order = append(order, f.Case)
		}
		groups[f.Case] = append(groups[f.Case], f)
	}
	if len(order) < 60 {
		t.Fatalf("only %d cases", len(order))
	}
	for _, name := range order {
		t.Run(name, func(t *testing.T) {
			if why := elsewhere[name]; why != "" {
				t.Skip(why)
			}
			s, tp, _ := testSession(t)
			var want []string
			for _, f := range groups[name] {
				if f.Close != nil {
					continue
				}
				if f.Dir == "c2s" {
					_ = s.Receive(nil, []byte(f.text(t)))
					continue
				}
				want = append(want, f.Data)
				if ours[name] == nil {
					tp.waitFor(len(want))
				}
			}
			if own, differs := ours[name]; differs {
				want = own
			}
			got := tp.waitFor(len(want))
			if len(got) != len(want) {
				t.Fatalf("sent %q, want %q", got, want)
			}
			if anyOrder[name] {
				slices.Sort(got)
				slices.Sort(want)
			}
			for i := range want {
				w, g := abortName.FindStringSubmatch(want[i]), abortName.FindStringSubmatch(got[i])
				if w != nil && ours[name] == nil {
					if g == nil || g[1] != w[1] {
						t.Errorf("sent %s, want %s", got[i], want[i])
					}
					continue
				}
				if got[i] != want[i] {
					t.Errorf("sent %s, want %s", got[i], want[i])
				}
			}
		})
	}
}

// TestValues checks that every captured value comes back from echo in the same
// form, whether it passes as text or as a tree.
func TestValues(t *testing.T) {
	f, err := os.ReadFile("testdata/values-js.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(f)) {
		var v struct{ Value, Wire string }
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		if v.Wire == "" {
			continue
		}
		n++
		t.Run(v.Value, func(t *testing.T) {
			s, tp, _ := testSession(t)
			s.modern = true
			for _, msg := range []string{
				`["push",["pipeline",0,["echo"],[` + v.Wire + `]]]`, `["pull",1]`,
				`["push",` + v.Wire + `]`, `["pull",2]`,
				`["push",["pipeline",0,["echo"],[{"x":` + v.Wire + `,"y":["undefined"]}]]]`, `["pull",3]`,
			} {
				if err := s.Receive(nil, []byte(msg)); err != nil {
					t.Fatalf("%s: %v", msg, err)
				}
			}
			want := []string{`["resolve",1,` + v.Wire + `]`, `["resolve",2,` + v.Wire + `]`, `["resolve",3,{"x":` + v.Wire + `,"y":["undefined"]}]`}
			if got := tp.waitFor(3); strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("sent %q\nwant %q", got, want)
			}
		})
	}
	if n < 40 {
		t.Errorf("only %d values", n)
	}
}

// TestClientCaptures plays what real clients sent against the reference server
// and compares our answers with its, message by message, where the method exists here.
func TestClientCaptures(t *testing.T) {
	// Captures whose server methods the demo table has, and whose answers do
	// not depend on timing.
	names := []string{
		"ws-simple-call", "ws-two-calls-concurrent", "ws-not-awaited", "ws-pipeline-authenticate", "ws-pipeline-not-pulled-intermediate",
		"ws-capability-lifecycle", "ws-capability-passed-back", "ws-values-roundtrip", "ws-callback-function", "ws-client-target-passed",
		"ws-nested-property", "ws-promise-argument", "ws-fail", "py-client-js-server-counter", "py-client-js-server-pipeline",
		"py-client-js-server-callback", "py-client-js-server-concurrent",
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			s, tp, _ := testSession(t)
			frames := readCapture(t, filepath.Join("testdata", name+".jsonl"))
			want := map[string]int{}
			n := 0
			for _, f := range frames {
				switch {
				case f.Close != nil || f.Data == "":
				case f.Dir == "s2c":
					if name == "ws-nested-property" && f.Data == `["resolve",1,"1.0"]` {
						f.Data = `["resolve",1,["undefined"]]` // its server has a getter, ours none
					}
					want[f.Data]++
					n++
				default:
					tp.waitFor(n) // what the client had seen
					if err := s.Receive(nil, []byte(f.Data)); err != nil {
						t.Fatalf("%s: %v (sent %q)", f.Data, err, tp.waitFor(0))
					}
				}
			}
			got := tp.waitFor(n)
			for _, g := range got {
				if want[g]--; want[g] < 0 {
					t.Errorf("sent %s, which the reference server does not", g)
				}
			}
			for w, k := range want {
				if k > 0 {
					t.Errorf("did not send %s", w)
				}
			}
			if ex, im := s.Entries(); ex != 0 || im != 0 {
				if name != "ws-not-awaited" && name != "ws-nested-property" && !strings.HasPrefix(name, "py-") { // their clients leave results behind
					t.Errorf("%d exports and %d imports are left", ex, im)
				}
			}
		})
	}
}
