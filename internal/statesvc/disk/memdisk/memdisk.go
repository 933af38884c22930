// Package memdisk is a disk in memory for tests of what stores do to files. It
// keeps a record of every change, and plays it back up to any of them with what
// a crash at that moment would have left: see At. Calls can be made to fail,
// and space can run out.
package memdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// Disk is a disk.FS. Its root folder is there; names are slash-separated. Its
// methods may be called from any goroutine.
type Disk struct {
	mu       sync.Mutex
	nodes    map[int]*node // by number; 0 is the root
	next     int
	locks    map[string]bool
	ops      []Op
	fail     func(call, name string) error
	capacity int64 // bytes of files; 0: no limit
}

// node is a file or a folder.
type node struct {
	data []byte
	kids map[string]int // nil: a file
}

var _ disk.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk {
	return &Disk{nodes: map[int]*node{0: {kids: map[string]int{}}}, next: 1, locks: map[string]bool{}}
}

// Fail has f asked before every call, with the name of the method in lower case
// and that of the file; when it returns an error the call does nothing and
// returns that. A failed "sync" leaves unsynced what it should have synced. nil: no call fails.
func (d *Disk) Fail(f func(call, name string) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = f
}

// SetCapacity bounds the bytes of all files: what does not fit fails with syscall.ENOSPC. 0: nothing bounds them.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Used returns how many bytes all files take.
func (d *Disk) Used() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.usedLocked()
}

func (d *Disk) usedLocked() (n int64) {
	for _, f := range d.nodes {
		n += int64(len(f.data))
	}
	return n
}

// Mark puts text into the record of changes: something that was promised at this moment.
func (d *Disk) Mark(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, Op{Kind: Mark, Text: text})
}

// Ops returns the record of changes so far.
func (d *Disk) Ops() []Op {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.ops)
}

// Files returns the contents of all files by their names.
func (d *Disk) Files() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := map[string][]byte{}
	var walk func(id int, name string)
	walk = func(id int, name string) {
		n := d.nodes[id]
		if n.kids == nil {
			files[name] = slices.Clone(n.data)
			return
		}
		for kid, id := range n.kids {
			walk(id, name+"/"+kid)
		}
	}
	walk(0, "")
	return files
}

// Unlock releases all locks, as the end of the process that has them does.
func (d *Disk) Unlock() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.locks)
}

// begin locks d and asks whether the call fails.
func (d *Disk) begin(call, name string) error {
	d.mu.Lock()
	fail := d.fail
	if fail == nil {
		return nil
	}
	d.mu.Unlock() // it may call back
	err := fail(call, name)
	d.mu.Lock()
	if err != nil {
		return &fs.PathError{Op: call, Path: name, Err: err}
	}
	return nil
}

func parts(name string) []string {
	name = strings.Trim(path.Clean("/"+name), "/")
	if name == "" {
		return nil
	}
	return strings.Split(name, "/")
}

// find returns the number of what has a name.
func (d *Disk) find(name string) (int, error) {
	id := 0
	for _, p := range parts(name) {
		n := d.nodes[id]
		kid, ok := n.kids[p]
		if !ok {
			return 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		id = kid
	}
	return id, nil
}

// parent returns the folder of a name and the last part of it.
func (d *Disk) parent(name string) (int, string, error) {
	p := parts(name)
	if len(p) == 0 {
		return 0, "", &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	dir, err := d.find("/" + strings.Join(p[:len(p)-1], "/"))
	if err == nil && d.nodes[dir].kids == nil {
		err = &fs.PathError{Op: "open", Path: name, Err: syscall.ENOTDIR}
	}
	return dir, p[len(p)-1], err
}

func (d *Disk) makeLocked(dir int, name string, folder bool) int {
	id := d.next
	d.next++
	n := &node{}
	if folder {
		n.kids = map[string]int{}
	}
	d.nodes[id] = n
	d.nodes[dir].kids[name] = id
	d.ops = append(d.ops, Op{Kind: Name, File: id, Dir: dir, Text: name, folder: folder})
	return id
}

// Create implements disk.FS.
func (d *Disk) Create(name string) (disk.File, error) {
	err := d.begin("create", name)
	defer d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	dir, base, err := d.parent(name)
	if err != nil {
		return nil, err
	}
	id, ok := d.nodes[dir].kids[base]
	switch {
	case !ok:
		id = d.makeLocked(dir, base, false)
	case d.nodes[id].kids != nil:
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.EISDIR}
	default:
		d.nodes[id].data = nil
		d.ops = append(d.ops, Op{Kind: Size, File: id})
	}
	return &file{d: d, id: id, name: name}, nil
}

func (d *Disk) open(call, name string) (disk.File, error) {
	err := d.begin(call, name)
	defer d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	id, err := d.find(name)
	if err != nil {
		return nil, err
	}
	if d.nodes[id].kids != nil {
		return nil, &fs.PathError{Op: call, Path: name, Err: syscall.EISDIR}
	}
	return &file{d: d, id: id, name: name}, nil
}

// Open implements disk.FS.
func (d *Disk) Open(name string) (disk.File, error) { return d.open("open", name) }

// OpenWrite implements disk.FS.
func (d *Disk) OpenWrite(name string) (disk.File, error) { return d.open("openwrite", name) }

// ReadFile implements disk.FS.
func (d *Disk) ReadFile(name string) ([]byte, error) {
	err := d.begin("readfile", name)
	defer d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	id, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return slices.Clone(d.nodes[id].data), nil
}

// ReadDir implements disk.FS.
func (d *Disk) ReadDir(name string) ([]disk.Entry, error) {
	err := d.begin("readdir", name)
	defer d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	id, err := d.find(name)
	if err != nil {
		return nil, err
	}
	kids := d.nodes[id].kids
	entries := make([]disk.Entry, 0, len(kids))
	for _, kid := range slices.Sorted(maps.Keys(kids)) {
		n := d.nodes[kids[kid]]
		entries = append(entries, disk.Entry{Name: kid, Dir: n.kids != nil, Size: int64(len(n.data))})
	}
	return entries, nil
}

// Mkdir implements disk.FS.
func (d *Disk) Mkdir(name string) error {
	err := d.begin("mkdir", name)
	defer d.mu.Unlock()
	if err != nil {
		return err
	}
	id := 0
	for _, p := range parts(name) {
		kid, ok := d.nodes[id].kids[p]
		if !ok {
			kid = d.makeLocked(id, p, true)
		}
		if d.nodes[kid].kids == nil {
			return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
		}
		id = kid
	}
	return nil
}

// Rename implements disk.FS.
func (d *Disk) Rename(old, name string) error {
	err := d.begin("rename", name)
	defer d.mu.Unlock()
	if err != nil {
		return err
	}
	from, oldBase, err := d.parent(old)
	if err != nil {
		return err
	}
	id, ok := d.nodes[from].kids[oldBase]
	if !ok {
		return &fs.PathError{Op: "rename", Path: old, Err: fs.ErrNotExist}
	}
	to, base, err := d.parent(name)
	if err != nil {
		return err
	}
	if replaced, ok := d.nodes[to].kids[base]; ok {
		delete(d.nodes, replaced)
	}
	delete(d.nodes[from].kids, oldBase)
	d.nodes[to].kids[base] = id
	d.ops = append(d.ops, Op{Kind: Rename, File: id, Dir: to, Text: base, fromDir: from, from: oldBase})
	return nil
}

// Remove implements disk.FS.
func (d *Disk) Remove(name string) error {
	err := d.begin("remove", name)
	defer d.mu.Unlock()
	if err != nil {
		return err
	}
	dir, base, err := d.parent(name)
	if err != nil {
		return err
	}
	id, ok := d.nodes[dir].kids[base]
	switch {
	case !ok:
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	case len(d.nodes[id].kids) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	d.removeLocked(dir, base)
	return nil
}

// RemoveAll implements disk.FS.
func (d *Disk) RemoveAll(name string) error {
	err := d.begin("removeall", name)
	defer d.mu.Unlock()
	if err != nil {
		return err
	}
	dir, base, err := d.parent(name)
	if err != nil {
		return nil //nolint:nilerr // nothing is there
	}
	if _, ok := d.nodes[dir].kids[base]; ok {
		d.removeLocked(dir, base)
	}
	return nil
}

func (d *Disk) removeLocked(dir int, base string) {
	id := d.nodes[dir].kids[base]
	for _, kid := range slices.Sorted(maps.Keys(d.nodes[id].kids)) {
		d.removeLocked(id, kid)
	}
	delete(d.nodes[dir].kids, base)
	delete(d.nodes, id)
	d.ops = append(d.ops, Op{Kind: Remove, Dir: dir, Text: base})
}

// SyncDir implements disk.FS.
func (d *Disk) SyncDir(name string) error {
	err := d.begin("syncdir", name)
	defer d.mu.Unlock()
	if err != nil {
		return err
	}
	id, err := d.find(name)
	if err != nil {
		return err
	}
	d.ops = append(d.ops, Op{Kind: Sync, File: id})
	return nil
}

// Free implements disk.FS.
func (d *Disk) Free(name string) (int64, error) {
	err := d.begin("free", name)
	defer d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if d.capacity == 0 {
		return 1 << 40, nil
	}
	return max(0, d.capacity-d.usedLocked()), nil
}

// Lock implements disk.FS.
func (d *Disk) Lock(name string) (io.Closer, error) {
	err := d.begin("lock", name)
	defer d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	dir, base, err := d.parent(name)
	if err != nil {
		return nil, err
	}
	if _, ok := d.nodes[dir].kids[base]; !ok {
		d.makeLocked(dir, base, false)
	}
	key := path.Clean("/" + name)
	if d.locks[key] {
		return nil, disk.ErrLocked
	}
	d.locks[key] = true
	return &held{d, key}, nil
}

type held struct {
	d   *Disk
	key string
}

func (h *held) Close() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	delete(h.d.locks, h.key)
	return nil
}

// file is an open file.
type file struct {
	d      *Disk
	id     int
	name   string
	pos    int64
	closed bool
}

// begin locks the disk and returns what the file is; a file that was removed is still there for who has it open.
func (f *file) begin(call string) (*node, error) {
	err := f.d.begin(call, f.name)
	if err == nil && f.closed {
		err = &fs.PathError{Op: call, Path: f.name, Err: fs.ErrClosed}
	}
	n := f.d.nodes[f.id]
	if n == nil {
		n = &node{}
	}
	return n, err
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.begin("read")
	defer f.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if f.pos >= int64(len(n.data)) {
		return 0, io.EOF
	}
	c := copy(p, n.data[f.pos:])
	f.pos += int64(c)
	return c, nil
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.begin("write")
	defer f.d.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if grows := off + int64(len(p)) - int64(len(n.data)); grows > 0 {
		if f.d.capacity > 0 && f.d.usedLocked()+grows > f.d.capacity {
			// As much as there is room for is written, as a disk does.
			room := max(0, f.d.capacity-f.d.usedLocked()-max(0, off-int64(len(n.data))))
			p = p[:min(int64(len(p)), max(0, int64(len(n.data))-off)+room)]
			err = &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	if len(p) > 0 {
		n.data = writeAt(n.data, off, p)
		f.d.ops = append(f.d.ops, Op{Kind: Write, File: f.id, Offset: off, Data: slices.Clone(p)})
	}
	return len(p), err
}

func (f *file) Sync() error {
	_, err := f.begin("sync")
	defer f.d.mu.Unlock()
	if err == nil {
		f.d.ops = append(f.d.ops, Op{Kind: Sync, File: f.id})
	}
	return err
}

func (f *file) Truncate(size int64) error {
	n, err := f.begin("truncate")
	defer f.d.mu.Unlock()
	if err != nil {
		return err
	}
	n.data = resize(n.data, size)
	f.d.ops = append(f.d.ops, Op{Kind: Size, File: f.id, Offset: size})
	return nil
}

func (f *file) Allocate(size int64) error {
	n, err := f.begin("allocate")
	defer f.d.mu.Unlock()
	grows := size - int64(len(n.data))
	if err != nil || grows <= 0 {
		return err
	}
	if f.d.capacity > 0 && f.d.usedLocked()+grows > f.d.capacity {
		return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
	}
	n.data = resize(n.data, size)
	f.d.ops = append(f.d.ops, Op{Kind: Allocate, File: f.id, Offset: size})
	return nil
}

func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	return nil
}

func resize(b []byte, size int64) []byte {
	if int64(len(b)) >= size {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func writeAt(b []byte, off int64, data []byte) []byte {
	if end := off + int64(len(data)); int64(len(b)) < end {
		b = resize(b, end)
	}
	copy(b[off:], data)
	return b
}

// NthCall returns a function for Fail that fails the n-th call, counted from 1,
// of the calls that match names, and with persistent also all later ones. An empty call matches all but close.
func NthCall(call string, n int, persistent bool, err error) (fail func(call, name string) error, met func() bool) {
	if err == nil {
		err = errors.New("memdisk: injected")
	}
	var mu sync.Mutex
	count := 0
	return func(c, _ string) error {
			if call != "" && c != call {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			count++
			if count == n || persistent && count > n {
				return err
			}
			return nil
		}, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return count >= n
		}
}

// String describes a change.
func (o Op) String() string {
	switch o.Kind {
	case Write:
		return fmt.Sprintf("write %d bytes at %d of file %d", len(o.Data), o.Offset, o.File)
	case Size, Allocate:
		return fmt.Sprintf("%v file %d to %d", o.Kind, o.File, o.Offset)
	case Sync:
		return fmt.Sprintf("sync file %d", o.File)
	case Rename:
		return fmt.Sprintf("rename %s to %s", o.from, o.Text)
	}
	return fmt.Sprintf("%v %.60s", o.Kind, o.Text)
}
