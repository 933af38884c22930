package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// lockFile is the file in the state folder that the running hub holds a lock of.
const lockFile = "lock"

// Running says which hub has a state folder, for other programs of its user: it
// is what the lock file holds.
type Running struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"` // the path of a Unix socket at which its own user has all scopes
}

// FindRunning returns the hub that runs with the state folder dir, or one that
// has crashed there: connecting tells. The error says that there is none.
func FindRunning(dir string) (Running, error) {
	r, err := readRunning(filepath.Join(dir, lockFile))
	switch {
	case errors.Is(err, os.ErrPermission):
		return r, err
	case err != nil || r.Socket == "":
		return r, fmt.Errorf("no hub runs with the state folder %s", dir)
	}
	return r, nil
}

func readRunning(path string) (r Running, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return r, err
	}
	defer f.Close()
	if err := ours(f); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, err
	}
	if r.PID <= 0 {
		return r, errors.New("no process is named")
	}
	return r, nil
}

// noteRunning writes into the locked file what FindRunning returns.
func (h *hub) noteRunning() {
	r := Running{PID: os.Getpid()}
	for _, l := range h.listening() {
		if l.addr.network == "unix" && (r.Socket == "" || l.session == "") {
			r.Socket = l.addr.path
			if l.session == "" {
				break
			}
		}
	}
	text, err := json.Marshal(r)
	if err == nil {
		err = h.state.Truncate(0)
	}
	if err == nil {
		_, err = h.state.WriteAt(append(text, '\n'), 0)
	}
	if err != nil {
		h.log.Warn("the lock file does not say who holds it: hubd reload finds the hub by its socket only", zap.Error(err))
	}
}

// reloadResult is what hub.reload returns.
type reloadResult struct {
	Restart []string `json:"restart"` // keys that have changed and count after a restart only
}

// text is the same for people.
func (r reloadResult) text() string {
	if len(r.Restart) == 0 {
		return "reloaded"
	}
	return "reloaded; these changes need a restart: " + strings.Join(r.Restart, ", ")
}

// problemsOf lists what a refused reload has found, in lines for people.
func problemsOf(err error) []string {
	if config, ok := errors.AsType[*ConfigError](err); ok {
		list := make([]string, len(config.Problems))
		for i, p := range config.Problems {
			list[i] = p.Error()
		}
		return list
	}
	return []string{err.Error()}
}

// maxProblems bounds what hub.reload says of a broken configuration.
const maxProblems = 64 << 10

// reloadCall is the method hub.reload.
func (h *hub) reloadCall(context.Context, struct{}) (reloadResult, error) {
	r, err := h.reload()
	if err == nil {
		return r, nil
	}
	problems, size := problemsOf(err), 0
	for i, p := range problems {
		if size += len(p); size > maxProblems {
			problems = problems[:i]
			break
		}
	}
	detail, e := rpc.Encode(map[string][]string{"problems": problems})
	if e != nil {
		return r, e
	}
	first, _, _ := strings.Cut(problemsOf(err)[0], "\n")
	return r, &rpc.Error{
		Code: rpc.CodeHandler, Data: detail, Ran: rpc.RanYes,
		Message: "the configuration is not taken over, the old one stays: " + first,
	}
}

func (h *hub) reloadByHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	r, err := h.reload()
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(strings.Join(problemsOf(err), "\n") + "\n"))
		return
	}
	_, _ = w.Write([]byte(r.text() + "\n"))
}

// reloadMethod is hub.reload.
func (h *hub) reloadMethod() *rpc.Method {
	return rpc.Handle("hub.reload", h.reloadCall, rpc.Needs(rpc.ScopeAdmin), rpc.NeverSlow(),
		rpc.Doc("Read the configuration again. What is wrong with it is the error, in full as its data, and then nothing changes. "+
			"The result names the keys that have changed and need a restart."))
}
