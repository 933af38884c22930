package hub

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A hub that was restarted has lost its providers, and they come back within
// moments. Until then, and for ten seconds, what they offered is unavailable
// instead of unknown, so that callers repeat the call. For that the names of
// provided methods are written to the state folder when they change.

const (
	providedFile = "provided"       // one name a line
	comeBack     = 10 * time.Second // that providers have after the start
	noteEvery    = time.Second      // at most so often the names are written
)

// awaited are the methods of providers that may come back.
type awaited struct {
	names atomic.Pointer[map[string]bool] // nil: nobody is waited for any more
	note  chan struct{}                   // what is provided has changed
	mu    sync.Mutex                      // guards the file
}

// awaitProviders reads what was provided before the start, and keeps the file
// in step from now on, until the hub drains.
func (h *hub) awaitProviders() {
	names := readProvided(filepath.Join(h.opts.State, providedFile))
	if len(names) > 0 {
		h.awaited.names.Store(&names)
		time.AfterFunc(comeBack, func() { h.awaited.names.Store(nil) })
	}
	h.table.Missing(h.awaitedMethod)
	h.background.Go(func() {
		for {
			select {
			case <-h.awaited.note:
			case <-h.ctx.Done():
				return
			}
			if h.phase.Load() >= draining { // they go because the hub does
				return
			}
			h.writeProvided()
			select {
			case <-time.After(noteEvery):
			case <-h.ctx.Done():
				return
			}
		}
	})
}

// writeProvided writes down what is provided. It is called once more when the
// hub begins to stop, and no more after that: then providers go because the hub does.
func (h *hub) writeProvided() {
	h.awaited.mu.Lock()
	defer h.awaited.mu.Unlock()
	path, names := filepath.Join(h.opts.State, providedFile), h.providedNames()
	if _, err := os.Lstat(path); err != nil && len(names) == 0 {
		return
	}
	if err := replace(path, names); err != nil {
		h.log.Warn("names of provided methods cannot be written down", zap.Error(err))
	}
}

// back notes that somebody provides a service again: nobody else is waited for.
func (a *awaited) back(service string) {
	names := a.names.Load()
	if names == nil {
		return
	}
	left := map[string]bool{}
	for name := range *names {
		if !strings.HasPrefix(name, service+".") {
			left[name] = true
		}
	}
	a.names.CompareAndSwap(names, &left) // else time is over, or it is another's turn
}

// noteProvided says that what is provided has changed.
func (h *hub) noteProvided() {
	select {
	case h.awaited.note <- struct{}{}:
	default:
	}
}

func (h *hub) providedNames() []byte {
	h.provided.mu.Lock()
	defer h.provided.mu.Unlock()
	var text []byte
	for _, p := range h.provided.services {
		for _, m := range p.methods {
			text = append(append(text, m.Name...), '\n')
		}
	}
	return text
}

// readProvided reads the file; one that is not there, or is damaged, has no names.
func readProvided(path string) map[string]bool {
	names := map[string]bool{}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() && len(names) < maxProvidedAll {
		if name := lines.Text(); rpc.ValidName(name) {
			names[name] = true
		}
	}
	return names
}

// awaitedMethod stands in for a method whose provider may come back.
func (h *hub) awaitedMethod(name string) *rpc.Method {
	names := h.awaited.names.Load()
	if names == nil || !(*names)[name] {
		return nil
	}
	return rpc.NewMethod(&rpc.Method{
		Name: name, Scope: rpc.ScopeRead | rpc.ScopeCall, AnyParams: true, Run: rpc.Inline, Result: rpc.Type{Kind: rpc.KindAny},
	}, func(*rpc.Call) (rpc.Value, error) { return rpc.Value{}, notBack(name) })
}

func notBack(name string) *rpc.Error {
	return &rpc.Error{Code: rpc.CodeUnavailable, Ran: rpc.RanNo, Message: "the hub was restarted, and the provider of " + name + " is not back yet"}
}

// missingService says why there are no methods of a service that there is, or
// that may come back; nil when there is none.
func (h *hub) missingService(service string) error {
	for _, r := range h.remotes {
		if r.Alias() == service {
			return r.Down()
		}
	}
	if names := h.awaited.names.Load(); names != nil {
		for name := range *names {
			if strings.HasPrefix(name, service+".") {
				return notBack(service)
			}
		}
	}
	return nil
}
