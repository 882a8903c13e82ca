"""Everything HTTP that the daemon serves, and the client of its control socket."""
