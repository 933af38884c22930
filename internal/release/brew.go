package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// downloads is where the files of a release are fetched from.
const downloads = "https://github.com/hubd-dev/hubd/releases/download/"

// formula writes hubd.rb for Homebrew: hubd and hubctl on Linux, hubctl alone on
// macOS, whose archives it names with their sums. The archives of all four are
// needed; without them there is no formula.
func (r *release) formula() error {
	type source struct{ URL, Sum string }
	sources := map[string]source{}
	for _, t := range []tree{
		{goos: "linux", arch: "amd64"}, {goos: "linux", arch: "arm64"},
		{goos: "darwin", arch: "amd64"}, {goos: "darwin", arch: "arm64"},
	} {
		name := r.nameOf(t) + ".tar.gz"
		sum, err := sumOf(filepath.Join(r.out, name))
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		sources[t.goos+"_"+t.arch] = source{downloads + "v" + r.version + "/" + name, sum}
	}
	var text strings.Builder
	if err := formulaText.Execute(&text, map[string]any{"Version": r.version, "Sources": sources}); err != nil {
		return fmt.Errorf("formula: %w", err)
	}
	return os.WriteFile(filepath.Join(r.out, "hubd.rb"), []byte(text.String()), 0o644)
}

var formulaText = template.Must(template.New("hubd.rb").Parse(`class Hubd < Formula
  desc "Hub in which programs call each other and share state"
  homepage "https://github.com/hubd-dev/hubd"
  version "{{.Version}}"
  license "MIT"

  on_macos do
    on_arm do
      url "{{.Sources.darwin_arm64.URL}}"
      sha256 "{{.Sources.darwin_arm64.Sum}}"
    end
    on_intel do
      url "{{.Sources.darwin_amd64.URL}}"
      sha256 "{{.Sources.darwin_amd64.Sum}}"
    end
  end

  on_linux do
    on_arm do
      url "{{.Sources.linux_arm64.URL}}"
      sha256 "{{.Sources.linux_arm64.Sum}}"
    end
    on_intel do
      url "{{.Sources.linux_amd64.URL}}"
      sha256 "{{.Sources.linux_amd64.Sum}}"
    end
  end

  def install
    bin.install Dir["usr/bin/*"]
    man1.install Dir["usr/share/man/man1/*"]
    man5.install Dir["usr/share/man/man5/*"]
    man8.install Dir["usr/share/man/man8/*"]
    bash_completion.install "usr/share/bash-completion/completions/hubctl"
    zsh_completion.install "usr/share/zsh/site-functions/_hubctl"
    fish_completion.install "usr/share/fish/vendor_completions.d/hubctl.fish"
  end

  def caveats
    if OS.mac?
      "The hub itself runs on Linux; hubctl reaches it over TLS or a forwarded socket (hubctl context --help)."
    else
      "hubd service install sets up the hub of this user under systemd."
    end
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/hubctl --version")
  end
end
`))
