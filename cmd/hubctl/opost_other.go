//go:build !linux

package main

import "errors"

func passOutput(int) (undo func(), err error) { return nil, errors.ErrUnsupported }

// rawInput makes a terminal give every key as it is pressed.
func rawInput(fd int) (undo func(), err error) { return rawMode(fd) }
