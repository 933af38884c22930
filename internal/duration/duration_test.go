package duration

import (
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "0d": 0, "500ms": 500 * time.Millisecond, "1m30s": 90 * time.Second, "12h": 12 * time.Hour, "1.5h": 90 * time.Minute,
		"90d": 90 * Day, "2w": 2 * Week, "1w2d3h": Week + 2*Day + 3*time.Hour, "0.5d": 12 * time.Hour, "1d12h": 36 * time.Hour,
		"-5s": -5 * time.Second, "-1d": -Day, "36500d": Max, "7µs": 7 * time.Microsecond,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "is no time", "x": "is no time", "5": "has no unit", "1.5": "has no unit", "d": "is no time", "5y": "is no time", "1h2d": "is no time", "--5s": "is no time",
		"1d-5s": "is no time", "1d+5s": "is no time", "-": "is no time", "1e3d": "is no time", "infd": "is no time", "nand": "is no time", "5 d": "is no time", "0x1d": "is no time",
		"36501d": "more than 100 years", "876001h": "more than 100 years", "36500d1ns": "more than 100 years", "99999999999999999999d": "more than 100 years",
		"99999999999999999999h": "more than 100 years", "5000w1000w": "more than 100 years",
	} {
		if got, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is %v, %v, want an error with %q", text, got, err, want)
		}
	}
}
