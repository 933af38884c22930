package frame

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// lines reads everything.
func lines(l *LineReader) (list []string, err error) {
	for {
		line, err := l.Next()
		if err != nil {
			return list, err
		}
		list = append(list, string(line))
	}
}

func TestLines(t *testing.T) {
	for text, want := range map[string][]string{
		"":              nil,
		"\n":            {""},
		"a\nb\n":        {"a", "b"},
		"a\nb":          {"a", "b"},
		"a\r\n\n\nb \n": {"a\r", "", "", "b "},
		// A byte order mark belongs to the start of the stream, not to the text.
		"\xef\xbb\xbfa\n\xef\xbb\xbfb\n": {"a", "\xef\xbb\xbfb"},
		"\xef\xbb\xbfa":                  {"a"},
		"\xef\xbb\xbf":                   {""},
		"\xef\xbb\n":                     {"\xef\xbb"},
	} {
		for _, r := range []func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader, iotest.DataErrReader,
		} {
			got, err := lines(NewLineReader(r(strings.NewReader(text)), 0))
			if err != io.EOF || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
				t.Errorf("%q: %q, %v", text, got, err)
			}
		}
	}
}

func TestReadErrorDropsThePartialLine(t *testing.T) {
	broken := errors.New("broken")
	got, err := lines(NewLineReader(io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 0))
	if fmt.Sprint(got) != "[a]" || err != broken {
		t.Errorf("%q, %v", got, err)
	}
}

// Lines of all sizes in reads of all sizes: nothing is lost or mixed up.
func TestLinesOfAllSizes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var text []byte
	var want []string
	for range 3000 {
		n := random.IntN(200)
		switch random.IntN(100) {
		case 0:
			n = random.IntN(200 << 10)
		case 1, 2, 3:
			n = random.IntN(10 << 10)
		}
		line := strings.Repeat(string(rune('a'+random.IntN(26))), n)
		want = append(want, line)
		text = append(append(text, line...), '\n')
	}
	l := NewLineReader(readerFunc(func(p []byte) (int, error) {
		if len(text) == 0 {
			return 0, io.EOF
		}
		n := copy(p[:min(len(p), 1+random.IntN(100<<10))], text)
		text = text[n:]
		return n, nil
	}), 0)
	for i, w := range want {
		line, err := l.Next()
		if err != nil || string(line) != w {
			t.Fatalf("line %d: %d bytes, %v; want %d", i, len(line), err, len(w))
		}
	}
	if _, err := l.Next(); err != io.EOF {
		t.Error(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Every complete line of a read comes before the next read.
func TestReady(t *testing.T) {
	reads := 0
	text := []string{"a\nb\nc", "d\n", "e\n\n"}
	l := NewLineReader(readerFunc(func(p []byte) (int, error) {
		if reads == len(text) {
			return 0, io.EOF
		}
		reads++
		return copy(p, text[reads-1]), nil
	}), 0)
	for _, c := range []struct {
		line  string
		reads int
		ready bool
	}{{"a", 1, true}, {"b", 1, false}, {"cd", 2, false}, {"e", 3, true}, {"", 3, false}} {
		line, err := l.Next()
		if err != nil || string(line) != c.line || reads != c.reads || l.Ready() != c.ready {
			t.Fatalf("%q after %d reads, ready %v, %v; want %+v", line, reads, l.Ready(), err, c)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, limit := range []int{1, 100, 1000, 1024, 1025, 5000, 100000} {
		exact := strings.Repeat("x", limit)
		got, err := lines(NewLineReader(strings.NewReader(exact+"\n"+exact+"\nz"), limit))
		if err != io.EOF || len(got) != 3 || got[0] != exact || got[1] != exact {
			t.Errorf("limit %d: %d lines, %v", limit, len(got), err)
		}
		for _, end := range []string{"\nnext\n", "", "xxx\nnext\n"} {
			l := NewLineReader(strings.NewReader("a\n"+exact+"x"+end), limit)
			if line, err := l.Next(); err != nil || string(line) != "a" {
				t.Fatal(string(line), err)
			}
			_, err = l.Next()
			long, ok := errors.AsType[*TooLongError](err)
			whole, _, _ := strings.Cut(exact+"x"+end, "\n")
			if !ok || !strings.HasPrefix(whole, string(long.Head)) || len(long.Head) < min(IDWindow, limit+1) {
				t.Fatalf("limit %d, end %q: %v", limit, end, err)
			}
			found, err := l.Skip()
			if found != strings.Contains(end, "\n") || !found && end == "" && err != io.EOF {
				t.Errorf("limit %d, end %q: found %v, %v", limit, end, found, err)
			}
			if found && limit >= len("next") {
				if line, err := l.Next(); err != nil || string(line) != "next" {
					t.Errorf("after the skip: %q, %v", line, err)
				}
			}
		}
	}
}

func TestSkipIsBounded(t *testing.T) {
	read := 0
	l := NewLineReader(readerFunc(func(p []byte) (int, error) {
		for i := range p {
			p[i] = 'x'
		}
		read += len(p)
		return len(p), nil
	}), 100000)
	if _, err := l.Next(); err == nil {
		t.Fatal("no error")
	}
	if found, err := l.Skip(); found || err != nil {
		t.Error(found, err)
	}
	if read > 2*100000+256<<10 || // what is read ahead depends on the buffer
		int64(read) != l.Read() {
		t.Errorf("%d bytes read, %d counted", read, l.Read())
	}
}

// An idle reader holds a small buffer, also after large lines.
func TestIdleBufferIsSmall(t *testing.T) {
	pr, pw := io.Pipe()
	l := NewLineReader(pr, 0)
	large := bytes.Repeat([]byte("x"), 3<<20)
	go func() {
		pw.Write(append(large, '\n'))
		for range 10 {
			pw.Write([]byte("small\n"))
		}
		pw.Close()
	}()
	if line, err := l.Next(); err != nil || len(line) != len(large) {
		t.Fatal(len(line), err)
	}
	if cap(l.buf) < 3<<20 {
		t.Errorf("buffer of %d", cap(l.buf))
	}
	for i := range 10 {
		if _, err := l.Next(); err != nil {
			t.Fatal(err)
		}
		if i == 0 && cap(l.buf) > 16<<10 {
			t.Errorf("buffer of %d after the large line", cap(l.buf))
		}
	}
	if cap(l.buf) > 2<<10 {
		t.Errorf("buffer of %d while idle", cap(l.buf))
	}
	if _, err := l.Next(); err != io.EOF || l.buf != nil {
		t.Errorf("%v, buffer of %d after the end", err, cap(l.buf))
	}
	if _, err := l.Next(); err == nil {
		t.Error("a line after the end")
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\n"), uint16(3), uint16(10))
	f.Add([]byte("\n\n\nxxxxxxxxxxxxxxxxx\ny"), uint16(1), uint16(5))
	f.Fuzz(func(t *testing.T, text []byte, piece, limit uint16) {
		limit = max(limit, 1)
		rest := text
		l := NewLineReader(readerFunc(func(p []byte) (int, error) {
			if len(rest) == 0 {
				return 0, io.EOF
			}
			n := copy(p[:min(len(p), int(piece)+1)], rest)
			rest = rest[n:]
			return n, nil
		}), int(limit))
		want := bytes.SplitAfter(text, []byte("\n"))
		for _, w := range want {
			if len(w) == 0 {
				break
			}
			w = bytes.TrimSuffix(w, []byte("\n"))
			line, err := l.Next()
			if len(w) > int(limit) {
				if _, ok := errors.AsType[*TooLongError](err); !ok {
					t.Fatalf("a line of %d bytes: %v", len(w), err)
				}
				return
			}
			if err != nil || !bytes.Equal(line, w) {
				t.Fatalf("%q, %v, want %q", line, err, w)
			}
		}
		if _, err := l.Next(); err != io.EOF {
			t.Fatal(err)
		}
	})
}

func BenchmarkLines(b *testing.B) {
	text := []byte(strings.Repeat(requestLine+"\n", 64))
	at := 0
	l := NewLineReader(readerFunc(func(p []byte) (int, error) { // 64 lines per read, as pipelining clients write
		if at == len(text) {
			at = 0
		}
		n := copy(p, text[at:])
		at += n
		return n, nil
	}), 0)
	b.ReportAllocs()
	b.SetBytes(int64(len(requestLine) + 1))
	for b.Loop() {
		if _, err := l.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLargeLines(b *testing.B) {
	text := append(bytes.Repeat([]byte("x"), 1<<20), '\n')
	at := 0
	l := NewLineReader(readerFunc(func(p []byte) (int, error) { // as a socket with a buffer of 208 KiB
		if at == len(text) {
			at = 0
		}
		n := copy(p[:min(len(p), 208<<10)], text[at:])
		at += n
		return n, nil
	}), 0)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := l.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
