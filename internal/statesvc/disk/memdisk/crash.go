package memdisk

import (
	"math/rand/v2"
)

// Op is one change of a disk. Files and folders have numbers; 0 is the root.
type Op struct {
	Kind   Kind
	File   int
	Dir    int    // of a name: the folder that it is in
	Text   string // the name, or what was marked
	Offset int64  // of a write; the size that a file got
	Data   []byte

	folder  bool
	fromDir int
	from    string
}

// Kind is what a change is.
type Kind int

// The kinds of changes.
const (
	Write Kind = iota
	Size
	Allocate
	Sync // of a file, or of the names in a folder
	Name // a file or folder was made
	Rename
	Remove
	Mark
)

func (k Kind) String() string {
	return [...]string{"write", "truncate", "allocate", "sync", "create", "rename", "remove", "mark"}[k]
}

// Loss is what a crash takes away.
type Loss int

// The kinds of losses.
const (
	LoseNothing  Loss = iota // the process was killed: the system has it all
	LoseUnsynced             // the power went: nothing is there but what was synced
	LoseSome                 // the power went: of the rest each sector is there or not, and a first part of the names
	TearLast                 // the process was killed within its last write
)

func (l Loss) String() string {
	return [...]string{"nothing", "all that was not synced", "some of what was not synced", "a part of the last write"}[l]
}

// sectorSize is how many bytes a disk writes at once.
const sectorSize = 512

// At returns a disk with what is left of another one that made the changes ops
// when the machine or the process ends after the first n of them. rng decides what is lost where that is left open.
func At(ops []Op, n int, l Loss, rng *rand.Rand) *Disk {
	synced := map[int]int{} // of each file: up to which change
	for i, op := range ops[:n] {
		if op.Kind == Sync {
			synced[op.File] = i
		}
	}
	d := New()
	names := true // still no name was lost
	for i, op := range ops[:n] {
		kept := l == LoseNothing || l == TearLast
		switch op.Kind {
		case Write, Size, Allocate:
			kept = kept || i < synced[op.File]
			if l == LoseSome && !kept && op.Kind != Write {
				kept = rng.IntN(2) == 0
			}
		case Name, Rename, Remove:
			kept = kept || i < synced[op.Dir]
			if l == LoseSome && !kept {
				names = names && rng.IntN(4) > 0
				kept = names
			}
		}
		d.next = max(d.next, op.File+1)
		if f := d.nodes[op.File]; f == nil && op.Kind != Remove && op.Kind != Mark {
			f = &node{}
			if op.folder {
				f.kids = map[string]int{}
			}
			d.nodes[op.File] = f
		}
		f := d.nodes[op.File]
		switch op.Kind {
		case Write:
			data := op.Data
			if l == TearLast && i == n-1 && len(data) > 0 {
				data = data[:rng.IntN(len(data))]
			}
			if kept {
				f.data = writeAt(f.data, op.Offset, data)
			} else if l == LoseSome {
				for off := op.Offset; off < op.Offset+int64(len(data)); {
					end := min((off/sectorSize+1)*sectorSize, op.Offset+int64(len(data)))
					if rng.IntN(2) == 0 {
						f.data = writeAt(f.data, off, data[off-op.Offset:end-op.Offset])
					}
					off = end
				}
			}
		case Size:
			if kept {
				f.data = resize(f.data, op.Offset)
			}
		case Allocate:
			if kept && int64(len(f.data)) < op.Offset {
				f.data = resize(f.data, op.Offset)
			}
		case Name:
			if kept {
				d.nodes[op.Dir].kids[op.Text] = op.File
			}
		case Rename:
			if kept {
				if d.nodes[op.fromDir].kids[op.from] == op.File {
					delete(d.nodes[op.fromDir].kids, op.from)
				}
				d.nodes[op.Dir].kids[op.Text] = op.File
			}
		case Remove:
			if kept {
				delete(d.nodes[op.Dir].kids, op.Text)
			}
		}
	}
	d.sweep()
	return d
}

// sweep drops what has no name any more.
func (d *Disk) sweep() {
	named := map[int]bool{0: true}
	var walk func(id int)
	walk = func(id int) {
		for _, kid := range d.nodes[id].kids {
			named[kid] = true
			walk(kid)
		}
	}
	walk(0)
	for id := range d.nodes {
		if !named[id] {
			delete(d.nodes, id)
		}
	}
}

// Marks returns what was marked within the first n changes.
func Marks(ops []Op, n int) []string {
	var texts []string
	for _, op := range ops[:n] {
		if op.Kind == Mark {
			texts = append(texts, op.Text)
		}
	}
	return texts
}
