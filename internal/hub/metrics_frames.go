package hub

import (
	"math/bits"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// frameSizes are the upper bounds of the size buckets: 64 bytes to 16 MiB, each
// four times the one before.
const (
	smallestFrame = 6 // 1 << 6
	frameSizes    = 10
)

// flow counts the frames of one protocol in one direction. A frame costs two
// additions: numbers, bytes and sizes are three metrics but one fact.
type flow struct {
	sizes [frameSizes + 1]atomic.Uint64
	bytes atomic.Uint64
}

func (f *flow) count(size int) {
	i := 0
	if size > 1<<smallestFrame {
		i = min((bits.Len(uint(size-1))-smallestFrame+1)/2, frameSizes)
	}
	f.sizes[i].Add(1)
	f.bytes.Add(uint64(size))
}

// frameCounts collects the flows of all protocols.
type frameCounts struct {
	frames, bytes, size *prometheus.Desc
	in, out             map[rpc.Protocol]*flow // not changed after newMetrics
}

func (m *metrics) collectFrames(protocols []rpc.Protocol) {
	desc := func(name, kind, help string, labels ...string) *prometheus.Desc {
		m.describe(name, kind, help, labels)
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m.flows = &frameCounts{
		frames: desc("hubd_frames_total", "counter", "Frames received (in) and sent (out).", "protocol", "direction"),
		bytes:  desc("hubd_frame_bytes_total", "counter", "Bytes of the frames received (in) and sent (out).", "protocol", "direction"),
		size:   desc("hubd_frame_size_bytes", "histogram", "Size of the frames received (in) and sent (out).", "protocol", "direction"),
		in:     map[rpc.Protocol]*flow{}, out: map[rpc.Protocol]*flow{},
	}
	for _, p := range protocols {
		m.flows.in[p], m.flows.out[p] = new(flow), new(flow)
	}
	m.register(m.flows)
}

// Describe sends the descriptions.
func (c *frameCounts) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.frames
	ch <- c.bytes
	ch <- c.size
}

// Collect sends the present counts.
func (c *frameCounts) Collect(ch chan<- prometheus.Metric) {
	for direction, flows := range map[string]map[rpc.Protocol]*flow{"in": c.in, "out": c.out} {
		for p, f := range flows {
			bytes := f.bytes.Load()
			var n uint64
			buckets := map[float64]uint64{}
			for i := range f.sizes {
				n += f.sizes[i].Load()
				if i < frameSizes {
					buckets[float64(uint64(1)<<(smallestFrame+2*i))] = n
				}
			}
			ch <- prometheus.MustNewConstMetric(c.frames, prometheus.CounterValue, float64(n), string(p), direction)
			ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, float64(bytes), string(p), direction)
			ch <- prometheus.MustNewConstHistogram(c.size, n, float64(bytes), buckets, string(p), direction)
		}
	}
}
