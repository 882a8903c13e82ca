"""Reading workflow files that may be hostile without holding up the daemon: `process.Reader`.

The language itself (`workflow`) is pure and cannot be interrupted; this room gives it a process that can.
Importing the package loads nothing: that process starts with little.
"""
