"""The steps from one schema of the ledger to the next, oldest first; a released one never changes."""

HEAD = "0009"
"""The schema of this version: the newest step's revision."""
