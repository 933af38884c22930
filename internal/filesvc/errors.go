package filesvc

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// names are the classes that Python has for errors of the operating system;
// all others are OSError.
var names = map[syscall.Errno]string{
	syscall.ENOENT:  "FileNotFoundError",
	syscall.EEXIST:  "FileExistsError",
	syscall.EISDIR:  "IsADirectoryError",
	syscall.ENOTDIR: "NotADirectoryError",
	syscall.EACCES:  "PermissionError",
	syscall.EPERM:   "PermissionError",
}

// failed turns an error about path, as the client gave it, into one for the
// client. It shows nothing of where the folder is.
func failed(err error, path string) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok { // what os.Root says of paths that lead out
		return denied(path)
	}
	name := names[errno]
	if name == "" {
		name = "OSError"
	}
	text := errno.Error()
	return rpc.HandlerError(name, fmt.Sprintf("[Errno %d] %s%s: %s", int(errno), strings.ToUpper(text[:1]), text[1:], quote(path))).Because(err)
}

// denied is the error for a path that leads out of the folder.
func denied(path string) *rpc.Error {
	return rpc.HandlerError("OSError", "Permission denied: '"+rpc.CleanText(path, maxShown)+"'")
}

// maxShown bounds a path in an error.
const maxShown = 512

// quote writes a path as Python shows a string.
func quote(path string) string {
	path = rpc.CleanText(path, maxShown)
	mark := "'"
	if strings.Contains(path, "'") && !strings.Contains(path, `"`) {
		mark = `"`
	}
	var b strings.Builder
	b.WriteString(mark)
	for _, r := range path {
		switch {
		case string(r) == mark:
			b.WriteString(`\` + mark)
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError || !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + mark
}
