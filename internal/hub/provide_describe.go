package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// decodeValue decodes an argument as encoding/json does.
func decodeValue(v rpc.Value, into any) error {
	text, err := v.AppendJSON(nil, rpc.Form{})
	if err != nil {
		return err
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

// deadlineOf reads seconds: nothing is the hub's default, 0 or less none.
func deadlineOf(seconds *float64) (time.Duration, error) {
	switch {
	case seconds == nil:
		return 0, nil
	case *seconds <= 0:
		return -1, nil
	case *seconds > rpc.MaxDeadline.Seconds():
		return 0, fmt.Errorf("deadline: at most %g seconds", rpc.MaxDeadline.Seconds())
	}
	return time.Duration(*seconds * float64(time.Second)), nil
}
