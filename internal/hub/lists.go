package hub

import "github.com/hubd-dev/hubd/internal/rpc"

// Lists of what others have made come in pages: what one user stores must not
// make the answers to all others grow without limit. A page ends at a number of
// rows or of bytes; whoever wants all asks for what comes after its last row,
// until a page is empty.
const (
	pageRows  = 1000    // of a page, unless the caller says how many
	maxRows   = 10000   // that it may say
	pageBytes = 1 << 20 // about; a row is never cut
)

// checkRows checks how many rows a caller wants.
func checkRows(limit int) error {
	if limit < 1 || limit > maxRows {
		return rpc.Errorf(rpc.CodeInvalidParams, "argument \"limit\": expected 1 to %d", maxRows)
	}
	return nil
}

// cut returns the first rows of a list, at most limit.
func cut[T any](list []T, limit int) []T { return list[:min(len(list), limit)] }
