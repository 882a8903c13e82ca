"""The refusals of the ledger that callers tell apart; what is merely unknown is a LookupError."""

from __future__ import annotations


class CannotOpen(Exception):
    """The state cannot be used by this daemon: in use, of a newer version, or not a ledger. Says which."""


class LedgerUnavailable(Exception):
    """The ledger cannot be read or written now (full disk, lock, closed). Nothing of the call was stored."""


class IllegalTransition(Exception):
    """A change that the table of legal phases does not allow; names what, from where and to where."""


class StaleEpoch(Exception):
    """The caller's attempt of a job is not the one that runs: stop the machine and report nothing (I6)."""
