package main

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressDelay spares quick work a bar that only flickers.
const progressDelay = 500 * time.Millisecond

// progressEvery is how often --progress=json tells.
const progressEvery = 250 * time.Millisecond

// Forms of progress.
const (
	progressAuto = "auto" // a bar, on a terminal
	progressJSON = "json" // lines of JSON on stderr
	progressNone = "none"
)

// progressLine is a line of --progress=json. The last one of a piece of work has Ended.
type progressLine struct {
	What    string  `json:"what"`
	Done    int64   `json:"done"`
	Total   *int64  `json:"total"` // null: unknown
	Unit    string  `json:"unit"`  // "bytes" or "items"
	Seconds float64 `json:"seconds"`
	Ended   bool    `json:"ended"` // also when it failed: the exit code tells
}

// progress tells on stderr how far work is that takes its time: with a bar on a
// terminal, as JSON where that was asked for, else not at all.
type progress struct {
	app   *app
	what  string
	total int64 // -1: unknown
	bytes bool
	began time.Time
	done  int64
	bar   *progressbar.ProgressBar
	told  time.Time // the last line of JSON
	ended bool
}

func (a *app) progress(what string, total int64, bytes bool) *progress {
	return &progress{app: a, what: what, total: total, bytes: bytes, began: time.Now()}
}

// add says that n more are done.
func (p *progress) add(n int64) {
	p.done += n
	if p.app.progressForm == progressJSON {
		if time.Since(p.told) >= progressEvery {
			p.tell(false)
		}
		return
	}
	if !p.app.errTTY || p.app.progressForm == progressNone {
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

// tell writes a line of JSON.
func (p *progress) tell(ended bool) {
	p.told = time.Now()
	line := progressLine{What: p.what, Done: p.done, Unit: "items", Seconds: time.Since(p.began).Seconds(), Ended: ended}
	if p.total >= 0 {
		line.Total = &p.total
	}
	if p.bytes {
		line.Unit = "bytes"
	}
	text, err := json.Marshal(line)
	if err == nil {
		fmt.Fprintf(p.app.err, "%s\n", text)
	}
}

// end takes the bar away, or tells the end.
func (p *progress) end() {
	if p.app.progressForm == progressJSON && !p.ended {
		p.ended = true
		p.tell(true)
	}
	if p.bar != nil {
		_ = p.bar.Clear()
		p.bar = nil
	}
}
