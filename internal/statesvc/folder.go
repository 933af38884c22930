package statesvc

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
	"github.com/hubd-dev/hubd/internal/statesvc/filelog"
)

// A state folder holds
//
//	lock         held by the process that uses the folder
//	store.json   which store this is and its format; written last when a store is made
//	log/         segments of the write-ahead log
//	snap/        snapshots, named by their revision
const (
	lockName  = "lock"
	markName  = "store.json"
	logName   = "log"
	snapName  = "snap"
	tmpSuffix = ".tmp" // of what is being written
	formatNow = 2
)

// folder is an open, locked state folder.
type folder struct {
	fs   disk.FS
	path string
	lock io.Closer
	mark storeMark
}

// storeMark is the contents of store.json and the metadata of every log segment and snapshot, so that files of different
// stores are never mixed up.
type storeMark struct {
	Format  int    `json:"hubd_state_format"`
	ID      string `json:"id"`
	Created string `json:"created,omitempty"`
}

// metadata is what snapshots carry.
func (m storeMark) metadata() []byte {
	b, _ := json.Marshal(storeMark{Format: m.Format, ID: m.ID})
	return b
}

// salt starts the checksums of snapshots.
func (m storeMark) salt() uint32 { return crc32.Checksum([]byte(m.ID), castagnoli) }

// logID is the ID as the log has it; ok is false for one that no store has.
func (m storeMark) logID() (id filelog.ID, ok bool) {
	b, err := hex.DecodeString(m.ID)
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return filelog.ID(b), true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

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
func makeFolder(fsys disk.FS, path string) (*folder, error) {
	if err := fsys.Mkdir(path); err != nil {
		return nil, &FolderError{Path: path, Cause: err}
	}
	return openFolder(fsys, path)
}

// openFolder locks a folder that is there.
func openFolder(fsys disk.FS, path string) (*folder, error) {
	name := filepath.Join(path, lockName)
	lock, err := fsys.Lock(name)
	if errors.Is(err, disk.ErrLocked) {
		return nil, &LockedError{Path: name}
	}
	if err != nil {
		return nil, &FolderError{Path: path, Cause: err}
	}
	return &folder{fs: fsys, path: path, lock: lock}, nil
}

// close gives the folder up.
func (f *folder) close() error { return f.lock.Close() }

func (f *folder) logDir() string  { return filepath.Join(f.path, logName) }
func (f *folder) snapDir() string { return filepath.Join(f.path, snapName) }

// identify reads which store the folder holds. fresh means that there is none and nothing else either.
func (f *folder) identify() (fresh bool, err error) {
	name := filepath.Join(f.path, markName)
	text, err := f.fs.ReadFile(name)
	switch {
	case err == nil:
		return false, f.readMark(name, text)
	case !errors.Is(err, fs.ErrNotExist):
		return false, &FolderError{Path: f.path, Cause: err}
	}
	entries, err := f.fs.ReadDir(f.path)
	if err != nil {
		return false, &FolderError{Path: f.path, Cause: err}
	}
	missing := &DamagedError{File: name, Offset: -1, Reason: "is missing, but there is a log or a snapshot", Hint: markHint}
	for _, e := range entries {
		switch n := e.Name; {
		case n == lockName, n == "lost+found", strings.HasSuffix(n, tmpSuffix):
		case n == logName:
			// A crash while the store was made leaves a log without records and without store.json. Who makes the
			// store removes it.
			if unused, err := filelog.Unused(f.fs, f.logDir()); err != nil {
				return false, &FolderError{Path: f.path, Cause: err}
			} else if !unused {
				return false, missing
			}
		case n == snapName:
			if left, err := f.fs.ReadDir(f.snapDir()); err != nil || len(left) > 0 {
				return false, missing
			}
		default:
			return false, &FolderError{Path: f.path, Cause: fmt.Errorf("folder holds %q and no state: refusing to start empty over existing files", n)}
		}
	}
	return true, nil
}

// markHint is what can be done about store.json: what it says stands in each segment of the log as well.
const markHint = "hubd state repair makes it again from the log"

func (f *folder) readMark(name string, text []byte) error {
	if err := json.Unmarshal(text, &f.mark); err != nil || f.mark.ID == "" || f.mark.Format <= 0 {
		return &DamagedError{File: name, Offset: -1, Reason: "cannot be read", Hint: markHint}
	}
	if f.mark.Format != formatNow {
		return &FormatError{File: name, Found: f.mark.Format, Supported: formatNow}
	}
	if _, ok := f.mark.logID(); !ok {
		return &DamagedError{File: name, Offset: -1, Reason: "has no id of a store", Hint: markHint}
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
	if err := f.syncName(); err != nil {
		return err
	}
	return f.writeMark()
}

func (f *folder) writeMark() error {
	text, err := json.Marshal(f.mark)
	if err != nil {
		return err
	}
	return f.writeFile(filepath.Join(f.path, markName), append(text, '\n'))
}

// writeFile writes a file so that it is there completely or not at all.
func (f *folder) writeFile(name string, text []byte) error {
	tmp := name + tmpSuffix
	file, err := f.fs.Create(tmp)
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
		err = f.fs.Rename(tmp, name)
	}
	if err != nil {
		_ = f.fs.Remove(tmp)
		return err
	}
	return f.fs.SyncDir(filepath.Dir(name))
}

// syncName makes the name of the folder itself durable, and those of the folders that it lies in: they may all be new.
// Those further up may not be ours to read, or of a kind that cannot be synced.
func (f *folder) syncName() error {
	path, err := filepath.Abs(f.path)
	if err != nil {
		return err
	}
	if err := f.fs.SyncDir(path); err != nil {
		return err
	}
	err = f.fs.SyncDir(filepath.Dir(path))
	for dir := filepath.Dir(path); err == nil && dir != filepath.Dir(dir); {
		dir = filepath.Dir(dir)
		if err := f.fs.SyncDir(dir); errors.Is(err, syscall.EIO) {
			return err
		}
	}
	return err
}

// sweep removes what an interrupted run left behind.
func (f *folder) sweep() {
	for _, dir := range []string{f.path, f.logDir(), f.snapDir()} {
		entries, err := f.fs.ReadDir(dir)
		if err != nil {
			continue // it may not be there
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name, tmpSuffix) {
				_ = f.fs.RemoveAll(filepath.Join(dir, e.Name))
			}
		}
	}
}
