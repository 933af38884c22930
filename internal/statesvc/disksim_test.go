package statesvc

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A recording is what a process did to one folder, call by call, as strace saw it. It can be played back up to any call,
// with all, with none, or with some of what was not synced by then.

// diskOp is one change. Files and folders are numbered as they appear; 0 is the folder that was there before.
type diskOp struct {
	kind diskKind
	file int // written, sized or synced; of a name: what it names
	dir  int
	name string
	from diskName // opRename
	off  int64
	data []byte
	size int64
	at   int    // opSync: how many operations had been done when it began; what came later it may have missed
	said string // opSaid
}

type diskName struct {
	dir  int
	name string
}

type diskKind int

const (
	opWrite    diskKind = iota
	opSize              // ftruncate
	opAllocate          // fallocate: zeros up to size, if the file is shorter
	opSync              // of a file, or of the names in a folder
	opName              // a file or folder got a name
	opRename
	opRemove
	opSaid // something was written to standard output
)

func (k diskKind) String() string {
	return [...]string{"write", "truncate", "allocate", "sync", "create", "rename", "remove", "say"}[k]
}

func (o *diskOp) String() string {
	switch o.kind {
	case opWrite:
		return fmt.Sprintf("write %d bytes at %d of file %d", len(o.data), o.off, o.file)
	case opSize, opAllocate:
		return fmt.Sprintf("%v file %d to %d", o.kind, o.file, o.size)
	case opSync:
		return fmt.Sprintf("sync file %d", o.file)
	case opRename:
		return fmt.Sprintf("rename %s to %s", o.from.name, o.name)
	case opSaid:
		return fmt.Sprintf("say %.60s", o.said)
	}
	return fmt.Sprintf("%v %s", o.kind, o.name)
}

// straceCalls are the calls that change files, or tell which file is meant. One that the kernel does not have is
// skipped by the question mark.
const straceCalls = "?open,?creat,openat,write,pwrite64,writev,?pwritev,?pwritev2,truncate,ftruncate,fallocate,fsync,fdatasync," +
	"?sync_file_range,?rename,?renameat,renameat2,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,lseek,close,copy_file_range,sendfile,link,?linkat,symlinkat,?dup,?dup2,dup3"

// recorder turns lines of strace into operations.
type recorder struct {
	root   string
	ops    []*diskOp
	kids   map[int]map[string]int // names in each folder, by folder
	sizes  map[int]int64          // of files, for appending
	next   int
	fds    map[int]*openFile
	begun  map[string]string // by thread: the first half of a call
	starts map[string]int    // by thread: how many operations there were when its call began
}

type openFile struct {
	file int // -1: outside the folder
	path string
	pos  int64
}

var (
	straceLine    = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)`)
	straceBegun   = regexp.MustCompile(`^(\d+) +(\w+\(.*) <unfinished \.\.\.>$`)
	straceResumed = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
)

// readRecording reads what strace -f -xx wrote about changes below root, which must have existed before.
func readRecording(r io.Reader, root string) ([]*diskOp, error) {
	rec := &recorder{
		root: filepath.Clean(root), kids: map[int]map[string]int{0: {}}, sizes: map[int]int64{}, next: 1,
		fds: map[int]*openFile{}, begun: map[string]string{}, starts: map[string]int{},
	}
	lines := bufio.NewReaderSize(r, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			return rec.ops, nil
		}
		if err != nil {
			return nil, err
		}
		line = strings.TrimSuffix(line, "\n")
		if m := straceBegun.FindStringSubmatch(line); m != nil {
			rec.begun[m[1]], rec.starts[m[1]] = m[2], len(rec.ops)
			continue
		}
		start := len(rec.ops)
		if m := straceResumed.FindStringSubmatch(line); m != nil {
			start = rec.starts[m[1]]
			line = m[1] + " " + rec.begun[m[1]] + m[2]
		}
		m := straceLine.FindStringSubmatch(line)
		if m == nil {
			continue // signals, exits
		}
		result, err := strconv.ParseInt(m[4], 10, 64)
		if err != nil || result < 0 {
			continue // failed: nothing happened
		}
		if err := rec.call(m[2], straceArgs(m[3]), result, start); err != nil {
			return nil, fmt.Errorf("%.200s: %w", line, err)
		}
	}
}

// straceArgs splits arguments and decodes those that are strings: with -xx every byte is \xHH.
func straceArgs(text string) []string {
	args := strings.Split(text, ", ")
	for i, a := range args {
		s, ok := strings.CutPrefix(a, `"`)
		if !ok {
			continue
		}
		s = strings.TrimSuffix(s, `"`)
		b := make([]byte, 0, len(s)/4)
		for j := 0; j+4 <= len(s); j += 4 {
			v, err := strconv.ParseUint(s[j+2:j+4], 16, 8)
			if err != nil {
				break
			}
			b = append(b, byte(v))
		}
		args[i] = string(b)
	}
	return args
}

func (r *recorder) add(op *diskOp) { r.ops = append(r.ops, op) }

// find returns the folder and the last name of a path below the root.
func (r *recorder) find(path string) (dir int, name string, ok bool) {
	rest, ok := strings.CutPrefix(filepath.Clean(path), r.root+"/")
	if !ok {
		return 0, "", false
	}
	parts := strings.Split(rest, "/")
	for _, p := range parts[:len(parts)-1] {
		if dir, ok = r.kids[dir][p]; !ok {
			return 0, "", false
		}
	}
	return dir, parts[len(parts)-1], true
}

// at resolves a path argument beside its folder argument.
func (r *recorder) at(dirfd, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	if n, err := strconv.Atoi(dirfd); err == nil {
		if f := r.fds[n]; f != nil {
			return filepath.Join(f.path, path)
		}
	}
	return path
}

func (r *recorder) fd(arg string) *openFile {
	n, _ := strconv.Atoi(arg)
	if f := r.fds[n]; f != nil && f.file >= 0 {
		return f
	}
	return nil
}

func (r *recorder) create(dir int, name string, isDir bool) int {
	id := r.next
	r.next++
	if isDir {
		r.kids[id] = map[string]int{}
	}
	r.kids[dir][name] = id
	r.add(&diskOp{kind: opName, file: id, dir: dir, name: name, size: -1})
	if isDir {
		r.ops[len(r.ops)-1].size = -2
	}
	return id
}

func (r *recorder) call(name string, args []string, result int64, start int) error {
	number := func(i int) int64 { n, _ := strconv.ParseInt(args[i], 0, 64); return n }
	switch name {
	case "open", "creat":
		return r.call("openat", append([]string{"AT_FDCWD"}, args...), result, start)
	case "openat":
		path := r.at(args[0], args[1])
		f := &openFile{file: -1, path: path}
		r.fds[int(result)] = f
		if filepath.Clean(path) == r.root {
			f.file = 0
			return nil
		}
		dir, base, ok := r.find(path)
		if !ok {
			return nil
		}
		id, ok := r.kids[dir][base]
		if !ok {
			id = r.create(dir, base, false)
		} else if strings.Contains(args[2], "O_TRUNC") {
			r.add(&diskOp{kind: opSize, file: id})
			r.sizes[id] = 0
		}
		f.file = id
		if strings.Contains(args[2], "O_APPEND") {
			return fmt.Errorf("appending is not understood")
		}
	case "close":
		n, _ := strconv.Atoi(args[0])
		delete(r.fds, n)
	case "lseek":
		if f := r.fd(args[0]); f != nil {
			f.pos = result
		}
	case "write", "pwrite64":
		if args[0] == "1" {
			r.add(&diskOp{kind: opSaid, said: strings.TrimSpace(args[1])})
			return nil
		}
		f := r.fd(args[0])
		if f == nil {
			return nil
		}
		if int64(len(args[1])) < result {
			return fmt.Errorf("strace cut the data off")
		}
		off := f.pos
		if name == "pwrite64" {
			off = number(3)
		} else {
			f.pos += result
		}
		r.add(&diskOp{kind: opWrite, file: f.file, off: off, data: []byte(args[1][:result])})
		r.sizes[f.file] = max(r.sizes[f.file], off+result)
	case "ftruncate", "truncate", "fallocate":
		var id int
		if name == "truncate" {
			dir, base, ok := r.find(args[0])
			if !ok {
				return nil
			}
			id = r.kids[dir][base]
		} else if f := r.fd(args[0]); f != nil {
			id = f.file
		} else {
			return nil
		}
		if name != "fallocate" {
			r.add(&diskOp{kind: opSize, file: id, size: number(1)})
			r.sizes[id] = number(1)
			return nil
		}
		if args[1] != "0" {
			return fmt.Errorf("this mode is not understood")
		}
		r.add(&diskOp{kind: opAllocate, file: id, size: number(2) + number(3)})
		r.sizes[id] = max(r.sizes[id], number(2)+number(3))
	case "fsync", "fdatasync":
		if f := r.fd(args[0]); f != nil {
			r.add(&diskOp{kind: opSync, file: f.file, at: start})
		}
	case "mkdir":
		return r.call("mkdirat", append([]string{"AT_FDCWD"}, args...), result, start)
	case "mkdirat":
		if dir, base, ok := r.find(r.at(args[0], args[1])); ok {
			r.create(dir, base, true)
		}
	case "unlink", "rmdir":
		return r.call("unlinkat", append([]string{"AT_FDCWD"}, args...), result, start)
	case "unlinkat":
		if dir, base, ok := r.find(r.at(args[0], args[1])); ok {
			delete(r.kids[dir], base)
			r.add(&diskOp{kind: opRemove, dir: dir, name: base})
		}
	case "rename":
		return r.call("renameat2", []string{"AT_FDCWD", args[0], "AT_FDCWD", args[1]}, result, start)
	case "renameat", "renameat2":
		from, old, ok := r.find(r.at(args[0], args[1]))
		to, base, ok2 := r.find(r.at(args[2], args[3]))
		if !ok && !ok2 {
			return nil
		}
		if !ok || !ok2 {
			return fmt.Errorf("out of the folder or into it")
		}
		id := r.kids[from][old]
		delete(r.kids[from], old)
		r.kids[to][base] = id
		r.add(&diskOp{kind: opRename, file: id, dir: to, name: base, from: diskName{from, old}})
	default:
		if f := r.fd(args[0]); f != nil {
			return fmt.Errorf("this call is not understood")
		}
	}
	return nil
}

// loss says what a crash takes away.
type loss int

const (
	loseNothing  loss = iota // the process was killed: the system has it all
	loseUnsynced             // the power went: nothing is there but what was synced
	loseSome                 // the power went: of the rest each sector is there or not, and a first part of the names
	tearLast                 // the process was killed within its last write
)

func (l loss) String() string {
	return [...]string{"nothing", "all that was not synced", "some of what was not synced", "a part of the last write"}[l]
}

// playBack writes into dir what is there when it ends after the first n operations.
func playBack(t *testing.T, ops []*diskOp, n int, l loss, rng *rand.Rand, dir string) {
	t.Helper()
	synced := map[int]int{} // of each file: up to which operation
	for i, op := range ops[:n] {
		if op.kind == opSync {
			synced[op.file] = max(synced[op.file], min(op.at, i))
		}
	}
	files := map[int][]byte{}
	dirs := map[int]map[string]int{0: {}}
	names := true // still no name was lost
	for i, op := range ops[:n] {
		kept := l == loseNothing || l == tearLast
		switch op.kind {
		case opWrite, opSize, opAllocate:
			kept = kept || i < synced[op.file]
			if l == loseSome && !kept && op.kind != opWrite {
				kept = rng.IntN(2) == 0
			}
		case opName, opRename, opRemove:
			kept = kept || i < synced[op.dir]
			if l == loseSome && !kept {
				names = names && rng.IntN(4) > 0
				kept = names
			}
		}
		switch op.kind {
		case opWrite:
			data := op.data
			if l == tearLast && i == n-1 {
				data, kept = data[:rng.IntN(len(data))], true
			}
			if kept {
				files[op.file] = writeAt(files[op.file], op.off, data)
			} else if l == loseSome {
				for off := op.off; off < op.off+int64(len(data)); {
					end := min((off/sectorSize+1)*sectorSize, op.off+int64(len(data)))
					if rng.IntN(2) == 0 {
						files[op.file] = writeAt(files[op.file], off, data[off-op.off:end-op.off])
					}
					off = end
				}
			}
		case opSize:
			if kept {
				files[op.file] = resize(files[op.file], op.size)
			}
		case opAllocate:
			if kept && int64(len(files[op.file])) < op.size {
				files[op.file] = resize(files[op.file], op.size)
			}
		case opName:
			if op.size == -2 {
				dirs[op.file] = map[string]int{}
			}
			if kept {
				dirs[op.dir][op.name] = op.file
			}
		case opRename:
			if kept {
				if dirs[op.from.dir][op.from.name] == op.file {
					delete(dirs[op.from.dir], op.from.name)
				}
				dirs[op.dir][op.name] = op.file
			}
		case opRemove:
			if kept {
				delete(dirs[op.dir], op.name)
			}
		}
	}
	var lay func(id int, path string)
	lay = func(id int, path string) {
		for name, file := range dirs[id] {
			to := filepath.Join(path, name)
			if _, ok := dirs[file]; ok {
				if err := os.Mkdir(to, 0o700); err != nil {
					t.Fatal(err)
				}
				lay(file, to)
				continue
			}
			data := files[file]
			size := len(data)
			for size > 0 && data[size-1] == 0 {
				size--
			}
			err := os.WriteFile(to, data[:size], 0o600)
			if err == nil {
				err = os.Truncate(to, int64(len(data)))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	lay(0, dir)
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

// said returns what was written to standard output within the first n operations, line by line.
func said(ops []*diskOp, n int) []string {
	var lines []string
	for _, op := range ops[:n] {
		if op.kind == opSaid {
			lines = append(lines, op.said)
		}
	}
	return lines
}

// TestPlayBack makes sure that the player loses what it should.
func TestPlayBack(t *testing.T) {
	ops := []*diskOp{
		{kind: opName, file: 1, dir: 0, name: "state", size: -2},
		{kind: opName, file: 2, dir: 1, name: "a", size: -1},
		{kind: opWrite, file: 2, data: []byte("first")},
		{kind: opSync, file: 2, at: 3},
		{kind: opWrite, file: 2, off: 5, data: []byte("second")},
		{kind: opSync, file: 1, at: 5},
		{kind: opSync, file: 0, at: 6},
		{kind: opRename, file: 2, dir: 1, name: "b", from: diskName{1, "a"}},
	}
	for _, c := range []struct {
		n    int
		l    loss
		want string
	}{
		{5, loseNothing, "a=firstsecond"},
		{5, loseUnsynced, ""}, // not even the folder has its name
		{7, loseUnsynced, "a=first"},
		{8, loseNothing, "b=firstsecond"},
		{8, loseUnsynced, "a=first"},
	} {
		dir := t.TempDir()
		playBack(t, ops, c.n, c.l, rand.New(rand.NewPCG(1, 1)), dir)
		var got []string
		files, _ := filepath.Glob(filepath.Join(dir, "state", "*"))
		for _, f := range files {
			text, _ := os.ReadFile(f)
			got = append(got, filepath.Base(f)+"="+string(text))
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("after %d operations, losing %v: %q, want %q", c.n, c.l, s, c.want)
		}
	}
}
