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
