package statesvc

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A state folder holds
//
//	lock         held by the process that uses the folder
//	store.json   which store this is and its format; written last when a store is made
//	log/         segments of the write-ahead log
//	snap/        snapshots, named by their revision
const (
	lockName   = "lock"
	markName   = "store.json"
	logName    = "log"
	snapName   = "snap"
	formatNow  = 1
	repairHint = "hubd state repair cuts the log there and says what it drops"
)

// folder is an open, locked state folder.
type folder struct {
	path   string
	lock   *os.File
	mark   storeMark
	faults func(op string) error
}

// storeMark is the contents of store.json and the metadata of every log segment and snapshot, so that files of different
// stores are never mixed up.
type storeMark struct {
	Format  int    `json:"hubd_state_format"`
	ID      string `json:"id"`
	Created string `json:"created,omitempty"`
}

// metadata is what the log carries.
func (m storeMark) metadata() []byte {
	b, _ := json.Marshal(storeMark{Format: m.Format, ID: m.ID})
	return b
}

// salt starts the checksums of records.
func (m storeMark) salt() uint32 { return crc32.Checksum([]byte(m.ID), castagnoli) }

// checkMetadata compares the mark found in file with that of the store.
func (m storeMark) checkMetadata(file string, found []byte) error {
	var got storeMark
	if err := json.Unmarshal(found, &got); err != nil || got.ID == "" {
		return &DamagedError{File: file, Offset: -1, Reason: "cannot tell which store the file belongs to"}
	}
	if got.Format > formatNow {
		return &FormatError{File: file, Found: got.Format, Supported: formatNow}
	}
	if got.ID != m.ID {
		return &DamagedError{File: file, Offset: -1, Reason: "file belongs to another store"}
	}
	return nil
}

// makeFolder makes the folder when it is absent and locks it.
func makeFolder(path string, faults func(string) error) (*folder, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, &FolderError{Path: path, Cause: err}
	}
	return openFolder(path, faults)
}

// openFolder locks a folder that is there.
func openFolder(path string, faults func(string) error) (*folder, error) {
	if faults == nil {
		faults = func(string) error { return nil }
	}
	name := filepath.Join(path, lockName)
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &FolderError{Path: path, Cause: err}
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Path: name}
		}
		return nil, &FolderError{Path: path, Cause: err}
	}
	return &folder{path: path, lock: lock, faults: faults}, nil
}

// close gives the folder up. The lock is released by name: a child process that
// was forked a moment ago, and has yet to exec, still has the descriptor.
func (f *folder) close() error {
	return errors.Join(syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN), f.lock.Close())
}

func (f *folder) logDir() string  { return filepath.Join(f.path, logName) }
func (f *folder) snapDir() string { return filepath.Join(f.path, snapName) }

// identify reads which store the folder holds. fresh means that there is none and nothing else either.
func (f *folder) identify() (fresh bool, err error) {
	name := filepath.Join(f.path, markName)
	text, err := os.ReadFile(name)
	switch {
	case err == nil:
		if err := json.Unmarshal(text, &f.mark); err != nil || f.mark.ID == "" || f.mark.Format <= 0 {
			return false, &DamagedError{File: name, Offset: -1, Reason: "cannot be read"}
		}
		if f.mark.Format > formatNow {
			return false, &FormatError{File: name, Found: f.mark.Format, Supported: formatNow}
		}
		return false, nil
	case !errors.Is(err, fs.ErrNotExist):
		return false, &FolderError{Path: f.path, Cause: err}
	}
	entries, err := os.ReadDir(f.path)
	if err != nil {
		return false, &FolderError{Path: f.path, Cause: err}
	}
	for _, e := range entries {
		switch n := e.Name(); {
		case n == lockName, n == "lost+found", strings.HasSuffix(n, ".tmp"):
		case n == logName:
			// A crash while the store was made leaves a log without records and without store.json. Who makes the
			// store removes it.
			if err := f.unfinished(); err != nil {
				return false, err
			}
		case n == snapName:
			if left, err := os.ReadDir(f.snapDir()); err != nil || len(left) > 0 {
				return false, &DamagedError{File: name, Offset: -1, Reason: "is missing, but there are snapshots"}
			}
		default:
			return false, &FolderError{Path: f.path, Cause: fmt.Errorf("folder holds %q and no state: refusing to start empty over existing files", n)}
		}
	}
	return true, nil
}

// unfinished returns nil when the log has no records: then there is nothing to lose.
func (f *folder) unfinished() error {
	segs, err := listSegments(f.logDir())
	if err != nil {
		return &FolderError{Path: f.path, Cause: err}
	}
	mark := filepath.Join(f.path, markName)
	if len(segs) > 1 {
		return &DamagedError{File: mark, Offset: -1, Reason: "is missing, but there is a log"}
	}
	for _, s := range segs {
		data, err := os.ReadFile(s.path)
		if err != nil {
			return &FolderError{Path: f.path, Cause: err}
		}
		if p := parseSegment(data); len(p.records) > 0 || p.problem != nil {
			return &DamagedError{File: mark, Offset: -1, Reason: "is missing, but there is a log"}
		}
	}
	return nil
}

// create makes the identity of a new store; finish writes it down when everything else is in place.
func (f *folder) create() {
	var id [16]byte
	rand.Read(id[:])
	f.mark = storeMark{Format: formatNow, ID: hex.EncodeToString(id[:]), Created: time.Now().UTC().Format(time.RFC3339)}
}

func (f *folder) finish() error {
	// The wal package syncs the folder that it puts the log into, and not the name of the first segment in it.
	if err := f.syncDir(f.logDir()); err != nil {
		return err
	}
	if err := f.syncName(); err != nil {
		return err
	}
	text, err := json.Marshal(f.mark)
	if err != nil {
		return err
	}
	return f.writeFile(filepath.Join(f.path, markName), append(text, '\n'))
}

// writeFile writes a file so that it is there completely or not at all.
func (f *folder) writeFile(name string, text []byte) error {
	tmp := name + ".tmp"
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return f.syncDir(filepath.Dir(name))
}

// syncDir makes names in a folder durable.
func (f *folder) syncDir(name string) error {
	if err := f.faults("syncdir"); err != nil {
		return err
	}
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncName makes the name of the folder itself durable, and those of the folders that it lies in: they may all be new.
// Those further up may not be ours to read, or of a kind that cannot be synced.
func (f *folder) syncName() error {
	path, err := filepath.Abs(f.path)
	if err != nil {
		return err
	}
	err = f.syncDir(filepath.Dir(path))
	for dir := filepath.Dir(path); err == nil && dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		if err := f.syncDir(dir); errors.Is(err, syscall.EIO) {
			return err
		}
	}
	return err
}

// sweep removes what an interrupted run left behind.
func (f *folder) sweep() {
	os.RemoveAll(f.logDir() + ".tmp")
	for _, pattern := range []string{f.path, f.logDir(), f.snapDir()} {
		left, _ := filepath.Glob(filepath.Join(pattern, "*.tmp"))
		for _, name := range left {
			os.Remove(name)
		}
	}
}
