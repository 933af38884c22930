package trust

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t *testing.T, s *Store, name string) (string, Token) {
	t.Helper()
	whole, made, err := s.Create(Token{Name: name, Scopes: rpc.ScopeRead})
	if err != nil {
		t.Fatal(err)
	}
	return whole, made
}

func TestTokenOutlivesTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	s := open(t, path)
	end := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	whole, made, err := s.Create(Token{Name: "a b", Scopes: rpc.ScopeRead | rpc.ScopeCall, Methods: []string{"math.*", "echo"}, Expires: end})
	if err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	got, grant, err := again.Check(whole)
	if err != nil || !grant.Holds() {
		t.Fatalf("check after a restart: %v, holds %v", err, grant.Holds())
	}
	if got.Name != "a b" || got.ID != made.ID || got.Scopes != made.Scopes || !slices.Equal(got.Methods, made.Methods) ||
		!got.Expires.Equal(end) || !got.Created.Equal(made.Created) {
		t.Errorf("read back %+v, made %+v", got, made)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := split(whole)
	if strings.Contains(string(text), secret) {
		t.Error("the file has the secret")
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v", st.Mode())
	}
	if left, _ := filepath.Glob(path + ".new-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// An editor may have put a byte order mark before it.
	if err := os.WriteFile(path, append([]byte(rpc.BOM), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := open(t, path).Check(whole); err != nil {
		t.Errorf("check with a byte order mark before the file: %v", err)
	}
}

func TestOnlyTheWholeTokenIsGood(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "t"))
	whole, made := create(t, s, "one")
	other, _ := create(t, s, "two")
	id, secret, _ := split(whole)
	_, otherSecret, _ := split(other)
	for _, bad := range []string{
		"", "hubd_", id, secret, whole[:len(whole)-1], whole + "a", strings.ToUpper(whole), " " + whole, whole + "\n",
		prefix + id + "_" + otherSecret, prefix + id + "_" + strings.Repeat("a", 52), prefix + strings.Repeat("a", 8) + "_" + secret,
		prefix + id + "_" + strings.Repeat("\x00", 52), strings.Repeat("a", 1<<20),
	} {
		if _, _, err := s.Check(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("Check(%.80q): %v", bad, err)
		}
	}
	if got, _, err := s.Check(whole); err != nil || got.ID != made.ID {
		t.Errorf("the whole token: %v %v", got, err)
	}
	// A stored digest of zeros matches no secret, and an unknown id nothing.
	if _, _, err := s.Check(prefix + "aaaaaaaa" + "_" + secret); !errors.Is(err, ErrInvalid) {
		t.Errorf("unknown id: %v", err)
	}
}

func TestRevokedTokenLosesItsGrant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t")
	s := open(t, path)
	whole, _ := create(t, s, "one")
	keep, _ := create(t, s, "two")
	_, grant, err := s.Check(whole)
	if err != nil {
		t.Fatal(err)
	}
	_, kept, _ := s.Check(keep)
	if gone, ok, err := s.Revoke("one"); !ok || err != nil || gone.Name != "one" {
		t.Fatalf("revoke: %v %v %v", gone, ok, err)
	}
	if grant.Holds() || !kept.Holds() {
		t.Errorf("revoked grant holds %v, the other %v", grant.Holds(), kept.Holds())
	}
	if _, _, err := s.Check(whole); !errors.Is(err, ErrInvalid) {
		t.Errorf("check: %v", err)
	}
	if _, _, err := open(t, path).Check(whole); !errors.Is(err, ErrInvalid) {
		t.Errorf("check after a restart: %v", err)
	}
	if _, ok, err := s.Revoke("one"); ok || err != nil {
		t.Errorf("second revoke: %v %v", ok, err)
	}
}

func TestExpiryEndsTheGrant(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "t"))
	now := time.Now()
	s.now = func() time.Time { return now }
	whole, made, err := s.Create(Token{Name: "short", Scopes: rpc.ScopeRead, Expires: now.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Check(whole); err != nil {
		t.Fatal(err)
	}
	now = made.Expires
	if _, _, err := s.Check(whole); !errors.Is(err, ErrExpired) {
		t.Errorf("at its end: %v", err)
	}
	if _, _, err := s.Check(whole[:len(whole)-1] + "!"); !errors.Is(err, ErrInvalid) {
		t.Errorf("an expired id with another secret: %v", err)
	}
	if list := s.List(); len(list) != 1 || !list[0].Expired(now) {
		t.Errorf("list: %+v", list)
	}
	now = now.Add(keepExpired + time.Second)
	create(t, s, "next")
	if n := s.Len(); n != 1 {
		t.Errorf("%d tokens: the one that expired long ago is still there", n)
	}
	if _, _, err := s.Create(Token{Name: "late", Scopes: rpc.ScopeRead, Expires: now.Add(-time.Second)}); err == nil {
		t.Error("a token that has expired was made")
	}
	if over := rpc.NewGrant(time.Now().Add(-time.Second)); over.Holds() {
		t.Error("a grant holds past its end")
	}
}

func TestLastUseIsKeptToTheHour(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t")
	s := open(t, path)
	now := time.Date(2030, 5, 6, 7, 48, 59, 1, time.UTC)
	s.now = func() time.Time { return now }
	whole, _ := create(t, s, "one")
	before, _ := os.ReadFile(path)
	if _, _, err := s.Check(whole); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("a check writes the file")
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	want := time.Date(2030, 5, 6, 7, 0, 0, 0, time.UTC)
	if got := open(t, path).List()[0].Used; !got.Equal(want) {
		t.Errorf("used %v, want %v", got, want)
	}
	_, grant, _ := s.Check(whole)
	if _, _, err := s.Revoke("one"); err != nil || grant.Holds() {
		t.Errorf("after a use was noted, revoking does not end the grant (%v)", err)
	}
}

func TestBadTokensAreNotMade(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "t"))
	create(t, s, "taken")
	for what, bad := range map[string]Token{
		"no name":        {Scopes: rpc.ScopeRead},
		"blank name":     {Name: " a", Scopes: rpc.ScopeRead},
		"long name":      {Name: strings.Repeat("x", maxName+1), Scopes: rpc.ScopeRead},
		"control":        {Name: "a\x1b[2J", Scopes: rpc.ScopeRead},
		"no scope":       {Name: "a"},
		"unknown scope":  {Name: "a", Scopes: 1 << 7},
		"empty pattern":  {Name: "a", Scopes: rpc.ScopeRead, Methods: []string{""}},
		"inner star":     {Name: "a", Scopes: rpc.ScopeRead, Methods: []string{"a*b"}},
		"blank pattern":  {Name: "a", Scopes: rpc.ScopeRead, Methods: []string{"a b"}},
		"many patterns":  {Name: "a", Scopes: rpc.ScopeRead, Methods: slices.Repeat([]string{"x"}, maxMethods+1)},
		"a taken name":   {Name: "taken", Scopes: rpc.ScopeRead},
		"bytes, no text": {Name: "\xff", Scopes: rpc.ScopeRead},
	} {
		if _, _, err := s.Create(bad); err == nil {
			t.Errorf("%s: made", what)
		}
	}
	if s.Len() != 1 {
		t.Errorf("%d tokens", s.Len())
	}
}

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		token   Token
		scopes  rpc.Scope
		methods []string
		want    bool
	}{
		{Token{Scopes: rpc.ScopeRead}, rpc.AllScopes, nil, true},
		{Token{Scopes: rpc.ScopeCall}, rpc.ScopeRead, nil, false},
		{Token{Scopes: rpc.ScopeRead}, rpc.ScopeRead, []string{"a.*"}, false},
		{Token{Scopes: rpc.ScopeRead, Methods: []string{"a.b", "a.c*"}}, rpc.ScopeRead, []string{"a.*"}, true},
		{Token{Scopes: rpc.ScopeRead, Methods: []string{"a*"}}, rpc.ScopeRead, []string{"a.*"}, false},
		{Token{Scopes: rpc.ScopeRead, Methods: []string{"a.b*"}}, rpc.ScopeRead, []string{"a.b"}, false},
		{Token{Scopes: rpc.ScopeRead, Methods: []string{"a.b"}}, rpc.ScopeRead, []string{"c", "a.b"}, true},
	} {
		if got := c.token.Within(c.scopes, c.methods); got != c.want {
			t.Errorf("%+v within %v %v: %v", c.token, c.scopes, c.methods, got)
		}
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "t")
	s := open(t, path)
	create(t, s, "one")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	swap := func(old, new string) []byte { return []byte(strings.Replace(string(good), old, new, 1)) }
	for what, text := range map[string][]byte{
		"empty":          {},
		"cut":            good[:len(good)/2],
		"more behind":    nil, // see below
		"version":        swap(`"version":1`, `"version":2`),
		"scope":          swap(`"scopes":"read"`, `"scopes":"root"`),
		"no scope":       swap(`"scopes":"read"`, `"scopes":""`),
		"hash":           swap(`"sha256":"`, `"sha256":"00`),
		"unknown member": swap(`"name":"one"`, `"name":"one","until":"2000-01-01T00:00:00Z"`),
		"wrong type":     swap(`"name":"one"`, `"name":1`),
		"id":             swap(`"id":"`, `"id":"!`),
		"an array":       []byte("[]"),
	} {
		if text == nil {
			text = append(append([]byte{}, good...), good...)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if damaged, ok := errors.AsType[*DamagedError](err); !ok || damaged.Path != path {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), "trust.") || strings.Contains(err.Error(), "json:") {
			t.Errorf("%s: %v tells of Go", what, err)
		}
	}
	os.WriteFile(path, good, 0o600)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil {
			t.Errorf("mode %v was taken", mode)
		}
	}
	os.Chmod(path, 0o600)
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(link); err == nil {
		t.Error("a symbolic link was followed")
	}
}

// A change that cannot be kept is no change: neither is a token good that was
// not written, nor is one revoked that would be back after a restart.
func TestChangeThatCannotBeKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(t, filepath.Join(dir, "t"))
	whole, _ := create(t, s, "one")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Create(Token{Name: "two", Scopes: rpc.ScopeRead}); err == nil {
		t.Error("created without a file")
	}
	if _, ok, err := s.Revoke("one"); err == nil || ok {
		t.Errorf("revoked without a file: %v %v", ok, err)
	}
	if _, grant, err := s.Check(whole); err != nil || !grant.Holds() || s.Len() != 1 {
		t.Errorf("check: %v, %d tokens", err, s.Len())
	}
}

func TestStoreInParallel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t")
	s := open(t, path)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 5 {
				name := string(rune('a'+i)) + string(rune('0'+n))
				whole, _, err := s.Create(Token{Name: name, Scopes: rpc.ScopeCall})
				if err != nil {
					t.Error(err)
					return
				}
				if _, _, err := s.Check(whole); err != nil {
					t.Error(err)
				}
				if n%2 == 0 {
					if _, ok, err := s.Revoke(name); !ok || err != nil {
						t.Error(ok, err)
					}
				}
				s.List()
				s.Flush()
			}
		})
	}
	wg.Wait()
	if n := open(t, path).Len(); n != 8 || s.Len() != 8 {
		t.Errorf("%d tokens in the file, %d in memory, want 8", n, s.Len())
	}
}

func TestLimiter(t *testing.T) {
	now := time.Now()
	l := &Limiter{Burst: 3, Every: time.Second, Max: 4, now: func() time.Time { return now }}
	take := func(address string) (n int) {
		for range 10 {
			if l.Allow(address) {
				n++
			}
		}
		return n
	}
	if n := take("a"); n != 3 {
		t.Errorf("burst of %d, want 3", n)
	}
	if n := take("b"); n != 3 {
		t.Errorf("another address: %d, want 3", n)
	}
	now = now.Add(2 * time.Second)
	if n := take("a"); n != 2 {
		t.Errorf("after 2 s: %d, want 2", n)
	}
	for i := range 1000 {
		l.Allow(string(rune('c' + i)))
		if len(l.buckets) > l.Max {
			t.Fatalf("%d buckets", len(l.buckets))
		}
	}
}

func FuzzFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "t")
	s, err := Open(path)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := s.Create(Token{Name: "one", Scopes: rpc.ScopeRead, Methods: []string{"a*"}, Expires: time.Now().Add(time.Hour)}); err != nil {
		f.Fatal(err)
	}
	good, _ := os.ReadFile(path)
	f.Add(good)
	f.Add([]byte(`{"version":1,"tokens":[{}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := decode(text)
		if err != nil {
			return
		}
		tokens := map[string]*entry{}
		for _, e := range list {
			if err := e.check(); err != nil {
				t.Fatalf("%v was taken from %q", err, text)
			}
			tokens[e.ID] = e
		}
		again, err := decode(encode(tokens))
		if err != nil || len(again) != len(list) {
			t.Fatalf("what was written is not read: %v", err)
		}
	})
}
