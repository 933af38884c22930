package krpc

import (
	"bytes"
	"mime"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxPartName = 256 // bytes; no longer one can be referred to
	maxFileName = 255 // bytes, as file systems have it
)

// part is what the head of a part says. All else in it is ignored, above all
// the content type, which clients of this protocol do not write as one.
type part struct {
	name string
	file string // base name of the file, cleaned; "" for none
}

// header takes one line of the head.
func (p *part) header(line []byte) {
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || !bytes.EqualFold(bytes.TrimSpace(name), []byte("Content-Disposition")) {
		return
	}
	disposition := string(value)
	p.name, p.file = parameter(disposition, "name"), cleanName(parameter(disposition, "filename"))
	if len(p.name) > maxPartName {
		p.name = ""
	}
}

// parameter finds a parameter of a Content-Disposition whose writer escapes
// nothing: a quoted value goes up to the last quote before the next parameter
// that we know, or before the end.
func parameter(disposition, name string) string {
	rest := disposition
	for {
		i := strings.Index(rest, name+"=")
		if i < 0 {
			return ""
		}
		before := strings.TrimRight(rest[:i], " \t")
		rest = rest[i+len(name)+1:]
		if strings.HasSuffix(before, ";") || before == "" {
			break
		}
	}
	if !strings.HasPrefix(rest, `"`) {
		value, _, _ := strings.Cut(rest, ";")
		return strings.TrimSpace(value)
	}
	rest = rest[1:]
	for _, next := range []string{`"; name="`, `"; filename="`, `";name="`, `";filename="`, `"; filename*=`} {
		if i := strings.Index(rest, next); i >= 0 {
			return rest[:i]
		}
	}
	if i := strings.LastIndexByte(rest, '"'); i >= 0 {
		return rest[:i]
	}
	return rest
}

// cleanName makes the name of a file fit to be shown: the base name, valid
// UTF-8, without control characters, of bounded length. It is never a path.
func cleanName(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		name = name[i+1:]
	}
	if len(name) > 2 && name[1] == ':' && name[2] == '\\' { // a path of Windows
		name = name[strings.LastIndexByte(name, '\\')+1:]
	}
	name = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(name, "\uFFFD"))
	if name == "." || name == ".." {
		return ""
	}
	for len(name) > maxFileName {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	return name
}

// boundaryOf returns the boundary that a content type names, "" for none. It
// bears content types that are not quite right.
func boundaryOf(contentType string) string {
	if _, params, err := mime.ParseMediaType(contentType); err == nil {
		return params["boundary"]
	}
	lower := strings.ToLower(contentType)
	i := strings.Index(lower, "boundary=")
	if i < 0 {
		return ""
	}
	value := strings.TrimSpace(contentType[i+len("boundary="):])
	if quoted, ok := strings.CutPrefix(value, `"`); ok {
		value, _, _ = strings.Cut(quoted, `"`)
		return value
	}
	value, _, _ = strings.Cut(value, ";")
	return strings.TrimSpace(value)
}
