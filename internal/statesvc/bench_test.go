package statesvc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func openBench(b *testing.B, durable bool) *engine {
	b.Helper()
	var s Store
	var err error
	if durable {
		s, err = Open(b.TempDir(), Options{})
	} else {
		s = OpenMemory(Options{})
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s.(*engine)
}

func BenchmarkPut(b *testing.B) {
	for _, durable := range []bool{false, true} {
		for _, writers := range []int{1, 16, 256} {
			name := "memory"
			if durable {
				name = "log"
			}
			b.Run(fmt.Sprintf("%s/writers=%d", name, writers), func(b *testing.B) {
				s := openBench(b, durable)
				value := make([]byte, 200)
				for i := range value {
					value[i] = 'a' + byte(i%26)
				}
				b.ReportAllocs()
				b.ResetTimer()
				var next atomic.Int64
				var wg sync.WaitGroup
				for w := range writers {
					wg.Go(func() {
						rng := rand.New(rand.NewPCG(uint64(w), 1))
						done := make(chan error, 1)
						for next.Add(1) <= int64(b.N) {
							tx := Tx{Then: []Op{{Kind: OpPut, Key: fmt.Sprintf("bench/%08d", rng.IntN(100_000)), Value: Value{Data: value}}}}
							if err := s.Commit(&tx, func(_ Result, err error) { done <- err }); err != nil {
								b.Error(err)
								return
							}
							if err := <-done; err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
				st := s.Stats()
				b.ReportMetric(float64(st.Commits)/float64(max(1, st.Batches)), "puts/sync")
			})
		}
	}
}

// fill puts n keys with values of size bytes, many at a time.
func fill(tb testing.TB, s Store, n, size int) {
	tb.Helper()
	value := make([]byte, size)
	for i := range value {
		value[i] = 'a' + byte(i%26)
	}
	var wg sync.WaitGroup
	for i := 0; i < n; {
		var tx Tx
		for ; i < n && len(tx.Then) < 1000; i++ {
			tx.Then = append(tx.Then, Op{Kind: OpPut, Key: fmt.Sprintf("key/%012d", i), Value: Value{Data: value}})
		}
		wg.Add(1)
		for {
			err := s.Commit(&tx, func(_ Result, err error) {
				if err != nil {
					tb.Error(err)
				}
				wg.Done()
			})
			if err == nil {
				break
			}
			if !errors.Is(err, ErrOverloaded) {
				tb.Fatal(err)
			}
			runtime.Gosched()
		}
	}
	wg.Wait()
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			s := openBench(b, false)
			fill(b, s, n, 100)
			keys := make([]string, 65536)
			for i := range keys {
				keys[i] = fmt.Sprintf("key/%012d", rand.IntN(n))
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if _, err := s.Get(keys[i&65535]); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

func BenchmarkList1000(b *testing.B) {
	s := openBench(b, false)
	fill(b, s, 100_000, 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		l, err := s.List(ListOptions{Prefix: "key/", After: fmt.Sprintf("key/%012d", i%90_000), Limit: 1000})
		if err != nil || len(l.Items) != 1000 {
			b.Fatal(len(l.Items), err)
		}
	}
}

// BenchmarkWatch delivers each put to all watchers; an operation is one delivery.
func BenchmarkWatch(b *testing.B) {
	for _, watchers := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			s := openBench(b, false)
			var delivered atomic.Int64
			for range watchers {
				var w Watcher
				w, err := s.Watch(WatchOptions{Prefix: "w/", Wake: func() {
					for {
						batch, err := w.Next(64)
						if err != nil {
							if !errors.Is(err, ErrClosed) {
								b.Error(err)
							}
							return
						}
						delivered.Add(int64(len(batch.Events)))
						if batch.Idle {
							return
						}
					}
				}})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Next(1); err != nil {
					b.Fatal(err)
				}
			}
			b.ResetTimer()
			n := max(1, b.N/watchers)
			value := Value{Data: []byte(`{"a":1}`)}
			var wg sync.WaitGroup
			for i := range n {
				wg.Add(1)
				if err := s.Commit(OneOp(Op{Kind: OpPut, Key: fmt.Sprintf("w/%d", i%100), Value: value}), func(Result, error) { wg.Done() }); err != nil {
					b.Fatal(err)
				}
				if i%1024 == 1023 {
					wg.Wait()
					// The watchers are served one after the other here; history must not run away from the last.
					for delivered.Load() < int64((i+1)*watchers) && !b.Failed() {
						runtime.Gosched()
					}
				}
			}
			wg.Wait()
			for delivered.Load() < int64(n*watchers) && !b.Failed() {
				runtime.Gosched()
			}
			b.ReportMetric(float64(n*watchers)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkOpen starts with a million keys of 100 bytes from a snapshot, and with a log of 100,000 commits on top of nothing.
func BenchmarkOpen(b *testing.B) {
	b.Run("snapshot/keys=1000000", func(b *testing.B) {
		dir := b.TempDir()
		s, err := Open(dir, Options{})
		if err != nil {
			b.Fatal(err)
		}
		fill(b, s, 1_000_000, 100)
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		s = nil
		benchmarkOpen(b, dir)
	})
	b.Run("log/commits=100000", func(b *testing.B) {
		dir := b.TempDir()
		s, err := Open(dir, Options{SnapshotBytes: 1 << 40})
		if err != nil {
			b.Fatal(err)
		}
		var wg sync.WaitGroup
		value := Value{Data: make([]byte, 200)}
		for i := range 100_000 {
			wg.Add(1)
			for s.Commit(OneOp(Op{Kind: OpPut, Key: fmt.Sprintf("key/%d", i), Value: value}), func(Result, error) { wg.Done() }) != nil {
				runtime.Gosched()
			}
		}
		wg.Wait()
		crash(s.(*engine)) // no snapshot on the way out
		benchmarkOpen(b, dir)
	})
}

const openDirEnv = "STATESVC_OPEN_DIR"

// openChild opens a store in a process of its own, whose memory is that of the store alone.
func openChild(dir string) {
	start := time.Now()
	e, err := openEngine(dir, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	took := time.Since(start)
	rss := func() (kib int) {
		status, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				fmt.Sscan(rest, &kib)
			}
		}
		return kib
	}
	before := rss()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(took.Nanoseconds(), before, m.HeapAlloc>>10)
	crash(e)
}

// benchmarkOpen measures starts in processes of their own.
func benchmarkOpen(b *testing.B, dir string) {
	var took time.Duration
	var rss, live, n int
	for b.Loop() {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), openDirEnv+"="+dir)
		out, err := cmd.Output()
		if err != nil {
			b.Fatal(err, string(out))
		}
		var ns time.Duration
		if _, err := fmt.Sscan(string(out), &ns, &rss, &live); err != nil {
			b.Fatal(err, string(out))
		}
		took += ns
		n++
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(n), "ms/open")
	b.ReportMetric(float64(rss)/1024, "rss-MiB")
	b.ReportMetric(float64(live)/1024, "live-MiB")
}
