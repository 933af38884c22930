package krpc

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const (
	shaHello = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
	shaTwo   = "acbc9f5e9caa45717e7722716cd545c169d7461c1623d2c60c4bf02f6f4240e0"
	shaAbc   = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	shaEmpty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	shaData  = "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
	shaPlain = "a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475"
)

// vectors says how each captured request of a real client, or one made by hand
// against the protocol's own server, is answered here. Where that server
// closes the connection without a byte, there is an answer all the same.
var vectors = map[string]struct {
	status int // 0: 200
	phrase string
	body   string // JSON; "" where the phrase says it all
}{
	"echo":                    {body: `{"result": "hello world"}`},
	"echo-unicode":            {body: `{"result": "hé😀 &=+%\"\\\n"}`},
	"echo-empty-string":       {body: `{"result": ""}`},
	"no-params":               {body: `{"error": {"code": -32003, "message": "Object is not JSON serializable.", "info": "a reference cannot be carried by this protocol"}}`},
	"int-params":              {body: `{"result": 3}`},
	"error":                   {body: `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "boom"}}`},
	"unknown-method":          {body: `{"error": {"code": -32601, "message": "Method not found."}}`},
	"wrong-arity":             {body: `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "invalid_params: echo takes 1 argument, got 2"}}`},
	"kwargs-two-char":         {body: `{"result": "hi"}`},
	"file-one":                {body: `{"result": [{"name": "a.txt", "size": 6, "sha256": "` + shaHello + `"}]}`},
	"file-two":                {body: `{"result": [{"name": "a.txt", "size": 6, "sha256": "` + shaHello + `"}, {"name": "b.bin", "size": 288, "sha256": "` + shaTwo + `"}]}`},
	"file-and-strings":        {body: `{"result": [{"name": "a.txt", "size": 6, "sha256": "` + shaHello + `"}]}`},
	"file-and-int":            {body: `{"result": [{"name": "a.txt", "size": 6, "sha256": "` + shaHello + `"}]}`},
	"file-empty":              {body: `{"result": [{"name": "empty.dat", "size": 0, "sha256": "` + shaEmpty + `"}]}`},
	"file-nonascii-name":      {body: `{"result": [{"name": "ünï.txt", "size": 3, "sha256": "` + shaAbc + `"}]}`},
	"file-one-chunked-upload": {body: `{"result": [{"name": "a.txt", "size": 6, "sha256": "` + shaHello + `"}]}`},
	"hook-params":             {body: `{"result": "x"}`},
	"hook-no-params":          {body: `{"result": "x"}`},
	"hook-raises":             {body: `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "denied"}}`},

	"raw-post-malformed-json":    {body: `{"error": {"code": -32700, "message": "Parse error."}}`},
	"raw-get-malformed-json":     {body: `{"error": {"code": -32700, "message": "Parse error."}}`},
	"raw-get-ints":               {body: `{"result": 3}`},
	"raw-get-kwargs":             {body: `{"result": 3}`},
	"raw-get-scalar-param":       {body: `{"result": "s"}`},
	"raw-get-uppercase-key":      {body: `{"result": "s"}`},
	"raw-get-no-json":            {status: 400, phrase: "Missing 'json' parameter"},
	"raw-get-no-method":          {body: `{"error": {"code": -32601, "message": "Method not found."}}`},
	"raw-get-empty-method":       {body: `{"error": {"code": -32600, "message": "Invalid request.", "info": "Method not specified."}}`},
	"raw-get-falsy-results":      {body: `{"result": 0}`},
	"raw-get-null-params":        {body: `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "invalid_params: echo takes 1 argument, got 0"}}`},
	"raw-post-other-path-http10": {body: `{"result": "x"}`},
	"raw-post-null-params":       {body: `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "invalid_params: echo takes 1 argument, got 0"}}`},
	"raw-post-no-json":           {status: 400, phrase: "Missing 'json' parameter"},
	"raw-put":                    {status: 405, phrase: "Method Not Allowed"},
	"raw-missing-file-part":      {body: `{"error": {"code": -32002, "message": "Missing file object.", "info": "__file__:zz"}}`},
	"raw-json-part-last":         {body: `{"result": [{"name": "q.txt", "size": 4, "sha256": "` + shaData + `"}]}`},
	"raw-multipart-no-files":     {body: `{"result": "m"}`},
	"raw-file-without-filename":  {body: `{"result": [{"name": "", "size": 5, "sha256": "` + shaPlain + `"}]}`},
	"raw-file-dict-params":       {body: `{"result": [{"name": "q", "size": 5, "sha256": "` + shaPlain + `"}]}`},
	"file-result-download":       {body: "012345678901234567890123456789"},
	"managed-error":              {body: `{"error": {"code": -32601, "message": "Method not found."}}`}, // no handler here asks for it
}

// captured returns the bytes that the client sent.
func captured(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var sent strings.Builder
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var l struct{ Dir, Data, Hex string }
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Dir != "c2s" {
			continue
		}
		data, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		sent.WriteString(l.Data)
		sent.Write(data)
	}
	return sent.String()
}

func TestCapturedRequestsAreAnswered(t *testing.T) {
	plain := startServer(t, func(c *Config) {
		c.Table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "bad.json"}, func(*rpc.Call) (rpc.Value, error) {
			return rpc.TreeValue(rpc.NewRef(rpc.Object{}, nil)), nil
		}))
	})
	hooked := startServer(t, func(c *Config) {
		c.Hook = "check.access"
		c.Table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "check.access"}, func(c *rpc.Call) (rpc.Value, error) {
			for name := range c.Args.ByName() {
				if name == "deny" {
					return rpc.Value{}, rpc.HandlerError("", "denied")
				}
			}
			return rpc.String("ignored"), nil
		}))
	})
	paths, err := filepath.Glob("testdata/vectors/*.jsonl")
	if err != nil || len(paths) != len(vectors) {
		t.Fatalf("%d captures, %d expectations, %v", len(paths), len(vectors), err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".jsonl")
		t.Run(name, func(t *testing.T) {
			want, ok := vectors[name]
			if !ok {
				t.Fatal("no expectation")
			}
			s := plain
			if strings.HasPrefix(name, "hook-") {
				s = hooked
			}
			got := s.raw(captured(t, path))
			if got.err != nil {
				t.Fatal(got.err)
			}
			if want.status == 0 {
				want.status, want.phrase = 200, "OK"
			}
			if got.status != want.status || got.phrase != want.phrase {
				t.Errorf("status %d %q, want %d %q", got.status, got.phrase, want.status, want.phrase)
			}
			if got.status != 200 {
				return
			}
			kind := typeJSON
			if name == "file-result-download" {
				kind = typeBinary
			}
			if got.header.Get("Content-Type") != kind {
				t.Errorf("content type %q", got.header.Get("Content-Type"))
			}
			if kind == typeJSON && !same(got.body, want.body) || kind == typeBinary && got.body != want.body {
				t.Errorf("answer %s\nwant   %s", got.body, want.body)
			}
		})
	}
}
