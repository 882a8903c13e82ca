"""The driver for a remote Firecracker service over HTTP, as the original server used it.

The service starts machines, runs a shell text in one and gives back its output, and keeps snapshots. It
moves no files, streams nothing and stops nothing: all of that is built here on running shell texts.
"""
