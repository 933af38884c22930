package krpc

import (
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// lookup finds the row that a krpc name means, nil if there is none: the row
// of that very name, or, since the clients' names are Python identifiers, that
// of a service and a command joined by an underscore. The longest service name
// that fits is the service. Names that begin with an underscore are never methods.
func lookup(t *rpc.Table, name string) *rpc.Method {
	if name == "" || name[0] == '_' {
		return nil
	}
	if m := t.Lookup(name); m != nil {
		return m
	}
	for i := strings.LastIndexByte(name, '_'); i > 0; i = strings.LastIndexByte(name[:i], '_') {
		if t.Service(name[:i]) != nil {
			return t.Lookup(name[:i] + "." + name[i+1:])
		}
	}
	return nil
}

// Name returns the spelling of a method that suits the clients best: an identifier.
func Name(method string) string { return strings.ReplaceAll(method, ".", "_") }
