package statesvc

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkLogSync is the floor under a durable put: one record of 300 bytes, one sync, nothing else.
func BenchmarkLogSync(b *testing.B) {
	s := openBench(b, true)
	j := s.journal
	data := make([]byte, 300)
	for i := range data {
		data[i] = 1
	}
	for b.Loop() {
		j.index++
		if err := j.w.Save(nil, []*raftpb.Entry{{Term: new(uint64(1)), Index: new(j.index), Data: data}}); err != nil {
			b.Fatal(err)
		}
	}
}
