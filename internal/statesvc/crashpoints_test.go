package statesvc

import (
	"context"
	"fmt"
	"maps"
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

	"go.etcd.io/etcd/server/v3/storage/wal"
)

const (
	recordDirEnv  = "STATESVC_RECORD_DIR"
	recordSeedEnv = "STATESVC_RECORD_SEED"
	// pointsEnv is how many crash points are tried; "all" for each of them.
	pointsEnv = "HUBD_CRASH_POINTS"
)

// TestEachCrashPoint is promise P1 for the loss of power: all that a store does to its folder under a workload is
// recorded, and then played back up to one call after the other, with and without what was not synced by then. What
// was acknowledged is there, nothing is half done, and the store goes on.
func TestEachCrashPoint(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skipf("system calls cannot be recorded: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(recordSeedEnv); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("seed %d: set %s to repeat it, and %s=all to try every point", seed, recordSeedEnv, pointsEnv)
	root := t.TempDir()
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command(strace, "-f", "-xx", "-s", "100000000", "-e", "trace="+straceCalls, "-e", "signal=none", "-o", out, os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), recordDirEnv+"="+filepath.Join(root, "state"), fmt.Sprintf("%s=%d", recordSeedEnv, seed))
	if said, err := cmd.CombinedOutput(); err != nil {
		if !strings.Contains(string(said), "ack ") {
			t.Skipf("strace does not work here: %v\n%.500s", err, said)
		}
		t.Fatalf("%v\n%s", err, said)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ops, err := readRecording(f, root)
	if err != nil {
		t.Fatal(err)
	}
	model := newCrashModel(t, said(ops, len(ops)))
	points := len(ops)
	switch text := os.Getenv(pointsEnv); {
	case text == "all":
	case text != "":
		if points, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	case testing.Short() || thin > 1:
		points = 40
	default:
		points = 160
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	type point struct {
		n    int
		loss loss
		seed uint64
	}
	var all []point
	for n := 1; n <= len(ops); n++ {
		for _, l := range []loss{loseNothing, loseUnsynced, loseSome, tearLast} {
			if l == tearLast && (ops[n-1].kind != opWrite || len(ops[n-1].data) < 2) {
				continue
			}
			all = append(all, point{n, l, rng.Uint64()})
		}
	}
	if points < len(ops) {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:min(len(all), points)]
	}
	tried := map[loss]int{}
	next := make(chan point, len(all))
	for _, p := range all {
		next <- p
		tried[p.loss]++
	}
	close(next)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for p := range next {
				if t.Failed() {
					return
				}
				dir, err := os.MkdirTemp(root, "point")
				if err != nil {
					t.Error(err)
					return
				}
				playBack(t, ops, p.n, p.loss, rand.New(rand.NewPCG(p.seed, 2)), dir)
				if err := model.check(filepath.Join(dir, "state"), said(ops, p.n), p.seed%4 == 0); err != nil {
					var near []string
					for _, op := range ops[max(0, p.n-12):p.n] {
						near = append(near, op.String())
					}
					t.Errorf("crash after call %d of %d, losing %v: %v\nthe calls before it:\n%s", p.n, len(ops), p.loss, err, strings.Join(near, "\n"))
				}
				os.RemoveAll(dir)
			}
		})
	}
	wg.Wait()
	kinds := map[diskKind]int{}
	for _, op := range ops {
		kinds[op.kind]++
	}
	t.Logf("%d calls recorded (%v), %d acknowledged changes, %d crash points tried (%v)", len(ops), kinds, len(model.revisions), len(all), tried)
	for _, k := range []diskKind{opWrite, opSize, opAllocate, opSync, opName, opRename, opRemove, opSaid} {
		if kinds[k] == 0 {
			t.Errorf("no call of the kind %v was recorded: the test shows little", k)
		}
	}
	if len(model.revisions) < 200 {
		t.Errorf("only %d changes were acknowledged", len(model.revisions))
	}
}

// recordChild works on a store and says what was acknowledged, one line each: "ack REVISION CHANGE...", where a change is
// "put KEY VALUE", "del KEY" or "all" for what a restore takes away.
func recordChild(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	wal.SegmentSizeBytes = 96 << 10 // so that there are several
	seed, _ := strconv.ParseUint(os.Getenv(recordSeedEnv), 10, 64)
	opts := Options{SnapshotBytes: 60 << 10, Limits: Limits{HistoryEvents: 50}}
	open := func() *engine {
		e, err := openEngine(dir, opts)
		fail(err)
		return e
	}
	say := func(format string, args ...any) { os.Stdout.WriteString(fmt.Sprintf(format, args...) + "\n") }
	e := open()
	for round := range 4 {
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(round*10+w)))
				for i := range 30 {
					key := fmt.Sprintf("k%d", rng.IntN(12))
					value := fmt.Sprintf("%d.%d.%d.", round, w, i)
					switch rng.IntN(8) {
					case 0:
						value = strings.Repeat(value, 1+rng.IntN(1500))
					case 1:
						value = strings.Repeat(value, 1+rng.IntN(100))
					}
					tx, what := OneOp(putOp(key, value)), fmt.Sprintf("put %s %s", key, value)
					switch rng.IntN(6) {
					case 0:
						tx, what = OneOp(Op{Kind: OpDelete, Key: key}), "del "+key
					case 1, 2: // all or nothing
						tx = &Tx{Then: []Op{putOp(key, value), putOp("left/"+key, value), putOp("right/"+key, value)}}
						what = fmt.Sprintf("put %s %s put left/%s %s put right/%s %s", key, value, key, value, key, value)
					}
					done := make(chan error, 1)
					fail(e.Commit(tx, func(r Result, err error) {
						if err == nil && (tx.Then[0].Kind != OpDelete || r.Results[0].Deleted > 0) {
							say("ack %d %s", r.Revision, what)
						}
						done <- err
					}))
					fail(<-done)
				}
			})
		}
		wg.Wait()
		switch round {
		case 0: // killed
			crash(e)
			e = open()
		case 1:
			r, err := e.Restore(context.Background(), func(yield func(*Item, error) bool) {
				for i := range 5 {
					if !yield(&Item{Key: fmt.Sprintf("k%d", i), Value: Value{Data: []byte("restored")}, Revision: uint64(i + 1)}, nil) {
						return
					}
				}
			}, RestoreOptions{Overwrite: true})
			fail(err)
			say("ack %d all put k0 restored put k1 restored put k2 restored put k3 restored put k4 restored", r.Revision)
		case 2:
			fail(e.Close())
			e = open()
		}
	}
	fail(e.Close())
	os.Exit(0)
}

// crashModel knows what the state is at each revision.
type crashModel struct {
	revisions []uint64
	states    map[uint64]map[string]string
}

func newCrashModel(t *testing.T, lines []string) *crashModel {
	m := &crashModel{states: map[uint64]map[string]string{0: {}}}
	changes := map[uint64]string{}
	for _, line := range lines {
		var rev uint64
		if _, err := fmt.Sscanf(line, "ack %d ", &rev); err != nil {
			t.Fatalf("%.100q: %v", line, err)
		}
		if changes[rev] != "" {
			t.Fatalf("two changes have revision %d", rev)
		}
		changes[rev] = line
		m.revisions = append(m.revisions, rev)
	}
	slices.Sort(m.revisions)
	state := map[string]string{}
	for _, rev := range m.revisions {
		state = maps.Clone(state)
		words := strings.Fields(changes[rev])[2:]
		for len(words) > 0 {
			switch words[0] {
			case "all":
				clear(state)
				words = words[1:]
			case "del":
				delete(state, words[1])
				words = words[2:]
			default:
				state[words[1]] = words[2]
				words = words[3:]
			}
		}
		m.states[rev] = state
	}
	return m
}

// check opens the store in dir, where everything of lines was acknowledged, and sees to it that it is one of the states
// that there were, not an earlier one than was promised. With goOn it also writes and comes back.
func (m *crashModel) check(dir string, lines []string, goOn bool) error {
	var promised uint64
	for _, line := range lines {
		var rev uint64
		fmt.Sscanf(line, "ack %d ", &rev)
		promised = max(promised, rev)
	}
	e, err := openEngine(dir, Options{})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer func() { crash(e) }()
	is := func(want map[string]string) error {
		got := map[string]string{}
		for it := range e.Snapshot().Items {
			got[it.Key] = string(it.Value.Data)
		}
		if !maps.Equal(got, want) {
			return fmt.Errorf("at revision %d: got %.300v, want %.300v", e.Info().Revision, got, want)
		}
		return nil
	}
	rev := e.Info().Revision
	if rev < promised {
		return fmt.Errorf("revision %d, and %d was acknowledged", rev, promised)
	}
	want, ok := m.states[rev]
	if !ok {
		return fmt.Errorf("revision %d never was", rev)
	}
	if err := is(want); err != nil || !goOn {
		return err
	}
	done := make(chan error, 1)
	var after uint64
	if err := e.Commit(OneOp(putOp("after", "1")), func(r Result, err error) { after = r.Revision; done <- err }); err != nil {
		return err
	}
	if err := <-done; err != nil {
		return fmt.Errorf("a write afterwards: %w", err)
	}
	if after != rev+1 {
		return fmt.Errorf("a write afterwards: revision %d after %d", after, rev)
	}
	crash(e)
	if e, err = openEngine(dir, Options{}); err != nil {
		return fmt.Errorf("open once more: %w", err)
	}
	want = maps.Clone(want)
	want["after"] = "1"
	return is(want)
}
