package statesvc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	e := mustOpen(t, dir, Options{})
	work(t, e, 1, n)
	want = dump(t, e)
	revision = e.Info().Revision
	crash(e)
	segs, err := listSegments(filepath.Join(dir, logName))
	if err != nil || len(segs) != 1 {
		t.Fatal(segs, err)
	}
	return dir, segs[0].path, want, revision
}

// lastRecord returns where the last frame of a segment begins and ends.
func lastRecord(t testing.TB, data []byte) (start, end int64) {
	t.Helper()
	s := parseSegment(data)
	if s.problem != nil || len(s.records) == 0 {
		t.Fatalf("segment: %v, %d records", s.problem, len(s.records))
	}
	return s.records[len(s.records)-1].offset, s.end
}

// TestTornTail is promise P5 for what was never written completely: it cuts the last record at every byte, by ending the file there and by zeros as in allocated space, and also
// with single sectors missing from its middle. All of it must start, with all earlier records and without the last.
func TestTornTail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
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
	segs, _ := listSegments(filepath.Join(dir, logName))
	path := segs[0].path
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	start, end := lastRecord(t, whole)
	try := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e, err := openEngine(dir, Options{})
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
		if e, err = openEngine(dir, Options{}); err != nil {
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
// frame of the log, in the header of the record, in its body. It starts, and what is complete but for its frame is kept.
func TestMissingFirstSector(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := mustOpen(t, dir, Options{})
	segs, _ := listSegments(filepath.Join(dir, logName))
	path := segs[0].path
	kept, cut := map[int64]bool{}, map[int64]bool{}
	last, value := mustPut(t, e, "k", "v"), "v"
	for i := 0; i < 2000 && (len(kept) == 0 || len(cut) == 0 || thin == 1 && len(kept)+len(cut) < 12); i++ {
		before := value
		value = strings.Repeat("v", i%160)
		if last++; mustPut(t, e, "k", value) != last {
			t.Fatalf("a revision after %d was left out", last-1)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		start, end := lastRecord(t, data)
		sector := (start/sectorSize + 1) * sectorSize
		if lost := sector - start; lost > 96 || sector >= end || kept[lost] || cut[lost] {
			continue
		}
		crash(e)
		clear(data[start:sector])
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		e = mustOpen(t, dir, Options{})
		it, err := e.Get("k")
		switch got := e.Info().Revision; {
		case err == nil && it.Revision == got && got == last && string(it.Value.Data) == value:
			kept[sector-start] = true
		case err == nil && it.Revision == got && got == last-1 && string(it.Value.Data) == before:
			cut[sector-start] = true
			last, value = got, before
		default:
			t.Fatalf("%d bytes lost: %+v, %v at revision %d, neither with nor without the last record", sector-start, it, err, got)
		}
	}
	t.Logf("bytes lost of records that were kept: %v, of those that were cut off: %v", kept, cut)
	if len(kept) == 0 || len(cut) == 0 {
		t.Error("one of the two was not met")
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
	start, end := lastRecord(t, whole)
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
		e, err := openEngine(dir, Options{})
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
	f, err := openFolder(dir, nil)
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
