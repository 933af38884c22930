package trust

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// format is the version of the file.
const format = 1

// maxFile bounds what is read.
const maxFile = 64 << 20

// DamagedError says that the file of tokens is not what was written. Nothing
// of it is used: a token that went missing is a smaller evil than a scope that
// nobody has given.
type DamagedError struct {
	Path string
	Why  string
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("%s: %s; mend the file, or remove it and make new tokens", e.Path, e.Why)
}

// ExitCode returns the exit code of hubd for damaged state.
func (e *DamagedError) ExitCode() int { return 4 }

// PermissionError says that others than the hub's user have a hand in the file.
type PermissionError struct {
	Path string
	Why  string
}

func (e *PermissionError) Error() string { return e.Path + ": " + e.Why }

// document is the file: {"version":1,"tokens":[...]}, one token per line so
// that people can read it.
type document struct {
	Version int      `json:"version"`
	Tokens  []record `json:"tokens"`
}

type record struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	SHA256  string     `json:"sha256"`
	Scopes  string     `json:"scopes"`
	Methods []string   `json:"methods,omitempty"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
	Used    *time.Time `json:"used,omitempty"`
}

// readFile reads the tokens at path, none when there is no file.
func readFile(path string) ([]*entry, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := private(f); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, &DamagedError{path, fmt.Sprintf("longer than %d bytes", maxFile)}
	}
	list, err := decode(rpc.SkipBOM(text))
	if err != nil {
		return nil, &DamagedError{path, err.Error()}
	}
	return list, nil
}

// private reports an error unless f is a file that only this user, or root, can use.
func private(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	owner := -1
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		owner = int(s.Uid)
	}
	switch {
	case !st.Mode().IsRegular():
		return &PermissionError{f.Name(), "is no regular file"}
	case owner != os.Geteuid() && owner != 0:
		return &PermissionError{f.Name(), fmt.Sprintf("belongs to user %d", owner)}
	case st.Mode().Perm()&0o077 != 0:
		return &PermissionError{f.Name(), fmt.Sprintf("others can use it (mode %#o): chmod 600 it", st.Mode().Perm())}
	}
	return nil
}

// decode reads a whole file. It takes nothing for granted, unknown members included.
func decode(text []byte) ([]*entry, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, plain(err)
	}
	if head.Version != format {
		return nil, fmt.Errorf("has version %d; this hub knows version %d", head.Version, format)
	}
	d.DisallowUnknownFields()
	var doc document
	if err := d.Decode(&doc); err != nil {
		return nil, plain(err)
	}
	if len(doc.Tokens) > MaxTokens {
		return nil, fmt.Errorf("has %d tokens; there may be %d", len(doc.Tokens), MaxTokens)
	}
	list := make([]*entry, 0, len(doc.Tokens))
	names, ids := map[string]bool{}, map[string]bool{}
	for i, r := range doc.Tokens {
		e, err := r.entry()
		if err == nil && (names[r.Name] || ids[r.ID]) {
			err = errors.New("name or id is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", i+1, err)
		}
		names[r.Name], ids[r.ID] = true, true
		list = append(list, e)
	}
	return list, nil
}

// plain is err without Go's types in it.
func plain(err error) error {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a %s does not belong at offset %d", t.Value, t.Offset)
	}
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON at offset %d", s.Offset)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

func (r record) entry() (*entry, error) {
	scopes, ok := rpc.ParseScope(r.Scopes)
	if !ok {
		return nil, errors.New("scopes are unknown")
	}
	e := &entry{Token: Token{ID: r.ID, Name: r.Name, Scopes: scopes, Methods: r.Methods, Created: r.Created}}
	if r.Expires != nil {
		e.Expires = *r.Expires
	}
	if r.Used != nil {
		e.Used = *r.Used
	}
	e.grant = rpc.NewGrant(e.Expires)
	if raw, err := coding.DecodeString(r.ID); err != nil || len(raw) != idBytes {
		return nil, errors.New("id is none")
	}
	if raw, err := hex.DecodeString(r.SHA256); err != nil || len(raw) != len(e.digest) {
		return nil, errors.New("sha256 is none")
	} else {
		copy(e.digest[:], raw)
	}
	return e, e.check()
}

// encode writes a whole file, in an order that does not depend on the map.
func encode(tokens map[string]*entry) []byte {
	list := make([]*entry, 0, len(tokens))
	for _, e := range tokens {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int { return strings.Compare(a.ID, b.ID) })
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\"version\":%d,\"tokens\":[", format)
	for i, e := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		r := record{
			ID: e.ID, Name: e.Name, SHA256: hex.EncodeToString(e.digest[:]), Scopes: e.Scopes.String(),
			Methods: e.Methods, Created: e.Created,
		}
		if !e.Expires.IsZero() {
			r.Expires = &e.Expires
		}
		if !e.Used.IsZero() {
			r.Used = &e.Used
		}
		line, _ := json.Marshal(r) // strings and times of years that exist
		b.WriteByte('\n')
		b.Write(line)
	}
	b.WriteString("\n]}\n")
	return b.Bytes()
}

// writeFile replaces the file at path. Whoever reads it at any moment, after a
// crash as well, finds the old set or the new one.
func writeFile(path string, tokens map[string]*entry) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(encode(tokens))
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
