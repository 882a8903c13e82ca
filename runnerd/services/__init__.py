"""What the host serves to one machine, over ports on the machine's own loopback."""
