// Package filesvc is the file service: the methods file.*, which let clients of
// every protocol list, read and write below one folder and nowhere else.
//
//	service.go   Service and its rows
//	path.go      what a path that a client gives means
//	list.go      patterns
//	manage.go    folders, times, deletion
//	read.go      download, size and digest
//	upload.go    upload; temp.go the file that it is before it is complete
//	quota.go     what the folder may hold in all; measure.go how much that is
//	errors.go    errors as Python's clients know them
//
// Every access goes through an os.Root, so that neither "..", nor an absolute
// path, nor a symbolic link leads out of the folder, whoever changes what while
// a call runs. Resolving a path beforehand only makes links inside of the
// folder work, and errors speak of the path that was given.
package filesvc
