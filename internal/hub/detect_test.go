package hub

import (
	"io"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/hubd-dev/hubd/internal/testkit"
)

func TestDetect(t *testing.T) {
	for _, c := range []struct {
		text string
		want sniffed
	}{
		{"", unclear},
		{"{", sniffedLines}, {"[", sniffedLines}, {`"x"`, sniffedLines}, {" ", sniffedLines}, {"\n", sniffedLines}, {"\r\n", sniffedLines},
		{"\t{", sniffedLines}, {"\v", sniffedLines}, {"\f", sniffedLines}, {"get ", sniffedLines}, {"hello", sniffedLines}, {"~", sniffedLines}, {"1", sniffedLines},
		{"\x00", sniffedFrames}, {"\x08", sniffedFrames}, {"\x0e", sniffedFrames}, {"\x1f", sniffedFrames}, {"\x7f", sniffedFrames},
		{"\x80", sniffedFrames}, {"\xff\xff\xff\xff", sniffedFrames}, {"\xef", unclear}, {"\xef\xbb", unclear}, {"\xef\xbb\xbf", sniffedLines}, {"\xef\xbb\xbf{", sniffedLines}, {"\xef\xbb{", sniffedFrames}, {"\x16\x03\x01", sniffedFrames},
		{"G", unclear}, {"GE", unclear}, {"GET", unclear}, {"GET ", sniffedHTTP}, {"GET /", sniffedHTTP}, {"GETX", sniffedLines}, {"GET\t", sniffedLines},
		{"P", unclear}, {"PR", unclear}, {"PRI ", sniffedHTTP}, {"POST ", sniffedHTTP}, {"PUT ", sniffedHTTP}, {"PATCH ", sniffedHTTP}, {"PING", sniffedLines},
		{"HEAD ", sniffedHTTP}, {"OPTIONS", unclear}, {"OPTIONS ", sniffedHTTP}, {"TRACE ", sniffedHTTP}, {"DELETE ", sniffedHTTP}, {"CONNECT ", sniffedHTTP},
		{"A", sniffedLines}, {"Z", sniffedLines}, {"NaN", sniffedLines},
	} {
		if got := detect([]byte(c.text)); got != c.want {
			t.Errorf("detect(%q) = %d, want %d", c.text, got, c.want)
		}
	}
}

// Every decision must be the same for each longer text, and be made by longestMethod bytes.
func FuzzDetect(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1", "OPTIONS * ", "{}", "\x00\x00\x00\x05", "PATCHES"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var decided sniffed
		for i := range len(p) + 1 {
			s := detect(p[:i])
			if decided != unclear && s != decided {
				t.Fatalf("%q is %d, but %q is %d", p[:i-1], decided, p[:i], s)
			}
			if i >= longestMethod && s == unclear {
				t.Fatalf("%q is still unclear", p[:i])
			}
			decided = s
		}
	})
}

// What comes one byte at a time is told apart all the same, on both transports.
func TestBytesOneAtATime(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	for _, at := range [][2]string{{"unix", h.socket}, {"tcp", h.tcp}} {
		w := dial(t, at[0], at[1])
		for _, b := range []byte(`{"action":"rpc_request","request_id":"1","method":"math.add","params":[1,2]}` + "\n") {
			w.send(string(b))
		}
		if r := w.reply(); string(r.Result) != "3" {
			t.Errorf("%s: lines: %+v", at[0], r)
		}
		w = dial(t, at[0], at[1])
		for _, b := range []byte("GET /-/healthy HTTP/1.1\r\nHost: " + h.tcp + "\r\n\r\n") {
			w.send(string(b))
		}
		if line := w.line(); !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Errorf("%s: http: %q", at[0], line)
		}
		w = dial(t, at[0], at[1])
		for _, b := range []byte("\x00\x00\x00\x01\x00") {
			w.send(string([]byte{b}))
		}
		answer := make([]byte, len("\x00\x00\x00\x08\x00msgpack"))
		if _, err := io.ReadFull(w.r, answer); err != nil || string(answer) != "\x00\x00\x00\x08\x00msgpack" {
			t.Errorf("%s: a length prefix: %q, %v", at[0], answer, err)
		}
	}
}

// A first line that is not JSON is a bad line like any other.
func TestTextThatIsNoJSON(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	w := h.dial()
	w.send("GETTING started\n")
	if line := w.line(); !strings.Contains(line, `"type":"error"`) {
		t.Errorf("answer to a bad first line: %s", line)
	}
	if r := w.call("math.add", "[1,2]"); string(r.Result) != "3" {
		t.Errorf("after a bad line: %+v", r)
	}
}

// A request that ends where a method's name could go on, with the end of input behind it.
func TestUnclearAtTheEnd(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	w.send("GET")
	w.Conn.(testkit.Conn).CloseWrite()
	rest, _ := io.ReadAll(w.r)
	if !strings.Contains(string(rest), `"type":"error"`) {
		t.Errorf("answer: %q", rest)
	}
}

// A probe that connects and leaves is no error.
func TestProbeWithoutAByte(t *testing.T) {
	h := startHub(t, Options{})
	h.dial().Close()
	w := h.dial()
	if r := w.call("ping", "{}"); r.Error != nil {
		t.Fatalf("ping: %+v", r)
	}
	if n := h.logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
		t.Errorf("%d errors in the log", n)
	}
}

func TestListenerLetsInWhatItSpeaks(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none&protocols=kkrpc"}})
	w := dial(t, "tcp", h.tcp)
	w.send("\x00\x00\x00\x02{}")
	if err := w.ended(); err != nil {
		t.Error(err)
	}
	if got := h.sample(`hubd_drops_total{protocol="snekrpc",reason="protocol_not_spoken"}`); got != "1" {
		t.Errorf("dropped connections: %q, want 1", got)
	}
	if status, _ := h.ask("tcp", h.tcp, "GET /-/ready HTTP/1.1\r\nHost: "+h.tcp+"\r\nConnection: close\r\n\r\n"); status != 200 {
		t.Errorf("/-/ready: %d", status)
	}
}
