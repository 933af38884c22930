// Package nearest finds the names that a mistyped one may have been meant to be.
package nearest

import (
	"slices"
	"strings"
)

// Of returns up to n of the names that name may have been meant to be,
// best first.
func Of(name string, names []string, n int) []string {
	if len(name) > maxCompared {
		return nil
	}
	type candidate struct {
		name string
		cost int
	}
	var found []candidate
	lower := strings.ToLower(name)
	limit := max(1, len(name)/3)
	for _, other := range names {
		cost := distance(lower, strings.ToLower(other))
		// The right command in the wrong service, or a name without its service.
		if _, command, ok := strings.Cut(other, "."); ok && cost > limit {
			_, mine, dotted := strings.Cut(lower, ".")
			if !dotted {
				mine = lower
			}
			if d := distance(mine, strings.ToLower(command)); d <= max(0, len(mine)/4) {
				cost = min(limit, d+1)
			}
		}
		if cost <= limit {
			found = append(found, candidate{other, cost})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return a.cost - b.cost })
	var best []string
	for _, c := range found[:min(n, len(found))] {
		best = append(best, c.name)
	}
	return best
}

// maxCompared bounds the work of distance.
const maxCompared = 128

// distance counts the letters to add, drop, change or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	if len(a) > maxCompared || len(b) > maxCompared {
		return maxCompared
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
