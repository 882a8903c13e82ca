"""actions/checkout, provided by the host: what its inputs ask for. Pure.

Whatever of the action is not provided is an error with a sentence, never quietly something else.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

import msgspec

ACTION = re.compile(r"actions/checkout@\S+", re.IGNORECASE)

_SHA = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[\x21-\x7e\u00a0-\U0010ffff]{1,255}")

# Inputs that change nothing here: the host logs in by itself, and what is fetched costs nothing.
_IGNORED = {
    "allow-unsafe-pr-checkout",
    "filter",
    "persist-credentials",
    "set-safe-directory",
    "show-progress",
    "ssh-key",
    "ssh-known-hosts",
    "ssh-strict",
    "ssh-user",
    "token",
}
_NOT_PROVIDED = {
    "lfs": "LFS files",
    "submodules": "submodules",
    "sparse-checkout": "a sparse checkout",
}
_MEANT = {"clean", "fetch-depth", "fetch-tags", "github-server-url", "path", "ref", "repository"}
_DEPENDENT = {"sparse-checkout-cone-mode"}


class CheckoutRefused(ValueError):
    """This checkout cannot be made as asked; says why."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be checked out, and where."""

    ref: str
    """A full ref, a branch or a tag; the event's own ref where none was given."""
    sha: str
    """The commit; empty when `ref` says it."""
    folder: str
    """Absolute path in the machine."""
    depth: int = 1
    clean: bool = True
    notes: tuple[str, ...] = ()
    """What was asked for and does not matter here."""


def read_inputs(inputs: Mapping[str, str], *, github: Mapping[str, object], workspace: str) -> Request:
    """Return the request the inputs (evaluated, any case) make; raises `CheckoutRefused`."""
    given = {name.lower(): value.strip() for name, value in inputs.items()}
    given = {name: value for name, value in given.items() if value}
    for name, what in _NOT_PROVIDED.items():
        if given.get(name, "false").lower() != "false":
            raise CheckoutRefused(f"the input {name!r}: {what} cannot be checked out yet")
    unknown = sorted(given.keys() - _MEANT - _IGNORED - _NOT_PROVIDED.keys() - _DEPENDENT)
    if unknown:
        raise CheckoutRefused(f"actions/checkout has no input {unknown[0]!r}")
    own = str(github.get("repository", ""))
    if given.get("repository", own).lower() != own.lower():
        raise CheckoutRefused(
            f"the input 'repository': only {own} itself can be checked out yet, not {given['repository']!r}"
        )
    server = str(github.get("server_url", "")).rstrip("/")
    if given.get("github-server-url", server).rstrip("/") != server:
        raise CheckoutRefused(f"the input 'github-server-url': only {server} can be reached")
    depth = _depth(given.get("fetch-depth", "1"))
    if given.get("fetch-tags", "false").lower() == "true" and depth != 0:
        raise CheckoutRefused("the input 'fetch-tags' needs 'fetch-depth: 0' here, which brings every tag")
    ref, sha = _what(given.get("ref", ""), github)
    ignored = sorted(given.keys() & _IGNORED - {"persist-credentials", "set-safe-directory", "show-progress"})
    return Request(
        ref=ref,
        sha=sha,
        folder=_folder(given.get("path", "."), workspace),
        depth=depth,
        clean=given.get("clean", "true").lower() != "false",
        notes=tuple(
            f"the input {name!r} is not needed: the host fetches with its own login" for name in ignored
        ),
    )


def _what(ref: str, github: Mapping[str, object]) -> tuple[str, str]:
    own_ref, own_sha = str(github.get("ref", "")), str(github.get("sha", ""))
    if not ref:
        return own_ref, own_sha
    if _SHA.fullmatch(ref.lower()):
        return "", ref.lower()
    if not _NAME.fullmatch(ref) or ref.startswith("-"):
        raise CheckoutRefused(f"the input 'ref': {ref[:80]!r} is no branch, tag or commit")
    return ref, ""


def _depth(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise CheckoutRefused(f"the input 'fetch-depth': {text[:80]!r} is not a number of commits")
    return int(text)


def _folder(path: str, workspace: str) -> str:
    folder = posixpath.normpath(posixpath.join(workspace, path))
    if "\0" in folder or not (folder + "/").startswith(workspace + "/"):
        raise CheckoutRefused(f"the input 'path': {path[:80]!r} is not inside the workspace {workspace}")
    return folder
