//go:build race

package statesvc

// thin makes the exhaustive tests look at fewer places: under the race detector each costs ten times as much.
const thin = 10
