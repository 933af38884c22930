package capnweb

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The objects of HTTP. A JavaScript peer makes real ones of them when it reads
// a message, and aborts its session when it cannot. So that no client can end
// the session of another with a value that travels through the hub, what such a
// constructor refuses is refused here, with the same abort.

func (e *evaluator) url() (any, bool, error) {
	text, ok := e.operand()
	if !ok {
		return nil, false, nil
	}
	if !validURL(text) {
		return nil, false, &protocolError{name: "TypeError", message: "Invalid URL"}
	}
	e.s.isModern()
	return URL(text), true, nil
}

// headers reads a bare array of pairs of strings.
func (e *evaluator) headers() (Headers, bool, error) {
	if e.space() != '[' {
		return nil, false, nil
	}
	text, t := e.skip()
	h := Headers{}
	for pair := range rpc.RawValue(text, t).Elements() {
		list, err := pair.AsList()
		if err != nil || len(list) != 2 {
			return nil, false, nil
		}
		name, err := list[0].AsString()
		if err != nil {
			return nil, false, nil
		}
		value, err := list[1].AsString()
		if err != nil {
			return nil, false, nil
		}
		if !isToken(name) || !validHeaderText(strings.Trim(value, " \t\r\n")) {
			return nil, false, quoting("TypeError", "invalid header: %s", []byte(name))
		}
		h = append(h, [2]string{name, value})
	}
	return h, true, nil
}

// enumerated are the members of a request's init that have one of a few values.
var enumerated = map[string][]string{
	"duplex":         {"half"},
	"redirect":       {"follow", "error", "manual"},
	"mode":           {"cors", "no-cors", "same-origin"},
	"credentials":    {"omit", "same-origin", "include"},
	"cache":          {"default", "no-store", "reload", "no-cache", "force-cache", "only-if-cached"},
	"referrerPolicy": {"", "no-referrer", "no-referrer-when-downgrade", "same-origin", "origin", "strict-origin", "origin-when-cross-origin", "strict-origin-when-cross-origin", "unsafe-url"},
}

// init reads the init object of a request or a response. check knows what its
// members may be; those that it does not know mean nothing here and are left out.
func (e *evaluator) init(check func(name string, x any) (known, ok bool)) (*rpc.Map, bool, error) {
	if e.space() != '{' {
		return nil, false, nil
	}
	m := &rpc.Map{}
	e.i++
	for {
		switch e.space() {
		case '}':
			e.i++
			return m, true, nil
		case ',':
			e.i++
			e.space()
		}
		lit, _ := e.literal()
		e.space()
		e.i++ // the colon
		name := rpc.Unquote(lit)
		switch {
		case name == "headers":
			h, ok, err := e.headers()
			if !ok || err != nil {
				return nil, false, err
			}
			m.Set(name, h)
		case name == "body":
			x, err := e.body()
			if err != nil {
				return nil, false, err
			}
			m.Set(name, x)
		case e.space() == '[' || e.space() == '{':
			e.skip() // of some platform, and no expression
		default:
			x, err := e.value()
			if err != nil {
				return nil, false, err
			}
			switch known, ok := check(name, x); {
			case known && !ok:
				return nil, false, quoting("TypeError", "invalid %s of a request or response", []byte(name))
			case known:
				m.Set(name, x)
			}
		}
	}
}

// body reads what a request or a response carries.
func (e *evaluator) body() (any, error) {
	e.depth++
	x, err := e.value()
	e.depth--
	if err != nil {
		return nil, err
	}
	switch b := x.(type) {
	case nil, string, *stream, rpc.Value: // the last: text with lone surrogates
		return x, nil
	case rpc.Bytes:
		if b.Kind == "" || b.Kind == "Uint8Array" {
			return x, nil
		}
	}
	return nil, &protocolError{name: "TypeError", message: "a body must be null, text, bytes or a ReadableStream"}
}

func (e *evaluator) request() (any, bool, error) {
	address, ok := e.operand()
	if !ok || !e.more() {
		return nil, false, nil
	}
	method := "GET"
	m, ok, err := e.init(func(name string, x any) (known, ok bool) {
		text, isText := x.(string)
		switch name {
		case "method":
			method = strings.ToUpper(text)
			return true, isToken(text) && method != "CONNECT" && method != "TRACE" && method != "TRACK"
		case "referrer":
			return true, isText && (text == "" || validURL(text))
		case "integrity":
			return true, isText
		case "keepalive":
			_, isBool := x.(bool)
			return true, isBool
		}
		allowed, listed := enumerated[name]
		return listed, isText && slices.Contains(allowed, text)
	})
	if !ok || err != nil {
		return nil, ok, err
	}
	body, _ := m.Get("body")
	mode, _ := m.Get("mode")
	cache, _ := m.Get("cache")
	alive, _ := m.Get("keepalive")
	_, flows := body.(*stream)
	bad := func(what string) (any, bool, error) {
		return nil, false, &protocolError{name: "TypeError", message: what}
	}
	switch {
	case !validURL(address) || strings.Contains(authority(address, specialEnds), "@"):
		return nil, false, quoting("TypeError", "Failed to parse URL from %s", []byte(address))
	case body != nil && (method == "GET" || method == "HEAD"):
		return bad("Request with GET/HEAD method cannot have body.")
	case mode == "no-cors" && (flows || method != "GET" && method != "HEAD" && method != "POST"):
		return bad("this request cannot have the mode no-cors")
	case cache == "only-if-cached" && mode != "same-origin":
		return bad("only-if-cached goes with the mode same-origin")
	case flows && alive == true:
		return bad("a request with keepalive cannot have a stream as its body")
	}
	if flows {
		m.Set("duplex", "half") // the receiver cannot make a request of it otherwise
	}
	return &Request{URL: address, Init: m}, true, nil
}

func (e *evaluator) response() (any, bool, error) {
	if !e.more() {
		return nil, false, nil
	}
	body, err := e.body()
	if err != nil || !e.more() {
		return nil, false, err
	}
	status := int64(200)
	m, ok, err := e.init(func(name string, x any) (known, ok bool) {
		switch name {
		case "status":
			status, ok = x.(int64)
			return true, ok && status >= 200 && status <= 599
		case "statusText":
			text, isText := x.(string)
			control := strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
			return true, isText && !control && validHeaderText(text)
		}
		return false, false
	})
	if !ok || err != nil {
		return nil, ok, err
	}
	if body != nil && (status == 204 || status == 205 || status == 304) {
		return nil, false, &protocolError{name: "TypeError", message: "Response with status " + itoa(status) + " cannot have body"}
	}
	return &Response{Body: body, Init: m}, true, nil
}

// isToken reports whether s is a token of HTTP: a method, the name of a header.
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// validHeaderText reports whether s can be the value of a header: one line of
// characters that have one byte each in Latin-1.
func validHeaderText(s string) bool {
	for _, r := range s {
		if r == 0 || r == '\r' || r == '\n' || r > 0xff {
			return false
		}
	}
	return true
}

// validURL reports whether text is an absolute URL, spelled as JavaScript
// serializes one. It does not look into encoded names of other alphabets (xn--).
func validURL(text string) bool {
	scheme, rest, ok := strings.Cut(text, ":")
	if !ok || !isScheme(scheme) {
		return false
	}
	for i := 0; i < len(rest); i++ {
		if rest[i] < ' ' || rest[i] >= 0x7f {
			return false
		}
	}
	special, file, ends := false, false, "/?#"
	switch strings.ToLower(scheme) {
	case "file":
		file = true
		fallthrough
	case "http", "https", "ws", "wss", "ftp":
		special, ends = true, specialEnds
	}
	if !strings.HasPrefix(rest, "//") {
		return !special
	}
	host := authority(text, ends)
	if i := strings.LastIndexByte(host, '@'); i >= 0 && !file {
		if host = host[i+1:]; host == "" {
			return false
		}
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !file && !strings.HasSuffix(host, "]") {
		port := host[i+1:]
		if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil || i == 0 {
			return false
		}
		host = host[:i]
	}
	switch {
	case file && host == "":
		return true
	case strings.HasPrefix(host, "["):
		ip, err := netip.ParseAddr(strings.TrimSuffix(host[1:], "]"))
		return err == nil && ip.Is6() && ip.Zone() == "" && strings.HasSuffix(host, "]")
	case special:
		return validHost(host)
	}
	return !strings.ContainsAny(host, " #/:<>?@[\\]^|")
}

const specialEnds = `/?#\` // a backslash is as good as a slash in the URLs of the web

func isScheme(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		if letter := c >= 'a' && c <= 'z'; !letter && (i == 0 || !(s[i] >= '0' && s[i] <= '9') && strings.IndexByte("+-.", s[i]) < 0) {
			return false
		}
	}
	return s != ""
}

// authority is what stands between // and the path: user, host and port. ends
// has the characters with which the path may begin.
func authority(address, ends string) string {
	_, rest, _ := strings.Cut(address, "://")
	if i := strings.IndexAny(rest, ends); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

// validHost reports whether s is a name or an IPv4 address.
func validHost(s string) bool {
	if s == "" || strings.ContainsAny(s, " #%/:<>?@[\\]^|") {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	last := strings.ToLower(labels[len(labels)-1])
	hex, isHex := strings.CutPrefix(last, "0x")
	if last != "" && strings.Trim(last, "0123456789") == "" || isHex && strings.Trim(hex, "0123456789abcdef") == "" {
		ip, err := netip.ParseAddr(strings.TrimSuffix(s, "."))
		return err == nil && ip.Is4()
	}
	return true
}
