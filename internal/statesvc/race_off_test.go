//go:build !race

package statesvc

const thin = 1
