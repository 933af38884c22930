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
			path, err := exec.LookPath(sh.name)
			if err != nil {
				t.Skipf("%s is not installed", sh.name)
			}
			if sh.need != "" {
				if _, err := os.Stat(sh.need); err != nil {
					t.Skipf("%v (Debian: bash-completion)", err)
				}
			}
			sh.completes(t, path)
		})
	}
}

func (sh shellUnderTest) completes(t *testing.T, path string) {
	d := startDaemon(t)
	env := append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "TERM=xterm", "LANG=C.UTF-8", "SCRIPT="+filepath.Join(d.dir, "script"), "ZDOTDIR="+d.dir)
	script := exec.Command(filepath.Join(binDir, "hubctl"), "completion", sh.name)
	script.Env = env
	text, err := script.Output()
	if err != nil {
		t.Fatal(err)
	}
	put := exec.Command(filepath.Join(binDir, "hubctl"), "state", "put", "in/box", "1")
	put.Env = env
	if out, err := put.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := filepath.Join(d.dir, sh.file)
	for name, text := range map[string][]byte{"script": text, sh.file: []byte(sh.rc), "precious.backup": nil} {
		if err := os.WriteFile(filepath.Join(d.dir, name), text, 0o600); err != nil {
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
