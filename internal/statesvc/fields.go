package statesvc

import (
	"fmt"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// fields reads the members of an object that stands inside arguments. The first thing that is wrong is kept in err;
// a member that nobody took is wrong as well.
type fields struct {
	names  []string
	values []rpc.Value
	err    error
}

// maxFields is more members than any object here has.
const maxFields = 16

func fieldsOf(v rpc.Value) (*fields, error) {
	f := new(fields)
	for key, m := range v.Members() {
		if len(f.names) == maxFields {
			return nil, fmt.Errorf("too many members")
		}
		f.names, f.values = append(f.names, rpc.Unquote(key)), append(f.values, m)
	}
	if v.Kind() == '{' {
		return f, nil
	}
	if _, raw := v.Raw(); !raw {
		if m, ok := v.Tree().(*rpc.Map); ok && m != nil {
			if len(m.Items) > maxFields {
				return nil, fmt.Errorf("too many members")
			}
			for _, it := range m.Items {
				name, ok := it.Key.(string)
				if !ok {
					return nil, fmt.Errorf("a member name is not a string")
				}
				f.names, f.values = append(f.names, name), append(f.values, rpc.TreeValue(it.Value))
			}
			return f, nil
		}
	}
	return nil, fmt.Errorf("expected an object")
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = invalid(format, args...)
	}
}

// take returns a member and takes it out; of several with one name the last.
func (f *fields) take(name string) (v rpc.Value, ok bool) {
	for i, n := range f.names {
		if n == name {
			v, ok = f.values[i], true
			f.names[i] = ""
		}
	}
	return v, ok
}

// present is take where null means absent.
func (f *fields) present(name string) (rpc.Value, bool) {
	v, ok := f.take(name)
	return v, ok && !v.IsNull() && !v.IsUndefined()
}

func (f *fields) optionalStr(name string) (string, bool) {
	v, ok := f.present(name)
	if !ok {
		return "", false
	}
	s, err := v.AsString()
	if err != nil {
		f.fail("%s: %v", name, err)
	}
	return s, true
}

func (f *fields) str(name string, required bool) string {
	s, ok := f.optionalStr(name)
	if !ok && required {
		f.fail("it misses %q", name)
	}
	return s
}

func (f *fields) uint(name string) *uint64 {
	v, ok := f.present(name)
	if !ok {
		return nil
	}
	u, err := v.AsUint()
	if err != nil {
		f.fail("%s: %v", name, err)
	}
	return &u
}

func (f *fields) float(name string) *float64 {
	v, ok := f.present(name)
	if !ok {
		return nil
	}
	x, err := v.AsFloat()
	if err != nil {
		f.fail("%s: %v", name, err)
	}
	return &x
}

func (f *fields) bool(name string) bool {
	v, ok := f.present(name)
	if !ok {
		return false
	}
	x, err := v.AsBool()
	if err != nil {
		f.fail("%s: %v", name, err)
	}
	return x
}

// end returns the first error, or that there is a member too many.
func (f *fields) end() error {
	for _, n := range f.names {
		if n != "" {
			f.fail("unknown member %q", rpc.CleanText(n, 64))
		}
	}
	return f.err
}
