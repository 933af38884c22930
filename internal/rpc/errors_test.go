package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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

// What a method passes on from the system does not tell where files are.
func TestHandlerErrorsKeepPathsOut(t *testing.T) {
	_, open := os.Open("/nonexistent/secret/file")
	link := os.Link("/nonexistent/one", "/nonexistent/two")
	for _, c := range []struct {
		err  error
		want string
	}{
		{open, "open ...: no such file or directory"},
		{link, "link ... ...: no such file or directory"},
		{fmt.Errorf("reading /nonexistent/secret/file: %w", open), "reading ...: open ...: no such file or directory"},
		{errors.Join(open, fmt.Errorf("and %w", link)), "open ...: no such file or directory\\u000aand link ... ...: no such file or directory"},
		{&fs.PathError{Op: "open", Path: "given/by/caller", Err: fs.ErrNotExist}, "open given/by/caller: file does not exist"},
		{errors.New("no such key: /a/b"), "no such key: /a/b"},
	} {
		e := AsError(t.Context(), c.err)
		if e.Text() != c.want || e.Code != CodeHandler || !errors.Is(e, c.err) {
			t.Errorf("%v became %v", c.err, e)
		}
	}
}
