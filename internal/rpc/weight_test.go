package rpc

import (
	"bytes"
	"math/big"
	"strings"
	"testing"
)

// Whatever a value is made of, at least its text and data count, wherever it
// stands: what is not counted is not bounded.
func TestWeightCountsAllThatAValueHolds(t *testing.T) {
	const size = 1 << 20
	data := bytes.Repeat([]byte("x"), size)
	text := string(data)
	raw := String(text)
	for name, node := range map[string]any{
		"text": text, "number": Number(strings.Repeat("1", size)), "bytes": Bytes{Data: data}, "extension": Ext{Code: 1, Data: data},
		"big integer": new(big.Int).Lsh(big.NewInt(1), 8*size), "JSON": raw, "error": &Error{Message: text},
		"data of an error": &Error{Data: raw}, "key": &Map{Items: []Item{{Key: text}}}, "key of bytes": &Map{Items: []Item{{Key: Bytes{Data: data}}}},
	} {
		v := TreeValue(node)
		list, object := TreeValue([]any{node}), TreeValue(&Map{Items: []Item{{Key: "k", Value: node}}})
		args := MixedArgs([]Value{v}, []Named{{Name: "n", Value: v}})
		for where, weight := range map[string]int{
			"alone": v.Weight(), "in an array": list.Weight(), "in an object": object.Weight(), "half of the arguments": args.weight() / 2,
		} {
			if weight < size || weight > size+size/10 {
				t.Errorf("%s of %d bytes, %s: counts %d", name, size, where, weight)
			}
		}
	}
	if n := TreeValue(make([]any, 1000)).Weight(); n < 16*1000 {
		t.Errorf("1000 nulls count %d", n)
	}
}
