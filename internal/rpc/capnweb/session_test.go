package capnweb

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/testkit"
)

var eventually = testkit.Eventually

// say hands messages to the session, which must accept them.
func say(t testing.TB, s *Session, messages ...string) {
	t.Helper()
	for _, m := range messages {
		if err := s.Receive(nil, []byte(m)); err != nil {
			t.Fatalf("%s: %v", m, err)
		}
	}
}

func wantSent(t *testing.T, tp *tape, want ...string) {
	t.Helper()
	got := tp.waitFor(len(want))
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("sent\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestExpressions(t *testing.T) {
	for _, c := range []struct{ name, in, out string }{
		{"empty array", `[[]]`, `[[]]`},
		{"array of something that looks like a tag", `[["date",5]]`, `[["date",5]]`},
		{"white space", ` [ [ 1 , [ [ ] ] ] ] `, `[[1,[[]]]]`},
		{"string with brackets", `[["]\"[",{"[":"]"}]]`, `[["]\"[",{"[":"]"}]]`},
		{"fractional date", `["date",1.5]`, `["date",1.5]`},
		{"date out of range", `["date",1e20]`, `["date",null]`},
		{"negative zero", `{"a":["nan"],"b":-0}`, `{"a":["nan"],"b":-0.0}`},
		{"integer beyond 2^53 is a float", `9007199254740994`, `9007199254740994`},
		{"float spelling", `{"a":["inf"],"b":1.0}`, `{"a":["inf"],"b":1.0}`},
		{"padded and url-safe base64", `[[["bytes","AQI="],["bytes","-_8"]]]`, `[[["bytes","AQI"],["bytes","+/8"]]]`},
		{"odd keys", `{"toJSON":["undefined"],"x":1}`, `{"x":1}`},
		{"error with a stack", `["error","TypeError","m","at x.js"]`, `["error","TypeError","m"]`},
		{"error with members that are its own", `["error","Error","m",null,{"name":1,"message":2,"x":3}]`, `["error","Error","m",null,{"x":3}]`},
		{"kind to a peer that knows none", `["bytes","AAA"]`, `["bytes","AAA"]`},
		{"lone surrogate beside a tag", `[["\ud800",["nan"]]]`, `[["\ud800",["nan"]]]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, tp, _ := testSession(t)
			say(t, s, `["push",["pipeline",0,["echo"],[`+c.in+`]]]`, `["pull",1]`, `["push",`+c.in+`]`, `["pull",2]`)
			wantSent(t, tp, `["resolve",1,`+c.out+`]`, `["resolve",2,`+c.out+`]`)
		})
	}
}

func TestProtocolErrorsAbort(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300)
	for _, msg := range []string{
		`["push",["bigint","` + strings.Repeat("9", 16385) + `"]]`, `["push",["bigint",""]]`, `["push",["bigint","-"]]`,
		`["push",` + deep + `]`, `["push",["bytes","AAA","Int16Arr"]]`, `["push",["bytes","AAA","Int32Array"]]`,
		`["push",["url","no scheme"]]`, `["push",["headers",[["a"]]]]`, `["push",["request","x"]]`, `["push",["request","x",{"body":["zzz"]}]]`,
		`["push",["response",null]]`, `["push",["blob","a","b"]]`, `["push",["blob","a",["undefined"]]]`,
		`["push",["error","x","y",5]]`, `["push",["error","x","y",null,5]]`, `["push",["pipeline","0"]]`, `["push",["pipeline",1.5]]`,
		`["push",["import",0,["x"],{}]]`, `["push",["export",1]]`, `["push",["promise",0]]`, `["push",["readable",0]]`,
		`["push",["remap",0,[]]]`, `["push",["remap",0,[],[["import",9]],[1]]]`, `["push",["remap",0,[],{},[1]]]`,
		`["release",0]`, `["release",1,1]`, `["pull"]`, `["resolve"]`, `["reject",1]`, `NaN`, `["push",NaN]`, ``, `[`, `[["push"]]`, `[null]`,
	} {
		s, tp, _ := testSession(t)
		if err := s.Receive(nil, []byte(msg)); err == nil {
			t.Errorf("%.80s: accepted", msg)
			continue
		}
		if got := tp.waitFor(1); len(got) != 1 || !strings.HasPrefix(got[0], `["abort",["error",`) || tp.aborted == "" {
			t.Errorf("%.80s: sent %q", msg, got)
		}
		if err := s.Receive(nil, []byte(`["push",1]`)); err != errEnded {
			t.Errorf("%.80s: %v after the abort", msg, err)
		}
	}
}

// TestOrderWhilePromiseSettles has a counter arrive in the middle of a thousand
// calls on it, from another goroutine.
func TestOrderWhilePromiseSettles(t *testing.T) {
	for range 50 {
		s, tp, _ := testSession(t)
		say(t, s, `["push",["pipeline",0,["demo","counter"],[0]]]`, `["push",["pipeline",0,["echo_later"],[["pipeline",1]]]]`)
		const n = 300
		for i := range n {
			say(t, s, `["push",["pipeline",2,["increment"],[1]]]`, fmt.Sprintf(`["pull",%d]`, i+3))
		}
		got := tp.waitFor(n)
		for i, g := range got {
			if want := fmt.Sprintf(`["resolve",%d,%d]`, i+3, i+1); g != want {
				t.Fatalf("answer %d is %s, want %s", i, g, want)
			}
		}
		if len(got) != n {
			t.Fatalf("%d answers", len(got))
		}
	}
}

func TestPullIsLazyAndSingle(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["echo"],[1]]]`, `["push",["pipeline",0,["echo"],[2]]]`, `["pull",2]`, `["pull",2]`)
	wantSent(t, tp, `["resolve",2,2]`)
}

func TestReleaseKeepsPendingUse(t *testing.T) {
	s, tp, demo := testSession(t)
	say(t, s,
		`["push",["pipeline",0,["demo","counter"],[5]]]`,
		`["push",["pipeline",0,["echo_later"],[["pipeline",1]]]]`,
		`["push",["pipeline",2,["increment"],[1]]]`,
		`["release",1,1]`, `["release",2,1]`, `["pull",3]`)
	wantSent(t, tp, `["resolve",3,6]`)
	say(t, s, `["release",3,1]`)
	eventually(t, "counter is released", func() bool { return demo.Counters.Load() == 0 })
	if ex, im := s.Entries(); ex+im != 0 {
		t.Errorf("%d exports, %d imports", ex, im)
	}
}

func TestReleaseOfRunningCallCancelsIt(t *testing.T) {
	s, _, demo := testSession(t)
	say(t, s, `["push",["pipeline",0,["demo","sleep"],[1000]]]`)
	eventually(t, "call runs", func() bool { return demo.Running.Load() == 1 })
	say(t, s, `["release",1,1]`)
	eventually(t, "call ends", func() bool { return demo.Running.Load() == 0 })
}

func TestEndlessStreamEndsWithItsRelease(t *testing.T) {
	s, _, demo := testSession(t)
	say(t, s, `["push",["pipeline",0,["demo","forever"],[]]]`)
	eventually(t, "stream runs", func() bool { return demo.Running.Load() == 1 })
	say(t, s, `["release",1,1]`)
	eventually(t, "stream ends", func() bool { return demo.Running.Load() == 0 })
}

// TestManyCountersLeaveNothing creates and disposes 10,000 capabilities.
func TestManyCountersLeaveNothing(t *testing.T) {
	s, tp, demo := testSession(t)
	before := runtime.NumGoroutine()
	live := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	var warm int64
	for i := range 10000 {
		if i == 1000 { // tables and pools have their size
			warm = live()
		}
		say(t, s, `["push",["pipeline",0,["demo","counter"],[1]]]`, fmt.Sprintf(`["pull",%d]`, i+1))
		want := fmt.Sprintf(`["resolve",%d,["export",-%d]]`, i+1, i+1)
		tp.mu.Lock()
		got := tp.sent[len(tp.sent)-1]
		tp.sent = tp.sent[:0]
		tp.mu.Unlock()
		if got != want {
			t.Fatalf("sent %s, want %s", got, want)
		}
		say(t, s, fmt.Sprintf(`["release",%d,1]`, i+1), fmt.Sprintf(`["push",["pipeline",-%d,["increment"],[]]]`, i+1), fmt.Sprintf(`["release",-%d,1]`, i+1))
		s.mu.Lock()
		s.lastIn-- // the increment's own id
		s.mu.Unlock()
		say(t, s, fmt.Sprintf(`["release",%d,1]`, i+2))
	}
	if n := demo.Counters.Load(); n != 0 {
		t.Errorf("%d counters are left", n)
	}
	if grown := live() - warm; grown > 256<<10 { // 9,000 of anything would be more
		t.Errorf("the heap has grown by %d bytes", grown)
	}
	if ex, im := s.Entries(); ex+im != 0 {
		t.Errorf("%d exports, %d imports are left", ex, im)
	}
	eventually(t, "goroutines", func() bool { return runtime.NumGoroutine() <= before })
}

func TestArgumentsAreReleasedWithTheirCall(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["demo","callback"],[["export",-1],0]]]`, `["pull",1]`)
	got := tp.waitFor(2)
	if strings.Join(got, " ") != `["release",-1,1] ["resolve",1,0]` {
		t.Errorf("sent %q", got)
	}
	// One id twice: one release that counts both.
	say(t, s, `["push",["pipeline",0,["demo","authenticate"],[["export",-2],["export",-2]]]]`)
	if got = tp.waitFor(3); got[2] != `["release",-2,2]` {
		t.Errorf("sent %q", got)
	}
}

// TestReleasedReferenceIsNotMentioned has the hub use references that it has
// given back: a peer that hears of one again ends the session.
func TestReleasedReferenceIsNotMentioned(t *testing.T) {
	s, tp, _ := testSession(t)
	use := func(target rpc.Target, args ...rpc.Value) string {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // nobody answers what should not have been sent
		defer cancel()
		_, err := rpc.Do(ctx, target, &rpc.Call{Args: rpc.ListArgs(args...)})
		return fmt.Sprint(err)
	}
	gone, err := s.importRef(-1, false)
	if err != nil {
		t.Fatal(err)
	}
	gone.Release()
	wantSent(t, tp, `["release",-1,1]`)
	if got := use(gone.Target); got != errReleased.Error() {
		t.Errorf("a call of it: %s", got)
	}
	again, err := s.importRef(-1, false) // a mention that crossed the release
	if err != nil {
		t.Fatal(err)
	}
	if got := use(gone.Target); got != errReleased.Error() {
		t.Errorf("a call of it when the peer has mentioned its id again: %s", got)
	}
	again.Release()
	wantSent(t, tp, `["release",-1,1]`, `["release",-1,1]`)

	// As an argument it becomes an export, a call of which fails here.
	answered := make(chan string)
	go func() { answered <- use(s.client, rpc.TreeValue(gone)) }()
	if got := tp.waitFor(4); got[2] != `["push",["pipeline",0,[],[["export",-1]]]]` {
		t.Fatalf("sent %q", got)
	}
	say(t, s, `["push",["pipeline",-1,[],[]]]`, `["pull",1]`, `["resolve",1,null]`, `["release",-1,1]`)
	if got := <-answered; got != "<nil>" {
		t.Error(got)
	}
	got := tp.wait(func(sent []string) bool { return len(sent) >= 6 })
	if sent := strings.Join(got[4:], " "); !strings.Contains(sent, `["reject",1,["error",`) || !strings.Contains(sent, "the reference was released") {
		t.Errorf("sent %q", got[4:])
	}
}

func TestRejectedArgumentPassesUnchanged(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["math","add"],[["promise",-1],1]]]`, `["pull",1]`, `["reject",-1,{"not":"an error"}]`)
	wantSent(t, tp, `["release",-1,1]`, `["reject",1,{"not":"an error"}]`)
}

func TestValueBombIsRefused(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["echo"],["`+strings.Repeat("x", 1000)+`"]]]`)
	for i := 1; i < 40; i++ { // each holds the one before it twice
		say(t, s, fmt.Sprintf(`["push",["pipeline",0,["echo"],[[[["pipeline",%d],["pipeline",%d]]]]]]`, i, i))
	}
	say(t, s, `["pull",40]`)
	if got := tp.waitFor(1); !strings.Contains(got[0], `"RangeError"`) {
		t.Errorf("sent %.200s", got[0])
	}
	s, tp, _ = testSession(t)
	say(t, s, `["push",["pipeline",0,["echo"],[1]]]`)
	for i := 1; i < 2000; i++ { // and each one level deeper
		say(t, s, fmt.Sprintf(`["push",["pipeline",0,["echo"],[{"a":["pipeline",%d]}]]]`, i))
	}
	say(t, s, `["pull",2000]`)
	if got := tp.waitFor(1); !strings.Contains(got[0], `"RangeError"`) {
		t.Errorf("sent %.200s", got[0])
	}
}

// TestLongChain settles promises that each wait for the one before.
func TestLongChain(t *testing.T) {
	s, tp, _ := testSession(t)
	const n = 20000
	say(t, s, `["push",["pipeline",0,["math","add"],[["promise",-1],1]]]`)
	for i := 1; i < n; i++ {
		say(t, s, fmt.Sprintf(`["push",["pipeline",0,["math","add"],[["pipeline",%d],1]]]`, i))
	}
	say(t, s, fmt.Sprintf(`["pull",%d]`, n), `["resolve",-1,0]`)
	want := fmt.Sprintf(`["resolve",%d,%d]`, n, n)
	got := tp.wait(func(sent []string) bool { return len(sent) > 0 && sent[len(sent)-1] == want })
	if got[len(got)-1] != want {
		t.Errorf("sent %.100q", got)
	}
}

func TestOperationBudget(t *testing.T) {
	const add = `[["pipeline",-1,["math","add"],[["pipeline",0],1]]]`
	nested := func(body string) string { // with the range as its first capture
		return `[["pipeline",-2],["remap",1,[],[["import",-1],["import",-2]],` + body + `]]`
	}
	for _, c := range []struct {
		elements int
		body     string
		ok       bool
	}{
		{9999, add, true}, {9999, `[["pipeline",0]]`, true}, {9999, `[["undefined"]]`, true}, {10000, add, false}, {10000, `[1]`, false},
		{5000, `[["pipeline",0,["x"]],["pipeline",1,["y"]]]`, false},
		{6, `[["pipeline",-1,["echo"],[[[` + strings.TrimSuffix(strings.Repeat(`["pipeline",0],`, 30000), ",") + `]]]]]`, false},
		{50, nested(add), true}, {100, nested(add), false}, {20, nested(nested(nested(nested(add)))), false},
	} {
		s, tp, _ := testSession(t)
		say(t, s, fmt.Sprintf(`["push",["pipeline",0,["demo","range"],[%d]]]`, c.elements))
		if c.body == `[["pipeline",0,["x"]],["pipeline",1,["y"]]]` {
			say(t, s, `["release",1,1]`, `["push",[[`+strings.TrimSuffix(strings.Repeat(`{"x":{"y":1}},`, c.elements), ",")+`]]]`)
		}
		id := s.lastIn
		_ = s.Receive(nil, []byte(fmt.Sprintf(`["push",["remap",%d,[],[["import",0],["import",%d]],%s]]`, id, id, c.body)))
		if s.Ended() == nil {
			say(t, s, fmt.Sprintf(`["pull",%d]`, id+1))
		}
		got := tp.waitFor(1)
		if aborted := strings.Contains(got[0], "too many operations"); aborted == c.ok || c.ok && !strings.HasPrefix(got[0], `["resolve",`) {
			t.Errorf("%d elements of %.60s: %.100s", c.elements, c.body, got[0])
		}
	}
	s, tp, _ := testSession(t)
	big := `["push",["pipeline",0,["echo"],[` + strings.TrimSuffix(strings.Repeat(`["pipeline",0,["x"]],`, 10001), ",") + `]]]`
	if err := s.Receive(nil, []byte(big)); err == nil || !strings.Contains(tp.waitFor(1)[0], "too many operations") {
		t.Errorf("error %v", err)
	}
}

func TestTableBudget(t *testing.T) {
	s, _, _ := testSession(t)
	s.limits.MaxEntries = 100
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		err = s.Receive(nil, []byte(`["push",1]`))
	}
	if n < 100 || n > 110 {
		t.Errorf("aborted after %d entries", n)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ call, want string }{
		{`["demo","fail"],["why"]`, `["error","Error","why"]`},
		{`["demo","failType"],["ValueError"]`, `["error","ValueError","ValueError message"]`},
		{`["demo","panic"],[]`, `["error","Error","internal error",null,{"code":"internal","ran":"unknown"}]`},
		{`["demo","conflict"],[]`, `["error","Error","revision is 7",null,{"code":"conflict","ran":"no","data":{"key":"k","revision":7}}]`},
		{`["a","b"],[]`, `["error","TypeError","Cannot read properties of undefined (reading 'b')"]`},
		{`["demo","b"],[]`, `["error","TypeError","'demo.b' is not a function.",null,{"code":"not_found","ran":"no"}]`},
		{`["demo.fail"],[]`, `["error","TypeError","'demo.fail' is not a function.",null,{"code":"not_found","ran":"no"}]`},
		{`["demo"],[]`, `["error","TypeError","'demo' is not a function.",null,{"code":"not_found","ran":"no"}]`},
		{`[],[]`, `["error","TypeError","'main' is not a function.",null,{"code":"not_found","ran":"no"}]`},
		{`["admin","only"],[]`, `["error","Error","not allowed to call admin.only: that needs the scope admin, the caller (hub.whoami) has read,call",null,{"code":"permission_denied","ran":"no"}]`},
		{`["state","get"],["nope"]`, `["error","Error","no such key \"nope\"",null,{"code":"not_found","ran":"yes"}]`},
		{`["demo","fail"],[]`, `["error","TypeError","demo.fail is missing argument \"message\"",null,{"code":"invalid_params","ran":"no"}]`},
	} {
		s, tp, _ := testSession(t)
		say(t, s, `["push",["pipeline",0,`+c.call+`]]`, `["pull",1]`)
		wantSent(t, tp, `["reject",1,`+c.want+`]`)
	}
}

func TestMethodsAreNotReachedAroundTheirPermission(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["admin","only"]]]`, `["push",["pipeline",1,[],[]]]`, `["pull",2]`,
		`["push",["pipeline",0,["admin"]]]`, `["push",["pipeline",3,["only"],[]]]`, `["pull",4]`)
	for _, g := range tp.waitFor(2) {
		if !strings.Contains(g, "permission_denied") {
			t.Errorf("sent %s", g)
		}
	}
}

func TestNewMainCarriesItsPeer(t *testing.T) {
	s, tp, demo := testSession(t)
	admin := &rpc.Peer{Scopes: rpc.AllScopes}
	demo.Table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "login", Run: rpc.Inline, Scope: rpc.ScopeRead}, func(*rpc.Call) (rpc.Value, error) {
		return rpc.TreeValue(NewMain(demo.Table, admin)), nil
	}))
	say(t, s, `["push",["pipeline",0,["login"],[]]]`, `["push",["pipeline",1,["admin","only"],[]]]`, `["pull",2]`)
	wantSent(t, tp, `["resolve",2,"secret"]`)
	// So do its parts, read as properties, and itself.
	say(t, s, `["push",["pipeline",1,["admin","only"]]]`, `["push",["pipeline",3,[],[]]]`, `["pull",4]`,
		`["push",["pipeline",1,["admin"]]]`, `["push",["pipeline",5,["only"],[]]]`, `["pull",6]`)
	wantSent(t, tp, `["resolve",2,"secret"]`, `["resolve",4,"secret"]`, `["resolve",6,"secret"]`)
}

// A method that was read permits what its reader may, also when somebody with
// more rights is brought to call it.
func TestAReadMethodCarriesItsReader(t *testing.T) {
	s, tp, _ := testSession(t)
	say(t, s, `["push",["pipeline",0,["admin","only"]]]`, `["push",["pipeline",0,["admin"]]]`)
	s.SetPeer(&rpc.Peer{Scopes: rpc.AllScopes})
	say(t, s, `["push",["pipeline",1,[],[]]]`, `["pull",3]`, `["push",["pipeline",2,["only"],[]]]`, `["pull",4]`)
	for _, g := range tp.waitFor(2) {
		if !strings.Contains(g, "permission_denied") {
			t.Errorf("sent %s", g)
		}
	}
	say(t, s, `["push",["pipeline",0,["admin","only"],[]]]`, `["pull",5]`)
	if got := tp.waitFor(3); got[2] != `["resolve",5,"secret"]` {
		t.Errorf("sent %s", got[2])
	}
}

func TestEndBreaksEverything(t *testing.T) {
	s, _, demo := testSession(t)
	say(t, s, `["push",["pipeline",0,["demo","counter"],[]]]`, `["pull",1]`, `["push",["pipeline",0,["demo","sleep"],[1000]]]`,
		`["push",["pipeline",0,["state","watch"],["k",["export",-1]]]]`, `["pipe"]`, `["push",["pipeline",0,["demo","sum"],[["readable",4]]]]`)
	eventually(t, "call runs", func() bool { return demo.Running.Load() == 1 })
	s.End(rpc.ErrPeerGone)
	s.link.Close(rpc.ErrPeerGone, 10*time.Second)
	eventually(t, "everything is given back: "+demo.String(), func() bool {
		return demo.Counters.Load() == 0 && demo.Running.Load() == 0 && demo.Watches.Load() == 0
	})
	if ex, im := s.Entries(); ex+im != 0 {
		t.Errorf("%d exports, %d imports are left", ex, im)
	}
}

func FuzzSession(f *testing.F) {
	for _, seed := range []string{
		`["push",["pipeline",0,["echo"],[1]]]` + "\n" + `["pull",1]` + "\n" + `["release",1,1]`,
		`["push",["remap",0,[],[["import",0]],[["pipeline",-1,["echo"],[["pipeline",0]]]]]]` + "\n" + `["pull",1]`,
		`["pipe"]` + "\n" + `["push",["pipeline",0,["demo","sum"],[["readable",1]]]]` + "\n" + `["stream",["pipeline",1,["write"],[4]]]` + "\n" + `["stream",["pipeline",1,["close"],[]]]`,
		`["push",["pipeline",0,["demo","callback"],[["export",-1],3]]]` + "\n" + `["resolve",1,["undefined"]]`,
		`["push",[["\ud800",["nan"],["bytes","AA","Int8Array"],["date",1],["url","a:b"],["blob","x",["readable",1]]]]]`,
		`["push",["pipeline",0,["echo"],[["promise",-1]]]]` + "\n" + `["resolve",-1,["error","A","b",null,{"c":["import",0]}]]`,
		`["push",["request","http://x",{"headers":[["a","b"]],"body":null}]]` + "\n" + `["pull",1]` + "\n" + `["abort",["error","Error","x"]]`,
		`["push",["pipeline",0,["demo","counter"],[]]]` + "\n" + `["push",["import",1,["increment"],[1]]]` + "\n" + `["push",["pipeline",0,["echo"],[["import",1],["writable",-2]]]]` + "\n" + `["pull",3]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 || strings.Contains(text, "sleep") || strings.Contains(text, "range") || strings.Contains(text, "bytes\"]") {
			return // these may take long by design
		}
		s, tp, demo := testSession(t)
		for line := range strings.SplitSeq(text, "\n") {
			if s.Receive(nil, []byte(line)) != nil {
				break
			}
		}
		s.End(rpc.ErrPeerGone)
		if !s.link.Close(rpc.ErrPeerGone, 10*time.Second) {
			t.Fatal("handlers are left")
		}
		if ex, im := s.Entries(); ex+im != 0 {
			t.Fatalf("%d exports, %d imports are left", ex, im)
		}
		eventually(t, "values", func() bool { return heldBy(s) == 0 })
		eventually(t, "counters", func() bool { return demo.Counters.Load() == 0 })
		tp.mu.Lock()
		defer tp.mu.Unlock()
		for _, m := range tp.sent {
			if !rpc.Valid([]byte(m)) {
				t.Fatalf("sent %q", m)
			}
		}
	})
}

func FuzzDoubling(f *testing.F) {
	for _, seed := range []string{`[1,[2,{"a":[]}]]`, `[[["x"]]]`, `"[]"`, ` [ "\"]" , [ ] ] `} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := rpc.Parse([]byte(text))
		if err != nil || v.Traits().Has(rpc.HasNonFinite) {
			return
		}
		raw, _ := v.Raw()
		doubled := appendDoubled(nil, raw)
		back, depth, ok := appendUndoubled(nil, doubled)
		if !ok || depth != int(v.Traits().Depth) {
			t.Fatalf("%s is not taken back", doubled)
		}
		if again := appendDoubled(nil, back); string(again) != string(doubled) {
			t.Fatalf("%s became %s", doubled, again)
		}
	})
}

func BenchmarkEchoMessage(b *testing.B) {
	for _, size := range []int{100, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, tp, _ := testSession(b)
			arg := `{"text":"` + strings.Repeat("x", size-20) + `","n":[[1,2]]}`
			push := []byte(`["push",["pipeline",0,["echo"],[` + arg + `]]]`)
			b.ReportAllocs()
			b.SetBytes(int64(size))
			id := 0
			for b.Loop() {
				id++
				_ = s.Receive(nil, push)
				_ = s.Receive(nil, []byte(fmt.Sprintf(`["pull",%d]`, id)))
				_ = s.Receive(nil, []byte(fmt.Sprintf(`["release",%d,1]`, id)))
				tp.sent = tp.sent[:0]
			}
		})
	}
}

func BenchmarkMap(b *testing.B) {
	s, tp, _ := testSession(b)
	say(b, s, `["push",["pipeline",0,["demo","range"],[100]]]`)
	msg := []byte(`["push",["remap",1,[],[["import",0]],[["pipeline",-1,["math","add"],[["pipeline",0],10]],["pipeline",1]]]]`)
	id := 1
	b.ReportAllocs()
	for b.Loop() {
		id++
		_ = s.Receive(nil, msg)
		_ = s.Receive(nil, []byte(fmt.Sprintf(`["pull",%d]`, id)))
		_ = s.Receive(nil, []byte(fmt.Sprintf(`["release",%d,1]`, id)))
		tp.sent = tp.sent[:0]
	}
}
