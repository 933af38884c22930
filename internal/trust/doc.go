// Package trust keeps the tokens with which peers on TCP say who they are.
//
// A token is "hubd_" + id + "_" + secret. The id names the token in lists and
// in the file; it is no secret. The secret has 256 random bits and is shown
// once, when the token is made: the hub keeps only its SHA-256.
//
// A plain hash is enough. Slow, salted hashes such as bcrypt or Argon2 make
// guessing expensive where people choose the secret; nobody can run through
// 2^256 secrets at any speed, no two are equal, and there is no table of them.
// A slow hash would only let strangers spend the hub's processor.
//
//	token.go    what a token is, how it is written and read
//	store.go    the set of tokens, checked on every connection
//	file.go     its file: private, checked when read, replaced as a whole
//	limiter.go  how often an address may present a token that is none
package trust
