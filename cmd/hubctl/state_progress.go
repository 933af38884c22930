package main

import (
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressDelay spares quick work a bar that only flickers.
const progressDelay = 500 * time.Millisecond

// progress is a bar on stderr for work that takes its time. Without a terminal
// it shows nothing.
type progress struct {
	app   *app
	what  string
	total int64 // -1: unknown
	bytes bool
	began time.Time
	done  int64
	bar   *progressbar.ProgressBar
}

func (a *app) progress(what string, total int64, bytes bool) *progress {
	return &progress{app: a, what: what, total: total, bytes: bytes, began: time.Now()}
}

// add says that n more are done.
func (p *progress) add(n int64) {
	p.done += n
	if !p.app.errTTY {
		return
	}
	if p.bar == nil {
		if time.Since(p.began) < progressDelay {
			return
		}
		p.bar = progressbar.NewOptions64(p.total,
			progressbar.OptionSetWriter(p.app.err), progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowBytes(p.bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(20))
	}
	_ = p.bar.Set64(p.done) // it writes to the terminal
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
