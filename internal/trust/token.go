package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Sizes and limits.
const (
	prefix      = "hubd_"
	idBytes     = 5  // 8 characters
	secretBytes = 32 // 52 characters
	idLength    = 8
	wholeLength = len(prefix) + idLength + 1 + 52

	MaxTokens  = 4096
	maxName    = 64
	maxMethods = 64
	maxPattern = 256
)

// coding is without upper case, padding and anything else that a shell, a
// header or a URL would have to quote.
var coding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Token is what is known of a token. The secret is not.
type Token struct {
	ID      string
	Name    string
	Scopes  rpc.Scope
	Methods []string  // patterns; none means all methods
	Created time.Time // UTC, in seconds
	Expires time.Time // zero: never
	Used    time.Time // in hours: when the token was last accepted; zero: never
}

// Expired reports whether the token is no longer good at that time.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// check says what is wrong with a token that is to be made, or that was read.
func (t Token) check() error {
	switch {
	case t.Name == "" || len(t.Name) > maxName || !utf8.ValidString(t.Name) || strings.TrimSpace(t.Name) != t.Name:
		return fmt.Errorf("the name of a token has 1 to %d bytes and no blanks at its ends", maxName)
	case strings.ContainsFunc(t.Name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the name of a token has printable characters only")
	case t.Scopes == 0 || t.Scopes&^rpc.AllScopes != 0:
		return fmt.Errorf("a token needs some of the scopes %s", rpc.AllScopes)
	case len(t.Methods) > maxMethods:
		return fmt.Errorf("a token has at most %d method patterns", maxMethods)
	}
	for _, p := range t.Methods {
		name := strings.TrimSuffix(p, "*")
		if len(p) == 0 || len(p) > maxPattern || strings.Contains(name, "*") ||
			strings.ContainsFunc(name, func(r rune) bool { return r > 0x7e || r <= ' ' }) {
			return fmt.Errorf("method pattern %q: expected the name of a method, or its beginning and a *", rpc.CleanText(p, 64))
		}
	}
	return nil
}

// Within reports whether everything that t permits is permitted to a peer with
// those scopes and method patterns (none: all methods).
func (t Token) Within(scopes rpc.Scope, methods []string) bool {
	if t.Scopes&^scopes != 0 {
		return false
	}
	if len(methods) == 0 {
		return true
	}
	if len(t.Methods) == 0 {
		return false
	}
	for _, p := range t.Methods {
		if !slices.ContainsFunc(methods, func(outer string) bool { return outer == p || wildIn(p, outer) }) {
			return false
		}
	}
	return true
}

// wildIn reports whether outer, a pattern with a *, covers all that p covers.
func wildIn(p, outer string) bool {
	beginning, wild := strings.CutSuffix(outer, "*")
	return wild && strings.HasPrefix(strings.TrimSuffix(p, "*"), beginning)
}

// digest is what is kept of a secret.
type digest [sha256.Size]byte

// generate makes the secret parts of a new token.
func generate() (id, whole string, d digest) {
	var b [idBytes + secretBytes]byte
	rand.Read(b[:]) // never fails
	id = coding.EncodeToString(b[:idBytes])
	secret := coding.EncodeToString(b[idBytes:])
	return id, prefix + id + "_" + secret, sha256.Sum256([]byte(secret))
}

// split takes a presented token apart. ok is false for what cannot be one.
func split(whole string) (id, secret string, ok bool) {
	if len(whole) != wholeLength {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(whole, prefix)
	if !ok {
		return "", "", false
	}
	id, secret, ok = strings.Cut(rest, "_")
	return id, secret, ok && len(id) == idLength
}

// LooksLikeToken reports whether text claims to be a token: whether it is one
// of this hub's is for Store.Check to say.
func LooksLikeToken(text string) bool { return strings.HasPrefix(text, prefix) }
