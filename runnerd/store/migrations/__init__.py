"""The steps from one schema of the ledger to the next, oldest first; a released one never changes."""
