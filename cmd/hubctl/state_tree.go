package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"
)

func newStateTree(a *app) *cobra.Command {
	var depth int
	cmd := &cobra.Command{
		Use:   "tree [PREFIX]",
		Short: "Show the keys as a tree",
		Long: `Show the keys that begin with PREFIX, or all, as a tree: the hub knows no folders,
but keys are often written with slashes. What has a value ends without a slash.
In all formats but table the tree is an object; a value is null there.`,
		Example: `  hubctl state tree
  hubctl state tree site/ --depth 1`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if depth < 0 {
				return usageError{"--depth must not be negative", ""}
			}
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return a.stateTree(cmd.Context(), prefix, depth)
		},
	}
	cmd.Flags().IntVarP(&depth, "depth", "d", 0, "show `N` levels; 0 is all")
	return cmd
}

// keyNode is a segment of keys. A key can be both a value and what others begin with.
type keyNode struct {
	name     string
	isKey    bool
	children []*keyNode // in the order of the keys
	index    map[string]*keyNode
	keys     int // below it
}

// add enters a key. Keys have at most 1 KiB, so the tree is never deeper than that.
func (n *keyNode) add(key string) {
	for {
		n.keys++
		name, rest, more := strings.Cut(key, "/")
		child := n.index[name]
		if child == nil {
			child = &keyNode{name: name}
			if n.index == nil {
				n.index = make(map[string]*keyNode)
			}
			n.index[name] = child
			n.children = append(n.children, child)
		}
		if !more {
			child.isKey = true
			return
		}
		n, key = child, rest
	}
}

// maxTreeDepth keeps the tree within what JSON readers take.
const maxTreeDepth = 200

func (a *app) stateTree(ctx context.Context, prefix string, depth int) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	root := new(keyNode)
	for page, err := range listState(ctx, c, prefix, true) {
		if err != nil {
			return err
		}
		for _, item := range page {
			var it stateItem
			if err := decodeState(item, &it); err != nil {
				return err
			}
			root.add(it.Key)
		}
	}
	if format := a.formatOr(formatTable); format != formatTable {
		if depth == 0 || depth > maxTreeDepth {
			depth = maxTreeDepth
		}
		return a.printer(format).print(root.appendJSON(nil, depth))
	}
	_, err = a.out.Write(root.appendBranches(nil, "", depth))
	return err
}

// appendBranches draws what is below n, depth levels deep; 0 is all.
func (n *keyNode) appendBranches(dst []byte, indent string, depth int) []byte {
	for i, child := range n.children {
		fork, below := "├── ", "│   "
		if i == len(n.children)-1 {
			fork, below = "└── ", "    "
		}
		name := oneLine(child.name)
		if !child.isKey {
			name += "/"
		}
		dst = append(append(append(append(dst, indent...), fork...), name...), '\n')
		if depth != 1 {
			dst = child.appendBranches(dst, indent+below, max(depth-1, 0))
		}
	}
	return dst
}

// appendJSON writes what is below n as an object. A key that others begin with
// has itself as the member "".
func (n *keyNode) appendJSON(dst []byte, depth int) json.RawMessage {
	dst = append(dst, '{')
	for i, child := range n.children {
		if i > 0 {
			dst = append(dst, ',')
		}
		name, _ := json.Marshal(child.name)
		dst = append(append(dst, name...), ':')
		switch {
		case len(child.children) == 0 || depth == 1:
			dst = append(dst, "null"...)
		default:
			at := len(dst)
			dst = child.appendJSON(dst, max(depth-1, 0))
			if child.isKey && child.index[""] == nil {
				dst = append(dst[:at+1], append([]byte(`"":null,`), dst[at+1:]...)...)
			}
		}
	}
	return append(dst, '}')
}
