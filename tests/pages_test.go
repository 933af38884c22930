package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The programs that the pages of the protocols show are run as they are
// printed, but for the address of the hub, and with what they import: the
// standard library of Python, or the npm packages of interop/.

// example is a program of a page.
type example struct {
	page   string // in docs/
	has    string // a text that only this program of its page has
	npm    string // folder of interop/ with its npm packages; "" for Python
	rename string // import of the page and the package that stands for it: "kkrpc=kkrpc-0.2.2"
	more   string // code behind it
	want   string // output, "..." for a text that is not promised, but never at its end
}

var examples = []example{
	{page: "frame-format.md", has: "socket.AF_UNIX", want: "{'text': 'hello'}"},
	{page: "krpc.md", has: "def call(", want: "42"},
	{page: "snekrpc.md", has: "struct.pack", want: "['DataMessage', 42]"},
	{page: "capnweb.md", has: "state.watch", npm: "capnweb",
		want: "3\n{ id: 'u_1', bio: ... }\n[ 10, 11, 12 ]\n7\nnew"},
	{page: "kkrpc.md", has: "WebSocketClientIO", npm: "kkrpc", rename: "kkrpc=kkrpc-0.2.2",
		want: "3 hi me\ntick 0\ntick 1\ntick 2\ndark"},
	{page: "providers.md", has: "RpcTarget", npm: "capnweb",
		more: "console.log((await hub.weather.today('Oslo')).days); hub[Symbol.dispose]();", want: "1"},
}

func TestExamplesOfPages(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	for _, x := range examples {
		t.Run(x.page, func(t *testing.T) {
			if open("", x.want) {
				t.Error("what it prints is promised to its end")
			}
			got, err := x.run(t, d)
			if err != nil || !similar(strings.TrimRight(got, "\n"), x.want) {
				t.Errorf("%v\ngot:\n%s\nwant:\n%s", err, got, x.want)
			}
		})
	}
}

// run runs the program against d and returns what it prints.
func (x example) run(t *testing.T, d *daemon) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	language := "python"
	if x.npm != "" {
		language = "js"
	}
	program := d.addressed(x.find(t, language)) + "\n" + x.more
	if language == "python" {
		out, err := pythonCommand(ctx, needPython(t), "-c", program).CombinedOutput()
		return string(out), err
	}
	dir := needNode(t, x.npm)
	if name, other, ok := strings.Cut(x.rename, "="); ok {
		program = strings.ReplaceAll(program, `from "`+name+`"`, `from "`+other+`"`)
	}
	if !strings.Contains(program, "globalThis.WebSocket") { // a page says it once
		program = "import { WebSocket } from \"ws\";\nglobalThis.WebSocket ??= WebSocket;\n" + program
	}
	cmd := exec.CommandContext(ctx, "node", "--input-type=module", "-")
	cmd.Dir = dir // packages are looked up from there
	cmd.Stdin = strings.NewReader(program)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// find returns the program of the page.
func (x example) find(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", x.page))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(text), "```"+language+"\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if strings.Contains(block, x.has) {
			return block
		}
	}
	t.Fatalf("docs/%s has no program in %s with %q", x.page, language, x.has)
	return ""
}

// addressed puts the addresses of d in the place of those that the pages use.
func (d *daemon) addressed(program string) string {
	host, port, _ := strings.Cut(d.tcpAddress(), ":")
	program = strings.ReplaceAll(program, "/run/user/1000/hubd/hub.sock", d.socket)
	program = strings.ReplaceAll(program, "127.0.0.1:7420", d.tcpAddress())
	return strings.ReplaceAll(program, `("127.0.0.1", 7420)`, `("`+host+`", `+port+`)`)
}
