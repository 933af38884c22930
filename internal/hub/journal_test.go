package hub

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func TestJournalEntries(t *testing.T) {
	var message string
	var level systemd.Priority
	var fields map[string]string
	var fail error
	lines, fallen := observer.New(zapcore.DebugLevel)
	j := newJournal(zapcore.InfoLevel, lines)
	j.send = func(m string, p systemd.Priority, f map[string]string) error {
		message, level, fields = m, p, f
		return fail
	}
	log := zap.New(j).Named("store")
	conn := log.With(zap.Uint64("conn", 7), zap.String("protocol", "kkrpc"))

	tests := []struct {
		write   func()
		message string
		level   systemd.Priority
		fields  string
	}{
		{func() { conn.Info("connection ended") }, "connection ended conn=7 protocol=kkrpc", systemd.PriInfo,
			"HUBD_CONN=7 HUBD_PART=store HUBD_PROTOCOL=kkrpc SYSLOG_IDENTIFIER=hubd"},
		{func() { log.Warn("slow handler", zap.Duration("took", 1500*time.Millisecond)) }, "slow handler took=1.5", systemd.PriWarning,
			"HUBD_PART=store HUBD_TOOK=1.5 SYSLOG_IDENTIFIER=hubd"},
		{func() { log.Error("cannot", zap.Error(errors.New("no room"))) }, `cannot error="no room"`, systemd.PriErr,
			"HUBD_ERROR=no room HUBD_PART=store SYSLOG_IDENTIFIER=hubd"},
		{func() { log.Info("odd", zap.String("trace-id.x", "a\nPRIORITY=0")) }, `odd trace-id.x="a\nPRIORITY=0"`, systemd.PriInfo,
			"HUBD_PART=store HUBD_TRACE_ID_X=a\nPRIORITY=0 SYSLOG_IDENTIFIER=hubd"},
		{func() { log.Info("list", zap.Strings("keys", []string{"a", "b"})) }, `list keys="[a b]"`, systemd.PriInfo,
			"HUBD_KEYS=[a b] HUBD_PART=store SYSLOG_IDENTIFIER=hubd"},
	}
	for _, test := range tests {
		test.write()
		var got []string
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			got = append(got, name+"="+fields[name])
		}
		if message != test.message || level != test.level || strings.Join(got, " ") != test.fields {
			t.Errorf("got  %q %d %q\nwant %q %d %q", message, level, strings.Join(got, " "), test.message, test.level, test.fields)
		}
	}

	message = ""
	conn.Debug("too fine")
	if message != "" {
		t.Errorf("an entry below the level: %q", message)
	}
	conn.Info("long", zap.String("text", strings.Repeat("x", 1<<20)))
	if len(message) > 3*maxLine || len(fields["HUBD_TEXT"]) != maxLine {
		t.Errorf("an entry of %d bytes with a field of %d", len(message), len(fields["HUBD_TEXT"]))
	}
	if fallen.Len() != 0 {
		t.Errorf("%d lines although the journal took all", fallen.Len())
	}
	fail = errors.New("the journal restarts")
	conn.Info("not lost")
	if all := fallen.All(); len(all) != 1 || all[0].Message != "not lost" || all[0].ContextMap()["protocol"] != "kkrpc" {
		t.Errorf("what the journal does not take becomes a line: %v", all)
	}
}
