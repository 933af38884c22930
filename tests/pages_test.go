package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
}

func TestExamplesOfPages(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	d.linkDefaultSocket()
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
	out, err := x.command(ctx, t, d).CombinedOutput()
	return string(out), err
}

// command returns the program as a command for d.
func (x example) command(ctx context.Context, t *testing.T, d *daemon) *exec.Cmd {
	t.Helper()
	if x.npm == "" {
		cmd := pythonCommand(ctx, needPython(t), "-c", d.addressed(x.find(t, "python")))
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+d.dir)
		return cmd
	}
	dir := needNode(t, x.npm)
	program := d.addressed(x.find(t, "js"))
	if name, other, ok := strings.Cut(x.rename, "="); ok {
		program = strings.ReplaceAll(program, `from "`+name+`"`, `from "`+other+`"`)
	}
	cmd := exec.CommandContext(ctx, "node", "--input-type=module", "-")
	cmd.Dir = dir // packages are looked up from there
	cmd.Stdin = strings.NewReader(program)
	return cmd
}

// The providers of docs/providers.md run, and the page's commands get from each
// of them what the page has.
func TestProvidersOfPage(t *testing.T) {
	t.Parallel()
	for name, x := range map[string]example{
		"native":  {has: "rpc_reply"},
		"kkrpc":   {has: "WebSocketClientIO", npm: "kkrpc", rename: "kkrpc=kkrpc-0.2.2"},
		"capnweb": {has: "RpcTarget", npm: "capnweb"},
	} {
		t.Run(name, func(t *testing.T) {
			x.page = "providers.md"
			d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
			d.linkDefaultSocket()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			provider, said := x.command(ctx, t, d), new(logBuffer)
			provider.Stdout, provider.Stderr = said, said
			if err := provider.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				provider.Wait()
				close(ended)
			}()
			defer func() {
				provider.Process.Kill()
				<-ended
			}()
			for strings.Contains(d.shell("hubctl describe weather.today"), "no such method") {
				select {
				case <-ended:
					t.Fatalf("the provider ended: %v\n%s", provider.ProcessState, said)
				case <-time.After(50 * time.Millisecond): // between two attempts
				}
			}
			for command, want := range transcript(t, "docs/providers.md", 0) {
				// Providers put blanks into their JSON or not: krpc answers with it as it is.
				without := strings.NewReplacer(" ", "").Replace
				if got := strings.TrimRight(d.shell(d.addressed(command)), "\n"); without(got) != without(want) {
					t.Errorf("$ %s\ngot:\n%s\nwant:\n%s\nthe provider:\n%s", command, got, want, said)
				}
			}
		})
	}
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
	program = strings.ReplaceAll(program, "127.0.0.1:7420", d.tcpAddress())
	return strings.ReplaceAll(program, `("127.0.0.1", 7420)`, `("`+host+`", `+port+`)`)
}
