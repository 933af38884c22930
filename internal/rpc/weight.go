package rpc

import "math/big"

// Everything that is bounded in bytes, arguments of calls, items of streams and
// what is kept for a peer, counts values with the functions of this file.

// Weighty is implemented by nodes of trees that are a protocol's own and hold
// more than a few bytes.
type Weighty interface {
	// NodeWeight returns how many bytes of text and data the node holds,
	// without the nodes in it.
	NodeWeight() int
	// Nodes returns the nodes in it.
	Nodes() []any
}

// nodeWeight is what a node of a tree takes besides its text.
const nodeWeight = 32

// NodeWeight returns about how many bytes of memory a node of a tree takes,
// without the nodes in it.
func NodeWeight(x any) int {
	n := nodeWeight
	switch x := x.(type) {
	case string:
		n += len(x)
	case Number:
		n += len(x)
	case Bytes:
		n += len(x.Data) + len(x.Kind)
	case Ext:
		n += len(x.Data)
	case *big.Int:
		if x != nil {
			n += x.BitLen() / 8
		}
	case *File:
		if x != nil {
			n += len(x.Name)
		}
	case *Error:
		if x != nil {
			n += len(x.Message) + len(x.Name)
		}
	case Weighty:
		n += x.NodeWeight()
	}
	return n
}

// Weight returns about how many bytes of memory v holds: never less than the
// text and the data in it, whatever kinds of nodes it is made of.
func (v Value) Weight() int {
	if v.tree == nil {
		return len(v.raw)
	}
	return treeWeight(v.tree)
}

func treeWeight(x any) int {
	n := NodeWeight(x)
	switch x := x.(type) {
	case Value:
		n += x.Weight()
	case *Error:
		if x != nil {
			n += x.Data.Weight()
		}
	case Weighty:
		for _, e := range x.Nodes() {
			n += treeWeight(e)
		}
	case []any:
		for _, e := range x {
			n += treeWeight(e)
		}
	case *Map:
		if x != nil {
			for _, it := range x.Items {
				n += treeWeight(it.Key) + treeWeight(it.Value)
			}
		}
	}
	return n
}

// weight returns about how many bytes of memory a holds.
func (a *Args) weight() int {
	n := a.whole.Weight()
	for _, v := range a.list {
		n += v.Weight()
	}
	for _, v := range a.named {
		n += len(v.Name) + v.Value.Weight()
	}
	return n
}
