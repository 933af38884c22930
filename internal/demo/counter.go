package demo

import (
	"context"
	"math"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// counter is the object behind demo.counter.
type counter struct {
	mu sync.Mutex
	n  int64
}

func (c *counter) increment(_ context.Context, in struct {
	By int64 `rpc:"by" default:"1"`
}) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in.By > 0 && c.n > math.MaxInt64-in.By || in.By < 0 && c.n < math.MinInt64-in.By {
		return 0, rpc.HandlerError("RangeError", "the counter would leave 64 bits")
	}
	c.n += in.By
	return c.n, nil
}

func (c *counter) value(context.Context, struct{}) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n, nil
}
