"""Where people who read a report see more: an address for each run and job that nobody can guess.

Whoever may read a commit's reports may follow their links, as at GitHub; a link holds a seal made with a key
of this daemon's own, so that knowing one address, or the numbers of runs, opens no other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec

SEAL = 16
"""Bytes of the seal that are kept."""


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Makes links below the address that people reach this daemon at; none where that is not known."""

    public_url: str = ""
    key: bytes = b""

    def of(self, run: int, job: int | None) -> str:
        """The address of a job, or with None of its run; empty where there are no links."""
        if not self.public_url or not self.key:
            return ""
        return f"{self.public_url.rstrip('/')}{_place(run, job)}/{self._seal(run, job)}"

    def fits(self, run: int, job: int | None, seal: str) -> bool:
        """Whether a seal is that of this run or job; takes equally long for every wrong one."""
        return bool(self.key) and hmac.compare_digest(self._seal(run, job).encode(), seal.encode())

    def _seal(self, run: int, job: int | None) -> str:
        digest = hmac.digest(self.key, f"link {_place(run, job)}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:SEAL]).decode().rstrip("=")


NO_LINKS = Links()
"""For who is not reached by people."""


def _place(run: int, job: int | None) -> str:
    return f"/runs/{run}" if job is None else f"/runs/{run}/jobs/{job}"
