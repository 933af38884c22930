package kkrpc

import (
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// exists reports whether there is something at a path: a method, what methods
// begin with, or the name of the properties.
func (a *API) exists(path []string) bool {
	name := strings.Join(path, ".")
	if a.Properties != nil && name == a.Properties.Name {
		return true
	}
	return a.Table != nil && (a.Table.Lookup(name) != nil || a.namespace(name))
}

// namespace reports whether rows begin with name and a dot.
func (a *API) namespace(name string) bool {
	rows := a.Table.Methods()
	prefix := name + "."
	i, _ := slices.BinarySearchFunc(rows, prefix, func(m *rpc.Method, p string) int { return strings.Compare(m.Name, p) })
	return i < len(rows) && strings.HasPrefix(rows[i].Name, prefix)
}

// missingAt returns the position of the first part of path that does not exist.
func (a *API) missingAt(path []string) int {
	for i := range path {
		if !a.exists(path[:i+1]) {
			return i
		}
	}
	return len(path)
}

// key returns the key that a path names, if it is one of a property.
func (a *API) key(path []string) (string, bool) {
	if a.Properties == nil || len(path) < 2 || path[0] != a.Properties.Name {
		return "", false
	}
	return strings.Join(path[1:], "/"), true
}

// maxPath bounds the parts of a path.
const maxPath = 64

// pathOf reads an array of strings. ok is false when it is none.
func pathOf(v rpc.Value) (path []string, ok bool) {
	list, err := v.AsList()
	if err != nil || len(list) > maxPath {
		return nil, false
	}
	for _, x := range list {
		part, err := x.AsString()
		if err != nil {
			return nil, false
		}
		path = append(path, part)
	}
	return path, true
}
