package hub

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// decodeValue decodes an argument as encoding/json does.
func decodeValue(v rpc.Value, into any) error {
	text, err := v.AppendJSON(nil, rpc.Form{NonFinite: true}) // null would mean something else
	if err != nil {
		return err
	}
	if !json.Valid(text) {
		return errors.New("a number in it is not finite")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a default of 1 is not one of 1.0
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("expected a name, or an object that describes a method: %w", err)
	}
	return nil
}

// parseType reads a type as Type.String writes it; "" is any.
func parseType(s string) (rpc.Type, error) {
	if s == "" {
		return rpc.Type{Kind: rpc.KindAny}, nil
	}
	plain, nullable := strings.CutSuffix(s, "?")
	if elem, isArray := strings.CutPrefix(plain, "[]"); isArray {
		if strings.HasPrefix(elem, "[][]") {
			return rpc.Type{}, fmt.Errorf("type %q: too many arrays in each other", rpc.CleanText(s, 64))
		}
		of, err := parseType(elem)
		return rpc.Type{Kind: rpc.KindArray, Elem: &of, Nullable: nullable}, err
	}
	switch k := rpc.Kind(plain); k {
	case rpc.KindAny, rpc.KindNull, rpc.KindBool, rpc.KindInteger, rpc.KindNumber, rpc.KindString, rpc.KindBytes, rpc.KindArray,
		rpc.KindObject, rpc.KindFunction:
		return rpc.Type{Kind: k, Nullable: nullable}, nil
	}
	return rpc.Type{}, fmt.Errorf("type %q: expected any, null, boolean, integer, number, string, bytes, array, object, function, or [] before one of them",
		rpc.CleanText(s, 64))
}

// providedOverhead is about what a provided method takes besides what its
// provider says of it: the row, its place in the table and its metrics.
const providedOverhead = 8 << 10

// describedWeight is about how many bytes the description of m takes.
func describedWeight(m *rpc.Method) int {
	n := len(m.Name) + len(m.Doc)
	for _, p := range m.Params {
		n += len(p.Name) + len(p.Doc) + p.Default.Weight()
	}
	return n
}

// deadlineOf reads seconds: nothing is the hub's default, 0 none.
func deadlineOf(seconds *float64) (time.Duration, error) {
	switch {
	case seconds == nil:
		return 0, nil
	case *seconds == 0:
		return -1, nil
	case !(*seconds >= rpc.MinDeadline.Seconds() && *seconds <= rpc.MaxDeadline.Seconds()):
		return 0, fmt.Errorf("deadline: expected %g to %g seconds, or 0 for none", rpc.MinDeadline.Seconds(), rpc.MaxDeadline.Seconds())
	}
	return time.Duration(*seconds * float64(time.Second)), nil
}
