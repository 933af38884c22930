package statesvc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// A snapshot file is a sequence of blocks, each
//
//	4  length of the payload, little endian
//	4  number of items in it
//	4  CRC-32C of these 8 bytes and the payload, started with that of the block before
//	   payload
//
// The first block is the header: magic, format, metadata of the store, revision, keys, cost, bytes. Blocks of items in the
// order of their keys follow. A last block without items says how many blocks and items there were; what may
// follow it is not part of the snapshot. Blocks are decoded in parallel: each carries the checksum it begins with.
const (
	snapMagic  = "hubdsnap"
	snapFormat = 1
	blockHead  = 12
	blockBytes = 128 << 10
	maxBlock   = 64 << 20
)

// snapInfo is a snapshot on disk.
type snapInfo struct {
	path string
	rev  uint64
	size int64
}

// writeSnapshot writes v to path, completely or not at all.
func (f *folder) writeSnapshot(v *view, path string) (info snapInfo, err error) {
	tmp := path + tmpSuffix
	if err := f.fs.Mkdir(f.snapDir()); err != nil {
		return info, err
	}
	file, err := f.fs.Create(tmp)
	if err != nil {
		return info, err
	}
	defer func() {
		_ = file.Close()
		if err != nil {
			_ = f.fs.Remove(tmp)
		}
	}()
	w := &snapWriter{w: bufio.NewWriterSize(file, 1<<20), sum: f.mark.salt()}
	head := []byte(snapMagic)
	head = binary.AppendUvarint(head, snapFormat)
	head = appendString(head, string(f.mark.metadata()))
	head = binary.AppendUvarint(head, v.rev)
	head = binary.AppendUvarint(head, uint64(v.tree.Len()))
	w.block(head, 0)
	v.tree.Scan(func(_ string, it *Item) bool {
		w.item(it)
		return w.err == nil
	})
	w.flush()
	w.block(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(w.blocks)), uint64(w.items)), 0)
	if w.err == nil {
		w.err = w.w.Flush()
	}
	if w.err == nil {
		w.err = file.Sync()
	}
	if w.err == nil {
		w.err = f.fs.Rename(tmp, path)
	}
	if w.err == nil {
		w.err = f.fs.SyncDir(f.snapDir())
	}
	return snapInfo{path: path, rev: v.rev, size: w.size}, w.err
}

// snapWriter collects items into blocks. After the first error it does nothing.
type snapWriter struct {
	w      *bufio.Writer
	err    error
	sum    uint32
	size   int64
	blocks int
	items  int

	buf []byte
	n   int
}

func (w *snapWriter) item(it *Item) {
	kind := byte(0)
	if it.Lease != nil {
		kind = eventLease
	}
	w.buf = append(w.buf, kind)
	w.buf = appendString(w.buf, it.Key)
	w.buf = binary.AppendUvarint(w.buf, it.Revision)
	w.buf = binary.AppendVarint(w.buf, it.Updated)
	w.buf = appendItem(w.buf, it, it.Updated)
	w.n++
	if len(w.buf) >= blockBytes {
		w.flush()
	}
}

func (w *snapWriter) flush() {
	if w.n > 0 {
		w.items += w.n
		w.block(w.buf, w.n)
		w.buf, w.n = w.buf[:0], 0
	}
}

func (w *snapWriter) block(payload []byte, items int) {
	if w.err != nil {
		return
	}
	var head [blockHead]byte
	binary.LittleEndian.PutUint32(head[:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[4:], uint32(items))
	w.sum = crc32.Update(crc32.Update(w.sum, castagnoli, head[:8]), castagnoli, payload)
	binary.LittleEndian.PutUint32(head[8:], w.sum)
	_, _ = w.w.Write(head[:]) // a failure is that of the next write, too
	_, w.err = w.w.Write(payload)
	w.size += int64(blockHead + len(payload))
	w.blocks++
}

// listSnapshots returns the snapshots of the folder, oldest first.
func (f *folder) listSnapshots() ([]snapInfo, error) {
	entries, err := f.fs.ReadDir(f.snapDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var snaps []snapInfo
	for _, e := range entries {
		var rev uint64
		if n, err := fmt.Sscanf(e.Name, "%016x.snap", &rev); n != 1 || err != nil || !strings.HasSuffix(e.Name, ".snap") {
			continue
		}
		snaps = append(snaps, snapInfo{path: filepath.Join(f.snapDir(), e.Name), rev: rev, size: e.Size})
	}
	slices.SortFunc(snaps, func(a, b snapInfo) int {
		if a.rev < b.rev {
			return -1
		}
		return 1
	})
	return snaps, nil
}

// rawBlock is a block on its way to be decoded.
type rawBlock struct {
	offset  int64
	start   uint32 // checksum it begins with
	sum     uint32
	items   int
	payload []byte
	out     chan decodedBlock
}

type decodedBlock struct {
	items []*Item
	cost  int64
	bytes int64
	err   error
}

// readSnapshot reads a snapshot and checks all of it. Damage is a *DamagedError with file and offset.
func (f *folder) readSnapshot(path string, now time.Time) (*view, error) {
	file, err := f.fs.Open(path)
	if err != nil {
		return nil, &FolderError{Path: f.path, Cause: err}
	}
	defer file.Close()
	damaged := func(offset int64, reason string) error {
		return &DamagedError{File: path, Offset: offset, Reason: reason}
	}
	r := &snapReader{r: bufio.NewReaderSize(file, 1<<20), sum: f.mark.salt()}
	head, err := r.next(nil)
	if err != nil {
		return nil, damaged(r.offset, err.Error())
	}
	if !strings.HasPrefix(string(head.payload), snapMagic) {
		return nil, damaged(0, "not a snapshot")
	}
	h := byteReader{b: head.payload[len(snapMagic):]}
	// The format first: a newer one may have other checksums.
	if format := h.uvarint(); format > snapFormat {
		return nil, &FormatError{File: path, Found: int(format), Supported: snapFormat}
	}
	if head.check() != nil {
		return nil, damaged(0, errBlockSum.Error())
	}
	if err := f.mark.checkMetadata(path, h.bytes()); err != nil {
		return nil, err
	}
	v := &view{rev: h.uvarint()}
	keys := h.uvarint()
	if h.bad {
		return nil, damaged(0, "header cannot be read")
	}

	// One goroutine reads, some decode, this one builds the tree in order.
	order := make(chan *rawBlock, 16)
	work := make(chan *rawBlock, 16)
	stop := make(chan struct{})
	var readErr error
	var trailer *rawBlock
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	free := sync.Pool{}
	wg.Go(func() {
		defer close(order)
		defer close(work)
		for {
			buf, _ := free.Get().([]byte)
			b, err := r.next(buf)
			if err != nil {
				readErr = damaged(r.offset, err.Error())
				return
			}
			if b.items == 0 {
				trailer = b
				return
			}
			b.out = make(chan decodedBlock, 1)
			select {
			case order <- b:
				work <- b // never blocks for long: decoders take whatever comes until work is closed
			case <-stop:
				return
			}
		}
	})
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for b := range work {
				b.out <- b.decode(now)
				free.Put(b.payload[:0]) //nolint:staticcheck // the slice header is small beside a block
			}
		})
	}
	tree := btree.NewMap[string, *Item](treeDegree)
	last := ""
	for b := range order {
		d := <-b.out
		if d.err != nil {
			return nil, damaged(b.offset, d.err.Error())
		}
		for _, it := range d.items {
			if it.Key <= last {
				return nil, damaged(b.offset, "keys are out of order")
			}
			last = it.Key
			tree.Load(it.Key, it)
		}
		v.total += d.cost
		v.bytes += d.bytes
	}
	if readErr != nil {
		return nil, readErr
	}
	if trailer.check() != nil {
		return nil, damaged(trailer.offset, errBlockSum.Error())
	}
	t := byteReader{b: trailer.payload}
	if blocks, items := t.uvarint(), t.uvarint(); t.bad || blocks != uint64(r.blocks-1) || items != keys || items != uint64(tree.Len()) {
		return nil, damaged(trailer.offset, "snapshot is incomplete")
	}
	v.tree = tree
	return v, nil
}

var (
	errBlockSum = errors.New("checksum of a block does not match")
	errBlockCut = errors.New("snapshot ends too early")
)

type snapReader struct {
	r      *bufio.Reader
	offset int64
	sum    uint32
	blocks int
}

// next reads a block into buf without checking its sum.
func (r *snapReader) next(buf []byte) (*rawBlock, error) {
	var head [blockHead]byte
	if _, err := io.ReadFull(r.r, head[:]); err != nil {
		return nil, errBlockCut
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxBlock {
		return nil, errors.New("block has an impossible length")
	}
	b := &rawBlock{offset: r.offset, start: crc32.Update(r.sum, castagnoli, head[:8]), items: int(binary.LittleEndian.Uint32(head[4:]))}
	b.sum = binary.LittleEndian.Uint32(head[8:])
	if b.items > int(n) {
		return nil, errors.New("block has an impossible number of items")
	}
	if int(n) > cap(buf) {
		// Grown as bytes arrive: a damaged length allocates no more than the file has.
		var err error
		if buf, err = io.ReadAll(io.LimitReader(r.r, int64(n))); err != nil || len(buf) < int(n) {
			return nil, errBlockCut
		}
	} else {
		buf = buf[:n]
		if _, err := io.ReadFull(r.r, buf); err != nil {
			return nil, errBlockCut
		}
	}
	b.payload = buf
	r.offset += int64(blockHead) + int64(n)
	r.sum = b.sum
	r.blocks++
	return b, nil
}

func (b *rawBlock) check() error {
	if crc32.Update(b.start, castagnoli, b.payload) != b.sum {
		return errBlockSum
	}
	return nil
}

func (b *rawBlock) decode(now time.Time) (d decodedBlock) {
	if d.err = b.check(); d.err != nil {
		return d
	}
	r := byteReader{b: b.payload}
	d.items = make([]*Item, 0, b.items)
	for range b.items {
		kind := r.byte()
		key := r.bytes()
		rev, updated := r.uvarint(), r.varint()
		it := r.item(key, updated, kind == eventLease, now)
		if it == nil || len(key) == 0 || kind&^eventLease != 0 {
			d.err = errors.New("item cannot be read")
			return d
		}
		it.Revision = rev
		d.items = append(d.items, it)
		d.cost += it.cost()
		d.bytes += it.size()
	}
	if r.bad || len(r.b) != 0 {
		d.err = errors.New("block has bytes left over")
	}
	return d
}
