"""One job in one machine: steps, shells, actions, checkout; and `hash_files` for tools.

Names load on first use, so that a tool which hashes files loads nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runnerd.jobs.hashing import hash_files

__all__ = ["hash_files"]


def __getattr__(name: str) -> Any:
    if name == "hash_files":
        from runnerd.jobs.hashing import hash_files

        return hash_files
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
