// Package duration reads times as people write them: on command lines, in
// variables and in configuration files alike.
package duration

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Day and Week are units that package time does not have.
const (
	Day  = 24 * time.Hour
	Week = 7 * Day
)

// Max is the longest time that is taken: 100 years.
const Max = 100 * 365 * Day

// Parse reads a number with a unit, or several in a row: 500ms, 1m30s, 12h, 90d,
// 2w, 1d12h. Units are those of time.ParseDuration, and d and w; 0 needs none.
func Parse(s string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(s, "-")
	var total time.Duration
	for {
		i := strings.IndexAny(rest, "dw")
		if i < 0 {
			break
		}
		n, err := strconv.ParseFloat(rest[:i], 64)
		if err != nil || strings.Trim(rest[:i], "0123456789.") != "" {
			return 0, notOne(s)
		}
		unit := Day
		if rest[i] == 'w' {
			unit = Week
		}
		if n *= float64(unit); n > float64(Max) {
			return 0, tooLong(s)
		}
		total += time.Duration(n)
		if rest = rest[i+1:]; total > Max {
			return 0, tooLong(s)
		}
	}
	if rest != "" || total == 0 && !strings.ContainsAny(s, "dw") {
		if strings.HasPrefix(rest, "-") || strings.HasPrefix(rest, "+") {
			return 0, notOne(s)
		}
		d, err := time.ParseDuration(rest)
		if err != nil {
			if digits := strings.TrimRight(rest, "nuµμmsh"); digits != "" && strings.Trim(rest, "0123456789.nuµμmsh") == "" && len(digits) > 12 {
				return 0, tooLong(s)
			}
			return 0, notOne(s)
		}
		if total += d; d > Max || total > Max {
			return 0, tooLong(s)
		}
	}
	if negative {
		total = -total
	}
	return total, nil
}

func notOne(s string) error {
	if s != "" && strings.Trim(s, "0123456789.") == "" {
		return fmt.Errorf("%q has no unit, as in %ss, %sm or %sh", s, s, s, s)
	}
	return fmt.Errorf("%q is no time, such as 500ms, 30s, 12h or 90d", s)
}

func tooLong(s string) error { return fmt.Errorf("%q is more than 100 years", s) }
