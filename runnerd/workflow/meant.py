"""Which job or step a person means who gives its number, its id or its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LISTED = 30
"""Choices that a refusal names, at most."""


class Named(NamedTuple):
    """A job or a step as people may call it; `id` is empty where the workflow gives none."""

    number: int
    id: str
    name: str

    def __str__(self) -> str:
        return f"{self.number} ({self.name})"


class Unclear(LookupError):
    """Nothing, or more than one thing, is called that; the sentence says what there is."""


def meant(wanted: str, among: Sequence[Named], *, what: str, whole: str) -> Named:
    """Return the one that `wanted` means: by number, else by name, else by id, which has no case.

    `what` is the kind of thing (`step`), `whole` what it is of (`job 12`). Raises `Unclear`.
    """
    by_number = [each for each in among if str(each.number) == wanted]
    by_name = [each for each in among if each.name == wanted]
    by_id = [each for each in among if each.id and each.id.lower() == wanted.lower()]
    found = by_number or by_name or by_id
    if len(found) == 1:
        return found[0]
    choices = found or among
    listed = ", ".join(map(str, choices[:LISTED])) or "none"
    more = f" and {len(choices) - LISTED} more" if len(choices) > LISTED else ""
    counted = f"several {what}s" if found else f"no {what}"
    raise Unclear(f"{wanted[:80]!r} means {counted} of {whole}: there are {listed}{more}")
