package krpc

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// readParts takes a whole body apart.
func readParts(src io.Reader, boundary string) (parts []part, data []string, err error) {
	m, err := newMultipart(src, boundary)
	if err != nil {
		return nil, nil, err
	}
	last, err := m.skip()
	for err == nil && !last {
		var p part
		if p, err = m.head(DefaultPartHeader); err != nil {
			break
		}
		var b strings.Builder
		last, err = m.data(func(piece []byte) error {
			b.Write(piece)
			return nil
		})
		if err == nil {
			parts, data = append(parts, p), append(data, b.String())
		}
	}
	return parts, data, err
}

func TestMultipartData(t *testing.T) {
	for data, want := range map[string][]string{
		"--B\r\n\r\nx\r\n--B--\r\n": {"x"},
		"--B\n\nx\n--B--\n":         {"x"},
		"preamble\r\n--Bx\r\n--B \t\r\n\r\nx\r\n--B--  \r\nepilogue": {"x"},
		"--B\r\n\r\n--B--\r\n":                                      {""},
		"--B\r\n\r\n\r\n--B--":                                      {""},
		"--B\r\n\r\n\r\n\r\n--B--\r\n":                              {"\r\n"},
		"--B\r\n\r\nx\r\n--B--x\r\n--B-\r\n--Bx\r\n --B--\r\n--B--": {"x\r\n--B--x\r\n--B-\r\n--Bx\r\n --B--"},
		"--B\r\n\r\nx--B--\r\n\r\n--B--":                            {"x--B--\r\n"},
		"--B\r\n\r\na\r\n--B\r\n\r\nb\n--B\r\n\r\n\r--B\r\n--B--":   {"a", "b", "\r--B"},
		"--B\r\n\r\na\r\r\n--B--":                                   {"a\r"},
		"--B\r\n\r\na\r\n--B-":                                      {"a"},
		"--B\r\n\r\na\r\n--B":                                       {"a"},
		"--B\r\n\r\na\r\n":                                          {"a"},
		"--B\r\n\r\na\r":                                            {"a"},
		"--B\r\n\r\na\n":                                            {"a"},
		"--B--":                                                     nil,
	} {
		_, got, err := readParts(strings.NewReader(data), "B")
		if err != nil || strings.Join(got, "|") != strings.Join(want, "|") || len(got) != len(want) {
			t.Errorf("%q: %q, %v, want %q", data, got, err, want)
		}
	}
	for _, data := range []string{"", "x", "--B\r\n", "--B\r\nX: y\r\n", "--B\r\n\r\nabc", "--B\r\n\r\na\r\n--B\r\n", "--B\r\n\r\na\r\n--B x"} {
		if _, got, err := readParts(strings.NewReader(data), "B"); !errors.Is(err, errIncomplete) {
			t.Errorf("%q: %q, %v", data, got, err)
		}
	}
}

// Data of any length, with anything in it that begins like a delimiter, comes
// out as it went in, however the body is cut into pieces.
func TestMultipartAtAnyLength(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	bits := []string{"\r\n--" + boundary + "x", "\r\n--" + boundary[:9], "\n", "\r", "\r\n", "-", "--", boundary, "\x00", "data"}
	for size := windowSize - 200; size < windowSize+200; size += 7 {
		var b strings.Builder
		for b.Len() < size {
			if rnd.IntN(50) == 0 {
				b.WriteString(bits[rnd.IntN(len(bits))])
			} else {
				b.WriteByte(byte('a' + rnd.IntN(26)))
			}
		}
		data := b.String() + "."
		body := multipartBody("{}", uploadPart{"__file__:1", "f", data}, uploadPart{"__file__:2", "g", data[:100] + "."})
		for name, src := range map[string]io.Reader{
			"whole": strings.NewReader(body), "halves": iotest.HalfReader(strings.NewReader(body)), "late end": iotest.DataErrReader(strings.NewReader(body)),
		} {
			_, got, err := readParts(src, boundary)
			if err != nil || len(got) != 3 || got[1] != data || got[2] != data[:100]+"." {
				t.Fatalf("%d bytes, %s: %d parts, %v", size, name, len(got), err)
			}
		}
	}
}

func TestPartHeads(t *testing.T) {
	for line, want := range map[string]part{
		`Content-Disposition: form-data; name="json"`:                                 {name: "json"},
		`content-disposition:form-data;name=json`:                                     {name: "json"},
		`Content-Disposition: form-data; name="__file__:1-0.5"; filename="a.txt"`:     {"__file__:1-0.5", "a.txt"},
		`Content-Disposition: form-data; filename="a.txt"; name="x"`:                  {"x", "a.txt"},
		`Content-Disposition: form-data; name="x"; filename="q"uo"te\s.txt"`:          {"x", `q"uo"te\s.txt`},
		`Content-Disposition: form-data; name="x"; filename="ünï.txt"`:                {"x", "ünï.txt"},
		`Content-Disposition: form-data; name="x"; filename="../../etc/passwd"`:       {"x", "passwd"},
		`Content-Disposition: form-data; name="x"; filename="/"`:                      {"x", ""},
		`Content-Disposition: form-data; name="x"; filename=".."`:                     {"x", ""},
		`Content-Disposition: form-data; name="x"; filename="C:\dir\a.txt"`:           {"x", "a.txt"},
		"Content-Disposition: form-data; name=\"x\"; filename=\"a\x00b\x1b[31m\xff\"": {"x", "ab[31m\uFFFD"},
		`Content-Disposition: form-data; name="x"; filename="a"; filename*=UTF-8''b`:  {"x", "a"},
		`Content-Disposition: form-data; name="x"; filename="`:                        {"x", ""},
		`Content-Disposition: form-data; xname="y"`:                                   {},
		`Content-Type: ('text/plain', None)`:                                          {},
		`no header at all`:                                                            {},
		`Content-Disposition: form-data; name="` + strings.Repeat("n", 257) + `"`:     {},
	} {
		var p part
		p.header([]byte(line))
		if p != want {
			t.Errorf("%q: %+v, want %+v", line, p, want)
		}
	}
	if got := cleanName(strings.Repeat("ä", 300)); len(got) != 254 {
		t.Errorf("%d bytes", len(got))
	}
}

func TestBoundaries(t *testing.T) {
	for kind, want := range map[string]string{
		"multipart/form-data; boundary=-----KrOnOsThEwIzArD": "-----KrOnOsThEwIzArD",
		`multipart/form-data; boundary="a b"`:                "a b",
		"multipart/form-data; charset=x; Boundary=abc; y":    "abc",
		`multipart/form-data; boundary="open`:                "open",
		"multipart/form-data; boundary=a/b":                  "a/b",
		"multipart/form-data":                                "",
		"multipart/form-data; boundary=":                     "",
	} {
		if got := boundaryOf(kind); got != want {
			t.Errorf("%q: %q, want %q", kind, got, want)
		}
	}
}

// formText returns the call of a form.
func formText(src io.Reader, size int) (string, error) {
	t := text{limit: 1 << 20, budget: &budget{max: 4 << 20}}
	defer t.release()
	err := readForm(src, &t, make([]byte, size))
	return string(t.b), err
}

func TestForms(t *testing.T) {
	for form, want := range map[string]string{
		"json=%7B%7D": "{}", "a=b&json=x": "x", "json=a+b%20c": "a b c", "JSON=x": "x", "JSON=x&json=y": "y", "json=x&json=y": "x",
		"json=&json=y": "y", "json=&JSON=y": "y", "%6Ason=x": "x", "json=%": "%", "json=%4": "%4", "json=%4x%41": "%4xA", "json=%%41": "%A",
		"json=a=b": "a=b", "jsons=1&json=2": "2", "json=%c3%A4": "ä", "json=1&": "1", "a&json=1": "1", "json=%00": "\x00",
	} {
		for size := 1; size < 5; size++ {
			if got, err := formText(strings.NewReader(form), size); got != want || err != nil {
				t.Errorf("%q: %q, %v, want %q", form, got, err, want)
			}
		}
	}
	for _, form := range []string{"", "json", "json=", "Json=x", "jso=x", "jsonn=x", "=x", "json=&JSON=", "&&&", "x=json"} {
		if got, err := formText(strings.NewReader(form), 3); err != errNoCall {
			t.Errorf("%q: %q, %v", form, got, err)
		}
	}
}

// FuzzForm compares with the standard library, where that has an opinion.
func FuzzForm(f *testing.F) {
	for _, seed := range []string{"json=%7B%7D&x", "JSON=a+b", "json=%4", "a=%&json=1&json=2", "%6A%73on=%%%"} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, form string, size int) {
		if size < 1 || size > 64 {
			size = 5
		}
		got, err := formText(strings.NewReader(form), size)
		again, err2 := formText(strings.NewReader(form), 4096)
		if got != again || err != err2 {
			t.Fatalf("in pieces %q, %v; at once %q, %v", got, err, again, err2)
		}
		if strings.Contains(form, ";") {
			return // the standard library refuses those
		}
		values, bad := url.ParseQuery(form)
		if bad != nil {
			return
		}
		want := ""
		for _, name := range []string{fieldJSON, fieldUpper} {
			for _, v := range values[name] {
				if want == "" {
					want = v
				}
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", form, got, want)
		}
	})
}

// FuzzMultipart looks for what depends on how a body is cut into pieces, for
// bodies that do not come out as they were written, and for hangs.
func FuzzMultipart(f *testing.F) {
	f.Add([]byte("--B\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{}\r\n--B--\r\n"), "B", uint16(7))
	f.Add([]byte("--B\n\n\r\n--B-x\r\n--B--"), "B", uint16(1))
	paths, _ := filepath.Glob("testdata/vectors/file-*.jsonl")
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data, boundary, uint16(100))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, boundary string, piece uint16) {
		parts, data, err := readParts(bytes.NewReader(body), boundary)
		pieces := &pieceReader{bytes.NewReader(body), int(piece)%1000 + 1}
		parts2, data2, err2 := readParts(pieces, boundary)
		if (err == nil) != (err2 == nil) || len(parts) != len(parts2) {
			t.Fatalf("at once %d parts, %v; in pieces %d parts, %v", len(parts), err, len(parts2), err2)
		}
		total := 0
		for i := range parts {
			if parts[i] != parts2[i] || data[i] != data2[i] {
				t.Fatalf("part %d: %+v %q or %+v %q", i, parts[i], data[i], parts2[i], data2[i])
			}
			total += len(data[i])
			if strings.ContainsAny(parts[i].file, "/\x00") || len(parts[i].file) > maxFileName {
				t.Errorf("file name %q", parts[i].file)
			}
		}
		if total > len(body) {
			t.Errorf("%d bytes of data in a body of %d", total, len(body))
		}

		// As data of a part, the body comes back, unless it holds a delimiter.
		if boundary == "" || len(boundary) > maxBoundary || strings.ContainsAny(boundary, "\r\n") || bytes.Contains(body, []byte("--"+boundary)) {
			return
		}
		whole := "--" + boundary + "\r\n\r\n" + string(body) + "\r\n--" + boundary + "--\r\n"
		if _, data, err := readParts(strings.NewReader(whole), boundary); err != nil || len(data) != 1 || data[0] != string(body) {
			if !strings.Contains("\r\n"+string(body)+"\r\n--"+boundary, "\n--"+boundary) {
				t.Errorf("%q came back as %q, %v", body, data, err)
			}
		}
	})
}

// pieceReader reads at most n bytes at once.
type pieceReader struct {
	r io.Reader
	n int
}

func (p *pieceReader) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

// FuzzRequest decodes calls and makes their arguments.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		`{"method": "echo", "params": ["__file__:1", {"a": 1}], "pmhparams": null}`, `{"method": "", "params": {"a": "__file__:2"}}`,
		`{"method": "x", "params": "\u005f_file__:1"}`, `[]`, `{"params": 1e400}`, `{"method":"x","params":[[[[]]]]}`,
	} {
		f.Add(seed)
	}
	files := map[string]*rpc.File{"__file__:1": {Name: "f"}}
	f.Fuzz(func(t *testing.T, text string) {
		q, bad := parseRequest([]byte(text))
		if bad != nil {
			if messages[bad.code] == "" {
				t.Errorf("code %d", bad.code)
			}
			return
		}
		for _, v := range []rpc.Value{q.params, q.hook} {
			for _, refer := range []bool{true, false} {
				args, missing := arguments(v, files, refer)
				if missing != nil {
					if !refer || missing.code != codeMissingFile || !strings.HasPrefix(missing.info, filePrefix) {
						t.Errorf("%q: %+v", text, missing)
					}
					continue
				}
				for v := range args.List() {
					v.Own()
				}
				for range args.ByName() {
				}
			}
		}
	})
}

func TestFalsy(t *testing.T) {
	for text, want := range map[string]bool{
		"null": true, "false": true, "0": true, "0.0": true, "-0": true, "0e5": true, `""`: true, "[]": true, "{}": true, "[ ]": true,
		"true": false, "1": false, "0.1": false, `"0"`: false, "[0]": false, `{"":0}`: false, "1e999": false, "NaN": false,
	} {
		v, err := rpc.Parse([]byte(text))
		if err != nil {
			t.Fatal(text, err)
		}
		if got := falsy(v); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestNames(t *testing.T) {
	table := rpc.NewTable()
	row := func(name string) *rpc.Method {
		return rpc.NewMethod(&rpc.Method{Name: name}, func(*rpc.Call) (rpc.Value, error) { return rpc.Null, nil })
	}
	table.MustAdd(row("echo"), row("far.hub_sleep"), row("far_hub.wait"), row("far_hub.sleep_long"), row("demo.file_info"), row("a_b"), row("far.only"))
	if err := table.Mount("far_away", func(name string) *rpc.Method { return row(name) }); err != nil {
		t.Fatal(err)
	}
	table.MustAdd(row("far.away_from"))
	for name, want := range map[string]string{
		"echo": "echo", "far_hub_sleep": "far.hub_sleep", "far.hub_sleep": "far.hub_sleep", "far_hub_wait": "far_hub.wait", "far_hub.sleep": "",
		"far_away_x_y": "far_away.x_y", "far_away_from": "far.away_from", "far.away_from": "far.away_from",
		"far_hub_sleep_long": "far_hub.sleep_long", "demo_file_info": "demo.file_info", "a_b": "a_b", "a.b": "", "far_only": "far.only",
		"": "", "_echo": "", "__class__": "", "echo_": "", "demo": "", "demo_": "", "demo.file.info": "", "far_hub_none": "", "far_hub_": "", "_": "", "demo__file_info": "",
	} {
		got := ""
		if m := lookup(table, name); m != nil {
			got = m.Name
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}
