package main

import "golang.org/x/sys/unix"

// passOutput makes a terminal show what is written to it as it is, line feeds
// included; its input keeps its mode. It returns what undoes that.
func passOutput(fd int) (undo func(), err error) {
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	mode := *was
	mode.Oflag &^= unix.OPOST
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &mode); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }, nil
}

// rawInput makes a terminal give every key as it is pressed; its output keeps
// its mode.
func rawInput(fd int) (undo func(), err error) {
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	undo, err = rawMode(fd)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return undo, nil
	}
	mode.Oflag = was.Oflag
	return undo, unix.IoctlSetTermios(fd, unix.TCSETS, mode)
}
