"""The files a step writes to: GITHUB_ENV, GITHUB_OUTPUT and GITHUB_STATE, and GITHUB_PATH. Pure.

Rules of GitHub's runner on Linux: lines end with LF alone, a CR is part of the value.
"""

from __future__ import annotations

_REFUSED = frozenset({"NODE_OPTIONS"})
"""Variables that a step may not set for later steps: they would run code in actions."""

ENTRIES = 50_000
"""Names in one file at most: more would hold up other jobs."""

_SHOWN = 80


class BadEnvironmentFile(ValueError):
    """The file breaks the format; the step that wrote it fails. Says what is wrong."""


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Read `name=value` lines and `name<<DELIMITER` blocks, in their order.

    Empty lines are skipped. A line is a block where `<<` comes before any `=`. Raises
    `BadEnvironmentFile` for a line that is neither, an empty name or delimiter, a block without end, and
    more than `ENTRIES` names.
    """
    pairs: list[tuple[str, str]] = []
    lines = text.removeprefix("\ufeff").split("\n")
    # What follows the last LF is a line only if it holds something.
    if lines[-1] == "":
        lines.pop()
    rest = iter(lines)
    for line in rest:
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            name, _, value = line.partition("=")
            if not name:
                raise BadEnvironmentFile(f"the name is missing in {_shown(line)}")
        elif heredoc >= 0:
            name, _, delimiter = line.partition("<<")
            if not name or not delimiter:
                raise BadEnvironmentFile(f"the name or the delimiter is missing in {_shown(line)}")
            block = []
            for inner in rest:
                if inner == delimiter:
                    break
                block.append(inner)
            else:
                raise BadEnvironmentFile(
                    f"the closing delimiter {_shown(delimiter)} of {_shown(name)} is missing"
                )
            value = "\n".join(block)
        else:
            raise BadEnvironmentFile(f"{_shown(line)} is neither name=value nor name<<DELIMITER")
        if len(pairs) >= ENTRIES:
            raise BadEnvironmentFile(f"it sets more than {ENTRIES} names")
        pairs.append((name, value))
    return pairs


def parse_paths(text: str) -> list[str]:
    """Read GITHUB_PATH: one folder a line, empty lines skipped."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line]


def prepend(paths: list[str], added: list[str]) -> list[str]:
    """Return the search path with folders added one after the other in front, each once."""
    for path in added:
        paths = [path, *(other for other in paths if other != path)]
    return paths


def is_refused(name: str) -> bool:
    """Whether no step may set this variable for later steps, however it is spelled."""
    return name.upper() in _REFUSED


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
