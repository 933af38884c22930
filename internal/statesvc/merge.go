package statesvc

import (
	"github.com/hubd-dev/hubd/internal/rpc"
)

// mergePatch applies an RFC 7396 merge patch. Members that the patch does not name keep their text byte for byte. Its
// depth is that of the patch, which the protocols have bounded.
func mergePatch(target, patch rpc.Value, depth int) rpc.Value {
	changes := membersOf(patch)
	if changes == nil {
		return patch
	}
	result := membersOf(target)
	if result == nil {
		result = &rpc.Map{} // whatever was there is replaced, but nulls in the patch still mean nothing
	}
	index := make(map[string]int, len(result.Items))
	for i, it := range result.Items {
		if name, ok := it.Key.(string); ok {
			index[name] = i
		}
	}
	gone := map[int]bool{}
	for _, change := range changes.Items {
		name, ok := change.Key.(string)
		if !ok || depth >= rpc.MaxDepth {
			continue
		}
		value := valueOf(change.Value)
		i, there := index[name]
		switch {
		case value.IsNull():
			if there {
				gone[i] = true
				delete(index, name)
			}
		case there:
			result.Items[i].Value = nodeOf(mergePatch(valueOf(result.Items[i].Value), value, depth+1))
		default:
			index[name] = len(result.Items)
			result.Set(name, nodeOf(mergePatch(rpc.Value{}, value, depth+1)))
		}
	}
	if len(gone) > 0 {
		kept := result.Items[:0]
		for i, it := range result.Items {
			if !gone[i] {
				kept = append(kept, it)
			}
		}
		result.Items = kept
	}
	return rpc.TreeValue(result)
}

// valueOf is a node of a tree as a Value.
func valueOf(x any) rpc.Value {
	if _, ok := x.(rpc.Undefined); ok {
		return rpc.Value{}
	}
	return rpc.TreeValue(x)
}

// membersOf returns the members of an object, one level deep, in a Map of its own: what is nested stays text. Of several
// members with one name the last counts. It returns nil for anything but an object.
func membersOf(v rpc.Value) *rpc.Map {
	if v.Kind() == '{' {
		m := &rpc.Map{}
		seen := map[string]int{}
		for key, member := range v.Members() {
			name := rpc.Unquote(key)
			if i, ok := seen[name]; ok {
				m.Items[i].Value = member
				continue
			}
			seen[name] = len(m.Items)
			m.Set(name, member)
		}
		return m
	}
	if _, raw := v.Raw(); raw {
		return nil
	}
	m, ok := v.Tree().(*rpc.Map)
	if !ok || m == nil {
		return nil
	}
	return &rpc.Map{Items: append([]rpc.Item(nil), m.Items...)}
}
