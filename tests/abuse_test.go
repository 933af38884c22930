package tests

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// attack is what hostile peers do to a daemon. It returns when they are done.
type attack struct {
	name string
	most int64 // MiB by which the memory may grow, if not 256
	run  func(a *abuse)
}

// abuse is a daemon under attack.
type abuse struct {
	*daemon
	peers sync.WaitGroup
}

// each runs one goroutine for each of n peers, and waits for them.
func (a *abuse) each(n int, f func(i int)) {
	for i := range n {
		a.peers.Go(func() { f(i) })
	}
	a.peers.Wait()
}

// with opens a connection for a hostile peer, which may be ended at any moment.
func (a *abuse) with(f func(c net.Conn)) {
	c, err := net.Dial("unix", a.socket)
	if err != nil {
		a.t.Error(err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * patience))
	f(c)
}

// post sends a request and returns its status; 0 when the connection ended before.
func (a *abuse) post(path, kind string, body io.Reader) (status int) {
	client := &http.Client{Transport: a.http.Transport, Timeout: 2 * patience}
	resp, err := client.Post("http://hub"+path, kind, body)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

var attacks = []attack{
	{"ten thousand parts in a form", 64, func(a *abuse) {
		part := "--b\r\nContent-Disposition: form-data; name=\"__file__:%d\"; filename=\"f\"\r\n\r\nx\r\n"
		a.each(8, func(int) {
			var body strings.Builder
			for i := range 10000 {
				fmt.Fprintf(&body, part, i)
			}
			if status := a.post("/krpc", "multipart/form-data; boundary=b", strings.NewReader(body.String()+"--b--\r\n")); status != 400 && status != 0 {
				a.t.Errorf("answered %d", status)
			}
		})
	}},
	{"lines that never end", 0, func(a *abuse) {
		block := []byte(strings.Repeat("[", 64<<10))
		a.each(12, func(int) {
			a.with(func(c net.Conn) {
				go io.Copy(io.Discard, c)
				for range 18 << 20 / len(block) {
					if _, err := c.Write(block); err != nil {
						return
					}
				}
			})
		})
	}},
	// Three limits are used up: 256 MiB for running calls, 64 MiB for those that
	// wait, 64 MiB for unfinished frames.
	{"large arguments of calls that sleep", 448, func(a *abuse) {
		room := strings.Repeat(" ", 8<<20)
		for range 12 { // one after the other, or they would wait for room as unfinished frames
			c, err := net.Dial("unix", a.socket)
			if err != nil {
				a.t.Fatal(err)
			}
			defer c.Close()
			go io.Copy(io.Discard, c)
			for k := range 4 {
				if _, err := io.WriteString(c, request(fmt.Sprint(k), "demo.sleep", `{"seconds":60`+room+`}`)); err != nil {
					a.t.Error(err)
				}
			}
		}
	}},
	// Each of them may have 32 MiB waiting: limits.outbox is of one connection.
	{"answers that nobody reads", 0, func(a *abuse) {
		big := `["` + strings.Repeat("e", 1<<20) + `"]`
		a.each(4, func(int) {
			a.with(func(c net.Conn) {
				c.SetDeadline(time.Now().Add(3 * time.Second))
				for k := range 100 {
					if _, err := io.WriteString(c, request(fmt.Sprint(k), "echo", big)); err != nil {
						return // closed, or no longer read
					}
				}
			})
		})
	}},
	{"watches that nobody reads", 0, func(a *abuse) {
		for range 8 {
			c, err := net.Dial("unix", a.socket)
			if err != nil {
				a.t.Fatal(err)
			}
			defer c.Close()
			for k := range 200 {
				io.WriteString(c, request(fmt.Sprint(k), "state.watch", `{"prefix":""}`, `"stream":true`))
			}
		}
		value := `{"key":"k","value":"` + strings.Repeat("v", 64<<10) + `"}`
		w := a.dial()
		for k := range 100 {
			w.call(fmt.Sprint(k), "state.put", value)
		}
	}},
	{"connections that say nothing", 0, func(a *abuse) {
		var open []net.Conn
		for range 900 {
			c, err := net.Dial("unix", a.socket)
			if err != nil {
				a.t.Error(err)
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			c.Close()
		}
	}},
	{"calls without end", 0, func(a *abuse) {
		a.each(3, func(int) { // the uninvolved client is the same user: four would use up limits.calls_per_uid
			a.with(func(c net.Conn) {
				go io.Copy(io.Discard, c)
				for k := range 20000 {
					if _, err := io.WriteString(c, request(fmt.Sprint(k), "demo.sleep", `[60]`)); err != nil {
						a.t.Error(err)
						return
					}
				}
			})
		})
	}},
	{"batches of too many operations", 0, func(a *abuse) {
		bomb := `["push",["pipeline",0,["demo","range"],[9000]]]` + "\n" +
			`["push",["remap",1,[],[["import",0]],[["pipeline",-1,["echo"],[["pipeline",0]]],["pipeline",1]]]]` + "\n" + `["pull",2]`
		a.each(8, func(int) {
			for range 10 {
				a.post("/capnweb", "text/plain", strings.NewReader(bomb))
			}
		})
	}},
}

// Nobody can take the memory or slow down others: during each attack an
// uninvolved client gets every answer, and the memory stays within bounds and
// comes back. The figures are in the log.
func TestAbuse(t *testing.T) {
	factor := int64(1)
	if raceBuilt {
		factor = 6 // what the race detector makes of it
	}
	var attacked []survivor
	for _, at := range attacks {
		d := startDaemon(t, "--limits-write-stall", "2s")
		w := d.dial()
		w.call("warm", "echo", `{}`)
		before := d.status("VmRSS")
		took := d.during(w, func() { at.run(&abuse{daemon: d}) })
		if t.Failed() {
			t.Fatal(at.name)
		}
		if len(took) == 0 {
			t.Fatalf("%s: the uninvolved client was not served once", at.name)
		}
		slices.Sort(took)
		peak := d.status("VmHWM") - before
		t.Logf("%-36s uninvolved: %5d calls, p50 %v, p99 %v; memory at most %d MiB more than before",
			at.name, len(took), took[len(took)/2].Round(10*time.Microsecond), took[len(took)*99/100].Round(10*time.Microsecond), peak>>20)
		most := int64(256)
		if at.most > 0 {
			most = at.most
		}
		if peak > most<<20*factor {
			t.Errorf("%s: the memory grew by %d MiB, want at most %d", at.name, peak>>20, most*factor)
		}
		attacked = append(attacked, survivor{d, at.name, before, time.Now()})
	}
	for _, s := range attacked { // all of them come back at the same time
		for s.daemon.status("VmRSS")-s.before > 64<<20*factor {
			if time.Since(s.ended) > 3*time.Minute {
				t.Errorf("%s: three minutes later the memory is %d MiB more than before", s.name, (s.daemon.status("VmRSS")-s.before)>>20)
				break
			}
			time.Sleep(50 * time.Millisecond) // between two looks
		}
		t.Logf("%-36s at most %v later: memory %d MiB more than before", s.name, time.Since(s.ended).Round(time.Second), (s.daemon.status("VmRSS")-s.before)>>20)
	}
}

// survivor is a daemon after an attack.
type survivor struct {
	daemon *daemon
	name   string
	before int64 // memory
	ended  time.Time
}

// during measures the calls of an uninvolved client while f runs.
func (d *daemon) during(w *wire, f func()) (took []time.Duration) {
	stop := make(chan struct{})
	var uninvolved sync.WaitGroup
	w.SetDeadline(time.Now().Add(6 * patience))
	uninvolved.Go(func() {
		for {
			began := time.Now()
			io.WriteString(w, request("u", "math.add", "[1,2]"))
			line, err := w.r.ReadString('\n')
			if err != nil || !strings.Contains(line, `"result":3`) {
				d.t.Errorf("the uninvolved client got %q, %v", line, err)
				return
			}
			took = append(took, time.Since(began))
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	f()
	close(stop)
	uninvolved.Wait()
	return took
}
