package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/hubd-dev/hubd/client"
)

// counter is a fake method that yields 0, 1, 2 ... as far as its credit goes.
type counter struct {
	mu      sync.Mutex
	n       int // how many in all; negative: without end
	sent    int
	credit  int
	grants  []uint64
	cancels int
	ended   bool
}

func (k *counter) on(c *fakeConn, f line) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch f.Action {
	case "rpc_request":
		if !f.Stream {
			c.t.Error("the request does not ask for a stream")
		}
	case "rpc_credit":
		k.grants = append(k.grants, f.N)
		k.credit += int(f.N)
		for k.credit > 0 && (k.n < 0 || k.sent < k.n) {
			k.sent++
			k.credit--
			c.chunk(f, k.sent, strconv.Itoa(k.sent-1))
		}
		if k.sent == k.n && !k.ended {
			k.ended = true
			c.reply(f, "null")
		}
	case "rpc_cancel":
		k.cancels++
	}
}

func TestStreamYieldsAllItemsInOrder(t *testing.T) {
	for _, n := range []int{0, 1, 31, 32, 63, 64, 65, 1000} {
		k := &counter{n: n}
		h := newFake(t, k.on)
		c := h.connect(client.Options{})
		next := 0
		for item, err := range c.Stream(t.Context(), "count", nil) {
			if err != nil {
				t.Fatal(err)
			}
			if string(item) != strconv.Itoa(next) {
				t.Fatalf("item %d is %s", next, item)
			}
			next++
		}
		if next != n {
			t.Errorf("%d items of %d", next, n)
		}
		c.Close()
		k.mu.Lock()
		if k.cancels != 0 {
			t.Errorf("n=%d: an ended stream was cancelled", n)
		}
		k.mu.Unlock()
	}
}

func TestReaderThatStopsStopsTheHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counter{n: -1}
		h := newFake(t, k.on)
		c := h.connect(client.Options{})
		s, err := c.Open(t.Context(), "count", nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		k.mu.Lock()
		if k.sent != 64 {
			t.Errorf("the hub was allowed %d items for a reader of 10", k.sent)
		}
		k.mu.Unlock()
		s.Close()
		synctest.Wait()
		k.mu.Lock()
		if k.cancels != 1 {
			t.Errorf("%d cancels", k.cancels)
		}
		k.mu.Unlock()
		c.Close()
		h.close()
	})
}

func TestLeavingTheLoopCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counter{n: -1}
		h := newFake(t, k.on)
		c := h.connect(client.Options{})
		for item, err := range c.Stream(t.Context(), "count", nil) {
			if err != nil {
				t.Fatal(err)
			}
			if string(item) == "100" {
				break
			}
		}
		synctest.Wait()
		k.mu.Lock()
		if k.cancels != 1 || k.sent < 101 || k.sent > 101+64 {
			t.Errorf("%d cancels, %d items sent", k.cancels, k.sent)
		}
		k.mu.Unlock()
		c.Close()
		h.close()
	})
}

func TestEndedContextEndsTheStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &counter{n: -1}
		h := newFake(t, k.on)
		c := h.connect(client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		n := 0
		var last error
		for _, err := range c.Stream(ctx, "count", nil) {
			if err != nil {
				last = err
				continue
			}
			if n++; n == 5 {
				cancel()
				synctest.Wait()
			}
		}
		if n != 5 || !errors.Is(last, context.Canceled) {
			t.Errorf("%d items, then %v", n, last)
		}
		synctest.Wait()
		k.mu.Lock()
		if k.cancels != 1 {
			t.Errorf("%d cancels", k.cancels)
		}
		k.mu.Unlock()
		c.Close()
		h.close()
	})
}

func TestStreamErrorComesAfterTheItems(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.chunk(f, 1, `"a"`)
			c.chunk(f, 2, `"b"`)
			c.fail(f, "compacted", "gone", `,"error_data":{"lowest":9},"retry":"safe"`)
		}
	})
	var got []string
	var last error
	for item, err := range h.connect(client.Options{}).Stream(t.Context(), "watch", nil) {
		if err != nil {
			last = err
			continue
		}
		got = append(got, string(item))
	}
	if strings.Join(got, " ") != `"a" "b"` {
		t.Errorf("items: %v", got)
	}
	if e := wantKind(t, last, client.KindCompacted); string(e.Data) != `{"lowest":9}` || e.Method != "watch" {
		t.Errorf("error: %+v", e)
	}
}

func TestMissingItemIsAnError(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.chunk(f, 1, "1")
			c.chunk(f, 3, "3")
		}
	})
	var last error
	n := 0
	for _, err := range h.connect(client.Options{}).Stream(t.Context(), "m", nil) {
		if last = err; err == nil {
			n++
		}
	}
	wantKind(t, last, client.KindMalformed)
	if n != 1 {
		t.Errorf("%d items", n)
	}
}

func TestBrokenConnectionEndsTheStream(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_request" {
			c.chunk(f, 1, "1")
			c.Conn.Close()
		}
	})
	s, err := h.connect(client.Options{}).Open(t.Context(), "m", nil)
	if err != nil {
		t.Fatal(err)
	}
	if item, err := s.Recv(); string(item) != "1" || err != nil {
		t.Errorf("got %s, %v", item, err)
	}
	_, err = s.Recv()
	wantKind(t, err, client.KindDisconnected)
	if err := s.Send(1); err != io.EOF {
		t.Errorf("send: %v", err)
	}
}

// A hub that ignores the window cannot fill the memory of a client that does not read.
func TestItemsThatNobodyReadsAreBounded(t *testing.T) {
	cancelled := make(chan bool, 1)
	item := `"` + strings.Repeat("x", 8<<20) + `"`
	h := newFake(t, func(c *fakeConn, f line) {
		switch f.Action {
		case "rpc_request":
			go func() {
				for i := 1; i <= 12; i++ {
					c.chunk(f, i, item)
				}
			}()
		case "rpc_cancel":
			cancelled <- true
		}
	})
	s, err := h.connect(client.Options{}).Open(t.Context(), "m", nil)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, cancelled)
	for {
		if _, err = s.Recv(); err != nil {
			break
		}
	}
	wantKind(t, err, client.KindTooLarge)
}

// adder is a fake demo.sum: it grants credit for two items at a time.
type adder struct {
	mu    sync.Mutex
	sum   int
	items int
	over  int // items that came without credit
	left  int
	seqs  uint64
}

func (k *adder) on(c *fakeConn, f line) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch f.Action {
	case "rpc_request":
		k.left = 2
		c.say(`{"action":"rpc_credit","request_id":%q,"n":2}`, f.RequestID)
	case "rpc_chunk":
		n, _ := strconv.Atoi(string(f.Data))
		k.sum += n
		k.items++
		k.seqs++
		if f.Seq != k.seqs {
			c.t.Errorf("seq %d, want %d", f.Seq, k.seqs)
		}
		if k.left--; k.left < 0 {
			k.over++
		}
		if k.items%2 == 0 {
			k.left += 2
			c.say(`{"action":"rpc_credit","request_id":%q,"n":2}`, f.RequestID)
		}
	case "rpc_end":
		c.reply(f, strconv.Itoa(k.sum))
	}
}

func TestSendHeedsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &adder{}
		h := newFake(t, k.on)
		c := h.connect(client.Options{})
		s, err := c.Open(t.Context(), "demo.sum", nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the first grant has come: from now on the stream is limited
		for i := range 101 {
			if err := s.Send(i); err != nil {
				t.Fatal(err)
			}
		}
		var sum int
		if err := s.Result(&sum); err != nil || sum != 5050 {
			t.Errorf("sum %d, %v", sum, err)
		}
		if k.over != 0 || k.items != 101 {
			t.Errorf("%d items, %d of them without credit", k.items, k.over)
		}
		c.Close()
		h.close()
	})
}

// Until the hub has said how many items it takes, no more are sent than it
// keeps for a method that does not read yet.
func TestSendBeforeTheFirstGrantIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		items := 0
		grant := make(chan func(), 1)
		h := newFake(t, func(c *fakeConn, f line) {
			switch f.Action {
			case "rpc_request":
				grant <- func() { c.say(`{"action":"rpc_credit","request_id":%q,"n":100}`, f.RequestID) }
			case "rpc_chunk":
				items++
			}
		})
		c := h.connect(client.Options{})
		s, err := c.Open(t.Context(), "m", nil)
		if err != nil {
			t.Fatal(err)
		}
		item := strings.Repeat("x", 128<<10)
		done := make(chan error, 1)
		go func() {
			var err error
			for range 100 {
				err = errors.Join(err, s.Send(item))
			}
			done <- err
		}()
		synctest.Wait()
		if items != 8 {
			t.Errorf("%d items of 128 KiB came before the first grant, want 1 MiB", items)
		}
		(<-grant)()
		if err := <-done; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if items != 100 {
			t.Errorf("%d items came", items)
		}
		s.Close()
		c.Close()
		h.close()
	})
}

func TestSendAfterTheEnd(t *testing.T) {
	h := newFake(t, func(c *fakeConn, f line) {
		if f.Action == "rpc_chunk" {
			c.fail(f, "invalid_params", "not a number", `,"retry":"safe"`)
		}
	})
	c := h.connect(client.Options{})
	s, err := c.Open(t.Context(), "demo.sum", nil)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		err = s.Send("x")
	}
	if err != io.EOF {
		t.Errorf("send: %v", err)
	}
	wantKind(t, s.Result(nil), client.KindInvalidParams)

	s, _ = c.Open(t.Context(), "idle", nil)
	s.CloseSend()
	if err := s.Send(1); err == nil || err == io.EOF {
		t.Errorf("send after CloseSend: %v", err)
	}
	s.Close()
}

func TestDuplex(t *testing.T) {
	h := newFake(t, nil)
	h.on = func(c *fakeConn, f line) {
		switch f.Action {
		case "rpc_chunk":
			var s string
			json.Unmarshal(f.Data, &s)
			c.chunk(f, int(f.Seq), strconv.Quote(strings.ToUpper(s)))
		case "rpc_end":
			c.reply(f, `{"lines":3}`)
		}
	}
	s, err := h.connect(client.Options{}).Open(t.Context(), "demo.upper", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "three"} {
		if err := s.Send(word); err != nil {
			t.Fatal(err)
		}
		item, err := s.Recv()
		if err != nil || string(item) != strconv.Quote(strings.ToUpper(word)) {
			t.Fatalf("%s became %s, %v", word, item, err)
		}
	}
	var end struct{ Lines int }
	if err := s.Result(&end); err != nil || end.Lines != 3 {
		t.Errorf("result %+v, %v", end, err)
	}
}

func TestBlockedSendEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFake(t, func(c *fakeConn, f line) {
			if f.Action == "rpc_request" {
				c.say(`{"action":"rpc_credit","request_id":%q,"n":1}`, f.RequestID)
			}
		})
		c := h.connect(client.Options{})
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Open(ctx, "m", nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Send(1)
		done := make(chan error, 1)
		go func() { done <- s.Send(2) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("sent without credit: %v", err)
		default:
		}
		cancel()
		if err := <-done; err != io.EOF {
			t.Errorf("send: %v", err)
		}
		_, err = s.Recv()
		wantKind(t, err, client.KindCancelled)
		c.Close()
		h.close()
	})
}

func TestManyStreamsOnOneConnection(t *testing.T) {
	h := newFake(t, nil)
	var mu sync.Mutex
	counters := map[string]*counter{}
	h.on = func(c *fakeConn, f line) {
		mu.Lock()
		k := counters[f.RequestID]
		if k == nil {
			k = &counter{n: 200}
			counters[f.RequestID] = k
		}
		mu.Unlock()
		k.on(c, f)
	}
	c := h.connect(client.Options{})
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			next := 0
			for item, err := range c.Stream(t.Context(), "count", nil) {
				if err != nil || string(item) != fmt.Sprint(next) {
					t.Errorf("item %d: %s, %v", next, item, err)
					return
				}
				next++
			}
			if next != 200 {
				t.Errorf("%d items", next)
			}
		})
	}
	wg.Wait()
}
