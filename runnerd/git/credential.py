"""Hands a token to git without it being seen: an anonymous file in memory that only that git inherits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from runnerd.git import names
from runnerd.git.process import GitError

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Login(NamedTuple):
    """How git shall log in: more configuration for it, and the descriptors it must inherit."""

    settings: dict[str, str]
    descriptors: tuple[int, ...]


@contextmanager
def login(remote: str, account: tuple[str, str] | None) -> Iterator[Login]:
    """Let a git started in this block log in at an HTTP remote with (user, password).

    The token stands in no argument, no environment and no file with a name; git asks a helper that is
    bound to the remote's scheme and host, so that no other host gets it. Other kinds of remotes ignore
    the account. Raises `GitError` rather than send a token over the network in the clear.
    """
    if account is None or names.scheme(remote) not in ("http", "https"):
        yield Login({}, ())
        return
    if names.scheme(remote) == "http" and urlsplit(remote).hostname not in _LOOPBACK:
        raise GitError(f"the remote {remote!r} is plain HTTP: the token would travel unencrypted; use https")
    user, password = account
    if any(c in user + password for c in "\n\r\0"):
        raise GitError(
            f"the token for {names.origin(remote)} holds a line break; it was probably pasted with one"
        )
    memory = os.memfd_create("runnerd-credential", 0)
    try:
        os.write(memory, f"username={user}\npassword={password}\n".encode())
        # Opened anew by name each time, so that every question is answered from the beginning.
        helper = f'!f() {{ test "$1" = get && cat /dev/fd/{memory}; }}; f'
        yield Login({f"credential.{names.origin(remote)}.helper": helper}, (memory,))
    finally:
        os.close(memory)
