package krpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const (
	typeJSON   = "application/json"
	typeBinary = "application/octet-stream" // exactly: clients compare the whole header
)

// head begins an answer. length is -1 where the end of the connection or a
// chunked body tells it.
func (x *exchange) head(status int, phrase, contentType string, length int64) []byte {
	version := "HTTP/1.1"
	if !x.r.ProtoAtLeast(1, 1) {
		version = "HTTP/1.0"
	}
	if phrase == "" {
		phrase = http.StatusText(status)
	}
	b := fmt.Appendf(make([]byte, 0, 512), "%s %03d %s\r\nDate: %s\r\nContent-Type: %s\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n",
		version, status, phrase, time.Now().UTC().Format(http.TimeFormat), contentType)
	switch {
	case length >= 0:
		b = strconv.AppendInt(append(b, "Content-Length: "...), length, 10)
		b = append(b, "\r\n"...)
	case x.r.ProtoAtLeast(1, 1):
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	var above bytes.Buffer // what handlers before this one want to be said
	_ = x.w.Header().WriteSubset(&above, ownHeaders)
	return append(append(b, above.Bytes()...), "\r\n"...)
}

// ownHeaders are those that head writes.
var ownHeaders = map[string]bool{
	"Date": true, "Content-Type": true, "X-Content-Type-Options": true, "Connection": true, "Content-Length": true, "Transfer-Encoding": true,
}

// answer writes a whole answer. An error means that the client is gone.
func (x *exchange) answer(status int, phrase, contentType string, body []byte) {
	head := x.head(status, phrase, contentType, int64(len(body)))
	if o := x.server.conf.Observer; o != nil {
		o.MessageOut(int64(len(body)))
	}
	if len(body) < 64<<10 {
		_, _ = x.conn.Write(append(head, body...))
		return
	}
	if _, err := x.conn.Write(head); err == nil {
		_, _ = x.conn.Write(body)
	}
}

func (x *exchange) answerRefusal(r refusal) {
	x.answer(r.status, r.phrase, "text/plain; charset=utf-8", []byte(r.text+"\n"))
}

// answerFailure answers with an error of the protocol.
func (x *exchange) answerFailure(f *failure) {
	b := fmt.Appendf(nil, `{"error": {"code": %d, "message": %q`, f.code, messages[f.code])
	if f.info != "" {
		b = append(b, `, "info": `...)
		b = rpc.AppendString(b, f.info, true)
	}
	x.answer(http.StatusOK, "", typeJSON, append(b, "}}"...))
}

// answerError answers with an error of the core.
func (x *exchange) answerError(e *rpc.Error) {
	if e.Code == rpc.CodeTooLarge && e.Ran == rpc.RanNo {
		x.refused(ReasonTooLarge)
		x.answerRefusal(refusal{status: http.StatusRequestEntityTooLarge, text: e.Text()})
		return
	}
	x.answerFailure(failureOf(e))
}

// failureOf turns an error of the core into one of the protocol.
func failureOf(e *rpc.Error) *failure {
	switch e.Code {
	case rpc.CodeNotFound:
		if e.Method != "" {
			return &failure{code: codeNoMethod}
		}
	case rpc.CodeSerialization, rpc.CodeTooLarge: // too large after the method has run is its result
		return &failure{codeNoJSON, e.Text()}
	case rpc.CodeHandler:
		if e.Name != "" {
			return &failure{codeRaised, e.Name + ": " + e.Text()}
		}
		return &failure{codeRaised, e.Text()}
	case rpc.CodeDeadlineExceeded:
		return &failure{codeRaised, string(e.Code) + ": timeout: " + e.Text()}
	case rpc.CodeInternal:
		return &failure{codeRaised, string(e.Code) + ": internal error"}
	}
	return &failure{codeRaised, string(e.Code) + ": " + e.Text()}
}

// answerFile answers with the bytes of a file.
func (x *exchange) answerFile(f *rpc.File) {
	src, err := f.Open()
	if err != nil {
		x.answerError(&rpc.Error{Code: rpc.CodeInternal, Message: "internal error"})
		return
	}
	defer src.Close()
	if _, err := x.conn.Write(x.head(http.StatusOK, "", typeBinary, f.Size)); err != nil {
		return
	}
	n, _ := io.CopyN(x.conn, src, f.Size)
	if o := x.server.conf.Observer; o != nil {
		o.MessageOut(n)
	}
}

// answerStream answers with the bytes that a stream yields, as they come. An
// error before the first byte is answered as one. After it all that is left is
// to break off, which a chunked answer shows.
func (x *exchange) answerStream(s *rpc.Reader) {
	defer s.Close(rpc.ErrPeerGone)
	var sent int64
	defer func() {
		if o := x.server.conf.Observer; o != nil && sent > 0 {
			o.MessageOut(sent)
		}
	}()
	var out io.Writer = x.conn
	var chunks io.WriteCloser
	if x.r.ProtoAtLeast(1, 1) {
		chunks = httputil.NewChunkedWriter(x.conn)
		out = chunks
	}
	begun := false
	for {
		v, ok, err := s.Recv(context.Background()) // the stream ends with its call
		var data []byte
		if err == nil && ok {
			data, err = v.AsBytes()
		}
		if err != nil {
			if begun {
				x.breakOff()
				return
			}
			e, isError := errors.AsType[*rpc.Error](err)
			if !isError {
				e = &rpc.Error{Code: rpc.CodeSerialization, Message: err.Error()}
			}
			x.answerError(e)
			return
		}
		if !begun {
			begun = true
			if _, err := x.conn.Write(x.head(http.StatusOK, "", typeBinary, -1)); err != nil {
				return
			}
		}
		if !ok {
			break
		}
		if len(data) == 0 {
			continue // as a chunk it would be the end
		}
		n, err := out.Write(data)
		sent += int64(n)
		if err != nil {
			return
		}
	}
	if chunks != nil {
		chunks.Close()
		_, _ = io.WriteString(x.conn, "\r\n")
	}
}

// breakOff makes a client that reads to the end of the connection see an error.
func (x *exchange) breakOff() {
	if c, ok := x.conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
	x.conn.Close()
}
