package krpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func TestCalls(t *testing.T) {
	s := startServer(t, nil)
	for _, c := range []struct{ call, want string }{
		{`{"method": "math.add", "params": [1, 2], "pmhparams": null}`, `{"result": 3}`},
		{`{"method": "math_add", "params": {"a": 1, "b": 2}}`, `{"result": 3}`},
		{`{"method": "echo", "params": [[1, null, {"a": 1.50}]]}`, `{"result": [1, null, {"a": 1.50}]}`},
		{`{"method": "echo", "params": 7}`, `{"result": 7}`},
		{`{"method": "echo", "params": true}`, `{"result": true}`},
		{`{"method": "echo", "params": [null]}`, `{"result": {}}`},
		{`{"method": "echo", "params": [0]}`, `{"result": 0}`},
		{`{"method": "echo", "params": [false]}`, `{"result": false}`},
		{`{"method": "echo", "params": [[]]}`, `{"result": []}`},
		{`{"method": "echo", "params": [123456789012345678901234567890]}`, `{"result": 123456789012345678901234567890}`},
		{`{"method": "echo", "params": ["__file:no"]}`, `{"result": "__file:no"}`},
		{`{"method": "value", "params": ["undefined"]}`, `{"result": {}}`},
		{`{"method": "value", "params": ["nan"]}`, `{"result": [1.5, null]}`},
		{`{"method": "hub.fail", "params": ["no such thing", "ValueError"]}`, raised("ValueError: no such thing")},
		{`{"method": "hub_fail", "params": ["naïve \n"]}`, raised(`naïve \\u000a`)},
		{`{"method": "value", "params": ["panic"]}`, raised("internal: internal error")},
		{`{"method": "value", "params": ["ref"]}`, `{"error": {"code": -32003, "message": "Object is not JSON serializable.", "info": "a reference cannot be carried by this protocol"}}`},
		{`{"method": "value", "params": ["long"]}`, `{"error": {"code": -32003, "message": "Object is not JSON serializable.", "info": "the result has more than 16777216 bytes"}}`},
		{`{"method": "late"}`, raised("deadline_exceeded: timeout: method did not answer in time")},
		{`{"method": "numbers", "params": [3]}`, `{"result": [0, 1, 2]}`},
		{`{"method": "forever"}`, raised("invalid_params: forever streams without end: ask for its result as a stream")},
		{`{"method": "stream.size", "params": [[ "YWJj" ]]}`, `{"result": "3 ` + shaAbc + `"}`},
		{`{"method": "math.add", "params": {"a": 1, "b": 2, "c": 3}}`, raised(`invalid_params: math.add has no parameter \"c\"`)},
		{`{"method": "math.add", "params": [1, 2, 3]}`, raised("invalid_params: math.add takes at most 2 arguments")},
		{`{"method": "math.add", "params": [1]}`, raised(`invalid_params: math.add is missing argument \"b\"`)},
		{`{"method": null}`, noMethod}, {`{"method": 5}`, noMethod}, {`{"method": "_meta.x"}`, noMethod}, {`{"method": "__class__"}`, noMethod},
		{`{"method": "math"}`, noMethod}, {`{"method": "math_"}`, noMethod}, {`{"method": "echo.echo"}`, noMethod}, {`{"method": "math__add"}`, noMethod},
		{`[1]`, `{"error": {"code": -32600, "message": "Invalid request.", "info": "The call is not an object."}}`},
		{`"x"`, `{"error": {"code": -32600, "message": "Invalid request.", "info": "The call is not an object."}}`},
		{`{"method": "echo"} x`, `{"error": {"code": -32700, "message": "Parse error."}}`},
		{`{"method": "echo", "params": ["__file__:1"]}`, `{"error": {"code": -32002, "message": "Missing file object.", "info": "__file__:1"}}`},
		{`{"method": "echo", "params": {"msg": "\u005f_file__:1"}}`, `{"error": {"code": -32002, "message": "Missing file object.", "info": "__file__:1"}}`},
		{`{"method": "echo", "params": [["__file__:1"]]}`, `{"result": ["__file__:1"]}`},
	} {
		got := s.post(c.call)
		if got.status != 200 || !same(got.body, c.want) {
			t.Errorf("%s\nanswer %d %s\nwant   %s", c.call, got.status, got.body, c.want)
		}
		if strings.Contains(got.body, "secret") || strings.Contains(got.body, ".go:") {
			t.Errorf("%s shows what belongs to the log: %s", c.call, got.body)
		}
	}
}

const noMethod = `{"error": {"code": -32601, "message": "Method not found."}}`

func raised(info string) string {
	return `{"error": {"code": -32000, "message": "Method call raised an exception.", "info": "` + info + `"}}`
}

// A query cannot carry files, so what looks like a reference to one is text.
func TestQueryHasNoFiles(t *testing.T) {
	s := startServer(t, nil)
	got := s.raw("GET /any?x=1&json=" + url.QueryEscape(`{"method":"echo","params":["__file__:1"]}`) + " HTTP/1.0\r\n\r\n")
	if want := `{"result": "__file__:1"}`; got.body != want {
		t.Errorf("%q, want %q", got.body, want)
	}
}

func TestAnswerHead(t *testing.T) {
	s := startServer(t, nil)
	got := s.post(`{"method": "echo", "params": ["x"]}`)
	if got.header.Get("Content-Type") != "application/json" || !got.closes ||
		got.header.Get("Content-Length") != strconv.Itoa(len(got.body)) || got.header.Get("Date") == "" {
		t.Errorf("head %v", got.header)
	}
	if got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("pages of other origins may read the answer")
	}
}

func TestRawJSONBody(t *testing.T) {
	s := startServer(t, nil)
	for _, mark := range []string{"", "\ufeff"} { // some programs write a byte order mark before their JSON
		call := mark + `{"method": "math.add", "params": [1, 2]}`
		got := s.raw(fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", len(call), call))
		if got.body != `{"result": 3}` {
			t.Errorf("%q: %d %s", mark, got.status, got.body)
		}
	}
}

func TestBinaryResults(t *testing.T) {
	s := startServer(t, nil)
	for _, c := range []struct{ name, call, version, want string }{
		{"bytes", `{"method": "value", "params": ["bytes"]}`, "1.1", "\x00\x01\x02\xff"},
		{"no bytes", `{"method": "value", "params": ["empty bytes"]}`, "1.1", ""},
		{"stream", `{"method": "bytes.count", "params": [3, 2]}`, "1.1", "\x00\x00\x01\x01\x02\x02"},
		{"stream over HTTP/1.0", `{"method": "bytes.count", "params": [3, 2]}`, "1.0", "\x00\x00\x01\x01\x02\x02"},
		{"empty stream", `{"method": "bytes.count", "params": [0]}`, "1.1", ""},
		{"empty items", `{"method": "bytes.count", "params": [4, 0]}`, "1.1", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.raw("GET /?json=" + url.QueryEscape(c.call) + " HTTP/" + c.version + "\r\nHost: x\r\n\r\n")
			if got.err != nil || got.status != 200 || got.body != c.want {
				t.Errorf("%d %q, %v", got.status, got.body, got.err)
			}
			if got.header.Get("Content-Type") != "application/octet-stream" {
				t.Errorf("content type %q", got.header.Get("Content-Type"))
			}
			if c.version == "1.0" && len(got.header["Transfer-Encoding"]) > 0 {
				t.Error("a chunked answer to HTTP/1.0")
			}
		})
	}
}

// An error before the first byte is an answer; after it the answer breaks off
// such that the client notices.
func TestStreamErrors(t *testing.T) {
	s := startServer(t, nil)
	got := s.post(`{"method": "bytes.count", "params": [0, 1, "at once"]}`)
	if !same(got.body, raised("at once")) || got.header.Get("Content-Type") != typeJSON {
		t.Errorf("%s", got.body)
	}
	got = s.post(`{"method": "bytes.count", "params": [2, 5, "later"]}`)
	if got.err == nil || !strings.HasPrefix("\x00\x00\x00\x00\x00\x01\x01\x01\x01\x01", got.body) {
		t.Errorf("%q, %v", got.body, got.err)
	}
}

// A stream of bytes waits for a client that does not read.
func TestStreamWaitsForItsReader(t *testing.T) {
	s := startServer(t, nil)
	c := s.dial()
	defer c.Close()
	const pieces = 2000 // 125 MiB
	io.WriteString(c, "GET /?json="+url.QueryEscape(`{"method":"bytes.count","params":[`+strconv.Itoa(pieces)+`]}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	resp := readHead(t, c)
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || n != pieces*65536 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What follows the declared length of a body belongs to it until its closing
// delimiter, whether it comes at once or late.
func TestBodyGoesOnBehindItsDeclaredLength(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.BeyondIdle = patience })
	data := strings.Repeat("0123456789abcde\n", 10000)
	body := multipartBody(`{"method": "file.info", "params": ["__file__:1", "x"]}`, uploadPart{"__file__:1", "ä.bin", data})
	want := fmt.Sprintf(`{"result": [{"name": "ä.bin", "size": %d, "sha256": %q}]}`, len(data), sha(data))
	for _, short := range []int{0, 1, 2, 3, 4, 5, 20, 29, 30, 31, 32, 33, 34, 36, 40, 100, 5000, 100000, len(body) - 1, len(body)} {
		for _, late := range []bool{false, true} {
			c := s.dial()
			declared := len(body) - short
			if late {
				go func() {
					io.WriteString(c, multipartHead(declared)+body[:declared])
					time.Sleep(20 * time.Millisecond) // whatever the server does meanwhile must not matter
					io.WriteString(c, body[declared:])
				}()
			} else {
				go io.WriteString(c, multipartHead(declared)+body)
			}
			got := readAnswer(t, c)
			c.Close()
			if !same(got.body, want) {
				t.Errorf("%d bytes short, late %v: %d %s", short, late, got.status, got.body)
			}
		}
	}
}

// A body that ends for good inside its closing delimiter is complete; one that
// ends before it is not, and its call does not run.
func TestBodyCutShort(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.BeyondIdle = 20 * time.Millisecond })
	body := multipartBody(`{"method": "file.info", "params": ["__file__:1"]}`, uploadPart{"__file__:1", "f", "some data"})
	want := fmt.Sprintf(`{"result": [{"name": "f", "size": 9, "sha256": %q}]}`, sha("some data"))
	whole := strings.Index(body, "some data") + len("some data")
	for cut := whole - 5; cut <= len(body); cut++ {
		for how, length := range map[string]int{"declared so": cut, "ended early": len(body), "silent": cut} {
			c := s.dial()
			io.WriteString(c, multipartHead(length)+body[:cut])
			if how == "ended early" {
				c.CloseWrite()
			}
			got := readAnswer(t, c)
			c.Close()
			complete := cut > whole
			if complete && !same(got.body, want) || !complete && got.status != 400 {
				t.Errorf("cut at %d of %d (%s): %d %s", cut, len(body), how, got.status, got.body)
			}
		}
	}
}

// A client that is gone in the middle of an upload has made no call.
func TestUploadThatIsGivenUp(t *testing.T) {
	ran := make(chan struct{}, 10)
	s := startServer(t, func(c *Config) {
		c.Table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "take.file"}, func(*rpc.Call) (rpc.Value, error) {
			ran <- struct{}{}
			return rpc.Null, nil
		}))
	})
	body := multipartBody(`{"method": "take.file", "params": ["__file__:1"]}`, uploadPart{"__file__:1", "f", strings.Repeat("line\r", 1<<20)})
	c := s.dial()
	io.WriteString(c, multipartHead(len(body))+body[:3<<20])
	eventually(t, "the upload is in the spool", func() bool { return s.spool.Used() > 0 })
	c.Close()
	eventually(t, "the spool is empty again", func() bool { return s.spool.Used() == 0 && s.spool.Open() == 0 && s.sv.Exchanges() == 0 })
	if len(ran) > 0 {
		t.Error("the call ran")
	}
}

func TestFilesByPositionAndName(t *testing.T) {
	s := startServer(t, nil)
	one, two := uploadPart{"__file__:1", "one.txt", "first"}, uploadPart{"__file__:2", `q"uo\te/x.bin`, "second\r\n"}
	infoOne := fmt.Sprintf(`{"name": "one.txt", "size": 5, "sha256": %q}`, sha("first"))
	infoTwo := fmt.Sprintf(`{"name": "x.bin", "size": 8, "sha256": %q}`, sha("second\r\n"))
	for call, want := range map[string]string{
		`["__file__:2", 5, "__file__:1", null]`:    "[" + infoTwo + "," + infoOne + "]",
		`["__file__:1", "__file__:1"]`:             "[" + infoOne + "," + infoOne + "]",
		`{"b": "__file__:2", "a": "__file__:1"}`:   "[" + infoTwo + "," + infoOne + "]",
		`"__file__:1"`:                             "[" + infoOne + "]",
		`[["__file__:1"], {"f": "__file__:2"}, 1]`: "[]",
	} {
		got := s.upload(`{"method": "file_info", "params": `+call+`}`, one, two)
		if !same(got.body, `{"result": `+want+`}`) {
			t.Errorf("%s: %s", call, got.body)
		}
	}
}

// A file stands for a stream of its bytes, and comes back as a binary result.
func TestFileAsStreamAndResult(t *testing.T) {
	s := startServer(t, nil)
	data := strings.Repeat("stream me\n", 300000)
	got := s.upload(`{"method": "stream.size", "params": ["__file__:1"]}`, uploadPart{"__file__:1", "f", data})
	if want := fmt.Sprintf(`{"result": "%d %s"}`, len(data), sha(data)); !same(got.body, want) {
		t.Errorf("%.200s", got.body)
	}
	got = s.upload(`{"method": "file.first", "params": ["__file__:1"]}`, uploadPart{"__file__:1", "f", data})
	if got.body != data || got.header.Get("Content-Type") != typeBinary {
		t.Errorf("%d bytes of %q", len(got.body), got.header.Get("Content-Type"))
	}
}

func TestRefusals(t *testing.T) {
	s := startServer(t, func(c *Config) {
		c.Limits.JSON, c.Limits.Upload, c.Limits.BodyWait = 64<<10, 1<<20, 100*time.Millisecond
	})
	many := strings.Repeat("--"+boundary+"\r\nContent-Disposition: form-data; name=\"__file__:1\"\r\n\r\n\r\n", 10000) + "--" + boundary + "--\r\n"
	long := strings.Repeat("x", 100<<10)
	form := "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n"
	for _, c := range []struct {
		name, request string
		status        int
	}{
		{"10,000 parts", multipartHead(len(many)) + many, 400},
		{"head of a part", multipartHead(1<<20) + "--" + boundary + "\r\nX: " + long + "\r\n\r\n", 400},
		{"heads of a part", multipartHead(1<<20) + "--" + boundary + "\r\n" + strings.Repeat("X: y\r\n", 20000), 400},
		{"endless file", multipartHead(-1) + chunk(multipartBody(`{"method": "file.info"}`, uploadPart{"__file__:1", "f", strings.Repeat(long, 20)})), 413},
		{"declared length of a file", multipartHead(1 << 40), 413},
		{"long call in a part", multipartHead(1<<20) + multipartBody(long), 413},
		{"long call in a form", form + "Content-Length: 110000\r\n\r\njson=" + strings.Repeat(long, 2), 413},
		{"long call by declaration", form + "Content-Length: 10000000000\r\n\r\njson=", 413},
		{"chunk that is none", multipartHead(-1) + "zz\r\n", 400},
		{"slow body", form + "Content-Length: 100\r\n\r\njson=", 408},
		{"no boundary", "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data\r\nContent-Length: 0\r\n\r\n", 400},
		{"no parts", multipartHead(0), 400},
		{"only an end", multipartHead(-1) + chunk("--"+boundary+"--\r\n"), 400},
		{"no call", multipartHead(-1) + chunk("--"+boundary+"\r\nContent-Disposition: form-data; name=other\r\n\r\nx\r\n--"+boundary+"--\r\n"), 400},
		{"empty form", form + "Content-Length: 5\r\n\r\njson=", 400},
		{"other body", "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 400},
		{"other method", "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", 405},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := s.raw(c.request); got.status != c.status {
				t.Errorf("%d %s, want %d", got.status, got.body, c.status)
			}
		})
	}
	eventually(t, "nothing is held", func() bool { return s.spool.Used() == 0 && s.sv.Exchanges() == 0 })
}

func chunk(body string) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body) }

// A method that refuses something for its size is answered like a body that is too large.
func TestTooLargeForTheMethod(t *testing.T) {
	s := startServer(t, nil)
	if got := s.post(`{"method": "value", "params": ["quota"]}`); got.status != 413 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// All uploads share the spool; who comes when it is full is told so.
func TestSpoolIsFull(t *testing.T) {
	s := startServer(t, nil)
	data := strings.Repeat("x", 30<<20)
	body := multipartBody(`{"method": "file.info", "params": ["__file__:1"]}`, uploadPart{"__file__:1", "f", data})
	var held []net.Conn
	for range 2 {
		c := s.dial()
		io.WriteString(c, multipartHead(len(body))+body[:len(body)-100])
		held = append(held, c)
	}
	eventually(t, "two uploads wait", func() bool { return s.spool.Used() >= 59<<20 })
	got := s.raw(multipartHead(len(body)) + body)
	if got.status != http.StatusInsufficientStorage {
		t.Errorf("%d %s", got.status, got.body)
	}
	for _, c := range held {
		io.WriteString(c, body[len(body)-100:])
		if got := readAnswer(t, c); !strings.Contains(got.body, sha(data)) {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
}

// The JSON of all requests together is bounded.
func TestMemoryBudget(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Limits.JSONAll = 2 << 20 })
	call := `{"method": "echo", "params": ["` + strings.Repeat("x", 700<<10) + `"]}`
	c := s.dial()
	io.WriteString(c, multipartHead(1<<20)+multipartBody(call)[:600<<10])
	eventually(t, "one request holds memory", func() bool { return s.sv.memory.used.Load() > 1<<20 })
	if got := s.upload(call); got.status != http.StatusServiceUnavailable {
		t.Errorf("%d %.100s", got.status, got.body)
	}
	c.Close()
	eventually(t, "it is given back", func() bool { return s.sv.memory.used.Load() == 0 })
}

func TestHook(t *testing.T) {
	s := startServer(t, func(c *Config) {
		c.Hook = "check_access"
		c.Table.MustAdd(rpc.Handle("check.access", func(_ context.Context, in struct {
			Token rpc.Value `rpc:"token"`
		}) (string, error) {
			if tok, _ := in.Token.AsString(); tok != "good" {
				return "", rpc.HandlerError("PermissionError", "denied")
			}
			return "ignored", nil
		}))
	})
	for pmh, want := range map[string]string{
		`"good"`: `{"result": 3}`, `["good"]`: `{"result": 3}`, `{"token": "good"}`: `{"result": 3}`,
		`"bad"`: raised("PermissionError: denied"), `null`: raised(`invalid_params: check.access is missing argument \"token\"`),
		`"__file__:x"`: `{"error": {"code": -32002, "message": "Missing file object.", "info": "__file__:x"}}`,
	} {
		got := s.post(`{"method": "math.add", "params": [1, 2], "pmhparams": ` + pmh + `}`)
		if !same(got.body, want) {
			t.Errorf("%s: %s", pmh, got.body)
		}
	}
}

func TestHookThatIsNotThere(t *testing.T) {
	s := startServer(t, func(c *Config) { c.Hook = "not.there" })
	if got := s.post(`{"method": "math.add", "params": [1, 2]}`); !same(got.body, noMethod) {
		t.Errorf("%s", got.body)
	}
}

// pmhparams say who an unknown peer is. Until then nothing of it is kept.
func TestAuthenticationByHookParameters(t *testing.T) {
	unknown := &rpc.Peer{UID: -1, Unauthenticated: true}
	s := startServer(t, func(c *Config) {
		c.Admit = func(*http.Request) (Admission, error) { return Admission{Peer: unknown}, nil }
		c.Authenticate = func(_ *http.Request, v rpc.Value) (*rpc.Peer, *rpc.Error) {
			switch tok, _ := v.AsString(); tok {
			case "secret":
				return &rpc.Peer{Scopes: rpc.ScopeCall}, nil
			case "expired":
				return nil, rpc.Errorf(rpc.CodeUnauthenticated, "the token has expired")
			}
			return nil, nil
		}
	})
	file := uploadPart{"__file__:1", "f", "data"}
	for _, c := range []struct{ call, want string }{
		{`{"method": "math.add", "params": [1, 2]}`, raised("unauthenticated: calling math.add needs authentication")},
		{`{"method": "math.add", "params": [1, 2], "pmhparams": "wrong"}`, raised("unauthenticated: calling math.add needs authentication")},
		{`{"method": "math.add", "params": [1, 2], "pmhparams": "expired"}`, raised("unauthenticated: the token has expired")},
		{`{"method": "math.add", "params": [1, 2], "pmhparams": {"secret": 1}}`, raised("unauthenticated: calling math.add needs authentication")},
		{`{"method": "math.add", "params": [1, 2], "pmhparams": "secret"}`, `{"result": 3}`},
		{`{"method": "admin.only", "pmhparams": "secret"}`, raised("permission_denied: not allowed to call admin.only: that needs the scope admin, the caller (hub.whoami) has call")},
	} {
		for form, got := range map[string]answer{"form": s.post(c.call), "multipart": s.upload(c.call)} {
			if !same(got.body, c.want) {
				t.Errorf("%s as %s: %s", c.call, form, got.body)
			}
		}
	}
	for call, want := range map[string]string{
		`{"method": "file.info", "params": ["__file__:1"]}`:                         raised("unauthenticated: files need authentication"),
		`{"method": "file.info", "params": ["__file__:1"], "pmhparams": "secret"}`:  `{"result": [{"name": "f", "size": 4, "sha256": "` + sha("data") + `"}]}`,
		`{"method": "file.info", "params": ["__file__:1"], "pmhparams": "expired"}`: raised("unauthenticated: the token has expired"),
		`{"method": "nothing", "params": ["__file__:1"], "pmhparams": "secret"}`:    noMethod,
		`{"method": "admin.only", "params": "__file__:1", "pmhparams": "secret"}`:   raised("permission_denied: not allowed to call admin.only: that needs the scope admin, the caller (hub.whoami) has call"),
	} {
		if got := s.upload(call, file); !same(got.body, want) {
			t.Errorf("%s: %s", call, got.body)
		}
	}
	// The file first, and then who it is from: too late.
	body := "--" + boundary + "\r\nContent-Disposition: form-data; name=\"__file__:1\"; filename=\"f\"\r\n\r\nx\r\n" + multipartBody(`{"method": "file.info", "pmhparams": "secret"}`)
	if got := s.raw(multipartHead(len(body)) + body); !same(got.body, raised("unauthenticated: the call must come before its files")) {
		t.Errorf("%s", got.body)
	}
}

func TestNotAdmitted(t *testing.T) {
	s := startServer(t, func(c *Config) {
		c.Admit = func(*http.Request) (Admission, error) { return Admission{}, errors.New("no") }
	})
	if got := s.post(`{"method": "echo", "params": [1]}`); got.status != 403 {
		t.Errorf("%d", got.status)
	}
}

// The call of a client that is gone is cancelled; one that has only ended its
// sending side gets its answer.
func TestClientGoesAway(t *testing.T) {
	gone := make(chan struct{})
	s := startServer(t, func(c *Config) {
		c.Admit = func(*http.Request) (Admission, error) {
			return Admission{Peer: rpc.Local, Gone: func() bool {
				select {
				case <-gone:
					return true
				default:
					return false
				}
			}}, nil
		}
	})
	half := s.dial()
	io.WriteString(half, "GET /?json="+url.QueryEscape(`{"method":"wait","params":[0.2]}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	half.CloseWrite()
	if got := readAnswer(t, half); got.body != `{"result": "waited"}` {
		t.Errorf("%s", got.body)
	}
	<-s.began

	c := s.dial()
	io.WriteString(c, "GET /?json="+url.QueryEscape(`{"method":"wait"}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	<-s.began
	c.Close()
	close(gone)
	select {
	case err := <-s.ended:
		if err != rpc.ErrPeerGone {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the call still runs")
	}
}

// Where nothing tells whether a peer is gone for good, it is given up in bounded time.
func TestSilentClientIsGivenUp(t *testing.T) {
	s := startServer(t, nil)
	c := s.dial()
	io.WriteString(c, "GET /?json="+url.QueryEscape(`{"method":"wait"}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	<-s.began
	c.Close()
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("the call still runs")
	}
}

// What a peer sends while its call runs is dropped, up to a limit.
func TestPeerThatSendsOn(t *testing.T) {
	s := startServer(t, nil)
	c := s.dial()
	io.WriteString(c, "GET /?json="+url.QueryEscape(`{"method":"wait"}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	<-s.began
	go io.CopyN(c, endless{}, 64<<20) // fails when the server has had enough
	select {
	case <-s.ended:
	case <-time.After(patience):
		t.Fatal("the call still runs")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestCloseEndsWhatRuns(t *testing.T) {
	s := startServer(t, nil)
	waits := s.dial()
	io.WriteString(waits, "GET /?json="+url.QueryEscape(`{"method":"wait"}`)+" HTTP/1.1\r\nHost: x\r\n\r\n")
	<-s.began
	reads := s.dial()
	io.WriteString(reads, multipartHead(1000)+"--"+boundary)
	beyond := s.dial()
	io.WriteString(beyond, multipartHead(10)+"--"+boundary)
	eventually(t, "all are served", func() bool { return s.sv.Exchanges() == 3 })
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := s.sv.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if got := readAnswer(t, waits); !same(got.body, raised("unavailable: the hub is shutting down")) {
		t.Errorf("%s", got.body)
	}
	if got := readAnswer(t, reads); got.status != 503 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := s.post(`{"method": "echo", "params": [1]}`); got.status != 503 {
		t.Errorf("%d after Close", got.status)
	}
}
