"""Keeping actors alive, and the ways they hear from each other."""
