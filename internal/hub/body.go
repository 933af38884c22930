package hub

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// leastBody is how many bytes a second of a body must come on average, once it
// takes longer than the limit of a partial frame.
const leastBody = 1 << 10

// errSlowBody is what reading a body ends with that does not come.
var errSlowBody = fmt.Errorf("the body of the request comes too slowly: %w", os.ErrDeadlineExceeded)

// steadyBody is the body of a request whose bytes must keep coming: each read
// has the limit anew, and all of them together a least rate. A handler that
// never reads it leaves its rest to the server, which is bounded by the first.
type steadyBody struct {
	io.ReadCloser
	h     *hub
	c     *conn
	began time.Time
	bytes int64
	late  bool
}

// steady returns r with a body that comes in bounded time. A connection that is
// taken over by its handler gets deadlines of its own. The request of the server
// keeps its body: by that it knows whether the client waits to be told to send it,
// and whether reading the rest before the answer is worth it.
func (h *hub) steady(r *http.Request, c *conn) *http.Request {
	if r.Body == nil || r.Body == http.NoBody {
		return r
	}
	c.SetReadDeadline(time.Now().Add(h.opts.Limits.HTTPBody))
	body := r.Body
	r = r.WithContext(r.Context())
	r.Body = &steadyBody{ReadCloser: body, h: h, c: c, began: time.Now()}
	return r
}

func (b *steadyBody) Read(p []byte) (int, error) {
	if b.late {
		return 0, errSlowBody
	}
	now := time.Now()
	age := now.Sub(b.began)
	if age > b.h.opts.Limits.PartialFrame && float64(b.bytes) < age.Seconds()*leastBody {
		return 0, b.tooSlow()
	}
	b.c.SetReadDeadline(now.Add(b.h.opts.Limits.HTTPBody))
	n, err := b.ReadCloser.Read(p)
	b.bytes += int64(n)
	switch {
	case err == io.EOF:
		b.c.SetReadDeadline(time.Time{})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, b.tooSlow()
	}
	return n, err
}

func (b *steadyBody) tooSlow() error {
	b.late = true
	b.h.metrics.rejected(limitHTTPBody)
	b.h.audit.request(b.c, limitHTTPBody)
	b.c.SetReadDeadline(time.Unix(1, 0)) // what is left of it is not waited for either
	return errSlowBody
}
