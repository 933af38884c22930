package krpc

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// read takes the request in: its call, and its files to the spool. A *failure
// is an answer of the protocol, any other error one of HTTP.
func (x *exchange) read() (*request, error) {
	if x.r.Method == http.MethodGet {
		x.size = int64(len(x.r.URL.RawQuery))
		if err := readForm(strings.NewReader(x.r.URL.RawQuery), &x.text, make([]byte, 4<<10)); err != nil {
			return nil, err
		}
		return parsed(x.text.b)
	}
	limits := &x.server.conf.Limits
	b := &body{x: x, declared: x.r.Body}
	defer func() { x.size = b.n }()
	kind := x.r.Header.Get("Content-Type")
	media, _, err := mime.ParseMediaType(kind)
	if err != nil {
		media, _, _ = strings.Cut(kind, ";")
		media = strings.ToLower(strings.TrimSpace(media))
	}
	switch media {
	case "application/x-www-form-urlencoded":
		b.max = 3*int64(limits.JSON) + overhead
		if x.r.ContentLength > b.max {
			return nil, errTooLarge
		}
		err = readForm(b, &x.text, make([]byte, 8<<10))
	case "application/json":
		b.max = int64(limits.JSON)
		if x.r.ContentLength > b.max {
			return nil, errTooLarge
		}
		err = x.readJSON(b)
	case "multipart/form-data":
		b.max = limits.Upload + int64(limits.JSON) + overhead
		b.lenient, b.slack = x.r.ContentLength >= 0, int64(len(boundaryOf(kind))+len("\r\n----\r\n\r\n"))
		if x.r.ContentLength > b.max {
			return nil, errTooLarge
		}
		err = x.readMultipart(b, boundaryOf(kind))
	default:
		err = errNoCall
	}
	if err != nil {
		return nil, err
	}
	return parsed(x.text.b)
}

func parsed(text []byte) (*request, error) {
	q, f := parseRequest(text)
	if f != nil {
		return nil, f
	}
	return q, nil
}

// readJSON takes a body that is the call itself.
func (x *exchange) readJSON(b *body) error {
	buf := make([]byte, 8<<10)
	for {
		n, err := b.Read(buf)
		if e := x.text.add(buf[:n]); e != nil {
			return e
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readMultipart takes a body with files.
func (x *exchange) readMultipart(b *body, boundary string) error {
	limits := &x.server.conf.Limits
	if !x.server.memory.take(windowSize) {
		return errBusy
	}
	defer x.server.memory.give(windowSize)
	m, err := newMultipart(b, boundary)
	if err != nil {
		return err
	}
	x.files = make(map[string]*rpc.File)
	upper := text{limit: limits.JSON, budget: &x.server.memory}
	defer upper.release()
	var hasLower, hasUpper bool
	var files storing
	last, err := m.skip()
	for n := 0; err == nil && !last; n++ {
		if n == limits.Parts {
			return errParts
		}
		var p part
		if p, err = m.head(limits.PartHeader); err != nil {
			break
		}
		sink := func([]byte) error { return nil }
		switch {
		case p.name == fieldJSON && !hasLower:
			hasLower, sink = true, x.text.add
		case p.name == fieldUpper && !hasUpper:
			hasUpper, sink = true, upper.add
		case strings.HasPrefix(p.name, filePrefix) && x.files[p.name] == nil:
			if files == undecided {
				if files, err = x.mayStore(hasLower); err != nil {
					return err
				}
			}
			if files == discard {
				x.files[p.name] = &rpc.File{Name: p.file, Open: notStored}
				break
			}
			from := x.upload.size
			last, err = m.data(func(data []byte) error {
				_, err := x.upload.Write(data)
				return err
			})
			x.files[p.name] = x.upload.file(p.file, from)
			continue
		}
		last, err = m.data(sink)
	}
	switch {
	case err != nil:
		return err
	case hasLower:
	case hasUpper:
		x.text, upper = upper, x.text
	default:
		return errNoCall
	}
	return nil
}

// storing says what becomes of the files of a request.
type storing uint8

const (
	undecided storing = iota
	keep
	discard // they are read, so that the request can be answered, and that is all
)

// mayStore decides when the first file begins. Whoever has yet to say who it is
// must have done so by then, and files of calls that cannot run are not kept.
func (x *exchange) mayStore(hasCall bool) (storing, error) {
	unknown := x.Peer != nil && x.Peer.Unauthenticated
	if x.server.conf.Spool == nil {
		return discard, nil
	}
	if !hasCall {
		if unknown {
			return discard, &failure{codeRaised, "unauthenticated: the call must come before its files"}
		}
		return keep, nil
	}
	q, f := parseRequest(x.text.b)
	if f != nil {
		if unknown {
			return discard, f
		}
		return discard, nil
	}
	if f := x.authenticate(q); f != nil {
		return discard, f
	}
	m := lookup(x.server.conf.Table, q.method)
	if m != nil && x.Peer.May(m) {
		return keep, nil
	}
	if unknown && (x.Peer == nil || x.Peer.Unauthenticated) {
		return discard, &failure{codeRaised, "unauthenticated: files need authentication"}
	}
	return discard, nil
}

func notStored() (io.ReadCloser, error) { return nil, errors.New("the file was not kept") }

// authenticate makes the peer of the call known, if its pmhparams can. It asks once.
func (x *exchange) authenticate(q *request) *failure {
	conf := &x.server.conf
	if x.asked || conf.Authenticate == nil || falsy(q.hook) {
		return nil
	}
	x.asked = true
	p, e := conf.Authenticate(x.r, q.hook)
	if e != nil {
		return failureOf(e)
	}
	if p != nil {
		x.Peer, x.proved = p, true
	}
	return nil
}

// refusal is an answer of HTTP to what is no call.
type refusal struct {
	status int
	phrase string // of the status line; "" for the usual one
	text   string
	reason Reason
}

func (x *exchange) refusalOf(err error) (refusal, bool) {
	switch {
	case x.isStopping():
		return refusal{http.StatusServiceUnavailable, "", "The hub is shutting down.", ""}, true
	case errors.Is(err, errNoCall):
		return refusal{http.StatusBadRequest, "Missing 'json' parameter", "Missing 'json' parameter.", ReasonNoCall}, true
	case errors.Is(err, errCallTooLarge):
		return refusal{http.StatusRequestEntityTooLarge, "", sentence(err), ReasonCallTooLarge}, true
	case errors.Is(err, errTooLarge):
		return refusal{http.StatusRequestEntityTooLarge, "", sentence(err), ReasonTooLarge}, true
	case errors.Is(err, errParts), errors.Is(err, errPartHeader):
		return refusal{http.StatusBadRequest, "", sentence(err), ReasonParts}, true
	case errors.Is(err, errBoundary):
		return refusal{http.StatusBadRequest, "", sentence(err), ReasonMalformed}, true
	case errors.Is(err, errIncomplete), errors.Is(err, io.ErrUnexpectedEOF):
		return refusal{http.StatusBadRequest, "", "The body is not complete.", ReasonIncomplete}, true
	case errors.Is(err, errSpoolFull):
		return refusal{http.StatusInsufficientStorage, "", sentence(errSpoolFull), ReasonFull}, true
	case errors.Is(err, errBusy):
		return refusal{http.StatusServiceUnavailable, "", sentence(err), ReasonBusy}, true
	case errors.Is(err, errSlow):
		return refusal{http.StatusRequestTimeout, "", sentence(err), ReasonSlow}, true
	}
	return refusal{}, false
}

// sentence makes a sentence of the text of one of our own errors.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// refuse answers what is no call, or cannot be taken.
func (x *exchange) refuse(err error) {
	if r, ok := x.refusalOf(err); ok {
		if r.reason != "" {
			x.refused(r.reason)
		}
		x.answerRefusal(r)
		return
	}
	if _, ok := errors.AsType[*spoolFault](err); ok {
		x.answerFailure(&failure{codeUnhandled, "internal: the upload could not be kept"})
		return
	}
	x.refused(ReasonMalformed) // such as a chunk that is none, or a client that is gone
	x.answerRefusal(refusal{status: http.StatusBadRequest, text: "The body cannot be read."})
}

// spoolFault is an error of the spool that is not lack of room.
type spoolFault struct{ err error }

func (e *spoolFault) Error() string { return fmt.Sprintf("the spool cannot be written: %v", e.err) }
func (e *spoolFault) Unwrap() error { return e.err }
