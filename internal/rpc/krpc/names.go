package krpc

import (
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// lookup finds the row that a krpc name means, nil if there is none: the row
// of that very name, or, since the clients' names are Python identifiers, that
// of a service and a command joined by an underscore. No two rows are spelled
// alike: the table sees to it. What a mounted service may have comes last, that
// of the longest name first. Names that begin with an underscore are never methods.
func lookup(t *rpc.Table, name string) *rpc.Method {
	if name == "" || name[0] == '_' {
		return nil
	}
	if m := t.Lookup(name); m != nil {
		return m
	}
	var mounted *rpc.Method
	for i := strings.LastIndexByte(name, '_'); i > 0; i = strings.LastIndexByte(name[:i], '_') {
		dotted := name[:i] + "." + name[i+1:]
		if m := t.Row(dotted); m != nil {
			return m
		}
		if mounted == nil {
			mounted = t.Lookup(dotted)
		}
	}
	return mounted
}

// Name returns the spelling of a method that suits the clients best: an identifier.
func Name(method string) string { return rpc.FlatName(method) }
