package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// appendTable writes a value for people: an array of objects as a table, an
// object as names and values, anything else as itself. Text from the hub
// cannot write control characters to the terminal.
func appendTable(dst []byte, v rpc.Value, color bool) []byte {
	switch v.Kind() {
	case '[':
		if columns, ok := columnsOf(v); ok {
			rows := make([][]string, 0, 16)
			for row := range v.Elements() {
				cells := make([]string, len(columns))
				for i, name := range columns {
					if cell, ok := row.Member(name); ok {
						cells[i] = cellText(cell)
					}
				}
				rows = append(rows, cells)
			}
			head := make([]string, len(columns))
			for i, name := range columns {
				head[i] = strings.ToUpper(oneLine(name))
			}
			return appendGrid(dst, head, rows, color)
		}
		for e := range v.Elements() {
			dst = append(append(dst, cellText(e)...), '\n')
		}
		return dst
	case '{':
		var rows [][]string
		for name, value := range v.Members() {
			rows = append(rows, []string{oneLine(rpc.Unquote(name)), cellText(value)})
		}
		return appendGrid(dst, nil, rows, color)
	}
	return append(append(dst, cellText(v)...), '\n')
}

// maxColumns bounds a table; more members than that are no table.
const maxColumns = 64

// columnsOf returns the member names of an array of objects, in the order in
// which they come up.
func columnsOf(v rpc.Value) (names []string, ok bool) {
	seen := make(map[string]bool)
	for row := range v.Elements() {
		if row.Kind() != '{' {
			return nil, false
		}
		for literal := range row.Members() {
			name := rpc.Unquote(literal)
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
		if len(names) > maxColumns {
			return nil, false
		}
	}
	return names, len(names) > 0
}

// cellText is a value on one line: strings without quotes, null as nothing,
// lists of scalars with commas.
func cellText(v rpc.Value) string {
	raw, _ := v.Raw()
	switch v.Kind() {
	case 'n':
		return ""
	case '"':
		return oneLine(rpc.Unquote(raw))
	case '[':
		var parts []string
		for e := range v.Elements() {
			if k := e.Kind(); k == '[' || k == '{' {
				return string(appendCompact(nil, raw, plain))
			}
			parts = append(parts, cellText(e))
		}
		return strings.Join(parts, ", ")
	}
	return string(appendCompact(nil, raw, plain))
}

// appendGrid aligns rows in columns, head first (nil: none).
func appendGrid(dst []byte, head []string, rows [][]string, color bool) []byte {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	if head != nil {
		writeRow(w, head)
	}
	for _, row := range rows {
		writeRow(w, row)
	}
	_ = w.Flush() // into memory
	text := b.Bytes()
	if head != nil && color {
		if end := bytes.IndexByte(text, '\n'); end >= 0 {
			dst = append(append(append(dst, "\x1b[1m"...), text[:end]...), "\x1b[0m"...)
			text = text[end:]
		}
	}
	for line := range bytes.Lines(text) {
		dst = append(append(dst, bytes.TrimRight(line, " \n")...), '\n')
	}
	return dst
}

func writeRow(w *tabwriter.Writer, cells []string) {
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// clip shortens s to n characters.
func clip(s string, n int) string {
	if n <= 1 || utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
