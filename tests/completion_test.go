package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// shellUnderTest is how one shell is made to complete hubctl: by rc, which it
// reads as its own start file, with the script at $SCRIPT.
type shellUnderTest struct {
	name string
	args []string // RC stands for the path of the start file
	file string   // its name, below the home folder
	rc   string
	need string // a file without which there is no completion
}

var shells = []shellUnderTest{
	{
		name: "bash", args: []string{"--noprofile", "--rcfile", "RC", "-i"}, file: "rc",
		rc:   "PS1='ready> '; unset HISTFILE; bind 'set enable-bracketed-paste off'\n. /usr/share/bash-completion/bash_completion\n. \"$SCRIPT\"\n",
		need: "/usr/share/bash-completion/bash_completion",
	},
	{
		// As from a package: found in fpath by its name.
		name: "zsh", args: []string{"--no-globalrcs", "-i"}, file: ".zshrc",
		rc: "PS1='ready> '; unset zle_bracketed_paste; cp \"$SCRIPT\" ~/_hubctl; fpath=(~ $fpath)\nautoload -U compinit; compinit -u -D; bindkey -e\n",
	},
	{
		name: "fish", args: []string{"--no-config", "-i", "-C", "source RC"}, file: "rc",
		rc: "set -g fish_greeting; function fish_prompt; echo -n 'ready> '; end\nsource $SCRIPT\n",
	},
}

// The completions work in the shells themselves: somebody types on a terminal,
// presses Tab, and the words are there; a hub that runs is asked for them.
func TestCompletion(t *testing.T) {
	t.Parallel()
	programs(t)
	for _, sh := range shells {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			sh.completes(t, sh.path(t))
		})
	}
}

// path is where the shell is.
func (sh shellUnderTest) path(t *testing.T) string {
	path, err := exec.LookPath(sh.name)
	if err != nil {
		t.Skipf("%s is not installed", sh.name)
	}
	if sh.need != "" {
		if _, err := os.Stat(sh.need); err != nil {
			t.Skipf("%v (Debian: bash-completion)", err)
		}
	}
	return path
}

func (sh shellUnderTest) completes(t *testing.T, path string) {
	d := startDaemon(t)
	env := sh.env(d)
	hubctl(t, env, "state", "put", "in/box", "1")
	x := sh.start(t, d, path, env)
	for typed, want := range map[string]string{
		"hubctl publ":                 "<hubctl><publish>",
		"hubctl --outp":               "<hubctl><--output",
		"hubctl call demo.sle":        "<hubctl><call><demo.sleep>",
		"hubctl call math.add a:=1 b": "<hubctl><call><math.add><a:=1><b:=",
		"hubctl demo sle":             "<hubctl><demo><sleep>",
		"hubctl attach dem":           "<hubctl><attach><demo>",
		"hubctl state get in/b":       "<hubctl><state><get><in/box>",
		"hubctl state restore prec":   "<hubctl><state><restore><precious.backup>",
		"hubctl log-level deb":        "<hubctl><log-level><debug>",
	} {
		// Completed, and then made the arguments of a command that shows them.
		x.typeKeys(typed + "\t")
		x.typeKeys("\x01printf '<%s>' \r")
		x.sees(want)
	}
	x.typeKeys("exit\r")
	<-x.exited
}

// env is the environment in which the shell runs.
func (sh shellUnderTest) env(d *daemon) []string {
	return append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "TERM=xterm", "LANG=C.UTF-8",
		"SCRIPT="+filepath.Join(d.dir, "script"), "ZDOTDIR="+d.dir)
}

// start runs the shell, with hubctl's script, in the folder of d.
func (sh shellUnderTest) start(t *testing.T, d *daemon, path string, env []string) *terminal {
	t.Helper()
	script := hubctl(t, env, "completion", sh.name)
	file := filepath.Join(d.dir, sh.file)
	for name, text := range map[string]string{"script": script, sh.file: sh.rc, "precious.backup": ""} {
		if err := os.WriteFile(filepath.Join(d.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path)
	for _, arg := range sh.args {
		cmd.Args = append(cmd.Args, strings.Replace(arg, "RC", file, 1))
	}
	cmd.Env, cmd.Dir = env, d.dir
	x := commandOnTerminal(t, cmd, 100, 40)
	x.sees("ready>")
	return x
}

// hubctl runs hubctl and returns its stdout.
func hubctl(t *testing.T, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir, "hubctl"), args...)
	cmd.Env = env
	var out, complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("hubctl %q: %v\n%s", args, err, complaints.String())
	}
	return out.String()
}

// Names of keys and files are chosen by others: Tab runs nothing of them, in no
// shell, and neither does it run words that somebody has quoted.
func TestCompletionRunsNothing(t *testing.T) {
	t.Parallel()
	programs(t)
	for _, sh := range shells {
		t.Run(sh.name, func(t *testing.T) {
			t.Parallel()
			path := sh.path(t)
			files := shortDir(t)
			d := startDaemon(t, "--file-root", files)
			env := sh.env(d)
			for _, attack := range []string{"$(id>pwned)", "`id>pwned`", "(id>pwned)", "';id>pwned;'", "\";id>pwned;\"", "&id>pwned&", "{a,b};id>pwned"} {
				for _, end := range []string{"/a", "/b"} {
					hubctl(t, env, "state", "put", "conf/"+attack+end, "1")
					if err := os.MkdirAll(filepath.Join(files, "conf", attack+end), 0o700); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, end := range []string{"/a", "/b"} { // alone below its name: its beginning is common to all
				hubctl(t, env, "state", "put", "only/$(id>pwned)"+end, "1")
				hubctl(t, env, "state", "put", "quoted/(id>pwned)"+end, "1")
				hubctl(t, env, "state", "put", "--text", "--", "--socket=/evil"+end, "1")
				if err := os.MkdirAll(filepath.Join(files, "only", "$(id>pwned)"+end), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			hubctl(t, env, "state", "put", "safe/one", "1")
			x := sh.start(t, d, path, env)
			for _, typed := range []string{
				"hubctl state get conf", "hubctl state get only", "hubctl state get quoted", "hubctl state get conf/", "hubctl state get only/",
				"hubctl file get conf", "hubctl file get only", "hubctl file get conf/", "hubctl file get only/",
				"hubctl state put safe/one '(id>pwned)' ", "hubctl state put safe/one '$(id>pwned)' ",
			} {
				x.typeKeys(typed + "\t\t\t")
				x.typeKeys("\x15") // and the line is dropped
			}
			// What was typed last comes out when all before was done with.
			x.typeKeys("hubctl state get saf\t")
			x.typeKeys("\x01printf '<%s>' \r")
			x.sees("<hubctl><state><get><safe/one>")
			x.typeKeys("hubctl state get \t\t\x15exit\r")
			<-x.exited
			if strings.Contains(x.wrote(), "/evil") {
				t.Error("a key that looks like a flag is offered")
			}
			if _, err := os.Stat(filepath.Join(d.dir, "pwned")); err == nil {
				t.Errorf("%s ran what a name says:\n%s", sh.name, x.wrote())
			}
		})
	}
}

// The script for PowerShell evaluates the line, as the others do, and inserts
// what it is offered as it is. What it is offered has no character that
// PowerShell gives a meaning in the middle of a word.
func TestCompletionOffersOnlyPlainWords(t *testing.T) {
	t.Parallel()
	programs(t)
	d := startDaemon(t)
	env := append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket)
	for c := '!'; c <= '~'; c++ {
		hubctl(t, env, "state", "put", "--", "k"+string(c)+"k", "1")
	}
	hubctl(t, env, "state", "put", "küß", "1")
	if script := hubctl(t, env, "completion", "powershell"); !strings.Contains(script, "__complete") {
		t.Fatal("the script for PowerShell does not ask hubctl")
	}
	want := ""
	for c := '!'; c <= '~'; c++ {
		if strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/:@%+=,-", c) {
			want += "k" + string(c) + "k\n"
		}
	}
	if got := hubctl(t, env, "__complete", "state", "get", "k"); got != want+":4\n" {
		t.Errorf("the candidates are\n%swant\n%s", got, want)
	}
}
