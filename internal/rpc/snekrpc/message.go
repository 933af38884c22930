package snekrpc

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// kind is what a message is.
type kind uint8

const (
	noKind kind = iota
	commandMsg
	dataMsg
	errorMsg
	startMsg
	endMsg
)

var kindNames = [...]string{"", "CommandMessage", "DataMessage", "ErrorMessage", "StreamStartMessage", "StreamEndMessage"}

func kindOf(tag string) kind {
	for k, name := range kindNames {
		if k > 0 && name == tag {
			return kind(k)
		}
	}
	return noKind
}

// Tags of arguments.
const (
	tagArgument = "Argument"
	tagStream   = "StreamArgument"
)

// message is one decoded message. Its values are borrowed from the bytes.
type message struct {
	kind    kind
	service string // of a command
	command string
	args    []arg
	named   []arg
	value   rpc.Value // of data
	name    string    // of an error
	text    string
	trace   string
}

// arg is one argument of a command.
type arg struct {
	name   string
	value  rpc.Value
	stream bool // the stream that follows the command
}

// streams returns how many of the arguments are streams.
func (m *message) streams() (n int) {
	for _, list := range [2][]arg{m.args, m.named} {
		for _, a := range list {
			if a.stream {
				n++
			}
		}
	}
	return n
}

// codec is one of the two ways to write a message.
type codec interface {
	// name is what the handshake calls it.
	name() string
	// decode reads a message that ends with data. The error is a *wireError.
	decode(data []byte, m *message) error
	// kind tells what data is, as far as that is possible without reading it all.
	kind(data []byte) kind
	// text, list, null and value append one value.
	text(dst []byte, s string) []byte
	list(dst []byte, n int) []byte     // the head of an array of n elements
	listNext(dst []byte, i int) []byte // before element i
	listEnd(dst []byte) []byte
	dict(dst []byte, n int) []byte
	dictNext(dst []byte, i int) []byte
	dictValue(dst []byte) []byte // between key and value
	dictEnd(dst []byte) []byte
	value(dst []byte, v rpc.Value) ([]byte, error)
}

// codecOf returns the codec with that name, nil if there is none.
func codecOf(name string) codec {
	switch name {
	case codecMsgpack:
		return msgpackCodec{}
	case codecJSON:
		return jsonCodec{}
	}
	return nil
}

// Names of the codecs.
const (
	codecMsgpack = "msgpack"
	codecJSON    = "json"
)

// detectCodec tells the codec from the first byte of a message; nil when it is neither.
func detectCodec(first byte) codec {
	switch {
	case first == '[' || first == '{' || first == ' ' || first == '\t' || first == '\n' || first == '\r':
		return jsonCodec{}
	case first >= 0x80 && first <= 0x9f, first >= 0xdc && first <= 0xdf:
		return msgpackCodec{}
	}
	return nil
}

// wireError is what is wrong with a message, in the words that Python peers expect.
type wireError struct {
	name  string // of the Python exception
	text  string
	quote string // what text repeats of the message
}

// Error is for logs: what the message has is the peer's affair.
func (e *wireError) Error() string {
	text := e.text
	if e.quote != "" {
		text = strings.Replace(text, e.quote, "...", 1)
	}
	return e.name + ": " + text
}

// Names of the errors of a message.
const (
	nameDecode     = "DecodeError"
	nameValidation = "ValidationError"
	nameMessage    = "MessageError"
)

func tooShort(want, got int) error {
	return &wireError{name: nameValidation, text: fmt.Sprintf("Expected `array` of at least length %d, got %d", want, got)}
}

func wrongType(want, got string, at int) error {
	text := fmt.Sprintf("Expected `%s`, got `%s`", want, got)
	if at >= 0 {
		text += " - at `$[" + strconv.Itoa(at) + "]`"
	}
	return &wireError{name: nameValidation, text: text}
}

func wrongTag(tag string) error {
	quote := rpc.CleanText(tag, 64)
	return &wireError{nameValidation, fmt.Sprintf("Invalid value '%s' - at `$[0]`", quote), quote}
}

// unexpected is the error for a message that is not due.
func unexpected(k kind, want string) *wireError {
	return &wireError{name: nameMessage, text: fmt.Sprintf("invalid protocol message: %s (expected: %s)", kindNames[k], want)}
}

// maxArgs is how many arguments a command may have, by position and by name each.
const maxArgs = 1000

func tooManyArgs() error {
	return &wireError{name: nameValidation, text: fmt.Sprintf("Expected at most %d arguments", maxArgs)}
}

// minLength is how many elements a message has at least, its tag included.
var minLength = [...]int{commandMsg: 5, dataMsg: 2, errorMsg: 4, startMsg: 1, endMsg: 1}

func appendTag(dst []byte, c codec, k kind, n int) []byte {
	return c.text(c.listNext(c.list(dst, n), 0), kindNames[k])
}

// appendData appends a data message.
func appendData(dst []byte, c codec, v rpc.Value) ([]byte, error) {
	dst = c.listNext(appendTag(dst, c, dataMsg, 2), 1)
	dst, err := c.value(dst, v)
	return c.listEnd(dst), err
}

// appendMark appends a message without content.
func appendMark(dst []byte, c codec, k kind) []byte {
	return c.listEnd(appendTag(dst, c, k, 1))
}

// appendError appends an error message.
func appendError(dst []byte, c codec, name, text string) []byte {
	dst = appendTag(dst, c, errorMsg, 4)
	dst = c.text(c.listNext(dst, 1), name)
	dst = c.text(c.listNext(dst, 2), text)
	dst = c.text(c.listNext(dst, 3), "")
	return c.listEnd(dst)
}

// appendCommand appends a command.
func appendCommand(dst []byte, c codec, m *message) ([]byte, error) {
	var err error
	dst = appendTag(dst, c, commandMsg, 5)
	dst = c.text(c.listNext(dst, 1), m.service)
	dst = c.text(c.listNext(dst, 2), m.command)
	dst = c.list(c.listNext(dst, 3), len(m.args))
	for i, a := range m.args {
		if dst, err = appendArg(c.listNext(dst, i), c, a); err != nil {
			return dst, err
		}
	}
	dst = c.dict(c.listNext(c.listEnd(dst), 4), len(m.named))
	for i, a := range m.named {
		dst = c.dictValue(c.text(c.dictNext(dst, i), a.name))
		if dst, err = appendArg(dst, c, a); err != nil {
			return dst, err
		}
	}
	return c.listEnd(c.dictEnd(dst)), nil
}

func appendArg(dst []byte, c codec, a arg) ([]byte, error) {
	if a.stream {
		return c.listEnd(c.text(c.listNext(c.list(dst, 1), 0), tagStream)), nil
	}
	dst = c.text(c.listNext(c.list(dst, 2), 0), tagArgument)
	dst, err := c.value(c.listNext(dst, 1), a.value)
	return c.listEnd(dst), err
}
