package statesvc

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
)

// absentName is the file with the owners whose grace runs: a restart must not
// begin it anew. It is not synced: after a power cut all owners have the whole
// grace again, and nothing else depends on it.
const absentName = "absent.json"

const (
	absentLimit = 64 << 20               // bytes of the file that are read
	absentPace  = 200 * time.Millisecond // between two writes of it
)

// readAbsent returns when the grace of owners is over, in milliseconds of the
// system's clock. A file that cannot be read says nothing of anybody.
func (f *folder) readAbsent() (map[string]int64, error) {
	name := filepath.Join(f.path, absentName)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > absentLimit {
		err = errors.New("the file is too large")
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var absent map[string]int64
	return absent, json.Unmarshal(text, &absent)
}

func (f *folder) writeAbsent(absent map[string]int64) error {
	name := filepath.Join(f.path, absentName)
	if len(absent) == 0 {
		if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(absent)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".tmp", text, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// loadAbsent takes over what the run before knew of owners that were absent.
func (e *engine) loadAbsent(f *folder) {
	absent, err := f.readAbsent()
	if err != nil {
		e.log.Warn("owners of ephemeral keys have their whole grace: it is not known whose runs already", zap.Error(err))
		return
	}
	e.leases.absent = absent
}

// keepAbsent writes down whose grace runs, if that has changed. The committer
// calls it, and when it has ended Close.
func (e *engine) keepAbsent(now time.Time) {
	if e.journal == nil || now.Before(e.absentAfter) {
		return
	}
	absent, changed := e.leases.graces(now)
	if !changed {
		return
	}
	e.absentAfter = now.Add(absentPace)
	if err := e.journal.f.writeAbsent(absent); err != nil && !e.absentFailed {
		e.absentFailed = true
		e.log.Warn("it cannot be written down whose ephemeral keys are about to go: a restart gives them their whole grace", zap.Error(err))
	}
}

// graces returns when the grace of the absent owners that have keys is over, in
// milliseconds of the system's clock, and whether that has changed since it was
// asked last.
func (l *leases) graces(now time.Time) (absent map[string]int64, changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.graceChanged {
		return nil, false
	}
	l.graceChanged = false
	absent = map[string]int64{}
	for name, o := range l.owners {
		if !o.claimed && !o.sweeping && len(o.keys) > 0 {
			absent[name] = now.Add(o.deadline.Sub(now)).UnixMilli()
		}
	}
	return absent, true
}

// unkept reports whether graces has news.
func (l *leases) unkept() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.graceChanged
}
