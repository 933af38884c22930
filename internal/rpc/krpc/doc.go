// Package krpc is the krpc protocol: one call per HTTP request, as a form field
// or a part of a multipart body that holds JSON, with files beside it.
//
//	server.go     Server, the http.Handler, and one exchange from request to close
//	body.go       the body as it comes: at which pace, and beyond its declared end
//	form.go       urlencoded forms; multipart.go and part.go bodies with files
//	spool.go      where files wait until the call has ended
//	request.go    the JSON of a call: method, arguments, file references
//	names.go      how a krpc name is looked up in the method table
//	run.go        the call itself
//	answer.go     results, errors and refusals on the wire
//
// A client of this protocol sends one request per connection, and what it
// declares about the length of a body with files may be too little. So the
// connection is taken over from the HTTP server as soon as the body has been
// read as far as it was declared: what follows is read until the body is
// complete, the answer is written, and the connection is closed in order.
//
// Nothing that a client sends is held in memory beyond the JSON of its call.
package krpc
