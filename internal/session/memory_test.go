package session

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func TestSaveAndRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opts := Options{Ring: 5, Linger: time.Minute}
		before := New(opts)
		hub, err := before.Open("hub", OpenOptions{Permanent: true})
		must(t, err)
		work, err := before.Open("work", OpenOptions{Owner: rpc.NewLink(nil), Title: "T\n", Meta: rpc.RawString(`{"n":NaN}`)})
		must(t, err)
		output(t, work, 8)
		publish(t, work, `{"type":"state_snapshot"}`)
		done, err := before.Open("done", OpenOptions{Owner: rpc.NewLink(nil), Peer: &rpc.Peer{UID: 7, PID: 99}})
		must(t, err)
		output(t, done, 2)
		publish(t, done, `{"type":"exit","code":143,"signal":"SIGTERM"}`)
		before.Close(done)
		was, wasDone := work.Info(), done.Info()
		time.Sleep(time.Second)
		before.Shutdown("restart")
		var file bytes.Buffer
		must(t, before.Save(&file))
		text := file.String()
		if hub.Seq() != 0 || !work.Closed() {
			t.Error("not shut down")
		}

		after := New(opts)
		must(t, after.Restore(&file))
		_, err = after.Open("hub", OpenOptions{Permanent: true})
		must(t, err)
		s, err := after.Find("work")
		must(t, err)
		// It is as if nothing had been: the hub's shutdownEvent has no number.
		if i := s.Info(); i.Seq != 9 || i.Last != was.Last || !i.Opened.Equal(was.Opened) || !i.Ended.IsZero() {
			t.Errorf("restored as %+v\nwas %+v", i, was)
		}
		over, err := after.FindAny("done")
		must(t, err)
		if i := over.Info(); *i.Exit != (Exit{143, "SIGTERM"}) || !i.Ended.Equal(wasDone.Ended) || i.Owner.Peer.UID != 7 || i.Uptime != wasDone.Uptime {
			t.Errorf("restored as %+v\nwas %+v", i, wasDone)
		}
		expect(t, drain(t, follow(t, over, since(1))), []string{"output 2", "exit 3"})
		early := follow(t, s, since(4))
		link := rpc.NewLink(nil)
		_, err = after.Open("work", OpenOptions{Owner: link})
		must(t, err)
		output(t, s, 1)
		expect(t, drain(t, early), outputs(5, 8), []string{"output 10"})
		expect(t, drain(t, follow(t, s, since(1))), []string{"gap 3 4"}, outputs(5, 8), []string{"output 10"})
		expect(t, drain(t, follow(t, s, FollowOptions{})), outputs(5, 8), []string{"output 10"})
		if i := s.Info(); i.Title != "T\n" || i.Seq != 10 {
			t.Errorf("%+v", i)
		}
		raw, _ := s.Info().Meta.Raw()
		if string(raw) != `{"n":NaN}` {
			t.Errorf("meta %s", raw)
		}

		// Nobody takes it over.
		alone := New(opts)
		must(t, alone.Restore(strings.NewReader(text)))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if list := alone.List(); len(list) != 1 || list[0].Name() != "hub" {
			t.Errorf("%d sessions are left", len(list))
		}
		if n := len(alone.ListAll()); n != 3 {
			t.Errorf("%d sessions are left with those that have ended", n)
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(alone.ListAll()); n != 1 {
			t.Errorf("%d sessions are kept for too long", n)
		}
	})
}

func FuzzRestore(f *testing.F) {
	r := New(Options{})
	s, err := r.Open("work", OpenOptions{Meta: rpc.RawString(`[1]`)})
	must(f, err)
	output(f, s, 3)
	var file bytes.Buffer
	must(f, r.Save(&file))
	f.Add(file.Bytes())
	f.Add(bytes.ReplaceAll(file.Bytes(), []byte(`"seq":2`), []byte(`"seq":1`)))
	f.Add(bytes.ReplaceAll(file.Bytes(), []byte(`"work"`), []byte(`"../w"`)))
	f.Add(file.Bytes()[:file.Len()-1])
	f.Add([]byte(`{"format":2}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := New(Options{})
		err := r.Restore(bytes.NewReader(text))
		for _, s := range r.List() {
			f := follow(t, s, FollowOptions{})
			last := uint64(0)
			for e, ok, _ := f.Poll(); ok; e, ok, _ = f.Poll() {
				if e.Seq <= last || e.Seq > s.Seq() {
					t.Fatalf("event %d after %d", e.Seq, last)
				}
				last = e.Seq
			}
		}
		if err == nil {
			var again bytes.Buffer
			must(t, r.Save(&again))
			must(t, New(Options{}).Restore(&again))
		}
		for _, s := range r.List() {
			r.Close(s)
		}
	})
}
