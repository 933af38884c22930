package rpc

import (
	"context"
	"fmt"
	"testing"
)

func TestCutText(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abc", 2, "ab"}, {"abc", 0, ""},
		{"aé", 3, "aé"}, {"aé", 2, "a"}, {"é", 1, ""}, {"a\U0001F600b", 4, "a"}, {"a\U0001F600b", 5, "a\U0001F600"},
		{"\x80\x80\x80", 2, ""}, // no character begins
	} {
		if got := CutText(c.in, c.limit); got != c.want {
			t.Errorf("%q to %d: %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func TestCauseOf(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("told so: %w", ErrByAdmin))
	if got := CauseOf(ctx); got != ErrByAdmin {
		t.Errorf("%v, want %v", got, ErrByAdmin)
	}
	plain, stop := context.WithCancel(t.Context())
	stop()
	if got := CauseOf(plain); got != ErrShutdown {
		t.Errorf("%v, want %v", got, ErrShutdown)
	}
}
