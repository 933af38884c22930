package build

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestVersion(t *testing.T) {
	for main, want := range map[string]string{
		"v1.2.3": "1.2.3", "(devel)": Devel, "": Devel,
		"v0.0.0-20260102030405-0123456789ab+dirty": "0.0.0-20260102030405-0123456789ab+dirty",
	} {
		if got := moduleVersion(&debug.BuildInfo{Main: debug.Module{Version: main}}); got != want {
			t.Errorf("%q: %q, want %q", main, got, want)
		}
	}
	if got := moduleVersion(nil); got != Devel {
		t.Errorf("without build information: %q", got)
	}
	defer func() { release = "" }()
	if release = "1.2.3~rc1"; Version() != release {
		t.Errorf("a release says %q", Version())
	}
}

func TestRevision(t *testing.T) {
	info := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}}
	if commit, modified := vcsRevision(info); commit != "abc" || modified != "true" {
		t.Errorf("from the build information: %s %s", commit, modified)
	}
	if commit, modified := vcsRevision(nil); commit != "unknown" || modified != "unknown" {
		t.Errorf("without build information: %s %s", commit, modified)
	}
	defer func() { revision = "" }()
	for set, want := range map[string][2]string{"0123": {"0123", "false"}, "0123+dirty": {"0123", "true"}} {
		revision = set
		if commit, modified := Revision(); commit != want[0] || modified != want[1] {
			t.Errorf("a release of %s says %s %s", set, commit, modified)
		}
	}
}

func TestLine(t *testing.T) {
	tail := " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
	for want, got := range map[string]string{
		"hubd 1.2.3" + tail:                            line("hubd", "1.2.3", "unknown", "unknown"),
		"hubd 1.2.3 (0123456789ab)" + tail:             line("hubd", "1.2.3", "0123456789abcdef", "false"),
		"hubctl devel (0123456789ab, modified)" + tail: line("hubctl", Devel, "0123456789abcdef", "true"),
		"hubd 1.2.3 (01)" + tail:                       line("hubd", "1.2.3", "01", "false"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestSkewed(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"1.2.3", "1.2.3"}: false, {"1.2.3", "1.2.4"}: true, {"1.2.3~rc1", "1.2.3"}: true, {"1.2.3+7.abcdef", "1.2.3"}: true,
		{Devel, "1.2.3"}: false, {"1.2.3", ""}: false, {"1.2.3", "0.0.0-20260102030405-0123456789ab"}: false,
		{"1.2.4-0.20260102030405-0123456789ab+dirty", "1.2.3"}: false,
	} {
		if got := Skewed(pair[0], pair[1]); got != want {
			t.Errorf("%q: %v", pair, got)
		}
	}
}
