package statesvc

import (
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"
)

// Names of limits, as in LimitError and Observer.Refused.
const (
	LimitKey         = "state_key"
	LimitValue       = "state_value"
	LimitTotal       = "state_total"
	LimitTransaction = "state_transaction"
	LimitQueue       = "state_queue"
	LimitDisk        = "state_disk"
)

// Defaults of the limits that can be configured.
const (
	DefaultValue         = 1 << 20
	DefaultTotal         = 1 << 30
	DefaultHistoryEvents = 100_000
	DefaultHistoryBytes  = 256 << 20
)

// Limits bound what the store takes. A zero field means the default.
type Limits struct {
	Key           int   // bytes of a key: 1 KiB
	Value         int   // bytes of a value: 1 MiB
	Total         int64 // bytes of all keys and values, each key counted with itemOverhead more: 1 GiB
	HistoryEvents int   // events kept for watchers: 100,000
	HistoryBytes  int64 // bytes of these events: 256 MiB
	Ops           int   // operations and conditions of one transaction: 65,536
	TxBytes       int64 // bytes of keys and values that one transaction changes: 64 MiB
	Queue         int   // transactions waiting: 65,536
	QueueBytes    int64 // bytes of the values waiting: 128 MiB
}

// itemOverhead is what an item costs in memory beside its key and value. It is part of the total, so that many tiny items
// cannot take more memory than few large ones.
const itemOverhead = 128

// maxTTL keeps deadlines within what a time.Duration and a clock can express.
const maxTTL = 100 * 365 * 24 * time.Hour

func (l Limits) withDefaults() Limits {
	set := func(p *int, d int) {
		if *p <= 0 {
			*p = d
		}
	}
	set64 := func(p *int64, d int64) {
		if *p <= 0 {
			*p = d
		}
	}
	set(&l.Key, 1<<10)
	set(&l.Value, DefaultValue)
	set64(&l.Total, DefaultTotal)
	set(&l.HistoryEvents, DefaultHistoryEvents)
	set64(&l.HistoryBytes, DefaultHistoryBytes)
	set(&l.Ops, 65_536)
	set64(&l.TxBytes, 64<<20)
	set(&l.Queue, 65_536)
	set64(&l.QueueBytes, 128<<20)
	return l
}

// CheckKey returns nil when key can be stored under limit bytes: UTF-8, not empty, no control characters.
func CheckKey(key string, limit int) error {
	if key == "" {
		return &InvalidError{Reason: "key is empty"}
	}
	return checkPrefix(key, limit)
}

func checkPrefix(key string, limit int) error {
	if len(key) > limit {
		return &LimitError{Limit: LimitKey, Max: int64(limit)}
	}
	for i := 0; i < len(key); {
		c := key[i]
		if c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7f {
				return &InvalidError{Reason: fmt.Sprintf("key has a control character at byte %d", i)}
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(key[i:])
		if r == utf8.RuneError && n == 1 {
			return &InvalidError{Reason: fmt.Sprintf("key is not valid UTF-8 at byte %d", i)}
		}
		if unicode.IsControl(r) {
			return &InvalidError{Reason: fmt.Sprintf("key has a control character at byte %d", i)}
		}
		i += n
	}
	return nil
}

func checkTTL(d time.Duration) error {
	if d < 0 || d > maxTTL {
		return &InvalidError{Reason: "ttl is out of range"}
	}
	return nil
}

// checkTx looks at everything in tx that does not depend on the data.
func (l *Limits) checkTx(tx *Tx) (size int64, err error) {
	if len(tx.If)+len(tx.Then)+len(tx.Else) > l.Ops {
		return 0, &LimitError{Limit: LimitTransaction, Max: int64(l.Ops)}
	}
	for i := range tx.If {
		if err := CheckKey(tx.If[i].Key, l.Key); err != nil {
			return 0, err
		}
	}
	for _, ops := range [2][]Op{tx.Then, tx.Else} {
		for i := range ops {
			n, err := l.checkOp(&ops[i])
			if err != nil {
				return 0, err
			}
			size += n
		}
	}
	if size > l.TxBytes {
		return 0, &LimitError{Limit: LimitTransaction, Max: l.TxBytes}
	}
	return size, nil
}

func (l *Limits) checkOp(op *Op) (int64, error) {
	size := int64(len(op.Key) + len(op.Value.Data) + itemOverhead)
	if op.Kind == OpDeletePrefix {
		if op.HasIf {
			return 0, &InvalidError{Reason: "a prefix has no revision to compare"}
		}
		return size, checkPrefix(op.Key, l.Key)
	}
	if err := CheckKey(op.Key, l.Key); err != nil {
		return 0, err
	}
	switch op.Kind {
	case OpPut:
		if len(op.Value.Data) > l.Value {
			return 0, &LimitError{Limit: LimitValue, Max: int64(l.Value)}
		}
		if len(op.Owner) > maxOwner {
			return 0, &InvalidError{Reason: "owner is too long"}
		}
		return size, checkTTL(op.TTL)
	case OpTouch:
		return size, checkTTL(op.TTL)
	case OpPatch:
		if op.Patch == nil {
			return 0, &InvalidError{Reason: "patch without a function"}
		}
	case OpDelete, OpGet:
	default:
		return 0, &InvalidError{Reason: "unknown operation"}
	}
	return size, nil
}
