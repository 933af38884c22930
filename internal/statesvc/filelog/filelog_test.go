package filelog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
	"github.com/hubd-dev/hubd/internal/statesvc/disk/memdisk"
)

var testID = ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// newLog makes an empty log with small segments on a disk of its own.
func newLog(t testing.TB) (*memdisk.Disk, *Log) {
	t.Helper()
	d := memdisk.New()
	l := New(d, "/log", testID, 4<<10)
	if err := errors.Join(l.Create(), d.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	return d, l
}

func put(t testing.TB, l *Log, text string) {
	t.Helper()
	if err := l.Append(append(l.Begin(), text...), Note{l.Last()}); err != nil {
		t.Fatalf("append %.20q: %v", text, err)
	}
}

// replay reads a log and returns its records as text.
func replay(l *Log) (texts []string, err error) {
	err = l.Replay(Visitor{
		Decode: func(r Record) (any, error) { return string(r.Body), nil },
		Apply: func(r Record, v any) error {
			texts = append(texts, v.(string))
			return nil
		},
	})
	return texts, err
}

// reopened reads the log on d as another process would, opens it and appends one record more.
func reopened(t testing.TB, d *memdisk.Disk) []string {
	t.Helper()
	l := New(d, "/log", testID, 4<<10)
	texts, err := replay(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Open(); err != nil {
		t.Fatal(err)
	}
	put(t, l, "one more")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := replay(New(d, "/log", testID, 4<<10))
	if err != nil || !slices.Equal(again, append(slices.Clone(texts), "one more")) {
		t.Fatalf("after one more: %d records, %v, want %d", len(again), err, len(texts)+1)
	}
	return texts
}

func TestAppendedRecordsAreReplayed(t *testing.T) {
	d, l := newLog(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var want []string
	for i := range 60 {
		text := strings.Repeat(string(rune('a'+i%26)), rng.IntN(900))
		switch i % 10 {
		case 3:
			text = string(make([]byte, rng.IntN(3000)))
		case 7:
			text = strings.Repeat("large", 2000) // larger than a segment
		}
		put(t, l, text)
		want = append(want, text)
	}
	if l.Last() != 60 {
		t.Errorf("last record %d", l.Last())
	}
	segs, err := listSegments(d, "/log")
	if err != nil || len(segs) < 5 {
		t.Fatalf("%d segments, %v: the test shows little", len(segs), err)
	}
	if got := reopened(t, d); !slices.Equal(got, want) {
		t.Errorf("got %d records, want %d", len(got), len(want))
	}
}

func TestNeededSegmentsAreHandedOver(t *testing.T) {
	d, l := newLog(t)
	for i := range 40 {
		put(t, l, fmt.Sprintf("%03d%s", i, strings.Repeat("x", 500)))
	}
	var first uint64
	var began Note
	handed := 0
	read := New(d, "/log", testID, 0)
	err := read.Replay(Visitor{
		Needed: func(newest, note Note) bool { return newest[0]-note[0] < 10 },
		Start: func(seq uint64, note Note) error {
			first, began = seq, note
			return nil
		},
		Decode: func(r Record) (any, error) { return nil, nil },
		Apply: func(r Record, _ any) error {
			handed++
			if want := first + uint64(handed) - 1; r.Seq != want {
				t.Errorf("record %d, want %d", r.Seq, want)
			}
			return nil
		},
	})
	if err != nil || first <= 1 || first > 30 || began[0] != first-1 || uint64(handed) != 41-first || read.Last() != 40 {
		t.Errorf("began at %d with %v, %d records, last %d: %v", first, began, handed, read.Last(), err)
	}
	// What is not needed is checked all the same.
	segs, _ := listSegments(d, "/log")
	f, _ := d.OpenWrite(segs[0].path)
	f.WriteAt([]byte{'!'}, headerSize+recordHead+5)
	err = New(d, "/log", testID, 0).Replay(Visitor{
		Needed: func(newest, note Note) bool { return false },
		Decode: func(r Record) (any, error) { return nil, nil }, Apply: func(Record, any) error { return nil },
	})
	if dd, ok := errors.AsType[*disk.DamagedError](err); !ok || dd.File != segs[0].path || dd.Offset != headerSize {
		t.Errorf("damage in what is not needed: %v", err)
	}
}

func TestTrimmedSegmentsAreGone(t *testing.T) {
	d, l := newLog(t)
	for range 40 {
		put(t, l, strings.Repeat("x", 500))
	}
	all := l.Bytes()
	if err := l.Trim(20); err != nil {
		t.Fatal(err)
	}
	segs, _ := listSegments(d, "/log")
	if segs[0].first > 21 || segs[0].first < 12 || l.Bytes() >= all {
		t.Errorf("log begins with %d, %d bytes of %d", segs[0].first, l.Bytes(), all)
	}
	if err := l.Trim(1000); err != nil {
		t.Fatal(err)
	}
	if segs, _ = listSegments(d, "/log"); len(segs) != 1 {
		t.Errorf("%d segments are left, want the newest", len(segs))
	}
	put(t, l, "more")
	if got := reopened(t, d); got[len(got)-1] != "more" {
		t.Errorf("got %q", got)
	}
}

// TestFailedAppendsAreTakenBack lets each call of appending fail in turn. A record that was refused is not there later,
// also after a loss of power; one whose fate is unknown may be.
func TestFailedAppendsAreTakenBack(t *testing.T) {
	unknown := 0
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
		for n := 1; ; n++ {
			d, l := newLog(t)
			fail, met := memdisk.NthCall("", n, false, errno)
			d.Fail(fail)
			var want []string
			open := map[string]bool{}
			for i := range 20 {
				text := fmt.Sprintf("%03d%s", i, strings.Repeat("x", 700))
				err := l.Append(append(l.Begin(), text...), Note{})
				if err == nil {
					want = append(want, text)
					continue
				}
				a, ok := errors.AsType[*AppendError](err)
				if !ok || !errors.Is(err, errno) && !errors.Is(err, errNotOpen) {
					t.Fatalf("call %d: %v", n, err)
				}
				if a.Unknown {
					unknown++
					open[text] = true
				}
				if err := l.Recover(); err != nil {
					t.Fatalf("call %d: recover: %v", n, err)
				}
			}
			if len(want) < 19 {
				t.Errorf("call %d: %d records were taken after one failure", n, len(want))
			}
			ops := d.Ops()
			for _, loss := range []memdisk.Loss{memdisk.LoseNothing, memdisk.LoseUnsynced} {
				left := memdisk.At(ops, len(ops), loss, nil)
				got := slices.DeleteFunc(reopened(t, left), func(s string) bool { return open[s] })
				if !slices.Equal(got, want) {
					t.Errorf("call %d failed with %v, losing %v: %d records, want %d", n, errno, loss, len(got), len(want))
				}
			}
			if !met() {
				break
			}
		}
	}
	if unknown > 0 {
		t.Logf("%d records with an unknown fate", unknown)
	}
}

func TestRecordsWithZeros(t *testing.T) {
	for _, n := range []int{0, 1, 254, 255, 256, 257, 511, 512, 1000, 65536} {
		for _, lead := range []int{0, 1, 100, 254, 255, 256, 300} {
			body := append([]byte(strings.Repeat("x", lead)), make([]byte, n)...)
			body = append(body, "end"...)
			rec, _, err := seal(append(Begin(nil), body...), 42, 5, 7)
			if err != nil {
				t.Fatal(err)
			}
			run, longest := 0, 0
			for _, c := range rec[recordHead:] {
				if run++; c != 0 {
					run = 0
				}
				longest = max(longest, run)
			}
			if longest >= 2*stuffRun {
				t.Fatalf("%d zeros after %d bytes: a run of %d is left", n, lead, longest)
			}
			h, ok := decodeHead(append(rec, "more"...), 7)
			if !ok || !h.good(rec, 7) || h.seq != 42 || h.prev != 5 || len(rec)%align != 0 {
				t.Fatalf("%d zeros after %d bytes: %+v", n, lead, h)
			}
			if got, err := h.body(rec); err != nil || string(got) != string(body) {
				t.Fatalf("%d zeros after %d bytes: %v", n, lead, err)
			}
			if _, ok := decodeHead(rec, 8); ok {
				t.Fatal("a record of another store was accepted")
			}
		}
	}
}

// TestFormatStays holds the bytes of a log as they are: files of one version are read by the next.
func TestFormatStays(t *testing.T) {
	d, l := newLog(t)
	put(t, l, "hello")
	data := d.Files()["/log/0000000000000001.log"]
	want := "687562642d6c6f670100000000000000" + "0102030405060708090a0b0c0d0e0f10" + "0100000000000000"
	if got := fmt.Sprintf("%x", data[:40]); got != want {
		t.Errorf("header %s, want %s", got, want)
	}
	rec := data[headerSize:]
	if got := fmt.Sprintf("%x", rec[:20]); got != "f548525a01000000"+"0100000000000000"+"06000000" {
		t.Errorf("record %s", got)
	}
	if string(rec[32:38]) != "hello\xff" || !allZero(rec[38:]) {
		t.Errorf("body %q", rec[32:48])
	}
	if sum := binary.LittleEndian.Uint32(rec[24:]); sum != l.sum {
		t.Errorf("checksum %x, want %x", sum, l.sum)
	}
	if len(data) != 4<<10 {
		t.Errorf("segment of %d bytes", len(data))
	}
}

func TestLogsOfOthersAreRefused(t *testing.T) {
	d, l := newLog(t)
	put(t, l, "hello")
	if _, err := replay(New(d, "/log", ID{9}, 0)); err == nil || !strings.Contains(err.Error(), "another store") {
		t.Errorf("another store: %v", err)
	}
	name := "/log/0000000000000001.log"
	h, err := decodeHeader(d.Files()[name])
	if err != nil {
		t.Fatal(err)
	}
	b := h.encode()
	b[8] = formatVersion + 1
	binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
	f, _ := d.OpenWrite(name)
	f.WriteAt(b, 0)
	if _, err := replay(New(d, "/log", testID, 0)); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("newer version: %v", err)
	}
}

// FuzzSegment reads anything as the newest segment of a log. What it takes for a good log can be opened and appended to.
func FuzzSegment(f *testing.F) {
	d, l := newLog(f)
	put(f, l, "first")
	put(f, l, string(make([]byte, 700)))
	whole := d.Files()["/log/0000000000000001.log"]
	f.Add(whole)
	f.Add(whole[:l.off])
	f.Add(whole[:l.off-3])
	f.Add([]byte{})
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, newest := range []bool{false, true} {
			s, err := parseSegment("x", data, testID, newest)
			if err != nil {
				continue
			}
			if s.end > int64(len(data))+align || s.end < headerSize || len(s.records) > 0 && s.last != s.records[len(s.records)-1].Seq {
				t.Fatalf("end %d of %d, last %d of %d records", s.end, len(data), s.last, len(s.records))
			}
			countRecords(data, testID)
			if !newest || s.problem != nil || s.first != 1 || s.prev != 0 {
				continue
			}
			d := memdisk.New()
			d.Mkdir("/log")
			file, err := d.Create("/log/" + segmentName(1))
			if err != nil {
				t.Fatal(err)
			}
			file.Write(data)
			if got := reopened(t, d); len(got) != len(s.records) {
				t.Fatalf("%d records, want %d", len(got), len(s.records))
			}
		}
	})
}
