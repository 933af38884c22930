package statesvc

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/disk/memdisk"
)

const (
	crashPointSeedEnv = "STATESVC_CRASH_POINT_SEED"
	// pointsEnv is how many crash points are tried; "all" for each of them.
	pointsEnv = "HUBD_CRASH_POINTS"
)

// TestEachCrashPoint is promise P1 for the loss of power: all that a store does to its folder under a workload is
// recorded, and then played back up to one change after the other, with and without what was not synced by then. What
// was acknowledged is there, nothing is half done, and the store goes on.
func TestEachCrashPoint(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(crashPointSeedEnv); text != "" {
		seed, _ = strconv.ParseUint(text, 10, 64)
	}
	t.Logf("seed %d: set %s to repeat it, and %s=all to try every point", seed, crashPointSeedEnv, pointsEnv)
	recorded := memdisk.New()
	crashWorkload(t, recorded, seed)
	ops := recorded.Ops()
	model := newCrashModel(t, memdisk.Marks(ops, len(ops)))
	points := len(ops)
	switch text := os.Getenv(pointsEnv); {
	case text == "all":
	case text != "":
		var err error
		if points, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	case testing.Short() || thin > 1:
		points = 200
	default:
		points = 1500
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	type point struct {
		n    int
		loss memdisk.Loss
		seed uint64
	}
	var all []point
	for n := 1; n <= len(ops); n++ {
		for _, l := range []memdisk.Loss{memdisk.LoseNothing, memdisk.LoseUnsynced, memdisk.LoseSome, memdisk.TearLast} {
			if l == memdisk.TearLast && ops[n-1].Kind != memdisk.Write {
				continue
			}
			all = append(all, point{n, l, rng.Uint64()})
		}
	}
	if points < len(ops) {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		all = all[:min(len(all), points)]
	}
	tried := map[memdisk.Loss]int{}
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
				left := memdisk.At(ops, p.n, p.loss, rand.New(rand.NewPCG(p.seed, 2)))
				if err := model.check(left, memdisk.Marks(ops, p.n), p.seed%4 == 0); err != nil {
					var near []string
					for _, op := range ops[max(0, p.n-12):p.n] {
						near = append(near, op.String())
					}
					t.Errorf("crash after change %d of %d, losing %v: %v\nthe changes before it:\n%s", p.n, len(ops), p.loss, err, strings.Join(near, "\n"))
				}
			}
		})
	}
	wg.Wait()
	kinds := map[memdisk.Kind]int{}
	for _, op := range ops {
		kinds[op.Kind]++
	}
	t.Logf("%d changes recorded (%v), %d acknowledged, %d crash points tried (%v)", len(ops), kinds, len(model.revisions), len(all), tried)
	for k := memdisk.Write; k <= memdisk.Mark; k++ {
		if kinds[k] == 0 {
			t.Errorf("no change of the kind %v was recorded: the test shows little", k)
		}
	}
	if len(model.revisions) < 200 {
		t.Errorf("only %d changes were acknowledged", len(model.revisions))
	}
}

// crashWorkload works on a store and marks what was acknowledged, one line each: "ack REVISION CHANGE...", where a change is
// "put KEY VALUE", "del KEY" or "all" for what a restore takes away.
func crashWorkload(t *testing.T, d *memdisk.Disk, seed uint64) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	opts := Options{FS: d, SegmentBytes: 96 << 10, SnapshotBytes: 60 << 10, Limits: Limits{HistoryEvents: 50}}
	open := func() *engine {
		e, err := openEngine("/state", opts)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	say := func(format string, args ...any) { d.Mark(fmt.Sprintf(format, args...)) }
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
					must(e.Commit(tx, func(r Result, err error) {
						if err == nil && (tx.Then[0].Kind != OpDelete || r.Results[0].Deleted > 0) {
							say("ack %d %s", r.Revision, what)
						}
						done <- err
					}))
					must(<-done)
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
			must(err)
			say("ack %d all put k0 restored put k1 restored put k2 restored put k3 restored put k4 restored", r.Revision)
		case 2:
			must(e.Close())
			e = open()
		}
	}
	must(e.Close())
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

// check opens the store on the disk d, where everything of lines was acknowledged, and sees to it that it is one of the states
// that there were, not an earlier one than was promised. With goOn it also writes and comes back.
func (m *crashModel) check(d *memdisk.Disk, lines []string, goOn bool) error {
	var promised uint64
	for _, line := range lines {
		var rev uint64
		fmt.Sscanf(line, "ack %d ", &rev)
		promised = max(promised, rev)
	}
	e, err := openEngine("/state", Options{FS: d})
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
	if e, err = openEngine("/state", Options{FS: d}); err != nil {
		return fmt.Errorf("open once more: %w", err)
	}
	want = maps.Clone(want)
	want["after"] = "1"
	return is(want)
}
