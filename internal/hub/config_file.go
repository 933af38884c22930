package hub

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxConfigFile bounds what is read of a configuration file.
const maxConfigFile = 1 << 20

// readFile sets in o what the YAML file at path says, and returns all that is
// wrong with it.
func readFile(path string, o *Options) (problems []error) {
	f, err := os.Open(path)
	if err != nil {
		return []error{err}
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return []error{err}
	}
	if len(text) > maxConfigFile {
		return []error{fmt.Errorf("%s: longer than %d bytes", path, maxConfigFile)}
	}
	for _, problem := range parseFile(text, o) {
		problems = append(problems, fmt.Errorf("%s: %w", path, problem))
	}
	return problems
}

// parseFile walks the document instead of decoding it: the table of keys says
// what there may be, so that file, variables and flags cannot drift apart, and
// each complaint can point at its place.
func parseFile(text []byte, o *Options) []error {
	file, err := parser.ParseBytes(rpc.SkipBOM(text), 0)
	if err != nil {
		return []error{errors.New(strings.TrimSpace(err.Error()))}
	}
	docs := file.Docs
	for len(docs) > 0 && docs[len(docs)-1].Body == nil {
		docs = docs[:len(docs)-1]
	}
	switch {
	case len(docs) == 0:
		return nil
	case len(docs) > 1:
		return []error{complain(docs[1].Body, "there is a second document")}
	}
	switch docs[0].Body.(type) {
	case *ast.NullNode, *ast.CommentGroupNode:
		return nil
	}
	return walk(docs[0].Body, "", o)
}

// walk sets what the mapping node says about the keys below prefix. It goes on
// after a mistake, so that all of them are told at once.
func walk(node ast.Node, prefix string, o *Options) (problems []error) {
	entries, ok := mapping(node)
	if !ok {
		return []error{complain(node, "expected a mapping of keys to values")}
	}
	for _, entry := range entries {
		name := prefix + entry.Key.GetToken().Value
		if _, ok := entry.Key.(*ast.StringNode); !ok {
			problems = append(problems, complain(entry.Key, "expected the name of a key"))
			continue
		}
		if k := findKey(name); k != nil {
			if err := setFrom(k, entry.Value, o); err != nil {
				problems = append(problems, err)
			}
			continue
		}
		if !isGroup(name + ".") {
			problems = append(problems, complain(entry.Key, "unknown key %q", name))
			continue
		}
		if _, null := entry.Value.(*ast.NullNode); null {
			continue
		}
		problems = append(problems, walk(entry.Value, name+".", o)...)
	}
	return problems
}

// setFrom sets one key. What is wrong with its value alone is told here, where
// there is a line to point at, and not only by Options.Validate.
func setFrom(k *configKey, node ast.Node, o *Options) error {
	values, err := valuesOf(k, node)
	if err != nil || values == nil {
		return err
	}
	if err := k.set(o, values); err != nil {
		return complain(node, "%s: %v", k.name, err)
	}
	// What one key needs of others is not asked here: they may come further down.
	alone := Options{AllowInsecure: true, TLSCert: "/some", TLSKey: "/some", TLSClientCA: "/some"}
	if err := k.set(&alone, values); err != nil {
		return complain(node, "%s: %v", k.name, err)
	}
	err = alone.Validate()
	if _, missing := errors.AsType[*fs.PathError](err); missing { // what is on the disk may change until the start
		return nil
	}
	if wrong, ok := errors.AsType[*ConfigError](err); ok {
		return complain(node, "%v", errors.Join(wrong.Problems...))
	}
	return nil
}

func isGroup(prefix string) bool {
	for _, k := range configKeys {
		if strings.HasPrefix(k.name, prefix) {
			return true
		}
	}
	return false
}

func mapping(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// valuesOf reads the value of a key; nil when the file leaves it open.
func valuesOf(k *configKey, node ast.Node) ([]string, error) {
	if _, null := node.(*ast.NullNode); null {
		return nil, nil
	}
	if entries, ok := mapping(node); ok && k.Map {
		values := []string{}
		for _, e := range entries {
			v, err := scalar(e.Value)
			if seq, ok := e.Value.(*ast.SequenceNode); ok {
				v, err = joined(seq)
			}
			if err != nil {
				return nil, err
			}
			values = append(values, e.Key.GetToken().Value+"="+v)
		}
		return values, nil
	}
	if seq, ok := node.(*ast.SequenceNode); ok && k.List {
		values := []string{}
		for _, e := range seq.Values {
			v, err := scalar(e)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		return values, nil
	}
	v, err := scalar(node)
	if err != nil {
		return nil, complain(node, "%s takes one value%s", k.name, map[bool]string{true: ", or a list of them"}[k.List])
	}
	return []string{v}, nil
}

// joined returns the text of a list of plain values, with commas.
func joined(seq *ast.SequenceNode) (string, error) {
	parts := make([]string, len(seq.Values))
	for i, e := range seq.Values {
		var err error
		if parts[i], err = scalar(e); err != nil {
			return "", err
		}
	}
	return strings.Join(parts, ","), nil
}

// scalar returns the text of a plain value.
func scalar(node ast.Node) (string, error) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, nil
	}
	return "", complain(node, "expected one plain value")
}

// complain makes an error that shows the line of node and points at it.
func complain(node ast.Node, format string, args ...any) error {
	var at *token.Token
	if node != nil {
		at = node.GetToken()
	}
	if at == nil {
		return fmt.Errorf(format, args...)
	}
	return errors.New(strings.TrimRight(yaml.FormatErrorWithToken(fmt.Sprintf(format, args...), at, false, true), "\n"))
}
