package hub

import (
	"fmt"
	"io"
	"strings"
)

// PrintConfig writes o as a YAML file that a hub can read: every key with what
// it means. Keys that have their default are commented out, so that the file
// goes on having the defaults of later versions. With defaults nothing of o is
// written, only what a hub does without being told.
func PrintConfig(w io.Writer, o Options, defaults bool) error {
	base, err := (Options{}).withDefaults()
	if err != nil { // no place for socket or state: that is for whoever starts a hub
		base = Options{LogLevel: "info", Limits: Limits{}.withDefaults()}
	}
	if defaults {
		o = base
	}
	o.Limits = o.Limits.withDefaults()
	var b strings.Builder
	b.WriteString("# Configuration of hubd. Flags win over variables, variables over files, files\n" +
		"# over the defaults, which are the values behind a #.\n")
	group := ""
	for _, k := range inGroups(configKeys) {
		head, tail, nested := strings.Cut(k.name, ".")
		indent := ""
		switch {
		case !nested:
			tail, group = head, ""
		case head != group:
			group = head
			fmt.Fprintf(&b, "\n%s:", head)
			fallthrough
		default:
			indent = "  "
		}
		b.WriteString("\n")
		for _, line := range wrap(k.Doc, 76-len(indent)) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "%s# flag --%s, variable %s\n", indent, k.Flag(), k.Env())
		value, standard := k.get(&o), k.get(&base)
		if k.name == "listen" && value == "" {
			value = standard
		}
		switch {
		case value == "" && k.List:
			fmt.Fprintf(&b, "%s#%s: []\n", indent, tail)
		case value == "" && standard == "":
			fmt.Fprintf(&b, "%s#%s:\n", indent, tail)
		case value == "" || value == standard:
			writeKey(&b, indent+"#", tail, k, standard)
		default:
			writeKey(&b, indent, tail, k, value)
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func writeKey(b *strings.Builder, indent, name string, k configKey, value string) {
	if !k.List {
		fmt.Fprintf(b, "%s%s: %s\n", indent, name, plainOrQuoted(value))
		return
	}
	fmt.Fprintf(b, "%s%s:\n", indent, name)
	for v := range strings.FieldsSeq(value) {
		fmt.Fprintf(b, "%s  - %s\n", indent, plainOrQuoted(v))
	}
}

// plainOrQuoted writes a scalar so that YAML reads the same text.
func plainOrQuoted(s string) string {
	if s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// inGroups puts the keys of a group together: those without one first, in
// their order, then group after group.
func inGroups(keys []configKey) []configKey {
	var order []string
	groups := map[string][]configKey{}
	for _, k := range keys {
		head, _, nested := strings.Cut(k.name, ".")
		if !nested {
			head = ""
		}
		if groups[head] == nil && head != "" {
			order = append(order, head)
		}
		groups[head] = append(groups[head], k)
	}
	sorted := groups[""]
	for _, head := range order {
		sorted = append(sorted, groups[head]...)
	}
	return sorted
}

// wrap breaks text into lines of at most width bytes, at blanks.
func wrap(text string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
