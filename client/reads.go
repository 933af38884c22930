package client

// reads are the methods of the hub that only look at something. A call of one
// that met a break may be made again, whether it ran or not. Methods of
// providers are not among them: their callers say Idempotent.
var reads = map[string]bool{
	"echo":                       true,
	"file.download":              true,
	"file.path_info":             true,
	"file.paths":                 true,
	"file.sha256":                true,
	"file.size":                  true,
	"health.ping":                true,
	"hub.calls":                  true,
	"hub.describe":               true,
	"hub.info":                   true,
	"hub.methods":                true,
	"hub.peers":                  true,
	"hub.stats":                  true,
	"hub.whoami":                 true,
	"hub.top":                    true,
	"ping":                       true,
	"session.follow":             true,
	"session.history":            true,
	"session.info":               true,
	"session.wait":               true,
	"session.list":               true,
	"state.get":                  true,
	"state.get_active_context":   true,
	"state.get_hub_state":        true,
	"state.get_hub_status_text":  true,
	"state.get_hub_whoami_text":  true,
	"state.get_hub_work_text":    true,
	"state.get_processing_state": true,
	"state.get_system_info":      true,
	"state.history":              true,
	"state.info":                 true,
	"state.list":                 true,
	"state.list_contexts":        true,
	"state.snapshot":             true,
	"state.stats":                true,
	"state.watch":                true,
}

// ReadsOnly reports whether method is one of the hub's that only look at
// something: a call of it that met a break is RetrySafe.
func ReadsOnly(method string) bool { return reads[method] }
