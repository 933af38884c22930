package hub

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// journal is a zapcore.Core that sends entries with fields to the systemd
// journal: "method" becomes HUBD_METHOD, so that "journalctl HUBD_METHOD=x"
// finds them. The message has them too, for readers of plain lines. Values go
// over a datagram with lengths, which no value can break out of.
type journal struct {
	zapcore.LevelEnabler
	fields []zapcore.Field // of With
	send   func(message string, p systemd.Priority, fields map[string]string) error
	// lines takes what the journal does not: it restarts, or is out of reach.
	lines zapcore.Core
}

func newJournal(level zapcore.LevelEnabler, lines zapcore.Core) *journal {
	return &journal{LevelEnabler: level, send: systemd.Send, lines: lines}
}

// With returns a core whose entries have fields as well.
func (j *journal) With(fields []zapcore.Field) zapcore.Core {
	more := *j
	more.fields = append(append([]zapcore.Field(nil), j.fields...), fields...)
	more.lines = j.lines.With(fields)
	return &more
}

// Check adds the core to ce if the level is enabled.
func (j *journal) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if j.Enabled(e.Level) {
		return ce.AddCore(e, j)
	}
	return ce
}

// Write sends one entry.
func (j *journal) Write(e zapcore.Entry, fields []zapcore.Field) error {
	vars := map[string]string{"SYSLOG_IDENTIFIER": "hubd"}
	var text strings.Builder
	text.WriteString(rpc.CleanText(e.Message, maxLine))
	if e.LoggerName != "" {
		vars["HUBD_PART"] = e.LoggerName
	}
	for _, list := range [][]zapcore.Field{j.fields, fields} {
		for _, f := range list {
			values := zapcore.NewMapObjectEncoder()
			f.AddTo(values)
			for name, v := range values.Fields { // one, but two for errors with details
				plain := plainText(v)
				vars["HUBD_"+fieldName(name)] = plain
				if text.Len() < maxLine {
					fmt.Fprintf(&text, " %s=%s", name, quoted(plain))
				}
			}
		}
	}
	if err := j.send(text.String(), priority(e.Level), vars); err != nil {
		return j.lines.Write(e, fields)
	}
	return nil
}

// Sync has nothing to do: nothing is buffered here.
func (j *journal) Sync() error { return nil }

// fieldName makes name fit for the journal: capitals, digits and underscores.
func fieldName(name string) string {
	b := []byte(strings.ToUpper(name))
	for i, c := range b {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	return string(b)
}

// plainText writes a value as a person would read it.
func plainText(v any) string {
	var s string
	switch v := v.(type) {
	case string:
		s = v
	case time.Duration:
		s = strconv.FormatFloat(v.Seconds(), 'f', -1, 64)
	case time.Time:
		s = v.Format(time.RFC3339Nano)
	default:
		s = fmt.Sprint(v)
	}
	if len(s) > maxLine {
		s = s[:maxLine]
	}
	return s
}

// quoted puts a value with blanks or with what could forge a field into quotes.
func quoted(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r >= 0x7f }) {
		return strconv.Quote(s)
	}
	return s
}

// priority turns a level into one of syslog.
func priority(l zapcore.Level) systemd.Priority {
	switch {
	case l >= zapcore.DPanicLevel:
		return systemd.PriCrit
	case l == zapcore.ErrorLevel:
		return systemd.PriErr
	case l == zapcore.WarnLevel:
		return systemd.PriWarning
	case l == zapcore.InfoLevel:
		return systemd.PriInfo
	}
	return systemd.PriDebug
}
