package frame

import (
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// form is what the native wire carries beyond RFC 8259: Python's tokens.
var form = rpc.Form{NonFinite: true}

// The Append functions add one whole line, line feed included, to dst. An id is
// the JSON text of a request id; nil stands for the empty string. Where a value
// cannot be carried they return dst as it was, and an error.

// RequestOptions are the members of a request that may be left out.
type RequestOptions struct {
	Timeout float64 // seconds; 0 leaves it to the server (30 s)
	Stream  bool    // the caller takes the result as a stream
	Trace   rpc.TraceContext
	Hops    int // how often the call was forwarded
}

// AppendRequest adds a call. Undefined params are sent as {}.
func AppendRequest(dst, id []byte, method string, params rpc.Value, o RequestOptions) ([]byte, error) {
	from := len(dst)
	dst = append(dst, `{"action":"rpc_request","request_id":`...)
	dst = appendID(dst, id)
	dst = append(dst, `,"method":`...)
	dst = rpc.AppendString(dst, method, false)
	dst = append(dst, `,"params":`...)
	if params.IsUndefined() {
		dst = append(dst, "{}"...)
	} else {
		var err error
		if dst, err = params.AppendJSON(dst, form); err != nil {
			return dst[:from], err
		}
	}
	if o.Timeout > 0 {
		dst = append(dst, `,"timeout":`...)
		dst = rpc.AppendFloat(dst, o.Timeout, form)
	}
	if o.Stream {
		dst = append(dst, `,"stream":true`...)
	}
	if o.Trace.Parent != "" {
		dst = append(dst, `,"traceparent":`...)
		dst = rpc.AppendString(dst, o.Trace.Parent, false)
		if o.Trace.State != "" {
			dst = append(dst, `,"tracestate":`...)
			dst = rpc.AppendString(dst, o.Trace.State, false)
		}
	}
	if o.Hops > 0 {
		dst = append(dst, `,"hops":`...)
		dst = strconv.AppendInt(dst, int64(o.Hops), 10)
	}
	return append(dst, "}\n"...), nil
}

// AppendReply adds the answer of a call that went well.
func AppendReply(dst, id []byte, result rpc.Value) ([]byte, error) {
	from := len(dst)
	dst = append(dst, `{"action":"rpc_reply","request_id":`...)
	dst = appendID(dst, id)
	dst = append(dst, `,"result":`...)
	dst, err := result.AppendJSON(dst, form)
	if err != nil {
		return dst[:from], err
	}
	return append(dst, `,"error":null,"error_kind":null}`+"\n"...), nil
}

// Failure is the content of an error reply.
type Failure struct {
	Kind  string
	Text  string    // never empty
	Retry string    // safe, unsafe or unknown; "" for a client that knows five members only
	Data  rpc.Value // sent with Retry, when defined and carriable
	// NoMethod says, with Retry, that it is the method itself that does not exist.
	NoMethod bool
}

// AppendFailure adds the answer of a call that failed.
func AppendFailure(dst, id []byte, e Failure) []byte {
	dst = append(dst, `{"action":"rpc_reply","request_id":`...)
	dst = appendID(dst, id)
	dst = append(dst, `,"result":null,"error":`...)
	dst = rpc.AppendString(dst, e.Text, false)
	dst = append(dst, `,"error_kind":`...)
	dst = rpc.AppendString(dst, e.Kind, false)
	if e.Retry != "" {
		if !e.Data.IsUndefined() {
			at := len(dst)
			dst = append(dst, `,"error_data":`...)
			var err error
			if dst, err = e.Data.AppendJSON(dst, form); err != nil || len(dst)-at > MaxLine/2 {
				dst = dst[:at]
			}
		}
		dst = append(dst, `,"retry":`...)
		dst = rpc.AppendString(dst, e.Retry, false)
		if e.NoMethod {
			dst = append(dst, `,"no_method":true`...)
		}
	}
	return append(dst, "}\n"...)
}

// AppendChunk adds one item of a stream; the first of a stream has seq 1.
func AppendChunk(dst, id []byte, seq uint64, data rpc.Value) ([]byte, error) {
	from := len(dst)
	dst = append(dst, `{"action":"rpc_chunk","request_id":`...)
	dst = appendID(dst, id)
	dst = append(dst, `,"seq":`...)
	dst = strconv.AppendUint(dst, seq, 10)
	dst = append(dst, `,"data":`...)
	dst, err := data.AppendJSON(dst, form)
	if err != nil {
		return dst[:from], err
	}
	return append(dst, "}\n"...), nil
}

// AppendEnd adds the end of the caller's stream. failure says that it broke
// off; it is "" for a regular end.
func AppendEnd(dst, id []byte, failure string) []byte {
	dst = append(dst, `{"action":"rpc_end","request_id":`...)
	dst = appendID(dst, id)
	if failure != "" {
		dst = append(dst, `,"error":`...)
		dst = rpc.AppendString(dst, failure, false)
	}
	return append(dst, "}\n"...)
}

// AppendCredit adds leave to send n more items of the stream.
func AppendCredit(dst, id []byte, n int) []byte {
	dst = append(dst, `{"action":"rpc_credit","request_id":`...)
	dst = appendID(dst, id)
	dst = append(dst, `,"n":`...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, "}\n"...)
}

// AppendCancel adds the wish that the call end.
func AppendCancel(dst, id []byte) []byte {
	dst = append(dst, `{"action":"rpc_cancel","request_id":`...)
	dst = appendID(dst, id)
	return append(dst, "}\n"...)
}

// AppendPing adds the question whether the hub is there.
func AppendPing(dst []byte) []byte { return append(dst, `{"action":"ping"}`+"\n"...) }

// AppendGoodbye adds the client's word that it leaves and will not come back.
func AppendGoodbye(dst []byte) []byte { return append(dst, `{"action":"goodbye"}`+"\n"...) }

// Greeting is the content of both hello frames.
type Greeting struct {
	Version  int
	Features []string
	Identity string // of the client, or of the session behind the socket; may be ""
	Name     string // client only: what program it is; may be ""
	Token    string // client only; may be ""
	Server   string // server only: name/version
}

// Version is the version of the native protocol's additions.
const Version = 1

// AppendHello adds the client's greeting.
func AppendHello(dst []byte, g Greeting) []byte {
	dst = append(dst, `{"action":"hello","version":`...)
	dst = strconv.AppendInt(dst, int64(g.Version), 10)
	dst = appendFeatures(dst, g.Features)
	if g.Identity != "" {
		dst = append(dst, `,"identity":`...)
		dst = rpc.AppendString(dst, g.Identity, false)
	}
	if g.Name != "" {
		dst = append(dst, `,"name":`...)
		dst = rpc.AppendString(dst, g.Name, false)
	}
	if g.Token != "" {
		dst = append(dst, `,"token":`...)
		dst = rpc.AppendString(dst, g.Token, false)
	}
	return append(dst, "}\n"...)
}

// AppendWelcome adds the server's answer to a greeting.
func AppendWelcome(dst []byte, g Greeting) []byte {
	dst = append(dst, `{"type":"hello","version":`...)
	dst = strconv.AppendInt(dst, int64(g.Version), 10)
	dst = append(dst, `,"server":`...)
	dst = rpc.AppendString(dst, g.Server, false)
	dst = append(dst, `,"identity":`...)
	dst = rpc.AppendString(dst, g.Identity, false)
	dst = appendFeatures(dst, g.Features)
	return append(dst, "}\n"...)
}

// AppendError adds the server's complaint about a line that is no call. id may
// be nil and kind, an error_kind, "".
func AppendError(dst, id []byte, kind, msg string) []byte {
	dst = append(dst, `{"type":"error","msg":`...)
	dst = rpc.AppendString(dst, msg, false)
	if kind != "" {
		dst = append(dst, `,"error_kind":`...)
		dst = rpc.AppendString(dst, kind, false)
	}
	if id != nil {
		dst = append(dst, `,"request_id":`...)
		dst = append(dst, id...)
	}
	return append(dst, "}\n"...)
}

func appendFeatures(dst []byte, list []string) []byte {
	dst = append(dst, `,"features":[`...)
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = rpc.AppendString(dst, s, false)
	}
	return append(dst, ']')
}

func appendID(dst, id []byte) []byte {
	if id == nil {
		return append(dst, `""`...)
	}
	return append(dst, id...)
}
