package main

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/rivo/uniseg"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// appendTable writes a value for people: an array of objects as a table, an
// object as names and values, anything else as itself. Text from the hub
// cannot write control characters to the terminal.
func appendTable(dst []byte, v rpc.Value, color bool, width int) []byte {
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
			return appendGrid(dst, head, rows, color, width)
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
		return appendGrid(dst, nil, rows, color, width)
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
				return visibleText(string(appendCompact(nil, raw, plain)))
			}
			parts = append(parts, cellText(e))
		}
		return strings.Join(parts, ", ")
	}
	return visibleText(string(appendCompact(nil, raw, plain)))
}

// appendGrid aligns rows in columns, head first (nil: none). In a terminal of
// that width (0: no limit) the widest columns are cut until a row is one line.
func appendGrid(dst []byte, head []string, rows [][]string, color bool, width int) []byte {
	all := rows
	if head != nil {
		all = append([][]string{head}, rows...)
	}
	var columns []int
	for _, row := range all {
		for i, cell := range row {
			if i == len(columns) {
				columns = append(columns, 0)
			}
			columns[i] = max(columns[i], uniseg.StringWidth(cell))
		}
	}
	if width > 0 {
		fit(columns, width)
	}
	for n, row := range all {
		bold := n == 0 && head != nil && color
		if bold {
			dst = append(dst, "\x1b[1m"...)
		}
		start := len(dst)
		for i, cell := range row {
			dst = append(dst, pad(cell, columns[i])...)
			dst = append(dst, "  "...)
		}
		dst = append(dst[:start], bytes.TrimRight(dst[start:], " ")...)
		if bold {
			dst = append(dst, "\x1b[0m"...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

const (
	gap      = len("  ") // between two columns
	minWidth = 8         // of a column that is cut
)

// fit makes columns narrower, the widest first, until a row is no wider than width.
func fit(columns []int, width int) {
	total := gap * (len(columns) - 1)
	for _, w := range columns {
		total += w
	}
	for ; total > width; total-- {
		widest := 0
		for i, w := range columns {
			if w >= columns[widest] { // of two the right one: names stand on the left
				widest = i
			}
		}
		if columns[widest] <= minWidth {
			return
		}
		columns[widest]--
	}
}

// pad makes s n columns of a terminal wide.
func pad(s string, n int) string {
	s = clip(s, n)
	return s + strings.Repeat(" ", max(0, n-uniseg.StringWidth(s)))
}

// count is n things, in words: "1 key", "2 keys".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// clip shortens s to n columns of a terminal.
func clip(s string, n int) string {
	if n <= 1 || uniseg.StringWidth(s) <= n {
		return s
	}
	end, width := 0, 0
	for rest, state := s, -1; rest != ""; {
		var cluster string
		var w int
		cluster, rest, w, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if width += w; width > n-1 {
			break
		}
		end += len(cluster)
	}
	return s[:end] + "…"
}
