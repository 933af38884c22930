package session

import (
	"testing"
	"testing/synctest"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Followers go by events of some types, so those come from the hub, or from
// the session's owner, and from nobody else.
func TestEventsThatFollowersGoByAreNotForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{Default: "demo"})
		owner, bystander, reader := dial(t, table), dial(t, table), dial(t, table)
		owner.want("session.open", `{"name":"build","producer":"p"}`, owner.mustLife("build"))
		events := reader.start("session.follow", `{"session":"build"}`)
		owner.want("session.publish", `{"session":"build","event":{"type":"permission_request","details":{"tool_id":"t"},"ts":1}}`, `{"ok":true}`)

		for _, kind := range []string{"shutdown", "gap", "heartbeat", "input"} {
			event := `{"session":"build","event":{"type":"` + kind + `","restarted":true,"seq":0,"tool_id":"t"}`
			for _, c := range []*connection{owner, bystander} {
				c.refused("session.publish", event+`}`, rpc.CodePermissionDenied)
				c.refused("session.publish", `{"session":"demo","event":{"type":"`+kind+`"}}`, rpc.CodePermissionDenied)
			}
			owner.refused("session.publish", event+`,"n":1}`, rpc.CodePermissionDenied)
			bystander.refused("session.publish", `{"session":"build","events":[{"type":"`+kind+`"}]}`, rpc.CodePermissionDenied)
		}
		for _, kind := range []string{"exit", "resize", "state_snapshot", "permission_request", "permission_resolved"} {
			event := `{"type":"` + kind + `","tool_id":"t","response":"DENY","code":0}`
			bystander.refused("session.publish", `{"session":"build","event":`+event+`}`, rpc.CodePermissionDenied)
			bystander.refused("session.publish", `{"session":"build","events":[`+event+`]}`, rpc.CodePermissionDenied)
		}
		bystander.refused("session.publish", `{"session":"build","event":{"type":"stream_chunk","chunk":"x","tty":true}}`, rpc.CodePermissionDenied)
		bystander.refused("session.publish", `{"session":"build","event":{"tty":true,"type":"stream_chunk","chunk":"x","tty":false}}`, rpc.CodePermissionDenied)
		bystander.want("session.publish", `{"session":"build","event":{"type":"output","rendered":"x","ts":1}}`, `{"ok":true}`)

		// The prompt is still there for who may answer it.
		bystander.want("permission.respond", `{"tool_id":"t","response":"APPROVE_ONCE"}`, `{"ok":true}`)
		owner.want("session.publish", `{"session":"build","event":{"type":"exit","code":0,"ts":1},"n":1}`, `{"ok":true,"seq":4}`)
		items, _, _, _ := events.state()
		if len(items) != 4 {
			t.Errorf("the follower saw %q", items)
		}
	})
}

// What an owner may publish, whoever could become the owner may while there is
// none; of the hub's own session that is nobody but administrators.
func TestEventsOfOwnersWhereThereIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, table := hubLike(t, Options{Default: "demo"})
		c := dial(t, table)
		c.want("session.open", `{"name":"build"}`, `{"session":"build","seq":0}`)
		closeLink(c.link)
		other := dial(t, table)
		other.peer = &rpc.Peer{Scopes: rpc.ScopeRead | rpc.ScopeCall}
		exit := func(session string) string { return `{"session":"` + session + `","event":{"type":"exit","code":0}}` }
		other.refused("session.publish", exit("build"), rpc.CodePermissionDenied)
		other.peer = &rpc.Peer{Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		other.want("session.publish", exit("build"), `{"ok":true}`)
		other.refused("session.publish", exit("demo"), rpc.CodePermissionDenied)
		admin := dial(t, table)
		admin.want("session.publish", exit("demo"), `{"ok":true}`)
	})
}

// The session of the hub belongs to the hub: no connection takes it over, and
// what is meant for its owner only administrators read.
func TestTheSessionOfTheHubIsNotTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, table := hubLike(t, Options{Default: "demo"})
		admin, peer := dial(t, table), dial(t, table)
		peer.peer = &rpc.Peer{UID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall | rpc.ScopeProvide}
		for _, c := range []*connection{admin, peer} {
			c.refused("session.open", `{"name":"demo"}`, rpc.CodePermissionDenied)
			c.refused("session.open", `{"name":"demo","title":"mine","producer":"p"}`, rpc.CodePermissionDenied)
		}
		if s, _ := r.Get("demo"); s.Info().Owner != nil || s.Info().Title != "" {
			t.Errorf("%+v", s.Info())
		}
		peer.refused("session.input", `{"session":"demo"}`, rpc.CodePermissionDenied)
		peer.refused("session.wait", `{"session":"demo"}`, rpc.CodeInvalidParams) // it has no end
		in := admin.start("session.input", `{"session":"demo"}`)
		synctest.Wait()
		peer.want("session.send", `{"session":"demo","text":"x"}`, `{"ok":true}`)
		synctest.Wait()
		if items, _, err, _ := in.state(); err != nil || len(items) != 1 {
			t.Errorf("%q %v", items, err)
		}
	})
}

// mustLife is what session.open answers to a producer that numbers its events.
func (c *connection) mustLife(name string) string {
	c.t.Helper()
	text, err := c.call("session.open", `{"name":"`+name+`","producer":"p"}`)
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}
