"""What may become an argument of git: commit ids, refs, repository names and remotes, checked first.

Everything here may come from a webhook or a workflow file. What passes is safe as one argument: it never
starts with a dash, never leaves its folder and is never a pattern.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from runnerd.git.process import GitError
from runnerd.model import Repository

_SHA = re.compile(r"[0-9a-f]{40}")
_PART = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99}")
_SCP = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9_.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!/?/?-)[^:\s]+")
# What `git check-ref-format` refuses anywhere in a ref.
_NEVER_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_SCHEMES = ("https", "http", "ssh", "git", "file")

REF_BYTES = 1024


def is_sha(text: str) -> bool:
    """Whether this is a whole commit id: 40 lower-case hexadecimal digits."""
    return _SHA.fullmatch(text) is not None


def sha(text: str) -> str:
    """Return the commit id as given, or raise `GitError`."""
    if not is_sha(text):
        raise GitError(f"{_shown(text)} is not a commit id (40 hexadecimal digits)")
    return text


def ref(text: str) -> str:
    """Return a full ref (`refs/…`) as given, or raise `GitError`; rules of `git check-ref-format`."""
    if not text.startswith("refs/") or len(text.encode(errors="replace")) > REF_BYTES:
        raise GitError(f"{_shown(text)} is not a full ref name (refs/heads/…, refs/tags/…)")
    parts = text.split("/")
    bad = (
        _NEVER_IN_REF.search(text)
        or text.endswith((".", "/"))
        or any(part.startswith(".") or part.endswith(".lock") for part in parts)
        or not text.isprintable()
    )
    if bad:
        raise GitError(f"{_shown(text)} is not a name git allows for a ref")
    return text


def folder(repository: Repository) -> PurePosixPath:
    """Return where this repository's mirror lies under the root: `owner/name/id.git`.

    The forge's number is part of it, so that a name taken over by another repository never reads the
    objects of the first. Raises `GitError` for a name that is none.
    """
    owner, slash, name = repository.full_name.partition("/")
    for part in (owner, name):
        if not slash or not _PART.fullmatch(part) or part in (".", ".."):
            raise GitError(f"{_shown(repository.full_name)} is not a repository name (owner/name)")
    return PurePosixPath(owner.lower(), name.lower(), f"{int(repository.id)}.git")


def tree_path(text: str) -> str:
    """Return a relative path inside a tree as given, or raise `GitError`."""
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or not text.isprintable() or text.startswith("-"):
        raise GitError(f"{_shown(text)} is not a path inside a repository")
    return str(path)


def scheme(remote: str) -> str:
    """Say how a configured remote is reached: https, http, ssh, git or file; raises `GitError` for others.

    A path must be absolute. A remote that carries a password is refused, because arguments are public.
    """
    if remote.startswith("/"):
        return "file"
    if "://" not in remote:
        if _SCP.fullmatch(remote):
            return "ssh"
        raise GitError(f"the remote {_shown(remote)} is neither a URL, host:path nor an absolute path")
    parts = urlsplit(remote)
    if parts.scheme not in _SCHEMES or not remote.isprintable() or " " in remote:
        raise GitError(f"the remote {_shown(_without_login(remote))} must be one of {', '.join(_SCHEMES)}")
    if parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None):
        raise GitError(
            f"the remote {_shown(_without_login(remote))} carries a login; set [forge] token instead, "
            "so that it is in no process's arguments"
        )
    if parts.scheme != "file" and (not parts.hostname or parts.hostname.startswith("-")):
        raise GitError(f"the remote {_shown(remote)} names no host")
    return parts.scheme


def origin(remote: str) -> str:
    """Return scheme and host of an HTTP remote: what a credential is good for."""
    parts = urlsplit(remote)
    return f"{parts.scheme}://{parts.netloc}"


def _without_login(remote: str) -> str:
    head, _, rest = remote.partition("://")
    return f"{head}://{rest.rpartition('@')[2]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")
