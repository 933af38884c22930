package statesvc

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// equalWork is how many nodes a comparison with a value of size bytes may look at.
func equalWork(size int) int { return 4*size + 1024 }

// equalValues reports whether two values mean the same: numbers by their value, objects whatever the order of their
// members. work is what it may cost; when it is used up the values count as different.
func equalValues(a, b rpc.Value, work *int) bool {
	x, ok := a.Raw()
	y, ok2 := b.Raw()
	if ok && ok2 && bytes.Equal(x, y) {
		return true
	}
	return equalTrees(a.Tree(), b.Tree(), work, 0)
}

func equalTrees(a, b any, work *int, depth int) bool {
	if *work--; *work < 0 || depth > 2*rpc.MaxDepth {
		return false
	}
	a, b = unwrap(a), unwrap(b)
	if isNumber(a) || isNumber(b) {
		return isNumber(a) && isNumber(b) && equalNumbers(a, b)
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case bool:
		y, ok := b.(bool)
		return ok && x == y
	case string:
		y, ok := b.(string)
		return ok && x == y
	case rpc.Undefined:
		_, ok := b.(rpc.Undefined)
		return ok
	case rpc.Bytes:
		y, ok := b.(rpc.Bytes)
		return ok && x.Kind == y.Kind && bytes.Equal(x.Data, y.Data)
	case rpc.Ext:
		y, ok := b.(rpc.Ext)
		return ok && x.Code == y.Code && bytes.Equal(x.Data, y.Data)
	case time.Time:
		y, ok := b.(time.Time)
		return ok && x.Equal(y)
	case rpc.Value: // text that no Go string can hold
		y, ok := b.(rpc.Value)
		p, _ := x.Raw()
		q, _ := y.Raw()
		return ok && bytes.Equal(p, q)
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !equalTrees(x[i], y[i], work, depth+1) {
				return false
			}
		}
		return true
	case *rpc.Map:
		y, ok := b.(*rpc.Map)
		return ok && equalMaps(x, y, work, depth)
	}
	return false
}

// unwrap opens a Value that stands in a tree.
func unwrap(x any) any {
	v, ok := x.(rpc.Value)
	if !ok {
		return x
	}
	return v.Tree()
}

func equalMaps(a, b *rpc.Map, work *int, depth int) bool {
	if len(a.Items) != len(b.Items) {
		return false
	}
	index := make(map[string]any, len(b.Items))
	for _, it := range b.Items {
		key, ok := it.Key.(string)
		if !ok {
			return equalPairs(a, b, work, depth)
		}
		index[key] = it.Value
	}
	for _, it := range a.Items {
		key, ok := it.Key.(string)
		if !ok {
			return false
		}
		other, there := index[key]
		if !there || !equalTrees(it.Value, other, work, depth+1) {
			return false
		}
	}
	return true
}

// equalPairs compares maps with other keys than strings, in their order.
func equalPairs(a, b *rpc.Map, work *int, depth int) bool {
	for i := range a.Items {
		if !equalTrees(a.Items[i].Key, b.Items[i].Key, work, depth+1) || !equalTrees(a.Items[i].Value, b.Items[i].Value, work, depth+1) {
			return false
		}
	}
	return true
}

func isNumber(x any) bool {
	switch x.(type) {
	case int64, uint64, *big.Int, float64, rpc.Number:
		return true
	}
	return false
}

// equalNumbers compares integers exactly and everything else as floats: a literal with a huge exponent must not make
// anybody compute its digits.
func equalNumbers(a, b any) bool {
	i, iok := wholeNumber(a)
	j, jok := wholeNumber(b)
	if iok && jok {
		return i.Cmp(j) == 0
	}
	x, y := floatOf(a), floatOf(b)
	return x == y || math.IsNaN(x) && math.IsNaN(y)
}

func wholeNumber(x any) (*big.Int, bool) {
	switch x := x.(type) {
	case int64:
		return big.NewInt(x), true
	case uint64:
		return new(big.Int).SetUint64(x), true
	case *big.Int:
		return x, true
	}
	return nil, false
}

func floatOf(x any) float64 {
	switch x := x.(type) {
	case float64:
		return x
	case rpc.Number:
		f, _ := strconv.ParseFloat(string(x), 64)
		return f
	}
	i, _ := wholeNumber(x)
	f, _ := new(big.Float).SetInt(i).Float64()
	return f
}
