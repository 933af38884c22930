package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// bytesOf is what a follower makes of a chunk event.
func bytesOf(t testing.TB, event []byte) []byte {
	t.Helper()
	var e struct {
		Type  string
		Chunk string
		Bytes []byte
		TTY   bool
	}
	if err := json.Unmarshal(event, &e); err != nil || e.Type != "stream_chunk" || !e.TTY {
		t.Fatalf("%s: %v", event, err)
	}
	if e.Bytes != nil {
		if utf8.Valid(e.Bytes) {
			t.Errorf("%q needs no bytes", e.Bytes)
		}
		return e.Bytes
	}
	return []byte(e.Chunk)
}

func FuzzChunkEvent(f *testing.F) {
	f.Add([]byte("plain \x1b[31mé\r\n"))
	f.Add([]byte("\xff\xc3"))
	f.Add([]byte("<&>\u2028\x00\ufffd"))
	f.Fuzz(func(t *testing.T, p []byte) {
		if got := bytesOf(t, chunkEvent(p)); !bytes.Equal(got, p) {
			t.Fatalf("%q became %q", p, got)
		}
	})
}

// Pieces are the output, in order, within their limits, and cut no character.
func TestChunker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		var output []byte
		for len(output) < 1<<20 {
			output = append(output, strings.Repeat("aé€😀", random.IntN(3000))...)
			if random.IntN(4) == 0 {
				output = append(output, 0xff, 0xc3)
			}
		}
		c := newChunker()
		go func() {
			for rest := output; len(rest) > 0; {
				n := min(len(rest), 1+random.IntN(5000))
				c.write(rest[:n])
				rest = rest[n:]
				if random.IntN(10) == 0 {
					time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
				}
			}
			c.end()
		}()
		var all []byte
		pieces := 0
		for p := c.next(); p != nil; p = c.next() {
			pieces++
			if len(p) > maxChunk || len(p) > maxOddChunk && !utf8.Valid(p) {
				t.Fatalf("a piece of %d bytes", len(p))
			}
			if !utf8.Valid(p) && !bytes.Contains(p, []byte("\xff")) && !bytes.Contains(p, []byte("\xc3")) {
				t.Errorf("a character is cut: %q ... %q", p[:4], p[len(p)-4:])
			}
			all = append(all, p...)
		}
		if !bytes.Equal(all, output) {
			t.Errorf("%d bytes in %d pieces, want %d", len(all), pieces, len(output))
		}
		if pieces > len(output)/1000 {
			t.Errorf("%d pieces for %d bytes", pieces, len(output))
		}
	})
}

// What comes alone goes out at once; the beginning of a character waits for
// its end, but not for ever.
func TestChunkerDoesNotHoldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChunker()
		began := time.Now()
		c.write([]byte("$ "))
		if p := c.next(); string(p) != "$ " || time.Since(began) > 0 {
			t.Errorf("%q after %v", p, time.Since(began))
		}
		c.write([]byte("x\xe2\x82"))
		if p := c.next(); string(p) != "x" || time.Since(began) > chunkPace {
			t.Errorf("%q after %v", p, time.Since(began))
		}
		time.AfterFunc(900*time.Millisecond, func() { c.write([]byte("\xac")) }) // a slow program
		if p := c.next(); string(p) != "€" {
			t.Errorf("%q", p)
		}
		c.write([]byte("\xe2"))
		if p := c.next(); string(p) != "\xe2" {
			t.Errorf("%q", p)
		}
		c.write([]byte("\xc3"))
		c.end()
		if p := c.next(); string(p) != "\xc3" {
			t.Errorf("%q", p)
		}
		if p := c.next(); p != nil {
			t.Errorf("%q behind the end", p)
		}
	})
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"  call  echo\t1 ":                   "call|echo|1",
		`call echo {"a": [1, "x y"]}`:        `call|echo|{"a": [1, "x y"]}`,
		`call f [1, 2] b:={"c": 3} d:="e f"`: `call|f|[1, 2]|b:={"c": 3}|d:="e f"`,
		`put k 'a b' "c \" d" e\ f ''`:       `put|k|a b|c " d|e f|`,
		`x {not json`:                        "x|{not|json",
		`x [1]2`:                             "x|[1]2",
		`k:=1 k:=true`:                       "k:=1|k:=true",
	} {
		got, err := splitWords(in)
		if err != nil || strings.Join(got, "|") != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{`"open`, `it's`, `end\`} {
		if got, err := splitWords(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	f.Add(`call f [1, 2] b:={"c": 3} 'x'`)
	f.Fuzz(func(t *testing.T, line string) {
		words, err := splitWords(line)
		n := 0
		for _, w := range words {
			n += len(w)
		}
		if err != nil && words != nil || n > len(line) {
			t.Fatalf("%q: %q, %v", line, words, err)
		}
	})
}

func TestSessionNameOfACommand(t *testing.T) {
	for in, want := range map[string]string{
		"make": "make", "/usr/bin/python3.12": "python3.12", "a b/ü!": "--", strings.Repeat("x", 40): strings.Repeat("x", 32), "./..": "session", ".": "session",
	} {
		if got := sessionNameOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
