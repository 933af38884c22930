package hub

// sessionOf names the default session of c.
func (h *hub) sessionOf(c *conn) string {
	if c.listener.session != "" {
		return c.listener.session
	}
	return h.defaultSession()
}

// sessionCount returns how many sessions are open.
func (h *hub) sessionCount() int { return 0 }
