package hub

import (
	"context"
	"fmt"
	"os"
	runtimemetrics "runtime/metrics"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// hub.diagnose: what the hub itself can tell is wrong, each with what to do.

// Levels of a finding, from good to bad.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

// finding is the result of one check.
type finding struct {
	Name   string `json:"name"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // what to do about it
}

type diagnosis struct {
	Now      string    `json:"now"` // of the hub's clock, RFC 3339
	Findings []finding `json:"findings"`
}

// Thresholds of hub.diagnose.
const (
	fewBytes       = 64 << 20 // free on the disk of the state
	manyOfLimit    = 0.8      // of a limit in use
	fewDescriptors = 4096
)

func (h *hub) diagnose(ctx context.Context, _ struct{}) (diagnosis, error) {
	findings := []finding{
		h.checkPhase(), h.checkStore(), h.checkDisk(), h.checkClock(), h.checkDescriptors(), h.checkConnections(),
		h.checkMemory(), h.checkConfig(), h.checkListeners(), h.checkAccess(), h.checkTrouble(),
	}
	return diagnosis{Now: time.Now().UTC().Format(time.RFC3339Nano), Findings: append(findings, h.checkRemotes(ctx)...)}, nil
}

// checkAccess names the listeners that let strangers do more than read.
func (h *hub) checkAccess() finding {
	var open []string
	for _, l := range h.listening() {
		a := l.addr
		if a.network == "tcp" && a.auth == authNone && !l.metrics && a.scopes != rpc.ScopeRead {
			open = append(open, a.String())
		}
	}
	if len(open) == 0 {
		return finding{Name: "access", Level: levelOK, Detail: "every listener asks who comes"}
	}
	return finding{"access", levelWarn, "every user who reaches " + strings.Join(open, " ") + " may read and change the state and call methods (auth=none)",
		"take auth=token, or auth=uid with peers; scopes=read leaves only reading"}
}

// checkRemotes says which far services cannot be reached, and why.
func (h *hub) checkRemotes(ctx context.Context) []finding {
	ctx, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	findings := make([]finding, len(h.remotes))
	var asking sync.WaitGroup
	for i, r := range h.remotes {
		asking.Go(func() {
			name := "remote " + r.Alias()
			if err := r.Check(ctx); err != nil {
				findings[i] = finding{name, levelWarn, "cannot be reached: " + rpc.CleanText(reasonOf(err).Error(), 200),
					"start the server that remote names, or correct its address in the configuration"}
				return
			}
			findings[i] = finding{Name: name, Level: levelOK, Detail: "answers"}
		})
	}
	asking.Wait()
	return findings
}

func (h *hub) checkPhase() finding {
	phase := phaseNames[h.phase.Load()]
	if phase != phaseNames[ready] {
		return finding{"phase", levelWarn, "the hub is " + phase, "wait until it is ready: hubctl wait"}
	}
	return finding{Name: "phase", Level: levelOK, Detail: fmt.Sprintf("ready since %s", time.Since(h.started).Round(time.Second))}
}

func (h *hub) checkStore() finding {
	f := finding{Name: "store", Level: levelOK}
	if err := h.service.Ready(); err != nil {
		return finding{"store", levelFail, "takes no writes: " + rpc.CleanText(err.Error(), 200),
			"free space on the disk of the state folder, and look into the log; reads go on meanwhile"}
	}
	info, stats := h.store.Info(), h.store.Stats()
	f.Detail = fmt.Sprintf("takes writes; %d keys at revision %d", stats.Keys, info.Revision)
	return f
}

func (h *hub) checkDisk() finding {
	var fs unix.Statfs_t
	if err := unix.Statfs(h.opts.State, &fs); err != nil {
		return finding{"disk", levelFail, "the state folder cannot be looked at: " + rpc.CleanText(err.Error(), 200),
			"restore the folder, or start the hub with --state elsewhere"}
	}
	free := fs.Bavail * uint64(fs.Bsize)
	detail := fmt.Sprintf("%d MiB free for the state", free>>20)
	if free < fewBytes {
		return finding{"disk", levelWarn, detail, "free some space: writes are refused when the disk is full"}
	}
	return finding{Name: "disk", Level: levelOK, Detail: detail}
}

// checkClock finds a clock that stands before the program was built or behind
// files that the hub has written.
func (h *hub) checkClock() finding {
	fix := "set the clock, and let it be kept: timedatectl set-ntp true"
	now := time.Now()
	if now.Year() < 2025 {
		return finding{"clock", levelFail, "it is " + now.UTC().Format(time.RFC3339) + " here", fix}
	}
	if st, err := os.Stat(h.opts.State); err == nil && st.ModTime().After(now.Add(time.Minute)) {
		return finding{"clock", levelWarn, "the state folder was changed in the future, at " + st.ModTime().UTC().Format(time.RFC3339), fix}
	}
	if drift := time.Since(h.started) - now.Round(0).Sub(h.started.Round(0)); drift.Abs() > time.Minute {
		return finding{"clock", levelWarn, fmt.Sprintf("was set by %s since the hub started", -drift.Round(time.Second)),
			"expiry times of keys may be off: restart the hub if that matters"}
	}
	return finding{Name: "clock", Level: levelOK, Detail: now.UTC().Format(time.RFC3339)}
}

func (h *hub) checkDescriptors() finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return finding{"descriptors", levelWarn, rpc.CleanText(err.Error(), 200), ""}
	}
	used := 0
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		used = len(names)
	}
	detail := fmt.Sprintf("%d of %d in use", used, limit.Cur)
	fix := "raise the limit: LimitNOFILE= in the unit, or ulimit -n"
	switch {
	case float64(used) > manyOfLimit*float64(limit.Cur):
		return finding{"descriptors", levelFail, detail, fix}
	case limit.Cur < fewDescriptors:
		return finding{"descriptors", levelWarn, detail, fix}
	}
	return finding{Name: "descriptors", Level: levelOK, Detail: detail}
}

func (h *hub) checkConnections() finding {
	n, most := len(h.connections()), h.opts.Limits.Connections
	detail := fmt.Sprintf("%d of %d", n, most)
	if float64(n) > manyOfLimit*float64(most) {
		return finding{"connections", levelWarn, detail, "raise limits.connections, or find out who holds so many: hubctl status"}
	}
	return finding{Name: "connections", Level: levelOK, Detail: detail}
}

func (h *hub) checkMemory() finding {
	samples := []runtimemetrics.Sample{{Name: "/gc/gomemlimit:bytes"}}
	runtimemetrics.Read(samples)
	used, limit := h.inUse(), int64(samples[0].Value.Uint64())-h.opts.MemoryUntouched
	if limit > 1<<60 {
		return finding{Name: "memory", Level: levelOK, Detail: fmt.Sprintf("%d MiB, without a limit", used>>20)}
	}
	detail := fmt.Sprintf("%d of %d MiB", used>>20, limit>>20)
	if float64(used) > 0.95*float64(limit) {
		return finding{"memory", levelWarn, detail, "raise the memory limit (MemoryMax= in the unit), or find out what is large: hubctl top"}
	}
	return finding{Name: "memory", Level: levelOK, Detail: detail}
}

func (h *hub) checkConfig() finding {
	if !h.configGood.Load() {
		return finding{"configuration", levelFail, "the last reload was refused; the one before holds", "see what is wrong: hubd reload, or hubd config check"}
	}
	return finding{Name: "configuration", Level: levelOK, Detail: "taken over"}
}

// checkListeners warns of addresses at which everybody may call.
func (h *hub) checkListeners() finding {
	var open []string
	for _, l := range h.listening() {
		if l.addr.network == "tcp" && l.addr.auth == authNone && !isLoopback(l.addr.hostport) {
			open = append(open, l.String())
		}
	}
	if len(open) > 0 {
		return finding{"listeners", levelWarn, "anybody who reaches " + strings.Join(open, ", ") + " may call", "use auth=token there"}
	}
	return finding{Name: "listeners", Level: levelOK, Detail: fmt.Sprintf("%d open", len(h.listening()))}
}

// checkTrouble tells of what the counters say should not be.
func (h *hub) checkTrouble() finding {
	panics := counterValue(h.metrics.panics)
	if panics > 0 {
		return finding{"handlers", levelWarn, fmt.Sprintf("%d panics since the start", int(panics)), "report it: hubctl bugreport"}
	}
	return finding{Name: "handlers", Level: levelOK, Detail: "no panics"}
}
