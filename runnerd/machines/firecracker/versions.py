"""Which versions of Firecracker are used, and what of their interface differs. Pure.

From Firecracker's CHANGELOG and its API files; every body refuses fields that its version does not know.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OLDEST = (1, 14, 4)
"""Before it guests could write outside a device's memory (CVE-2026-5747), and snapshots lost their clocks."""
ESCAPES = frozenset({(1, 15, 0)})
"""Later versions with the same fault."""
MUTE = frozenset({(1, 16, 0)})
"""What they load from a snapshot may never be heard again (firecracker#5969), and all machines are loaded."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:[-+][\w.-]*)?").fullmatch


class Refused(ValueError):
    """A version that is not used, and why."""


class Version(NamedTuple):
    """A version and what it can do."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def serial_limit(self) -> bool:
        """`/serial` takes a rate limiter (1.16)."""
        return self >= (1, 16, 0)

    @property
    def vsock_override(self) -> bool:
        """`/snapshot/load` is told where the vsock's socket lies (1.16)."""
        return self >= (1, 16, 0)


def judge(said: str) -> Version:
    """Return the version that a Firecracker says it is. Raises `Refused`."""
    found = _VERSION(said.strip().removeprefix("Firecracker").strip())
    if found is None:
        raise Refused(f"{said[:80]!r} is no version of Firecracker")
    version = Version(*map(int, found.groups()))
    if version < OLDEST or version in ESCAPES:
        oldest = ".".join(map(str, OLDEST))
        raise Refused(
            f"Firecracker {version} is not used: a guest can break out of it (CVE-2026-5747); install "
            f"1.16.1, or at least {oldest}"
        )
    if version in MUTE:
        raise Refused(
            f"Firecracker {version} is not used: machines that it loads may never answer; install 1.16.1"
        )
    return version
