package statesvc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The log is appended to by etcd's wal package and read here: one pass in parallel over segments that are in memory as
// a whole, which knows the offset of everything and can look beyond a broken place. The framing of wal: an 8-byte little
// endian length (the top byte says how many bytes of padding follow), then a protobuf Record {type, crc, data}. The crc
// runs through all records of the log; each segment begins with its value.

const sectorSize = 512

// segmentFile is the name of a segment: its number and the index of its first record.
type segmentFile struct {
	path  string
	seq   uint64
	index uint64
}

func listSegments(dir string) ([]segmentFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []segmentFile
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".wal") {
			continue
		}
		s := segmentFile{path: filepath.Join(dir, e.Name())}
		if n, err := fmt.Sscanf(e.Name(), "%016x-%016x.wal", &s.seq, &s.index); n != 2 || err != nil {
			continue
		}
		segs = append(segs, s)
	}
	slices.SortFunc(segs, func(a, b segmentFile) int {
		switch {
		case a.seq < b.seq:
			return -1
		case a.seq > b.seq:
			return 1
		}
		return strings.Compare(a.path, b.path)
	})
	return segs, nil
}

// segment is what parseSegment read.
type segment struct {
	records  []rawRecord
	metadata []byte
	firstCRC uint32 // value that the log's running checksum had at the start
	lastCRC  uint32
	end      int64 // offset behind the last good record
	problem  error // nil: after end there are only zeros, or nothing
}

// rawRecord is an entry of the log as it lies in the segment.
type rawRecord struct {
	index  uint64
	data   []byte
	offset int64
}

var (
	errFrameCut    = errors.New("record is cut off")
	errFrameSum    = errors.New("checksum of the log does not match")
	errFrameShape  = errors.New("record of the log cannot be read")
	errFrameAfter  = errors.New("there is data after the end of the log")
	errFrameAlign  = errors.New("record of the log has a wrong length")
	errFrameKind   = errors.New("record of an unknown kind in the log")
	errFrameHeader = errors.New("segment has no header")
)

// frame is one record of the wal package.
type frame struct {
	kind     int64
	crc      uint32
	data     []byte
	recBytes int64
	next     int64
}

// readFrame reads the frame at off. A frame of length zero is the end and returns recBytes 0.
func readFrame(b []byte, off int64) (frame, error) {
	rest := b[off:]
	if len(rest) < 8 {
		if allZero(rest) {
			return frame{}, nil
		}
		return frame{}, errFrameCut
	}
	field := binary.LittleEndian.Uint64(rest)
	if field == 0 {
		return frame{}, nil
	}
	f := frame{recBytes: int64(field & (1<<56 - 1))}
	pad := int64(0)
	if field>>63 != 0 {
		pad = int64(field >> 56 & 7)
	}
	if field>>56&0x78 != 0 || (f.recBytes+pad)%8 != 0 || f.recBytes == 0 {
		return f, errFrameAlign
	}
	f.next = off + 8 + f.recBytes + pad
	if f.recBytes+pad > int64(len(rest)-8) {
		return f, errFrameCut
	}
	if !f.parse(rest[8 : 8+f.recBytes]) {
		return f, errFrameShape
	}
	return f, nil
}

// parse reads a protobuf Record and is strict about it: the checksum of the log covers the data only, so every other byte
// must be exactly what the writer makes.
func (f *frame) parse(b []byte) bool {
	want := protowire.Number(1)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n != 1 || num < want || num > 3 {
			return false
		}
		want = num + 1
		b = b[n:]
		switch {
		case num == 3 && typ == protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			f.data, b = v, b[n:]
		case num < 3 && typ == protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 || v > 1<<32-1 || n != protowire.SizeVarint(v) {
				return false
			}
			if num == 1 {
				f.kind = int64(v)
			} else {
				f.crc = uint32(v)
			}
			b = b[n:]
		default:
			return false
		}
	}
	return f.kind != 0
}

// parseSegment reads all records and stops at the first that is not good.
func parseSegment(b []byte) *segment {
	s := &segment{}
	var crc uint32
	started := false
	for {
		f, err := readFrame(b, s.end)
		if err != nil {
			s.problem = err
			return s
		}
		if f.recBytes == 0 {
			break
		}
		if !started && f.kind != wal.CrcType {
			s.problem = errFrameHeader
			return s
		}
		switch f.kind {
		case wal.CrcType:
			if started {
				s.problem = errFrameKind
				return s
			}
			started = true
			crc, s.firstCRC = f.crc, f.crc
		case wal.MetadataType, wal.EntryType, wal.SnapshotType:
			crc = crc32.Update(crc, castagnoli, f.data)
			if crc != f.crc {
				s.problem = errFrameSum
				return s
			}
		default:
			s.problem = errFrameKind
			return s
		}
		switch f.kind {
		case wal.MetadataType:
			if s.metadata != nil {
				s.problem = errFrameKind
				return s
			}
			s.metadata = f.data
		case wal.SnapshotType: // only the empty one that every log begins with
			if len(s.records) > 0 {
				s.problem = errFrameKind
				return s
			}
		case wal.EntryType:
			index, data, ok := parseEntry(f.data)
			if !ok {
				s.problem = errFrameShape
				return s
			}
			s.records = append(s.records, rawRecord{index: index, data: data, offset: s.end})
		}
		s.end = f.next
		s.lastCRC = crc
	}
	if s.metadata == nil {
		s.problem = errFrameHeader
		return s
	}
	if !allZero(b[s.end:]) {
		s.problem = errFrameAfter
	}
	return s
}

// parseEntry reads a raft entry: index and data.
func parseEntry(b []byte) (index uint64, data []byte, ok bool) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, nil, false
		}
		b = b[n:]
		switch {
		case num == 4 && typ == protowire.BytesType:
			if data, n = protowire.ConsumeBytes(b); n < 0 {
				return 0, nil, false
			}
			ok = true
		case num <= 3 && typ == protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return 0, nil, false
			}
			if num == 3 {
				index = v
			}
		default:
			return 0, nil, false
		}
		b = b[n:]
	}
	return index, data, ok && index > 0
}

// verdict is what a broken end of the last segment is.
type verdict int

const (
	verdictDamage verdict = iota
	verdictTorn           // never written completely, so never acknowledged: cut it
	verdictMend           // complete but for bytes that are known: write them
)

// mending says what is missing of a record: those bytes at the offset, and a file of that size.
type mending struct {
	off  int64
	data []byte
	size int64
}

// judge looks at what follows the last good record of the newest segment. Only one record is ever under way, and it
// is synced before the next one begins. So a torn one is the last: whatever stands behind the place and is a record of
// this store shows that the place was good once and was damaged.
func (s *segment) judge(b []byte, next uint64, salt uint32) (verdict, mending) {
	f, _ := readFrame(b, s.end)
	start, end := s.end+8, s.end+8+f.recBytes
	if f.recBytes > 0 && end <= int64(len(b)) && (b[end-1] == 0 || f.next > int64(len(b))) {
		// No record ends with a zero. If nothing else is missing the record itself is known.
		fixed := bytes.Clone(b[start:end])
		fixed[len(fixed)-1] = recordEnd
		g := frame{}
		if g.parse(fixed) && g.kind == wal.EntryType && crc32.Update(s.lastCRC, castagnoli, g.data) == g.crc {
			return verdictMend, mending{off: end - 1, data: []byte{recordEnd}, size: f.next}
		}
	}
	for from := s.end; ; {
		i := bytes.Index(b[from:], []byte(frameMagic))
		if i < 0 {
			break
		}
		from += int64(i)
		index, _, n, err := openRecord(b[from:], salt)
		if err == nil && index == next {
			if m, ok := s.headless(b, from, index, n); ok {
				return verdictMend, m
			}
		}
		if (err == nil || index > 0) && index >= next {
			return verdictDamage, mending{}
		}
		from++
	}
	if f.recBytes == 0 || end > int64(len(b)) {
		// A length that was never written, in a sector that was never written, or a file that ends too early.
		sector := b[s.end:min(int64(len(b)), (s.end/sectorSize+1)*sectorSize)]
		if f.recBytes != 0 || len(b)-int(s.end) < 8 || allZero(sector) {
			return verdictTorn, mending{}
		}
		return verdictDamage, mending{}
	}
	if b[end-1] == 0 {
		return verdictTorn, mending{}
	}
	for off := start; off < end; {
		stop := min(end, (off/sectorSize+1)*sectorSize)
		if allZero(b[off:stop]) {
			return verdictTorn, mending{}
		}
		off = stop
	}
	return verdictDamage, mending{}
}

// headless recognises the next record of the log, whose own n bytes are complete at offset from, where the power went
// before the sector was written in which its frame begins: that sector ends in zeros. The frame follows from the record.
func (s *segment) headless(b []byte, from int64, index uint64, n int) (mending, bool) {
	frame, pad, err := frameOf(s.lastCRC, index, b[from:from+int64(n)])
	if err != nil || s.end+int64(len(frame)-pad-n) != from {
		return mending{}, false
	}
	sector := (s.end/sectorSize + 1) * sectorSize
	if sector > from || !allZero(b[s.end:sector]) || !bytes.Equal(b[sector:from], frame[sector-s.end:from-s.end]) {
		return mending{}, false
	}
	return mending{off: s.end, data: frame[:sector-s.end], size: s.end + int64(len(frame))}, true
}

// frameOf makes what the wal package writes for a record; pad bytes of it at the end are padding. crc is that of the log
// up to there.
func frameOf(crc uint32, index uint64, rec []byte) (frame []byte, pad int, err error) {
	entry, err := proto.Marshal(&raftpb.Entry{Term: new(uint64(1)), Index: &index, Data: rec})
	if err != nil {
		return nil, 0, err
	}
	body, err := proto.Marshal(&walpb.Record{Type: new(wal.EntryType), Crc: new(crc32.Update(crc, castagnoli, entry)), Data: entry})
	if err != nil {
		return nil, 0, err
	}
	field := uint64(len(body))
	if pad = (8 - len(body)%8) % 8; pad > 0 {
		field |= uint64(0x80|pad) << 56
	}
	frame = binary.LittleEndian.AppendUint64(make([]byte, 0, 8+len(body)+pad), field)
	return append(append(frame, body...), zeroRun[:pad]...), pad, nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
