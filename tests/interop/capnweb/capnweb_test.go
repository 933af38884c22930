// Package capnweb_test runs the real npm library against the protocol.
package capnweb_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb/capnwebtest"
)

// TestNode runs the suite with Node. HUBD_CAPNWEB_URL names a hub to test;
// without it a server with the demonstration table is started here.
func TestNode(t *testing.T) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	install(t)
	url, extra := os.Getenv("HUBD_CAPNWEB_URL"), "0"
	if url == "" {
		url, extra = serve(t), "1"
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-force-exit", "--test-reporter=spec", "suite.mjs")
	cmd.Env = append(os.Environ(), "HUBD_URL="+url, "HUBD_EXTRA="+extra)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// install fetches the packages of the lock file, once.
func install(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("node_modules", "capnweb")); err == nil {
		return
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	if out, err := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput(); err != nil {
		t.Skipf("the packages cannot be installed here: %v\n%s", err, out)
	}
}

// watcher gives the methods of the suite a look at the newest session.
type watcher struct{ last chan *capnweb.Session }

func (w watcher) MessageIn(int)                        {}
func (w watcher) MessageOut(int)                       {}
func (w watcher) SessionEnded(*capnweb.Session, error) {}
func (w watcher) SessionOpened(s *capnweb.Session) {
	select {
	case <-w.last:
	default:
	}
	w.last <- s
}

func serve(t *testing.T) string {
	t.Helper()
	demo := capnwebtest.New()
	w := watcher{make(chan *capnweb.Session, 1)}
	inline, read := rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead)
	demo.Table.MustAdd(
		rpc.Handle("test.running", func(context.Context, struct{}) (int64, error) { return demo.Running.Load(), nil }, inline, read),
		rpc.Handle("test.counters", func(context.Context, struct{}) (int64, error) { return demo.Counters.Load(), nil }, inline, read),
		rpc.Handle("test.tables", func(context.Context, struct{}) (map[string]int, error) {
			s := <-w.last
			w.last <- s
			exports, imports := s.Entries()
			return map[string]int{"exports": exports + 1, "imports": imports}, nil
		}, inline, read),
	)
	sv := capnweb.New(capnweb.Config{
		Table: demo.Table, Observer: w, BatchWait: 5 * time.Second,
		Admit: func(*http.Request) (capnweb.Admission, error) {
			return capnweb.Admission{Peer: &rpc.Peer{UID: -1, GID: -1, PID: -1, Scopes: rpc.ScopeRead | rpc.ScopeCall}}, nil
		},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/capnweb", sv)
	hs := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go hs.Serve(l) // ends with Close
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := sv.Close(ctx); err != nil {
			t.Error(err)
		}
		hs.Close()
	})
	return "http://" + l.Addr().String() + "/capnweb"
}
