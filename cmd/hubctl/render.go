package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The output formats.
const (
	formatTable = "table" // for people
	formatJSON  = "json"  // indented
	formatJSONL = "jsonl" // one line per value
	formatYAML  = "yaml"  // one document per value
	formatRaw   = "raw"   // as the hub sent it, but strings without their quotes
)

var formats = []string{formatTable, formatJSON, formatJSONL, formatYAML, formatRaw}

func isFormat(s string) bool { return slices.Contains(formats, s) }

// formatOr returns the format that was asked for, else the command's own.
func (a *app) formatOr(own string) string {
	if a.format != "" {
		return a.format
	}
	return own
}

// coloured reports whether stdout gets colour.
func (a *app) coloured() bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	forced := a.getenv("CLICOLOR_FORCE")
	switch {
	case a.getenv("NO_COLOR") != "":
		return false
	case forced != "" && forced != "0":
		return true
	}
	return a.outTTY && a.getenv("CLICOLOR") != "0" && a.getenv("TERM") != "dumb"
}

// width returns the columns of the terminal that stdout is, 0 for no terminal.
func (a *app) width() int {
	f, ok := fileOf(a.out)
	if !ok || !a.outTTY {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// printer writes values to stdout in one format, each with one Write, so that
// a reader of a stream never waits for half a value.
type printer struct {
	w      io.Writer
	tty    bool // w is a terminal: values must not control it
	format string
	color  bool
	width  int // of the terminal for tables; 0: no limit
	n      int // values printed
	buf    []byte
}

func (a *app) printer(format string) *printer {
	return &printer{w: styled(a.out), tty: a.outTTY, format: format, color: a.coloured(), width: a.width()}
}

// print writes one value, which must be JSON text.
func (p *printer) print(text json.RawMessage) error {
	v, err := rpc.Parse(text)
	if err != nil {
		return fmt.Errorf("the hub sent what is not JSON: %w", err)
	}
	raw, _ := v.Raw()
	if p.tty && p.format != formatYAML {
		raw = rpc.AppendVisible(nil, raw)
	}
	p.buf = p.buf[:0]
	switch p.format {
	case formatJSON:
		p.buf = append(appendIndented(p.buf, raw, p.paint()), '\n')
	case formatJSONL:
		if p.color {
			p.buf = append(appendCompact(p.buf, raw, p.paint()), '\n')
		} else {
			p.buf = append(appendCompact(p.buf, raw, plain), '\n')
		}
	case formatYAML:
		if p.n > 0 {
			p.buf = append(p.buf, "---\n"...)
		}
		p.buf = appendYAML(p.buf, v)
		if p.tty {
			p.buf = rpc.AppendVisible(nil, p.buf)
		}
	case formatRaw:
		if s, err := v.AsString(); err == nil {
			if p.tty {
				s = visibleText(s)
			}
			p.buf = append(p.buf, s...)
		} else {
			p.buf = append(p.buf, raw...)
		}
		p.buf = append(p.buf, '\n')
	default:
		p.buf = appendTable(p.buf, v, p.color, p.width)
	}
	p.n++
	_, err = p.w.Write(p.buf)
	return err
}

// list writes a JSON array: in lines of JSON, each element is one.
func (p *printer) list(text json.RawMessage) error {
	if p.format != formatJSONL {
		return p.print(text)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil {
		return fmt.Errorf("the hub sent no list: %w", err)
	}
	for _, one := range all {
		if err := p.print(one); err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) printAny(x any) error {
	v, err := rpc.Encode(x)
	if err != nil {
		return err
	}
	text, err := v.AppendJSON(nil, rpc.Form{})
	if err != nil {
		return err
	}
	return p.print(text)
}

// paint says with which escape sequences the parts of JSON are written.
type paint struct{ key, text, number, word, reset string }

var (
	plain    = paint{}
	coloured = paint{key: "\x1b[34;1m", text: "\x1b[32m", number: "\x1b[36m", word: "\x1b[35m", reset: "\x1b[0m"}
)

func (p *printer) paint() paint {
	if p.color {
		return coloured
	}
	return plain
}

// appendIndented writes valid JSON text with two blanks per level. Literals
// stay exactly as they are: no number is read and written again.
func appendIndented(dst, text []byte, c paint) []byte { return layout(dst, text, c, true) }

// appendCompact writes valid JSON text without white space.
func appendCompact(dst, text []byte, c paint) []byte { return layout(dst, text, c, false) }

func layout(dst, text []byte, c paint, indent bool) []byte {
	depth := 0
	isKey := false        // a string that comes now is a member name
	var objects [4]uint64 // bit d: the container at depth d is an object; Parse allows 256 levels
	line := func() {
		if indent {
			dst = append(dst, '\n')
			for range depth {
				dst = append(dst, "  "...)
			}
		}
	}
	inObject := func() bool { return depth > 0 && objects[(depth-1)>>6]&(1<<((depth-1)&63)) != 0 }
	for i := 0; i < len(text); {
		switch ch := text[i]; ch {
		case ' ', '\t', '\r', '\n':
			i++
		case '{', '[':
			next := rpc.SkipSpace(text, i+1)
			if text[next] == ch+2 { // ] and } are two behind [ and {
				dst = append(dst, ch, ch+2)
				i = next + 1
				continue
			}
			dst = append(dst, ch)
			bit := uint64(1) << (depth & 63)
			objects[depth>>6] &^= bit
			if ch == '{' {
				objects[depth>>6] |= bit
			}
			depth++
			isKey = ch == '{'
			line()
			i++
		case '}', ']':
			depth--
			line()
			dst = append(dst, ch)
			i++
		case ',':
			dst = append(dst, ch)
			isKey = inObject()
			line()
			i++
		case ':':
			dst = append(dst, ch)
			if indent {
				dst = append(dst, ' ')
			}
			isKey = false
			i++
		default:
			end := literalEnd(text, i)
			start := c.text
			switch {
			case ch == '"' && isKey:
				start = c.key
			case ch == '"':
			case ch == '-' || ch >= '0' && ch <= '9':
				start = c.number
			default:
				start = c.word
			}
			dst = append(dst, start...)
			dst = append(dst, text[i:end]...)
			dst = append(dst, c.reset...)
			i = end
		}
	}
	return dst
}

// literalEnd returns the offset behind the string, number or word at i of valid JSON text.
func literalEnd(text []byte, i int) int {
	if text[i] != '"' {
		for i < len(text) && !strings.ContainsRune(" \t\r\n,:]}", rune(text[i])) {
			i++
		}
		return i
	}
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}
