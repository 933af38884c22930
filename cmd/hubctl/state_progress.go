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
	shown bool      // the bar is on the terminal
	told  time.Time // the last line of JSON
	ended bool
}

func (a *app) progress(what string, total int64, bytes bool) *progress {
	return &progress{app: a, what: what, total: total, bytes: bytes, began: time.Now()}
}

// showsProgress reports whether anybody sees progress.
func (a *app) showsProgress() bool {
	return a.progressForm == progressJSON || a.errTTY && a.progressForm != progressNone
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
	if !p.app.showsProgress() {
		return
	}
	if p.bar == nil { // from the start, so that it knows the rate; see Write
		p.bar = progressbar.NewOptions64(p.total,
			progressbar.OptionSetWriter(p), progressbar.OptionSetDescription(oneLine(p.what)),
			progressbar.OptionShowBytes(p.bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetWidth(20), progressbar.OptionUseANSICodes(p.ansi()))
		p.bar.StartWithoutRender()
	}
	_ = p.bar.Set64(p.done) // it writes to the terminal
}

// Write takes what the bar draws, which nobody sees before progressDelay is over.
func (p *progress) Write(drawn []byte) (int, error) {
	if !p.shown && time.Since(p.began) < progressDelay {
		return len(drawn), nil
	}
	p.shown = true
	return styled(p.app.err).Write(drawn)
}

// ansi reports whether the terminal can be told to clear a line.
func (p *progress) ansi() bool { return p.app.getenv("TERM") != "dumb" }

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
	if p.bar == nil {
		return
	}
	switch {
	case !p.shown:
	case p.ansi():
		fmt.Fprint(styled(p.app.err), "\r\x1b[K") // all of the line: a ^C that the terminal has shown there, too
	default:
		_ = p.bar.Clear()
	}
	p.bar = nil
}
