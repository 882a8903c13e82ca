"""`hashFiles`: the hash over the files that glob patterns find, as GitHub computes it.

Imports the standard library alone, so that the same text runs in a machine: `python3 -c TEXT ROOT PATTERN…`
prints the hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator


def hash_files(patterns: Iterable[str], root: str | os.PathLike[str], *, follow_links: bool = False) -> str:
    """Return sha256 over the sha256 of each file found, as hexadecimal digits; empty when none is found.

    A pattern may hold several lines, each one a pattern; `#` begins a comment, `!` takes away what earlier
    ones found, a folder stands for all in it. `*` and `?` stop at `/`, `**` does not; names beginning with
    a dot are found too. Patterns are relative to `root`, and only files under it count. Files are taken in
    the order of a depth-first walk by name, pattern by pattern. Raises ValueError for a pattern with `..`
    and OSError for a file that cannot be read.
    """
    base = os.path.abspath(os.fspath(root))
    chosen = [_Pattern(line, base) for text in patterns for line in _lines(text)]
    total = hashlib.sha256()
    found = False
    for path in _walk(chosen, follow_links):
        if not path.startswith(base + os.sep) or not os.path.isfile(path):
            continue
        found = True
        total.update(_digest(path))
    return total.hexdigest() if found else ""


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


class _Pattern:
    """One line: what it matches, where its search begins, and whether a folder may lead to a match."""

    def __init__(self, line: str, base: str) -> None:
        body = line.lstrip("!")
        self.negated = (len(line) - len(body)) % 2 == 1
        body = body.strip()
        if body == "~" or body.startswith("~/"):
            body = os.path.expanduser("~") + body[1:]
        if not body.startswith("/"):
            body = base.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]") + "/" + body
        segments = [segment for segment in body.split("/") if segment not in ("", ".")]
        if ".." in segments:
            raise ValueError(f"the pattern {line!r} must not hold '..'")
        self._segments = [
            None if segment == "**" else re.compile(_expression(segment)) for segment in segments
        ]
        self._whole = re.compile(_join(segments) + "(?:/.*)?", re.DOTALL)
        literal = []
        for segment in segments:
            plain = _literal(segment)
            if plain is None:
                break
            literal.append(plain)
        self.start = "/" + "/".join(literal)

    def matches(self, path: str) -> bool:
        """Whether the path, or a folder it lies in, is named."""
        return self._whole.fullmatch(path) is not None

    def may_lead(self, path: str) -> bool:
        """Whether something under this folder may be named."""
        parts = [part for part in path.split("/") if part]
        for index, part in enumerate(parts):
            if index >= len(self._segments):
                return False
            segment = self._segments[index]
            if segment is None:
                return True
            if not segment.fullmatch(part):
                return False
        return True


def _walk(patterns: list[_Pattern], follow_links: bool) -> Iterator[str]:
    """Yield the files the patterns name, depth first, names in byte order."""
    starts: list[str] = []
    positive = [pattern.start for pattern in patterns if not pattern.negated]
    for start in positive:
        above = any(
            start != other and (start + "/").startswith(other.rstrip("/") + "/") for other in positive
        )
        if not above and start not in starts:
            starts.append(start)
    # Where a link was followed, the real folders on the way, so that a circle ends.
    stack: list[tuple[str, tuple[str, ...]]] = [(start, ()) for start in reversed(starts)]
    while stack:
        path, way = stack.pop()
        matched = False
        for pattern in patterns:
            if pattern.matches(path):
                matched = not pattern.negated
        leads = matched or any(not pattern.negated and pattern.may_lead(path) for pattern in patterns)
        if not leads:
            continue
        try:
            status = os.stat(path) if follow_links else os.lstat(path)
        except OSError:
            continue
        if stat.S_ISDIR(status.st_mode):
            real = os.path.realpath(path)
            if real in way:
                continue
            names = sorted(os.listdir(path), key=os.fsencode)
            stack += [(os.path.join(path, name), (*way, real)) for name in reversed(names)]
        elif matched:
            yield path


def _literal(segment: str) -> str | None:
    """The name a segment stands for, None when it is a real pattern."""
    if segment == "**":
        return None
    plain = re.sub(r"\[([^\]/])\]", r"\1", segment)
    return plain if not re.search(r"[*?\[]", re.sub(r"\[([^\]/])\]", "", segment)) else None


def _join(segments: list[str]) -> str:
    whole = ""
    for segment in segments:
        whole += r"(?:/[^/]+)*" if segment == "**" else "/" + _expression(segment)
    return whole


def _expression(segment: str) -> str:
    """A segment as a regular expression; its cost is linear in the length of a name but for its stars."""
    out = ""
    at = 0
    while at < len(segment):
        character = segment[at]
        at += 1
        if character == "*":
            while segment.startswith("*", at):
                at += 1
            out += "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "[" and (end := segment.find("]", at + 1)) >= 0:
            inner = segment[at:end]
            negation = "^" if inner[0] in "!^" and len(inner) > 1 else ""
            out += f"[{negation}{re.escape(inner[len(negation) :]).replace(chr(92) + '-', '-')}]"
            at = end + 1
        else:
            out += re.escape(character)
    return out


if __name__ == "__main__":
    arguments = sys.argv[1:]
    links = "--follow-symbolic-links" in arguments[1:2]
    try:
        print(hash_files(arguments[2 if links else 1 :], arguments[0], follow_links=links))
    except (OSError, ValueError) as error:
        sys.exit(str(error))
