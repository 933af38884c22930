package hub

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestLogIsLimitedByPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, seen := observer.New(zapcore.DebugLevel)
		rejected := 0
		log := limitLog(zap.New(core), func() { rejected++ })
		noisy := log.With(zap.Uint64("conn", 1))
		for range 25 {
			noisy.Info("frame failed")
		}
		log.Info("frame failed", zap.Uint64("conn", 1)) // the same one
		log.Info("frame failed", zap.Uint64("conn", 2))
		one := zap.Field{Type: zapcore.SkipType, Interface: linesOf("uid 7 pid 8")}
		for conn := range uint64(25) { // one peer, many connections
			log.Info("connection", zap.Uint64("conn", 100+conn), one)
		}
		for range 25 { // these are not limited
			log.Info("ready")
			log.Named(auditPart).Warn("call denied", zap.Uint64("conn", 1))
			log.Debug("call", zap.Uint64("conn", 1))
		}
		want := map[string]int{"frame failed": logBurst + 1, "connection": logBurst, "ready": 25, "call denied": 25, "call": 25}
		for msg, n := range want {
			if got := seen.FilterMessage(msg).Len(); got != n {
				t.Errorf("%q: %d lines, want %d", msg, got, n)
			}
		}
		if want := 16 + 15; rejected != want {
			t.Errorf("%d counted, want %d", rejected, want)
		}
		time.Sleep(logWait + time.Millisecond)
		synctest.Wait()
		sums := seen.FilterMessage("lines of peers were left out").All()
		if len(sums) != 1 {
			t.Fatalf("%d summaries", len(sums))
		}
		if got := sums[0].ContextMap(); got["lines"] != int64(31) || got["peers"] != int64(2) || got["most"] != "conn 1" {
			t.Errorf("summary %v", got)
		}
		noisy.Info("frame failed") // it has lines again
		if got := seen.FilterMessage("frame failed").Len(); got != logBurst+2 {
			t.Errorf("%d lines after a while", got)
		}
		time.Sleep(2 * logWait)
		if got := seen.FilterMessage("lines of peers were left out").Len(); got != 1 {
			t.Errorf("%d summaries, and nothing was left out", got)
		}
	})
}

func TestLogLinesAreCut(t *testing.T) {
	core, seen := observer.New(zapcore.DebugLevel)
	log := limitLog(zap.New(core), func() {})
	long := strings.Repeat("ä", maxLine)
	fields := []zap.Field{zap.String("a", "short"), zap.ByteString("b", []byte(long)), zap.Int("n", 1), zap.String("c", long), zap.Error(errors.New(long))}
	log.Info("m", fields...)
	log.With(fields...).Info("m")
	for i, e := range seen.All() {
		total := 0
		for key, v := range e.ContextMap() {
			if s, ok := v.(string); ok {
				total += len(s)
				if key != "a" && !strings.HasSuffix(s, "...") {
					t.Errorf("%d: %s is not marked as cut", i, key)
				}
			}
		}
		if total > maxLine+3*len("...") || total < maxLine-16 {
			t.Errorf("%d: %d bytes of texts", i, total)
		}
		if e.ContextMap()["a"] != "short" || e.ContextMap()["n"] != int64(1) {
			t.Errorf("%d: %v", i, e.ContextMap())
		}
	}
	if len(fields[1].Interface.([]byte)) != len(long) {
		t.Error("the caller's fields were changed")
	}
}
