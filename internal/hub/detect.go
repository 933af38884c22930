package hub

import (
	"bytes"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// sniffed is what the first bytes of a connection tell.
type sniffed uint8

const (
	unclear       sniffed = iota // more bytes are needed
	sniffedLines                 // native or kkrpc lines, as the listener says
	sniffedHTTP                  // HTTP/1.x
	sniffedFrames                // the length prefix of snekrpc
)

var httpMethods = [...]string{"GET ", "POST ", "PUT ", "HEAD ", "OPTIONS ", "TRACE ", "DELETE ", "PATCH ", "CONNECT ", "PRI "}

// longestMethod is how many bytes detect needs at most.
const longestMethod = len("OPTIONS ")

// detect says what begins with p. The end of the connection after an
// unclear p makes it sniffedLines.
func detect(p []byte) sniffed {
	if len(p) == 0 {
		return unclear
	}
	if strings.HasPrefix(rpc.BOM, string(p)) && len(p) < len(rpc.BOM) {
		return unclear
	}
	switch c := p[0]; {
	case bytes.HasPrefix(p, []byte(rpc.BOM)): // as a length it is above every limit
		return sniffedLines
	case c <= 0x08, c >= 0x0E && c <= 0x1F, c >= 0x7F:
		return sniffedFrames
	case c < 'A' || c > 'Z':
		return sniffedLines
	}
	for _, m := range httpMethods {
		if len(p) >= len(m) && string(p[:len(m)]) == m {
			return sniffedHTTP
		}
		if len(p) < len(m) && strings.HasPrefix(m, string(p)) {
			return unclear
		}
	}
	return sniffedLines
}
