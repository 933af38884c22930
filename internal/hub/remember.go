package hub

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

// sessionsFile keeps the numbers and the retained events of the sessions over
// an orderly restart, so that followers resume where they were.
const sessionsFile = "sessions.json"

// recallSessions reads what an orderly shutdown has written. Without it, or
// when it cannot be read, the sessions begin anew: followers are told so.
func (h *hub) recallSessions() {
	path := filepath.Join(h.opts.State, sessionsFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		err = h.sessions.Restore(f)
		f.Close()
	}
	if err != nil {
		h.log.Warn("sessions begin anew: what was kept of them cannot be read", zap.String("file", path), zap.Error(err))
	}
	// A crash later on must not bring back what is old by then.
	if err := os.Remove(path); err != nil {
		h.log.Warn("kept sessions cannot be removed", zap.Error(err))
	}
}

// keepSessions writes the sessions down, after they have ended.
func (h *hub) keepSessions() {
	if h.state == nil || h.phase.Load() < draining {
		return // this hub never served
	}
	path := filepath.Join(h.opts.State, sessionsFile)
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err == nil {
		err = h.sessions.Save(f)
		err = errors.Join(err, f.Sync(), f.Close())
		if err == nil {
			err = os.Rename(path+".tmp", path)
		}
	}
	if err != nil {
		h.log.Warn("sessions are forgotten: they could not be written down", zap.Error(err))
		os.Remove(path + ".tmp")
	}
}
