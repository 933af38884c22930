package capnweb

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func heldBy(s *Session) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Whatever way a peer makes the hub keep values, it is counted, refused beyond
// the limit, and given back.
func TestHeldValuesAreLimited(t *testing.T) {
	const piece = 300 << 10
	one := func(n int) int { return n }
	two := func(n int) int { return 2 * n }
	big := strings.Repeat("x", piece)
	path := strings.Repeat(`"p",`, piece/50) + `"p"`
	for _, c := range []struct {
		name string
		keep func(n int) []string // the n-th, beginning with 1
		id   func(n int) int      // of the n-th
		fit  int                  // how many are within the limit
	}{
		{"literals", func(int) []string { return []string{`["push","` + big + `"]`} }, one, 3},
		{"trees", func(int) []string {
			return []string{`["push",[[["nan"],["bytes","` + big + `"],"` + big[:piece/4] + `"]]]`}
		}, one, 3},
		{"results", func(int) []string { return []string{`["push",["pipeline",0,["echo"],["` + big + `"]]]`} }, one, 3},
		{"results with references", func(int) []string {
			return []string{`["push",["pipeline",0,["echo"],[[[["import",0],"` + big + `"]]]]]`}
		}, one, 3},
		{"arguments beside a promise", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["pipeline",0,["echo"],[["promise",-%d],"%s"]]]`, n, big)}
		}, one, 3},
		{"arguments of what is not there yet", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["promise",-%d]]`, n), fmt.Sprintf(`["push",["pipeline",%d,["f"],["%s"]]]`, 2*n-1, big)}
		}, two, 3},
		{"paths", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["promise",-%d]]`, n), fmt.Sprintf(`["push",["pipeline",%d,[%s]]]`, 2*n-1, path)}
		}, two, 3},
		{"a long name", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["promise",-%d]]`, n), fmt.Sprintf(`["push",["pipeline",%d,["%s"]]]`, 2*n-1, big)}
		}, two, 3},
		{"maps", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["promise",-%d]]`, n), fmt.Sprintf(`["push",["remap",%d,[],[],["%s"]]]`, 2*n-1, big)}
		}, two, 3},
		{"promises that the peer resolves", func(n int) []string {
			return []string{fmt.Sprintf(`["push",["promise",-%d]]`, n), fmt.Sprintf(`["resolve",-%d,"%s"]`, n, big)}
		}, one, 2}, // for a moment the promise has it, and what it is part of
		{"blobs", func(n int) []string {
			pipe := 4*n - 3
			return []string{`["pipe"]`, fmt.Sprintf(`["push",["blob","",["readable",%d]]]`, pipe), fmt.Sprintf(`["stream",["pipeline",%d,["write"],["%s"]]]`, pipe, big),
				fmt.Sprintf(`["stream",["pipeline",%d,["close"],[]]]`, pipe)}
		}, func(n int) int { return 4*n - 2 }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, tp, _ := testSession(t)
			s.limits.MaxHeld = 1 << 20
			for n := 1; n <= c.fit; n++ {
				say(t, s, c.keep(n)...)
				if held := heldBy(s); held < int64(n)*piece*9/10 || held > int64(n)*piece*3/2 {
					t.Fatalf("%d bytes are held after %d", held, n)
				}
			}
			say(t, s, c.keep(c.fit+1)...)
			if held := heldBy(s); held > 1<<20 {
				t.Errorf("%d bytes are held", held)
			}
			id := c.id(c.fit + 1)
			say(t, s, fmt.Sprintf(`["pull",%d]`, id))
			eventually(t, "the refusal", func() bool {
				tp.mu.Lock()
				defer tp.mu.Unlock()
				last := tp.sent[len(tp.sent)-1]
				return strings.HasPrefix(last, fmt.Sprintf(`["reject",%d,["error","Error","this connection keeps too much`, id)) && strings.Contains(last, `"overloaded"`)
			})
			for _, id := range exportsOf(s) {
				say(t, s, fmt.Sprintf(`["release",%d,1]`, id))
			}
			for n := 1; n <= 4; n++ { // what was waited for
				say(t, s, fmt.Sprintf(`["resolve",-%d,1]`, n))
			}
			if held := heldBy(s); held != 0 {
				t.Errorf("%d bytes are held in the end", held)
			}
			say(t, s, `["push",["pipeline",0,["echo"],["`+big+`"]]]`)
			s.End(rpc.ErrPeerGone)
			if held := heldBy(s); held != 0 {
				t.Errorf("%d bytes are held after the end", held)
			}
		})
	}
}

func exportsOf(s *Session) (ids []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.exports {
		if id > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}
