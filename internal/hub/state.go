package hub

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sort"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/statesvc"
	"github.com/hubd-dev/hubd/internal/statesvc/kollaborstate"
)

// StoreFolder is the name of the folder inside the state folder that the store has for itself.
const StoreFolder = "store"

// largeState is how many bytes of keys and values make reading them leave a
// noticeable amount of garbage.
const largeState = 32 << 20

// storeQueue is how many transactions may wait for the disk.
const storeQueue = 65536

// openStore opens the state store, recovers what it holds, and adds the
// methods of the state service. The store's own errors carry the exit code.
func (h *hub) openStore() error {
	var batches statesvc.Batches
	o := statesvc.Options{Limits: h.stateLimits(), Observer: storeObserver{h.metrics}, Logger: h.log.Named("store")}
	batches.Install(&o)
	began := time.Now()
	store, err := statesvc.Open(filepath.Join(h.opts.State, StoreFolder), o)
	if err != nil {
		return err
	}
	if h.opts.wrapStore != nil {
		store = h.opts.wrapStore(store)
	}
	h.store = store
	h.service = statesvc.NewService(store, statesvc.ServiceOptions{Batches: &batches, OwnerOf: keyOwner, Grace: h.opts.Limits.EphemeralGrace})
	info := store.Info()
	h.log.Info("state opened", zap.Uint64("revision", info.Revision), zap.Int("keys", store.Stats().Keys),
		zap.Duration("took", time.Since(began)))
	if store.Stats().Bytes > largeState {
		// What reading it left behind is as large again. It would stay until the
		// heap has doubled, which a hub that is mostly read never does.
		go debug.FreeOSMemory()
	}
	h.table.Describe("state", "Shared state: values under keys, with revisions, transactions and watches.")
	return h.table.Add(append(h.service.Methods(), kollaborstate.Methods(facts{h})...)...)
}

func (h *hub) stateLimits() statesvc.Limits {
	l := h.opts.Limits
	return statesvc.Limits{
		Queue: storeQueue, Value: l.StateValue, Total: int64(l.StateTotal),
		HistoryEvents: l.StateHistoryEvents, HistoryBytes: int64(l.StateHistoryBytes),
	}
}

// closeStore comes after the last connection has ended.
func (h *hub) closeStore() {
	if h.service != nil {
		h.service.Close()
	}
	if h.store != nil {
		if err := h.store.Close(); err != nil {
			h.log.Error("state was not closed cleanly", zap.Error(err))
		}
	}
}

// facts is what the generic state.* methods of kollabor are told.
type facts struct{ h *hub }

func (f facts) System() kollaborstate.System {
	cwd, _ := os.Getwd()
	arch := runtime.GOARCH
	switch arch {
	case "amd64":
		arch = "x86_64"
	case "arm64":
		arch = "aarch64"
	}
	return kollaborstate.System{
		Cwd: cwd, Branch: branch(cwd), PID: os.Getpid(), Uptime: time.Since(f.h.started), Platform: "Linux", Arch: arch,
		Methods: len(f.h.table.Methods()), Services: len(f.h.table.Services()),
	}
}

// branch reads the checked-out branch of the repository that dir is in.
func branch(dir string) string {
	for dir != "" {
		head, err := os.ReadFile(filepath.Join(dir, ".git", "HEAD"))
		if err == nil {
			name, ok := strings.CutPrefix(strings.TrimSpace(string(head)), "ref: refs/heads/")
			if !ok {
				return ""
			}
			return name
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	return ""
}

func (f facts) Self(c *rpc.Call) kollaborstate.Self {
	return kollaborstate.Self{Identity: f.h.identity(c), AgentID: f.h.agentID}
}

func (f facts) Roster(c *rpc.Call) []kollaborstate.Peer {
	self := f.h.identity(c)
	peers := []kollaborstate.Peer{}
	for _, s := range f.h.sessions.List() {
		if s.Name() == self {
			continue
		}
		st := s.Status()
		state := "idle"
		if st.State == "working" || st.State == "blocked" {
			state = "working"
		}
		peers = append(peers, kollaborstate.Peer{Identity: s.Name(), State: state, Task: st.CurrentTask})
	}
	sort.Slice(peers, func(i, j int) bool { return peers[i].Identity < peers[j].Identity })
	return peers
}

func (f facts) Work() kollaborstate.Work {
	w := kollaborstate.Work{InFlight: f.h.gate.InFlight()}
	st := f.h.store.Stats()
	w.Queue, w.QueueMax = st.Queue, storeQueue
	f.h.eachCall(func(_ *conn, c *rpc.Call) {
		if c.Method != nil && c.Method.StreamOut {
			w.Background++
		}
	})
	return w
}

func (f facts) Sessions(c *rpc.Call) (string, []kollaborstate.Session) {
	list := []kollaborstate.Session{}
	for _, s := range f.h.sessions.List() {
		info := s.Info()
		list = append(list, kollaborstate.Session{Name: info.Session, Title: info.Title, Created: info.Opened, LastActive: info.Last.At})
	}
	return f.h.identity(c), list
}

func (f facts) Send(_ context.Context, c *rpc.Call, target, content string, force bool) (int, error) {
	from := f.h.identity(c)
	scope := "direct"
	if target == "" {
		scope = "broadcast"
	}
	reached := 0
	for _, s := range f.h.sessions.List() {
		if target == "" && s.Name() == from || target != "" && s.Name() != target {
			continue
		}
		message := rpc.MustEncode(map[string]any{
			"action": "message", "type": "message", "from_agent": f.h.agentID, "from_identity": from, "to": s.Name(),
			"content": content, "scope": scope, "force": force,
		})
		if _, err := s.Deliver(c.Link(), message); err != nil {
			return reached, err
		}
		reached++
	}
	return reached, nil
}

func (f facts) CancelCurrent(c *rpc.Call) bool {
	l := c.Link()
	if l == nil {
		return false
	}
	found := false
	for _, other := range l.Calls() {
		if other != c && !other.Settled() {
			other.Cancel(rpc.ErrCancelled)
			found = true
		}
	}
	return found
}
