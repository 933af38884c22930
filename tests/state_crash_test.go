package tests

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	crashWriters = 8
	crashKills   = 20
	// crashRoom is what history holds with room to spare: the hub remembers
	// 100,000 changes, and the slow watcher must not fall behind that.
	crashRoom = 60_000
	// crashLeast is how many changes are acknowledged at least.
	crashLeast = 10_000
)

// acked is a write that the hub acknowledged.
type acked struct {
	key, value string
	revision   uint64
}

// crashFault is the first thing that a writer or a watcher found wrong. The
// test ends with it instead of waiting for those who gave up.
type crashFault struct{ first atomic.Pointer[error] }

func (f *crashFault) set(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	f.first.CompareAndSwap(nil, &err)
	return err
}

func (f *crashFault) check(t *testing.T) {
	t.Helper()
	if err := f.first.Load(); err != nil {
		t.Fatal(*err)
	}
}

// reaches waits until count is want. A slow machine may take its time: only
// what has not moved for as long as patience has failed.
func (f *crashFault) reaches(t *testing.T, what string, want uint64, count func() uint64) {
	t.Helper()
	for now := count(); now < want; now = count() {
		eventually(t, fmt.Sprintf("%s goes on from %d to %d", what, now, want), func() bool {
			f.check(t)
			return count() != now
		})
	}
	f.check(t)
}

// crashWriter writes until it is told to stop, over one connection after another.
type crashWriter struct {
	id      int
	socket  string
	random  *rand.Rand
	n       int
	acks    []acked
	highest uint64
	sent    *atomic.Int64
	newest  *atomic.Uint64 // highest revision that any writer was told
	fault   *crashFault
}

func (w *crashWriter) run(stop <-chan struct{}) {
	for {
		c := redial(w.socket, stop)
		if c == nil {
			return
		}
		for {
			select {
			case <-stop:
				c.Close()
				return
			default:
			}
			killed, err := w.batch(c)
			if err != nil {
				c.Close()
				return
			}
			if killed {
				break
			}
			pause := time.Duration(w.random.IntN(3000)) * time.Microsecond
			if w.sent.Load() > crashRoom {
				pause = 100 * time.Millisecond
			}
			time.Sleep(pause) // it is one client of many: it does something else
		}
		c.Close()
	}
}

// batch sends a few writes without waiting, then reads the answers. killed says
// that the connection broke; any other error is one that must not be.
func (w *crashWriter) batch(c *tryWire) (killed bool, err error) {
	k := 1 + w.random.IntN(8)
	var text strings.Builder
	writes := make([][]acked, k) // what each call writes
	for i := range k {
		w.n++
		value := fmt.Sprintf(`{"writer":%d,"n":%d}`, w.id, w.n)
		own := acked{key: fmt.Sprintf("w%d/%d", w.id, w.random.IntN(5)), value: value}
		id := strconv.Itoa(i)
		if w.n%10 != 0 {
			writes[i] = []acked{own}
			text.WriteString(request(id, "state.put", fmt.Sprintf(`{"key":%q,"value":%s}`, own.key, value)))
			continue
		}
		shared := acked{key: fmt.Sprintf("shared/%d", w.random.IntN(3)), value: value}
		writes[i] = []acked{own, shared}
		text.WriteString(request(id, "state.txn", fmt.Sprintf(
			`{"then":[{"op":"put","key":%q,"value":%s},{"op":"put","key":%q,"value":%s}]}`, own.key, value, shared.key, value)))
	}
	w.sent.Add(int64(k))
	if c.write(text.String()) != nil {
		return true, nil
	}
	for range k {
		f, err := c.next()
		if err != nil {
			return true, nil
		}
		i, err := strconv.Atoi(f.id())
		var r struct{ Revision uint64 }
		if err != nil || i < 0 || i >= k || f.Error != nil || json.Unmarshal(f.Result, &r) != nil || r.Revision == 0 {
			return false, w.fault.set("writer %d: unexpected answer %s", w.id, f.line)
		}
		if r.Revision <= w.highest {
			return false, w.fault.set("writer %d: revision %d was answered after %d", w.id, r.Revision, w.highest)
		}
		w.highest = r.Revision
		for seen := w.newest.Load(); r.Revision > seen && !w.newest.CompareAndSwap(seen, r.Revision); {
			seen = w.newest.Load()
		}
		for _, a := range writes[i] {
			a.revision = r.Revision
			w.acks = append(w.acks, a)
		}
	}
	return false, nil
}

// crashWatcher follows everything and resumes after each break.
type crashWatcher struct {
	name   string
	socket string
	slow   bool
	random *rand.Rand
	target *atomic.Uint64 // the revision to stop at; 0: not known yet

	got     []change
	breaks  int
	fault   *crashFault
	through atomic.Uint64 // everything up to this revision was seen
}

func (w *crashWatcher) run(stop <-chan struct{}) {
	for !w.arrived() {
		c := redial(w.socket, stop)
		if c == nil {
			return // the test has failed
		}
		killed, err := w.follow(c)
		c.Close()
		if err != nil {
			return
		}
		if killed && len(w.got) > 0 {
			w.breaks++
		}
	}
}

func (w *crashWatcher) arrived() bool {
	target := w.target.Load()
	return target > 0 && w.through.Load() >= target
}

// slowBatch is how many items the slow watcher takes at a time.
const slowBatch = 200

// follow watches over one connection. killed says that it broke, which is seen
// in reading or in writing; any other error is one that must not be.
func (w *crashWatcher) follow(c *tryWire) (killed bool, err error) {
	// The changes of one revision belong together: the last revision is
	// complete for sure only when something later came.
	through := w.through.Load()
	for len(w.got) > 0 && w.got[len(w.got)-1].Revision > through {
		w.got = w.got[:len(w.got)-1]
	}
	text := request("w", "state.watch", fmt.Sprintf(`{"from_revision":%d}`, through), `"stream":true`)
	credit := fmt.Sprintf(`{"action":"rpc_credit","request_id":"w","n":%d}`+"\n", slowBatch)
	if w.slow {
		text += credit
	}
	if c.write(text) != nil {
		return true, nil
	}
	for items := 1; ; items++ {
		f, err := c.next()
		if err != nil {
			return true, nil
		}
		var e change
		if f.Action != "rpc_chunk" || json.Unmarshal(f.Data, &e) != nil {
			return false, w.fault.set("%s watcher: unexpected frame %s", w.name, f.line)
		}
		if !e.isMark() {
			if len(w.got) > 0 && e.Revision < w.got[len(w.got)-1].Revision || e.Revision <= through {
				return false, w.fault.set("%s watcher: %v came after revision %d", w.name, e, through)
			}
			through = e.Revision - 1
			w.got = append(w.got, e)
		} else {
			through = max(through, e.Revision)
		}
		w.through.Store(through)
		if w.arrived() {
			return false, nil
		}
		if w.slow && items%slowBatch == 0 {
			if w.target.Load() == 0 {
				time.Sleep(time.Duration(w.random.IntN(30)) * time.Millisecond) // it has other things to do
			}
			if c.write(credit) != nil {
				return true, nil
			}
		}
	}
}

// TestStateSurvivesKills is promises P1, P2 and P4 through real processes.
func TestStateSurvivesKills(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("HUBD_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d (HUBD_TEST_SEED=%d runs it again)", seed, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)

	var sent atomic.Int64
	var newest, target atomic.Uint64
	var fault crashFault
	stopWriters, stopWatchers := make(chan struct{}), make(chan struct{})
	var writing, watching sync.WaitGroup
	stopWriting := sync.OnceFunc(func() { close(stopWriters) })
	defer close(stopWatchers)
	defer stopWriting()
	writers := make([]*crashWriter, crashWriters)
	for i := range writers {
		writers[i] = &crashWriter{id: i, socket: d.socket, random: rand.New(rand.NewPCG(seed, uint64(i+1))), sent: &sent, newest: &newest, fault: &fault}
		writing.Go(func() { writers[i].run(stopWriters) })
	}
	watchers := []*crashWatcher{
		{name: "fast", socket: d.socket, target: &target, fault: &fault},
		{name: "slow", socket: d.socket, target: &target, fault: &fault, slow: true, random: rand.New(rand.NewPCG(seed, 100))},
	}
	for _, w := range watchers {
		watching.Go(func() { w.run(stopWatchers) })
	}
	cli := startCLIWatch(t, d, &fault)
	cli.until(1) // it comes back to a hub that it had reached once

	for kill := range crashKills {
		// The random moment, in changes rather than in time: a slow machine must not make the test show less.
		more := newest.Load() + random.Uint64N(2*crashLeast/crashKills)
		fault.reaches(t, "the newest revision acknowledged between two kills", more, newest.Load)
		before := newest.Load()
		d.kill()
		d = startHub(t, dir, state)
		if now := d.revision(); now < before {
			t.Fatalf("kill %d: revision %d after the restart, %d was acknowledged before", kill, now, before)
		}
	}
	atLast := max(newest.Load()+100, crashLeast)
	fault.reaches(t, "the newest revision acknowledged after the last restart", atLast+1, newest.Load)
	stopWriting()
	writing.Wait()
	fault.check(t)
	// A last change that everybody can wait for.
	w := d.dial()
	w.put("end", "true")
	target.Store(w.put("end", "1"))
	w.put("end", "2") // completes the one before for those that look for the next
	until := target.Load()
	for _, w := range watchers {
		fault.reaches(t, w.name+" watcher: the revision seen", until, w.through.Load)
	}
	watching.Wait()
	all := d.history()
	checkHistory(t, all)
	checkAcks(t, writers, all)
	checkList(t, d, all)
	for _, w := range watchers {
		sameChanges(t, w.name+" watcher", w.got, all, until)
		if w.breaks < crashKills/4 {
			t.Errorf("%s watcher: %d breaks of its connection, want more of %d kills", w.name, w.breaks, crashKills)
		}
	}
	sameChanges(t, "hubctl state watch", cli.until(until+1), all, until)
	acks := 0
	for _, w := range writers {
		acks += len(w.acks)
	}
	if acks < crashLeast {
		t.Errorf("only %d changes were acknowledged: the test shows little", acks)
	}
	t.Logf("%d kills, %d acknowledged changes of %d sent calls, revision %d", crashKills, acks, sent.Load(), until)
}

// checkHistory: revisions never go back, and each change names the one before it of its key.
func checkHistory(t *testing.T, all []change) {
	t.Helper()
	last := map[string]uint64{}
	previous := uint64(0)
	for _, c := range all {
		if c.Revision < previous {
			t.Fatalf("%v follows revision %d", c, previous)
		}
		if c.Revision == last[c.Key] {
			t.Fatalf("%v: the key has two changes of that revision", c)
		}
		if c.Previous != last[c.Key] {
			t.Fatalf("%v: the change before was at %d", c, last[c.Key])
		}
		last[c.Key], previous = c.Revision, c.Revision
	}
}

// checkAcks: what was acknowledged is there, under the revision that was told.
func checkAcks(t *testing.T, writers []*crashWriter, all []change) {
	t.Helper()
	type place struct {
		revision uint64
		key      string
	}
	at := make(map[place]string, len(all))
	owner := map[uint64]int{}
	for _, c := range all {
		at[place{c.Revision, c.Key}] = string(c.Value)
	}
	lost := 0
	for _, w := range writers {
		for _, a := range w.acks {
			if got := at[place{a.revision, a.key}]; got != a.value {
				if lost++; lost < 10 {
					t.Errorf("acknowledged: %s=%s at revision %d; there is %q", a.key, a.value, a.revision, got)
				}
			}
			if other, ok := owner[a.revision]; ok && other != w.id {
				t.Errorf("revision %d was told to writers %d and %d", a.revision, other, w.id)
			}
			owner[a.revision] = w.id
		}
	}
	if lost > 0 {
		t.Errorf("%d acknowledged changes are lost", lost)
	}
}

// checkList: the present values are what the changes lead to.
func checkList(t *testing.T, d *daemon, all []change) {
	t.Helper()
	want := map[string]string{}
	for _, c := range all {
		want[c.Key] = fmt.Sprintf("%s at %d", c.Value, c.Revision)
	}
	w := d.dial()
	var page struct{ Items []change }
	if err := json.Unmarshal([]byte(w.result(w.call("l", "state.list", "{}"))), &page); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, it := range page.Items {
		got[it.Key] = fmt.Sprintf("%s at %d", it.Value, it.Revision)
	}
	if !maps.Equal(got, want) {
		t.Errorf("state.list: got %v, the changes lead to %v", got, want)
	}
}

// sameChanges compares up to a revision.
func sameChanges(t *testing.T, who string, got, want []change, until uint64) {
	t.Helper()
	cut := func(list []change) []change {
		for i, c := range list {
			if c.Revision > until {
				return list[:i]
			}
		}
		return list
	}
	got, want = cut(got), cut(want)
	for i := range min(len(got), len(want)) {
		if got[i].String() != want[i].String() {
			t.Fatalf("%s: change %d is %v, want %v", who, i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s saw %d changes, want %d", who, len(got), len(want))
	}
}

// cliWatch is "hubctl state watch --from 0" in the background.
type cliWatch struct {
	t     *testing.T
	fault *crashFault
	mu    sync.Mutex
	got   []change
	talk  *logBuffer
}

func startCLIWatch(t *testing.T, d *daemon, fault *crashFault) *cliWatch {
	t.Helper()
	c := &cliWatch{t: t, fault: fault, talk: new(logBuffer)}
	cmd := exec.Command(filepath.Join(binDir, "hubctl"), "state", "watch", "--from", "0")
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket)
	cmd.Stderr = c.talk
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			var e change
			if err == nil {
				err = json.Unmarshal(line, &e)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
					t.Errorf("hubctl state watch: line %q: %v", line, err)
				}
				return
			}
			c.mu.Lock()
			if !e.isMark() {
				c.got = append(c.got, e)
			}
			c.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		reading.Wait()
		cmd.Wait()
		if t.Failed() {
			t.Logf("hubctl state watch said:\n%s", c.talk)
		}
	})
	return c
}

// until waits for a revision and returns what came so far.
func (c *cliWatch) until(revision uint64) (got []change) {
	c.t.Helper()
	c.fault.reaches(c.t, "the revision that hubctl state watch prints", revision, func() uint64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		got = c.got
		if len(got) == 0 {
			return 0
		}
		return got[len(got)-1].Revision
	})
	return got
}
