package client_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/client"
)

func TestParseAddress(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ in, want string }{
		{"/run/hubd/hub.sock", "unix:///run/hubd/hub.sock"},
		{"h.sock", "unix://" + here + "/h.sock"},
		{"unix:///run/h.sock", "unix:///run/h.sock"},
		{"unix:///run/h.sock?mode=0660&group=g", "unix:///run/h.sock"},
		{"unix:/run/h.sock", "unix:///run/h.sock"},
		{"tcp://127.0.0.1:7420", "tcp://127.0.0.1:7420"},
		{"tcp://[::1]:7420?auth=token", "tcp://[::1]:7420"},
		{"", ""},
		{"unix://h.sock", ""},
		{"tls://hub.example:7443?auth=cert", "tls://hub.example:7443"},
		{"tls://hub.example", ""},
		{"tcp://127.0.0.1", ""},
		{"tcp://:7420", ""},
		{"tcp://h:1/path", ""},
		{"http://h:1", ""},
		{"tcp://%zz:1", ""},
		{"/tmp/a%b#c?d", "unix:///tmp/a%25b%23c%3Fd"},
		{"unix:///tmp/a%25b%23c%3Fd", "unix:///tmp/a%25b%23c%3Fd"},
		{"unix:///tmp/a b", "unix:///tmp/a b"},
		{"unix:///tmp/a#b", ""},
		{"unix:///tmp/a%b", ""},
		{"unix:///tmp/a?b", ""},
		{"localhost:7420", ""},
		{"[::1]:7420", ""},
		{":7420", ""},
		{"tcp:localhost:7420", ""},
		{"./localhost:7420", "unix://" + here + "/localhost:7420"},
		{"/" + strings.Repeat("x", 106), "unix:///" + strings.Repeat("x", 106)},
		{"/" + strings.Repeat("x", 107), ""},
	}
	for _, tt := range tests {
		a, err := client.ParseAddress(tt.in)
		switch {
		case tt.want == "" && err == nil:
			t.Errorf("%q: got %v, want an error", tt.in, a)
		case tt.want != "" && (err != nil || a.String() != tt.want):
			t.Errorf("%q: got %v, %v", tt.in, a, err)
		case tt.want != "":
			if again, err := client.ParseAddress(a.String()); err != nil || again != a {
				t.Errorf("%q: its text is read as %v, %v: want %v", tt.in, again, err, a)
			}
		}
	}
}

func TestDefaultAddress(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("HUBD_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	user := filepath.Join(dir, "hubd", "hub.sock")
	if err := os.Mkdir(filepath.Dir(user), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(user, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if a, err := client.DefaultAddress(); err != nil || a.Path != user {
		t.Errorf("with a user socket: %v, %v", a, err)
	}
	t.Setenv("HUBD_SOCKET", "tcp://127.0.0.1:1")
	if a, err := client.DefaultAddress(); err != nil || a.String() != "tcp://127.0.0.1:1" {
		t.Errorf("with the variable: %v, %v", a, err)
	}
	t.Setenv("HUBD_SOCKET", "ftp://x")
	if _, err := client.DefaultAddress(); err == nil {
		t.Error("a variable that is no address was taken")
	}
	t.Setenv("HUBD_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", "")
	if a, err := client.DefaultAddress(); err != nil || a.Path != client.SystemSocket {
		t.Errorf("without anything: %v, %v", a, err)
	}
}
