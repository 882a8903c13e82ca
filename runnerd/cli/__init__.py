"""What a person types: thin commands over the control API, the daemon's two entries and the pure rooms."""
