package statesvc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

func flip(t testing.TB, path string, at int64, mask byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= mask
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeLog makes a small state with known contents and returns the folder and its newest segment.
func writeLog(t testing.TB, n int) (dir, segment, want string, revision uint64) {
	t.Helper()
	dir = t.TempDir()
	e := mustOpen(t, dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
	work(t, e, 1, n)
	want = dump(t, e)
	revision = e.Info().Revision
	crash(e)
	return dir, logFiles(t, dir)[0], want, revision
}

// sectorSize is what a disk writes at once.
const sectorSize = 512

// lastRecord returns where the last record of a log of one segment begins, and where its last byte that is not filling ends.
func lastRecord(t testing.TB, dir string, data []byte) (start, end int64) {
	t.Helper()
	records := logRecords(t, dir)
	last := records[len(records)-1]
	end = last.Offset + int64(last.Size)
	for data[end-1] == 0 {
		end--
	}
	return last.Offset, end
}

// TestTornTail is promise P5 for what was never written completely: it cuts the last record at every byte, by ending the file there and by zeros as in allocated space, and also
// with single sectors missing from its middle. All of it must start, with all earlier records and without the last.
func TestTornTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
	work(t, e, 3, 20)
	before := dump(t, e)
	var rng = rand.New(rand.NewPCG(1, 1))
	big := make([]byte, 2600)
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	if _, err := do(t, e, OneOp(Op{Kind: OpPut, Key: "last", Value: Value{Data: big, Encoding: 1}})); err != nil {
		t.Fatal(err)
	}
	after := dump(t, e)
	crash(e)
	path := logFiles(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, end := lastRecord(t, dir, whole)
	try := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := openEngine(dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got := dump(t, e)
		if got != before && got != after {
			t.Errorf("%s: neither with nor without the last record", name)
		}
		mustPut(t, e, "next", name)
		crash(e)
		if e, err = openEngine(dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10}); err != nil {
			t.Errorf("%s: second start: %v", name, err)
			return
		}
		if it, err := e.Get("next"); err != nil || string(it.Value.Data) != name {
			t.Errorf("%s: written after the repair: %v", name, err)
		}
		crash(e)
	}
	step := int64(1)
	if testing.Short() || thin > 1 {
		step = 37
	}
	for cut := start; cut < end; cut += step {
		if cut > start+64 && cut < end-64 && cut%97 != 0 && cut%sectorSize > 1 {
			continue
		}
		try(fmt.Sprintf("file ends at %d", cut-start), whole[:cut])
		zeroed := append(append([]byte{}, whole[:cut]...), make([]byte, int64(len(whole))-cut)...)
		try(fmt.Sprintf("zeros from %d", cut-start), zeroed)
	}
	for sector := (start/sectorSize + 1) * sectorSize; sector+sectorSize <= end; sector += sectorSize {
		hole := append([]byte{}, whole...)
		clear(hole[sector : sector+sectorSize])
		try(fmt.Sprintf("hole at %d", sector), hole)
	}
	garbage := append([]byte{}, whole[:start]...)
	garbage = append(garbage, make([]byte, sectorSize*2)...)
	garbage = append(garbage, big...)
	try("garbage after a hole", garbage)
	try("file made longer", append(append([]byte{}, whole...), whole[start:start+64]...))
	if !strings.Contains(before, "revision") || before == after {
		t.Fatal("the test does not tell its states apart")
	}
}

// TestMissingFirstSector loses the end of the sector in which the last record begins, wherever the boundary falls: in the
// head of the record or in its body. The record was acknowledged to nobody; it is cut off, and everything before it is there.
func TestMissingFirstSector(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
	cut := map[int64]bool{}
	last, value := mustPut(t, e, "k", "v"), "v"
	for i := 0; i < 2000 && (len(cut) < 2 || thin == 1 && len(cut) < 12); i++ {
		before := value
		value = strings.Repeat("v", i%160)
		if last++; mustPut(t, e, "k", value) != last {
			t.Fatalf("a revision after %d was left out", last-1)
		}
		crash(e)
		path := logFiles(t, dir)[0]
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		start, end := lastRecord(t, dir, data)
		sector := (start/sectorSize + 1) * sectorSize
		lost := sector - start
		try := lost <= 96 && sector < end && !cut[lost]
		if try {
			clear(data[start:sector])
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		e = mustOpen(t, dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
		if !try {
			continue
		}
		it, err := e.Get("k")
		if got := e.Info().Revision; err != nil || it.Revision != got || got != last-1 || string(it.Value.Data) != before {
			t.Fatalf("%d bytes lost: %+v, %v at revision %d, want the state before the last record", lost, it, err, got)
		}
		cut[lost] = true
		last, value = last-1, before
	}
	t.Logf("bytes lost of records that were cut off: %v", cut)
	if len(cut) < 2 {
		t.Error("no record crossed the end of a sector: the test shows little")
	}
}

// TestFlippedBytes is promise P5: it damages every place of a log in turn. Each time the store refuses to start, or shows exactly what it had.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	dir, path, want, _ := writeLog(t, 40)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, end := lastRecord(t, dir, whole)
	refused, unharmed := 0, 0
	rng := rand.New(rand.NewPCG(5, 5))
	try := func(at int64, mask byte) {
		t.Helper()
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		write := func(c byte) {
			if _, err := file.WriteAt([]byte{c}, at); err != nil {
				t.Fatal(err)
			}
		}
		write(whole[at] ^ mask)
		e, err := openEngine(dir, Options{OwnerGrace: time.Hour, SegmentBytes: 48 << 10})
		if err != nil {
			write(whole[at])
			refused++
			d, damaged := errors.AsType[*DamagedError](err)
			_, format := errors.AsType[*FormatError](err)
			if !damaged && !format || damaged && d.File == "" || ExitCode(err) != ExitDamaged {
				t.Errorf("byte %d ^ %#x: %v", at, mask, err)
			}
			return
		}
		if dump(t, e) != want {
			t.Errorf("byte %d ^ %#x (last record %d..%d): something else is served", at, mask, start, end)
		}
		unharmed++
		crash(e)
		if err := os.WriteFile(path, whole, 0o600); err != nil { // a repair may have written
			t.Fatal(err)
		}
	}
	for at := range end {
		if (at >= start || at%17 == 0) && at%thin == 0 {
			try(at, 1<<rng.IntN(8))
			try(at, whole[at]) // becomes zero
			try(at, 0xff)
		}
	}
	for range 20 { // in the space not yet used
		try(end+rng.Int64N(int64(len(whole))-end), 0x40)
	}
	t.Logf("%d refused, %d unharmed", refused, unharmed)
	if refused == 0 {
		t.Error("nothing was refused: the test does not reach the log")
	}
}

func TestFlippedSnapshot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 5}})
	for i := range 300 {
		mustPut(t, e, fmt.Sprintf("k/%d", i), strings.Repeat("v", i))
	}
	v := e.view.Load()
	if err := e.journal.snapshot(e, v); err != nil {
		t.Fatal(err)
	}
	want := dump(t, e)
	crash(e)
	path := e.journal.f.snapPath(v.rev)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openFolder(disk.OS, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.identify(); err != nil {
		t.Fatal(err)
	}
	check := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := f.readSnapshot(path, time.Now())
		if c := ExitCode(err); c != ExitDamaged {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := range len(whole) {
		if (at < 200 || at > len(whole)-100 || at%61 == 0) && at%thin == 0 {
			data := append([]byte{}, whole...)
			data[at] ^= 1 << (at % 8)
			check(fmt.Sprintf("byte %d", at), data)
			check(fmt.Sprintf("cut at %d", at), whole[:at])
		}
	}
	f.close()
	// what follows the end is not looked at
	if err := os.WriteFile(path, append(whole, "garbage"...), 0o600); err != nil {
		t.Fatal(err)
	}
	e = mustOpen(t, dir, Options{Limits: Limits{HistoryEvents: 5}})
	if dump(t, e) != want {
		t.Error("different after reopening")
	}
}
