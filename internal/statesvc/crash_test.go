package statesvc

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The crash test runs this test binary again as a child that works on a store, kills it at a random moment, and compares
// what the child said with what is there afterwards. The child says, one line each:
//
//	i <client> <op> <key> <arg> <time>      an operation begins
//	o <client> <revision> <value> <time>    it was answered; revision 0: not found or conflict
//	e <watcher> <revision> <key> <value>    an event was delivered
const (
	crashDirEnv  = "STATESVC_CRASH_DIR"
	crashSeedEnv = "STATESVC_CRASH_SEED"
	crashFromEnv = "STATESVC_CRASH_FROM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		crashChild(dir)
		return
	}
	if dir := os.Getenv(openDirEnv); dir != "" {
		openChild(dir)
		return
	}
	os.Exit(m.Run())
}

var crashOptions = Options{SnapshotBytes: 256 << 10}

const crashKeys, crashClients = 24, 8

// crashWrites is how many writes are acknowledged between two kills, on average.
const crashWrites = 900

func crashChild(dir string) {
	fail := func(err error) {
		fmt.Println("x", err)
		os.Exit(1)
	}
	e, err := openEngine(dir, crashOptions)
	if err != nil {
		fail(err)
	}
	seed, _ := strconv.ParseUint(os.Getenv(crashSeedEnv), 10, 64)
	say := func(format string, args ...any) {
		// One write per line, so that a line is there or not; a cut last line is dropped by the reader.
		os.Stdout.WriteString(fmt.Sprintf(format+"\n", args...))
	}
	for i, from := range strings.Fields(os.Getenv(crashFromEnv)) {
		rev, _ := strconv.ParseUint(from, 10, 64)
		wake := make(chan struct{}, 1)
		w, err := e.Watch(WatchOptions{Resume: true, From: rev, Wake: func() { wake <- struct{}{} }})
		if err != nil {
			fail(err)
		}
		go func() {
			for {
				b, err := w.Next(16)
				if err != nil {
					fail(err)
				}
				for _, ev := range b.Events {
					say("e %d %d %s %s", i, ev.Revision, ev.Key, eventValue(ev))
				}
				if b.Idle {
					<-wake
				} else if i > 0 {
					time.Sleep(time.Millisecond) // a slow watcher
				}
			}
		}()
	}
	say("ready")
	for c := range crashClients {
		go func() {
			rng := rand.New(rand.NewPCG(seed, uint64(c)))
			id := fmt.Sprintf("%d.%d", seed, c)
			known := map[string]uint64{}
			for n := 0; ; n++ {
				key := fmt.Sprintf("k%d", rng.IntN(crashKeys))
				value := fmt.Sprintf("%s.%d", id, n)
				op := Op{Kind: OpPut, Key: key, Value: Value{Data: []byte(value)}}
				switch rng.IntN(5) {
				case 0, 1:
					say("i %s get %s - %d", id, key, time.Now().UnixNano())
					it, err := e.Get(key)
					if err != nil {
						say("o %s 0 - %d", id, time.Now().UnixNano())
						continue
					}
					known[key] = it.Revision
					say("o %s %d %s %d", id, it.Revision, it.Value.Data, time.Now().UnixNano())
					continue
				case 2:
					op.HasIf, op.If = true, known[key]
					say("i %s cas:%d %s %s %d", id, op.If, key, value, time.Now().UnixNano())
				default:
					say("i %s put %s %s %d", id, key, value, time.Now().UnixNano())
				}
				done := make(chan Result, 1)
				if err := e.Commit(OneOp(op), func(r Result, err error) {
					if err != nil {
						r.Revision = 0
						if _, ok := err.(*ConflictError); !ok {
							fail(err)
						}
					}
					done <- r
				}); err != nil {
					fail(err)
				}
				r := <-done
				say("o %s %d - %d", id, r.Revision, time.Now().UnixNano())
				if r.Revision > 0 {
					known[key] = r.Revision
				}
			}
		}()
	}
	select {} // until it is killed
}

func eventValue(ev *Event) string {
	if ev.Item == nil {
		return "-"
	}
	return string(ev.Item.Value.Data)
}

// crashOp is one recorded operation.
type crashOp struct {
	client   string
	kind     string
	cas      uint64
	key, arg string
	value    string
	revision uint64
	from, to int64
	pending  bool
}

// TestCrash is promises P1 to P4 in one process that is killed again and again: what was acknowledged is there, no revision
// is used twice, the history is linearizable, and watchers go on without a gap.
func TestCrash(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 5
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "state")
	var ops []*crashOp
	var events [2][]string // of each watcher, in the order of delivery
	last := [2]uint64{}
	for round := range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), crashDirEnv+"="+dir, fmt.Sprintf("%s=%d", crashSeedEnv, round+1),
			fmt.Sprintf("%s=%d %d", crashFromEnv, last[0], last[1]))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A random moment: after so many writes, or now and then during recovery or right after the start.
		writes := crashWrites/2 + rng.IntN(crashWrites)
		if round%5 == 4 {
			time.AfterFunc(time.Duration(rng.IntN(30))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		open := map[string]*crashOp{}
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadString('\n')
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			f := strings.Fields(line)
			switch f[0] {
			case "ready":
			case "x":
				t.Fatalf("round %d: child: %s", round, line)
			case "i":
				op := &crashOp{client: f[1], kind: f[2], key: f[3], arg: f[4], pending: true}
				op.from, _ = strconv.ParseInt(f[5], 10, 64)
				if rest, ok := strings.CutPrefix(op.kind, "cas:"); ok {
					op.kind = "cas"
					op.cas, _ = strconv.ParseUint(rest, 10, 64)
				}
				open[op.client] = op
				ops = append(ops, op)
			case "o":
				op := open[f[1]]
				op.pending = false
				op.revision, _ = strconv.ParseUint(f[2], 10, 64)
				op.value = f[3]
				op.to, _ = strconv.ParseInt(f[4], 10, 64)
				if op.kind != "get" && op.revision > 0 {
					if writes--; writes == 0 {
						cmd.Process.Kill() // what it has said until then is still read
					}
				}
			case "e":
				w, _ := strconv.Atoi(f[1])
				rev, _ := strconv.ParseUint(f[2], 10, 64)
				if rev != last[w]+1 {
					t.Fatalf("round %d: watcher %d got revision %d after %d", round, w, rev, last[w])
				}
				last[w] = rev
				events[w] = append(events[w], f[3]+" "+f[4])
			}
		}
		cmd.Wait()
		// What was under way is decided now: it is in the log or it will never be.
		now := time.Now().UnixNano()
		for _, op := range ops {
			if op.pending && op.to == 0 {
				op.to = now
			}
		}
	}
	e := mustOpen(t, dir, crashOptions)
	// Every revision has one content, the same for those who wrote it, those who watched it, and the history now.
	content := map[uint64]string{}
	w, err := e.Watch(WatchOptions{Resume: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		b, err := w.Next(1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range b.Events {
			content[ev.Revision] = ev.Key + " " + eventValue(ev)
		}
		if b.Idle {
			break
		}
	}
	for i, list := range events {
		for n, c := range list {
			if content[uint64(n+1)] != c {
				t.Fatalf("watcher %d saw %q at revision %d, which now is %q", i, c, n+1, content[uint64(n+1)])
			}
		}
	}
	acked, reads, pending := 0, 0, 0
	for _, op := range ops {
		switch {
		case op.pending:
			pending++
		case op.kind == "get":
			reads++
			if op.revision > 0 && content[op.revision] != op.key+" "+op.value {
				t.Fatalf("%+v was read; the revision now holds %q", op, content[op.revision])
			}
		case op.revision > 0:
			acked++
			if content[op.revision] != op.key+" "+op.arg {
				t.Fatalf("%+v was acknowledged; the revision now holds %q", op, content[op.revision])
			}
		}
	}
	t.Logf("%d kills, %d acknowledged writes, %d reads, %d under way, %d and %d events watched, newest revision %d",
		kills, acked, reads, pending, len(events[0]), len(events[1]), e.Info().Revision)
	if answered := len(ops) - pending; acked < crashWrites*kills/3 || kills >= 20 && answered < 20_000 {
		t.Errorf("only %d writes and %d operations: the test shows little", acked, answered)
	}
	checkRealTime(t, ops)
	checkLinearizable(t, ops)
}

// checkRealTime: a write that began after another was answered has the greater revision.
func checkRealTime(t *testing.T, ops []*crashOp) {
	var writes []*crashOp
	for _, op := range ops {
		if op.kind != "get" && !op.pending && op.revision > 0 {
			writes = append(writes, op)
		}
	}
	byStart := slices.Clone(writes)
	slices.SortFunc(byStart, func(a, b *crashOp) int { return int(a.from - b.from) })
	byEnd := writes
	slices.SortFunc(byEnd, func(a, b *crashOp) int { return int(a.to - b.to) })
	var newest uint64 // of those that had ended
	i := 0
	for _, op := range byStart {
		for ; i < len(byEnd) && byEnd[i].to < op.from; i++ {
			newest = max(newest, byEnd[i].revision)
		}
		if op.revision <= newest {
			t.Fatalf("%+v has a lower revision than a write that was answered before", op)
		}
	}
}

// keyState is what the model knows of one key.
type keyState struct {
	revision uint64
	value    string
}

// checkLinearizable asks porcupine whether the recorded operations have an order that explains all answers. A write under way
// when the child was killed may have happened or not; its revision is then whatever the next read says.
func checkLinearizable(t *testing.T, ops []*crashOp) {
	const anyRevision = 1<<64 - 1
	model := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, o := range history {
				key := o.Input.(*crashOp).key
				byKey[key] = append(byKey[key], o)
			}
			var parts [][]porcupine.Operation
			for _, p := range byKey {
				parts = append(parts, p)
			}
			return parts
		},
		Init: func() []any { return []any{keyState{}} },
		Step: func(state, input, _ any) []any {
			s, op := state.(keyState), input.(*crashOp)
			same := func(rev uint64) bool { return s.revision == rev || s.revision == anyRevision && rev > 0 }
			switch {
			case op.kind == "get":
				if s.revision == 0 && op.revision == 0 || op.revision > 0 && same(op.revision) && s.value == op.value {
					return []any{keyState{op.revision, op.value}}
				}
				return nil
			case op.pending:
				after := keyState{anyRevision, op.arg}
				if op.kind == "cas" && !same(op.cas) {
					return []any{s}
				}
				return []any{s, after}
			case op.kind == "cas" && op.revision == 0:
				if s.revision == op.cas {
					return nil
				}
				return []any{s}
			case op.kind == "cas" && !same(op.cas):
				return nil
			default:
				if s.revision != anyRevision && op.revision <= s.revision {
					return nil
				}
				return []any{keyState{op.revision, op.arg}}
			}
		},
		Equal: func(a, b any) bool { return a == b },
	}
	clients := map[string]int{}
	var history []porcupine.Operation
	for _, op := range ops {
		if op.pending && op.kind == "get" {
			continue
		}
		if _, ok := clients[op.client]; !ok {
			clients[op.client] = len(clients)
		}
		history = append(history, porcupine.Operation{ClientId: clients[op.client], Input: op, Call: op.from, Return: op.to})
	}
	start := time.Now()
	result := porcupine.CheckOperationsTimeout(model.ToModel(), history, 60*time.Second)
	t.Logf("porcupine: %d operations, %s in %v", len(history), result, time.Since(start).Round(time.Millisecond))
	if result != porcupine.Ok {
		t.Errorf("history of %d operations: %s", len(history), result)
	}
}

// TestCheckersFindErrors makes sure that the checks above can fail.
func TestCheckersFindErrors(t *testing.T) {
	good := []*crashOp{
		{client: "a", kind: "put", key: "k", arg: "1", revision: 1, from: 1, to: 2},
		{client: "a", kind: "put", key: "k", arg: "2", revision: 2, from: 3, to: 4},
		{client: "b", kind: "get", key: "k", value: "2", revision: 2, from: 5, to: 6},
	}
	checkRealTime(t, good)
	checkLinearizable(t, good)
	stale := slices.Clone(good)
	stale[2] = &crashOp{client: "b", kind: "get", key: "k", value: "1", revision: 1, from: 5, to: 6}
	lost := slices.Clone(good)
	lost[2] = &crashOp{client: "b", kind: "get", key: "k", value: "-", from: 5, to: 6}
	back := slices.Clone(good)
	back[1] = &crashOp{client: "a", kind: "put", key: "k", arg: "2", revision: 1, from: 3, to: 4}
	for name, ops := range map[string][]*crashOp{"stale read": stale, "lost write": lost} {
		if !fails(func(t *testing.T) { checkLinearizable(t, ops) }) {
			t.Errorf("%s: not found", name)
		}
	}
	if !fails(func(t *testing.T) { checkRealTime(t, back) }) {
		t.Error("a revision that goes back: not found")
	}
}

// fails reports whether f fails, without failing the test around it.
func fails(f func(*testing.T)) bool {
	var inner testing.T
	var wg sync.WaitGroup
	wg.Go(func() { // Fatal ends the goroutine
		defer func() { recover() }()
		f(&inner)
	})
	wg.Wait()
	return inner.Failed()
}
