package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"
)

func TestScanAccepts(t *testing.T) {
	for _, test := range []struct {
		text  string
		flags Flags
		depth uint16
	}{
		{`null`, 0, 0},
		{`true`, 0, 0},
		{`false`, 0, 0},
		{`0`, 0, 0},
		{`-0`, 0, 0},
		{`-0.0e-0`, 0, 0},
		{`1e400`, 0, 0},
		{`123456789012345`, 0, 0},
		{`1234567890123456`, HasBigInt, 0},
		{`-1234567890123456`, HasBigInt, 0},
		{`1234567890123456.5`, 0, 0},
		{`9223372036854775809`, HasBigInt, 0},
		{`NaN`, HasNonFinite, 0},
		{`Infinity`, HasNonFinite, 0},
		{`-Infinity`, HasNonFinite, 0},
		{`"NaN"`, 0, 0},
		{`""`, 0, 0},
		{`"é"`, HasNonASCII, 0},
		{`"\u00e9"`, 0, 0},
		{`"\ud83d\ude00"`, 0, 0},
		{`"\ud83d"`, HasSurrogate, 0},
		{`"\ude00"`, HasSurrogate, 0},
		{`"\ude00\ud83d"`, HasSurrogate, 0},
		{`"\ud83d\ud83d\ude00"`, HasSurrogate, 0},
		{`"\ud83dx\ude00"`, HasSurrogate, 0},
		{`"` + "\x7f" + `"`, 0, 0},
		{`[]`, HasArray, 1},
		{`{}`, 0, 1},
		{`{"a":{"b":[1]}}`, HasArray, 3},
		{"[\n]", HasArray | HasNewline, 1},
		{"[1\r]", HasArray | HasNewline, 1},
		{"\n[1]", HasArray, 1},
		{"{ \t}", 0, 1},
		{`{"toJSON":1}`, HasOddKey, 1},
		{`{"a":"toJSON"}`, 0, 1},
		{`{"__proto__":1}`, HasOddKey, 1},
		{`{"propertyIsEnumerable":1}`, HasOddKey, 1},
		{`{"\u0061":1}`, HasOddKey, 1},
		{`{"\ud800":1}`, HasOddKey | HasSurrogate, 1},
		{strings.Repeat("[", 256) + strings.Repeat("]", 256), HasArray, 256},
		{strings.Repeat(`{"a":`, 255) + "[]" + strings.Repeat("}", 255), HasArray, 256},
		{strings.Repeat("9", 1000), HasBigInt, 0},
		{"-0." + strings.Repeat("9", 999), 0, 0},
	} {
		n, traits, err := Scan([]byte(test.text))
		if err != nil || n != len(test.text) || traits != (Traits{test.flags, test.depth}) {
			t.Errorf("Scan(%.60q) = %d, %+v, %v; want flags %b, depth %d", test.text, n, traits, err, test.flags, test.depth)
		}
		if !Valid([]byte(" \t" + test.text + "\r\n ")) {
			t.Errorf("Valid refuses %.60q", test.text)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	for _, test := range []struct {
		text   string
		offset int
		short  bool // more text could make it right
		limit  bool
	}{
		{text: ``, short: true},
		{text: "\n\n", short: true},
		{text: `nul`, short: true},
		{text: `nulx`}, {text: `nux`}, {text: `x`}, {text: `'a'`}, {text: `+1`}, {text: `.5`}, {text: `]`}, {text: `}`},
		{text: `-`, short: true},
		{text: `-x`, offset: 1},
		{text: `-Inf`, short: true},
		{text: `-Infx`, offset: 1},
		{text: `1.`, short: true},
		{text: `1.x`, offset: 2},
		{text: `1e`, short: true},
		{text: `1e+`, short: true},
		{text: `1e+x`, offset: 3},
		{text: `"`, short: true},
		{text: `"\`, short: true},
		{text: `"\x"`, offset: 2},
		{text: `"\u12`, short: true},
		{text: `"\u12g4"`, offset: 5},
		{text: "\"a\nb\"", offset: 2},
		{text: "\"abcdefgh\x00", offset: 9},
		{text: "\"\xff\"", offset: 1},
		{text: "\"\xc0\x80\"", offset: 1},
		{text: "\"\xed\xa0\x80\"", offset: 1},
		{text: "\"\xe2\x82", short: true},
		{text: `[`, short: true}, {text: `[1`, short: true}, {text: `[1,`, short: true}, {text: `{`, short: true},
		{text: `{"a"`, short: true}, {text: `{"a":`, short: true}, {text: `{"a":1`, short: true}, {text: `{"a":1,`, short: true},
		{text: `[1,]`, offset: 3}, {text: `[,1]`, offset: 1}, {text: `[1 2]`, offset: 3}, {text: `[1}`, offset: 2},
		{text: `{"a":1,}`, offset: 7}, {text: `{a:1}`, offset: 1}, {text: `{"a" 1}`, offset: 5}, {text: `{"a":1]`, offset: 6},
		{text: `{1:1}`, offset: 1}, {text: "[\v1]", offset: 1},
		{text: strings.Repeat("[", 257), offset: 256, limit: true},
		{text: strings.Repeat("[", 100000), offset: 256, limit: true},
		{text: strings.Repeat(`{"a":`, 100000), offset: 1280, limit: true},
		{text: strings.Repeat("9", 1001), limit: true},
		{text: "[-1." + strings.Repeat("9", 1000) + "]", offset: 1, limit: true},
		{text: "1e" + strings.Repeat("0", 1000), limit: true},
	} {
		n, _, err := Scan([]byte(test.text))
		if test.short {
			if err != ErrShort {
				t.Errorf("Scan(%.60q): %v, want ErrShort", test.text, err)
			}
			continue
		}
		se, ok := errors.AsType[*SyntaxError](err)
		if !ok || se.Offset != test.offset || se.Limit != test.limit || n != se.Offset || se.Reason == "" {
			t.Errorf("Scan(%.60q) = %d, %v; want an error at %d (limit %v)", test.text, n, err, test.offset, test.limit)
		}
	}
}

func TestScanMemberLimit(t *testing.T) {
	object := func(n int) []byte {
		return append(bytes.Repeat([]byte(`{"":0},`), n-1), `{"":0}]`...)
	}
	if _, _, err := Scan(append([]byte("["), object(MaxMembers)...)); err != nil {
		t.Error(err)
	}
	_, _, err := Scan(append([]byte("["), object(MaxMembers+1)...))
	if se, ok := errors.AsType[*SyntaxError](err); !ok || !se.Limit {
		t.Errorf("one member too many: %v", err)
	}
}

// TestScanStringEveryByte puts each byte at each place of a long string, where
// eight bytes are looked at together.
func TestScanStringEveryByte(t *testing.T) {
	for at := range 20 {
		for c := range 256 {
			text := []byte(`"` + strings.Repeat("~", 20) + `"`)
			text[1+at] = byte(c)
			n, _, err := Scan(text)
			wantEnd := 22
			if c == '"' {
				wantEnd = at + 2
			}
			ok := json.Valid(text[:wantEnd]) && utf8.Valid(text)
			if (err == nil) != ok || ok && n != wantEnd {
				t.Fatalf("byte %#x at %d: %d, %v", c, at, n, err)
			}
		}
	}
}

func TestScanStopsBehindValue(t *testing.T) {
	for text, want := range map[string]int{
		`1 2`: 1, `"a"b`: 3, `{} {}`: 2, `[1],`: 3, `01`: 1, `1.5.5`: 3, `truex`: 4, ` 7 `: 2,
	} {
		if n, _, err := Scan([]byte(text)); n != want || err != nil {
			t.Errorf("Scan(%q) = %d, %v, want %d", text, n, err, want)
		}
	}
}

func TestScanDoesNotAllocate(t *testing.T) {
	text := []byte(`{"a":[1,2.5,"xé\n",{"b":null}],"c":12345678901234567890}`)
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := Scan(text); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParse(t *testing.T) {
	v, err := Parse([]byte(" \n[1]\t"))
	if raw, _ := v.Raw(); err != nil || string(raw) != "[1]" {
		t.Errorf("%q, %v", raw, err)
	}
	for _, text := range []string{"", " ", "1 2", "[1]]", "{} x"} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("Parse(%q) is fine", text)
		}
	}
}

var scanSeeds = []string{
	``, ` `, `null`, `{"a":[1,-2.5e+3,true,false,null,"é\u00e9\ud83d\ude00\n"],"b":{}}`, `NaN`, `[-Infinity,Infinity]`,
	`"\ud800"`, `{"toJSON":1,"__proto__":{}}`, "[1,\n2]", `[[[[]]]]`, `"\ud800\u`, "\"\xf0\x9f\x98\x80\xff\"", `-`, `[1,`,
	`12345678901234567890123456789012345678901`, `1.0`, `1e-07`, `-0`, `"aaaaaaa\"aaaaaaaaaaaaaaa\\"`, `{"a":1,"a":2}`,
}

func FuzzScan(f *testing.F) {
	for _, s := range scanSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		n, traits, err := Scan(text)
		if n < 0 || n > len(text) {
			t.Fatalf("offset %d of %d", n, len(text))
		}
		if se, ok := errors.AsType[*SyntaxError](err); ok && se.Limit {
			return
		}
		if err == nil {
			if want := slowTraits(text[:n]); traits != want {
				t.Fatalf("traits of %q: %+v, want %+v", text[:n], traits, want)
			}
		}
		if bytes.Contains(text, []byte("NaN")) || bytes.Contains(text, []byte("Infinity")) {
			return
		}
		// A decoder of encoding/json accepts invalid UTF-8.
		if want := json.Valid(text) && utf8.Valid(text); Valid(text) != want {
			t.Fatalf("Valid(%q) = %v", text, !want)
		}
	})
}

// slowTraits is a plain reading of what the traits mean, on checked text.
func slowTraits(text []byte) (t Traits) {
	text = bytes.TrimLeft(text, " \t\r\n")
	depth := 0
	afterString := ""
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"':
			end := i + 1
			for text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			afterString = string(text[i+1 : end])
			i = end + 1
			for _, b := range []byte(afterString) {
				if b >= 0x80 {
					t.Flags |= HasNonASCII
				}
			}
			if hasLone(afterString) {
				t.Flags |= HasSurrogate
			}
			continue
		case c == ':':
			if strings.Contains(afterString, `\`) || strings.Contains(" __proto__ constructor toString toLocaleString valueOf hasOwnProperty isPrototypeOf "+
				"propertyIsEnumerable __defineGetter__ __defineSetter__ __lookupGetter__ __lookupSetter__ toJSON ", " "+afterString+" ") &&
				afterString != "" && !strings.Contains(afterString, " ") {
				t.Flags |= HasOddKey
			}
		case c == '{' || c == '[':
			depth++
			t.Depth = max(t.Depth, uint16(depth))
			if c == '[' {
				t.Flags |= HasArray
			}
		case c == '}' || c == ']':
			depth--
		case c == '\n' || c == '\r':
			t.Flags |= HasNewline
		case c == 'N' || c == 'I':
			t.Flags |= HasNonFinite
			i += map[byte]int{'N': 3, 'I': 8}[c]
			continue
		case c == '-' || c >= '0' && c <= '9':
			end := i
			for end < len(text) && strings.IndexByte("+-.0123456789eE", text[end]) >= 0 {
				end++
			}
			literal := strings.TrimPrefix(string(text[i:end]), "-")
			if !strings.ContainsAny(literal, ".eE") && len(literal) >= 16 {
				t.Flags |= HasBigInt
			}
			i = end
			continue
		}
		i++
	}
	return t
}

// hasLone reports whether a string's body has an escape of half a character.
func hasLone(body string) bool {
	var units []uint16 // escaped code units, 0 for anything else
	for i := 0; i < len(body); {
		if body[i] != '\\' {
			units = append(units, 0)
			i++
			continue
		}
		if body[i+1] != 'u' {
			units = append(units, 0)
			i += 2
			continue
		}
		r, _ := hex4([]byte(body), i+2)
		units = append(units, uint16(r))
		i += 6
	}
	for i := 0; i < len(units); i++ {
		if !utf16.IsSurrogate(rune(units[i])) {
			continue
		}
		if i+1 < len(units) && utf16.DecodeRune(rune(units[i]), rune(units[i+1])) != utf8.RuneError {
			i++
			continue
		}
		return true
	}
	return false
}

func TestScanRandomTexts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const alphabet = `{}[]:,"\u0d8ef 19.-+eE` + "\n\té\xff" + `NaInfityrulse`
	for range 200000 {
		text := make([]byte, r.IntN(12))
		for i := range text {
			text[i] = alphabet[r.IntN(len(alphabet))]
		}
		if bytes.Contains(text, []byte("NaN")) {
			continue
		}
		if want := json.Valid(text) && utf8.Valid(text); Valid(text) != want {
			t.Fatalf("Valid(%q) = %v", text, !want)
		}
	}
}

func TestScanNested(t *testing.T) {
	for _, most := range []int{1, 64, 65, 256, 528, 576} {
		for _, pair := range []string{"[]", "{}"} {
			open := map[string]string{"[]": "[", "{}": `{"a":`}[pair]
			text := func(n int) []byte {
				return []byte(strings.Repeat(open, n) + "1" + strings.Repeat(pair[1:], n))
			}
			if n, traits, err := ScanNested(text(most), most); err != nil || n != len(text(most)) || int(traits.Depth) != most {
				t.Errorf("%d of %d: %v, depth %d", n, most, err, traits.Depth)
			}
			_, _, err := ScanNested(text(most+1), most)
			if se, ok := errors.AsType[*SyntaxError](err); !ok || !se.Deep || !se.Limit {
				t.Errorf("beyond %d: %v", most, err)
			}
		}
	}
	if _, _, err := ScanNested([]byte(strings.Repeat("[", 1000)), 1000); err == nil {
		t.Error("deeper than there is room for")
	}
}
