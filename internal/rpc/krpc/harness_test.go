package krpc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience turns a hang into a failure; it measures nothing.
const patience = testkit.Patience

var eventually = testkit.Eventually

// testServer is a server on a Unix socket with a table of methods of its own.
type testServer struct {
	t      testing.TB
	sv     *Server
	socket string
	spool  *Spool
	ended  chan error // why calls of "wait" ended
	began  chan struct{}
}

func startServer(t testing.TB, change func(*Config)) *testServer {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "krpc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &testServer{t: t, socket: filepath.Join(dir, "s"), ended: make(chan error, 100), began: make(chan struct{}, 100)}
	if s.spool, err = OpenSpool(filepath.Join(dir, "spool"), 64<<20); err != nil {
		t.Fatal(err)
	}
	conf := Config{Table: rpc.NewTable(), Spool: s.spool}
	conf.Limits.Upload = 32 << 20
	conf.Limits.BeyondIdle = 300 * time.Millisecond
	conf.Table.MustAdd(s.methods()...)
	if change != nil {
		change(&conf)
	}
	s.sv = New(conf)
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	hs := &http.Server{Handler: s.sv, ReadHeaderTimeout: 10 * time.Second}
	go hs.Serve(l) // ends with Close
	t.Cleanup(func() {
		ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
		defer stop()
		if err := s.sv.Close(ctx); err != nil {
			t.Error(err)
		}
		hs.Close()
		if n := s.spool.Used(); n != 0 {
			t.Errorf("the spool still holds %d bytes", n)
		}
		if n := s.spool.Open(); n != 0 {
			t.Errorf("%d uploads were not closed", n)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "spool")); len(left) > 0 {
			t.Errorf("%d files are left in the spool folder", len(left))
		}
		if n := s.sv.memory.used.Load(); n != 0 {
			t.Errorf("%d bytes of the memory budget were not given back", n)
		}
	})
	return s
}

// methods is the table: one method of each kind that the protocol can carry.
// The names are those of the captures.
func (s *testServer) methods() []*rpc.Method {
	return []*rpc.Method{
		rpc.NewMethod(&rpc.Method{Name: "echo", Run: rpc.Inline}, func(c *rpc.Call) (rpc.Value, error) {
			n := 0
			var value rpc.Value
			for v := range c.Args.List() {
				value, n = v, n+1
			}
			for name, v := range c.Args.ByName() {
				if name != "msg" {
					return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "echo has no parameter %q", name)
				}
				value, n = v, n+1
			}
			if n != 1 {
				return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "echo takes 1 argument, got %d", n)
			}
			return value, nil
		}),
		rpc.Handle("math.add", func(_ context.Context, in struct {
			A int64 `rpc:"a"`
			B int64 `rpc:"b"`
		}) (int64, error) {
			return in.A + in.B, nil
		}),
		rpc.Handle("hub.fail", func(_ context.Context, in struct {
			Message string `rpc:"message"`
			Name    string `rpc:"name,optional"`
		}) (struct{}, error) {
			return struct{}{}, rpc.HandlerError(in.Name, in.Message)
		}),
		rpc.NewMethod(&rpc.Method{Name: "file.info"}, fileInfo),
		rpc.NewMethod(&rpc.Method{Name: "file.first"}, func(c *rpc.Call) (rpc.Value, error) { return c.Args.First(), nil }),
		rpc.HandleStream("file.get", func(_ context.Context, in struct {
			N rpc.Value `rpc:"n"`
		}, send func([]byte) error) error {
			return send([]byte(strings.Repeat("0123456789", 3)))
		}),
		rpc.HandleStream("bytes.count", func(_ context.Context, in struct {
			Pieces int    `rpc:"pieces"`
			Size   int    `rpc:"size" default:"65536"`
			Fail   string `rpc:"fail,optional"`
		}, send func([]byte) error) error {
			for i := range in.Pieces {
				if err := send(bytes.Repeat([]byte{byte(i)}, in.Size)); err != nil {
					return err
				}
			}
			if in.Fail != "" {
				return rpc.HandlerError("", in.Fail)
			}
			return nil
		}, rpc.NeverSlow()),
		rpc.HandleStream("numbers", func(_ context.Context, in struct {
			N int `rpc:"n"`
		}, send func(int) error) error {
			for i := range in.N {
				if err := send(i); err != nil {
					return err
				}
			}
			return nil
		}),
		rpc.HandleStream("forever", func(ctx context.Context, _ struct{}, _ func(int) error) error {
			<-ctx.Done()
			return ctx.Err()
		}, rpc.Endless()),
		rpc.Handle("stream.size", func(ctx context.Context, in struct {
			Src *rpc.Reader `rpc:"src"`
		}) (string, error) {
			sum, size := sha256.New(), 0
			for v, err := range in.Src.All(ctx) {
				if err != nil {
					return "", err
				}
				data, err := v.AsBytes()
				if err != nil {
					return "", err
				}
				sum.Write(data)
				size += len(data)
			}
			return fmt.Sprintf("%d %x", size, sum.Sum(nil)), nil
		}),
		rpc.Handle("wait", func(ctx context.Context, in struct {
			Seconds float64 `rpc:"seconds" default:"1000"`
		}) (string, error) {
			s.began <- struct{}{}
			t := time.NewTimer(time.Duration(in.Seconds * float64(time.Second)))
			defer t.Stop()
			select {
			case <-t.C:
				return "waited", nil
			case <-ctx.Done():
				s.ended <- context.Cause(ctx)
				return "", ctx.Err()
			}
		}, rpc.Within(-1)),
		rpc.Handle("late", func(ctx context.Context, _ struct{}) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		}, rpc.Within(20*time.Millisecond)),
		rpc.Handle("value", func(_ context.Context, in struct {
			Kind string `rpc:"kind"`
		}) (rpc.Value, error) {
			switch in.Kind {
			case "bytes":
				return rpc.TreeValue(rpc.Bytes{Data: []byte{0, 1, 2, 255}}), nil
			case "empty bytes":
				return rpc.TreeValue(rpc.Bytes{}), nil
			case "ref":
				return rpc.TreeValue([]any{rpc.NewRef(rpc.Object{}, nil)}), nil
			case "undefined":
				return rpc.Value{}, nil
			case "nan":
				return rpc.TreeValue([]any{1.5, nan()}), nil
			case "long":
				return rpc.String(strings.Repeat("x", DefaultResult)), nil
			case "panic":
				panic("secret of the method")
			case "quota":
				return rpc.Value{}, rpc.Errorf(rpc.CodeTooLarge, "over the quota")
			}
			return rpc.RawString(in.Kind), nil
		}),
		rpc.Handle("admin.only", func(context.Context, struct{}) (int, error) { return 1, nil }, rpc.Needs(rpc.ScopeAdmin)),
	}
}

func nan() float64 { var z float64; return z / z }

func fileInfo(c *rpc.Call) (rpc.Value, error) {
	type info struct {
		Name   string `json:"name"`
		Size   int64  `json:"size"`
		SHA256 string `json:"sha256"`
	}
	list := []info{}
	add := func(v rpc.Value) error {
		f, ok := v.Tree().(*rpc.File)
		if !ok {
			return nil
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer r.Close()
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		list = append(list, info{f.Name, n, hex.EncodeToString(sum.Sum(nil))})
		if err == nil && n != f.Size {
			err = fmt.Errorf("size is %d, read %d", f.Size, n)
		}
		return err
	}
	for v := range c.Args.List() {
		if err := add(v); err != nil {
			return rpc.Value{}, err
		}
	}
	for _, v := range c.Args.ByName() {
		if err := add(v); err != nil {
			return rpc.Value{}, err
		}
	}
	return rpc.Encode(list)
}

// dial opens a connection with a deadline.
func (s *testServer) dial() *net.UnixConn {
	s.t.Helper()
	c, err := net.Dial("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.UnixConn)
}

// answer is what came back.
type answer struct {
	status int
	phrase string
	header http.Header
	body   string
	closes bool
	err    error // of reading the body
}

func readAnswer(t testing.TB, c net.Conn) answer {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "POST"})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	_, phrase, _ := strings.Cut(resp.Status, " ")
	return answer{resp.StatusCode, phrase, resp.Header, string(body), resp.Close, err}
}

// raw sends a whole request and returns the answer.
func (s *testServer) raw(request string) answer {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	go io.WriteString(c, request) // an answer may come before all of it is taken
	return readAnswer(s.t, c)
}

// post makes a call in the way of the client without files.
func (s *testServer) post(call string) answer {
	s.t.Helper()
	body := "json=" + url.QueryEscape(call)
	return s.raw(fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
		"Content-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body))
}

// boundary is that of the client.
const boundary = "-----KrOnOsThEwIzArD"

// upload is one file part.
type uploadPart struct{ ref, name, data string }

// multipartBody writes a body in the way of the client.
func multipartBody(call string, files ...uploadPart) string {
	var b strings.Builder
	fmt.Fprintf(&b, "--%s\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n%s\r\n", boundary, call)
	for _, f := range files {
		fmt.Fprintf(&b, "--%s\r\nContent-Disposition: form-data; name=\"%s\"; filename=\"%s\"\r\nContent-Type: ('text/plain', None)\r\n\r\n%s\r\n",
			boundary, f.ref, f.name, f.data)
	}
	fmt.Fprintf(&b, "--%s--\r\n\r\n", boundary)
	return b.String()
}

// multipartHead is the head of a request with a body of a declared length; -1 for chunked.
func multipartHead(length int) string {
	size := fmt.Sprintf("Content-Length: %d", length)
	if length < 0 {
		size = "Transfer-Encoding: chunked"
	}
	return "POST / HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=" + boundary + "\r\n" +
		size + "\r\nConnection: close\r\n\r\n"
}

func (s *testServer) upload(call string, files ...uploadPart) answer {
	s.t.Helper()
	body := multipartBody(call, files...)
	return s.raw(multipartHead(len(body)) + body)
}

// same reports whether two JSON texts mean the same.
func same(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

func sha(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

func readHead(t testing.TB, c net.Conn) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
