package session

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The size of the window that was told last counts, of those who are there.
// When one leaves, in whatever way, that of the others counts again.
func TestSizeOfThoseWhoAreStillThereCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{})
		owner := dial(t, table)
		owner.want("session.open", `{"name":"vim"}`, `{"session":"vim","seq":0}`)
		input := owner.start("session.input", `{"session":"vim"}`)
		synctest.Wait()
		told := 0
		tells := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			items, _, _, _ := input.state()
			if got := items[told:]; !slices.Equal(got, want) {
				t.Fatalf("%s: the owner is told %q, want %q", what, got, want)
			}
			told = len(items)
		}
		size := func(cols, rows string) string { return `{"type":"resize","cols":` + cols + `,"rows":` + rows + `}` }
		resize := func(c *connection, cols, rows string) {
			t.Helper()
			c.want("session.resize", `{"session":"vim","cols":`+cols+`,"rows":`+rows+`}`, `{"ok":true}`)
		}
		follow := func(c *connection) *reply {
			t.Helper()
			r := c.start("session.follow", `{"session":"vim","mode":"interactive"}`)
			synctest.Wait()
			return r
		}
		resize(owner, "100", "30")
		tells("its own size")

		small := dial(t, table)
		resize(small, "80", "20") // before it follows, as clients may
		tells("a follower with a small window", size("80", "20"))
		follow(small)
		tells("the same, following: it has seen nothing yet", size("80", "20"))
		closeLink(small.link)
		tells("it leaves", size("100", "30"))

		first, second := dial(t, table), dial(t, table)
		follow(first)
		follow(second)
		tells("two followers with no window so far", size("100", "30"), size("100", "30"))
		resize(first, "70", "20")
		resize(second, "60", "10")
		tells("their windows", size("70", "20"), size("60", "10"))
		closeLink(first.link)
		tells("one that does not count leaves")
		third := dial(t, table)
		follow(third)
		resize(third, "50", "10")
		tells("a third", size("60", "10"), size("50", "10"))
		closeLink(third.link)
		tells("the third leaves", size("60", "10"))
		resize(owner, "120", "40")
		closeLink(second.link)
		tells("the owner's own window was the last")

		script := dial(t, table)
		resize(script, "90", "25")
		closeLink(script.link)
		tells("who is not there leaves its size", size("90", "25"))
	})
}

// The owner says what size its terminal has, and is told it anew when
// somebody comes who has seen nothing, so that the program draws for him.
func TestNewFollowersMakeTheProgramDraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{})
		owner, follower := dial(t, table), dial(t, table)
		owner.want("session.open", `{"name":"top"}`, `{"session":"top","seq":0}`)
		input := owner.start("session.input", `{"session":"top"}`)
		synctest.Wait()
		owner.want("session.publish", `{"session":"top","event":{"type":"resize","cols":80,"rows":24,"ts":1}}`, `{"ok":true}`)
		follower.start("session.follow", `{"session":"top"}`)
		synctest.Wait()
		again := dial(t, table)
		again.start("session.follow", `{"session":"top","since_seq":1}`) // this one has seen all
		synctest.Wait()
		if items, _, _, _ := input.state(); !slices.Equal(items, []string{`{"type":"resize","cols":80,"rows":24}`}) {
			t.Errorf("the owner is told %q", items)
		}
	})
}

func TestSizesAreBounded(t *testing.T) {
	s := open(t, Options{}, 10)
	for i := range 100 {
		if err := s.Resize(rpc.NewLink(nil), 1+i, 10); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.input.sizes.seen); n > maxPassers || s.input.sizes.cols != 100 {
		t.Errorf("%d sizes are kept, %d columns count", n, s.input.sizes.cols)
	}
}
