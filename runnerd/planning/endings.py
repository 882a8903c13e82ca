"""What an event brings to its end: the runs of a pull request that was closed, or of a merge group."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from runnerd.model import Event, RunRecord

KEPT = 1000
"""Pull requests whose closing is remembered."""


def ends_something(event: Event) -> bool:
    """Whether runs that were started for the same thing are not wanted any more."""
    return (event.name, event.action) in (("pull_request", "closed"), ("merge_group", "destroyed"))


def ended(event: Event, runs: Iterable[RunRecord]) -> list[int]:
    """Which of these runs an event of that kind ends; those about the closing itself go on."""
    found = []
    for run in runs:
        theirs = run.event
        if theirs.repository.id != event.repository.id or run.delivery == event.delivery:
            continue
        if event.name == "pull_request":
            same = theirs.number == event.number and theirs.action != "closed"
        else:
            same = theirs.name == "merge_group" and theirs.sha == event.sha
        if same:
            found.append(run.id)
    return found


class Closings:
    """Remembers when pull requests were closed: deliveries come in any order, and again.

    Kept in memory: after a restart what was missed is taken in its order, and its end with it.
    """

    def __init__(self) -> None:
        self._closed: OrderedDict[tuple[int, int], datetime] = OrderedDict()

    def note(self, event: Event) -> None:
        """Remember a closing."""
        place, when = _place(event), _when(event)
        if place is not None and when is not None and event.action == "closed":
            self._closed[place] = max(when, self._closed.get(place, when))
            self._closed.move_to_end(place)
            while len(self._closed) > KEPT:
                self._closed.popitem(last=False)

    def over(self, event: Event) -> str | None:
        """Why nothing is to be started for an event that was before the pull request's closing."""
        place, when = _place(event), _when(event)
        if place is None or when is None or event.action == "closed" or place not in self._closed:
            return None
        if when >= self._closed[place]:
            return None
        return f"pull request {event.number} was closed after this, and the closing came first"


def _place(event: Event) -> tuple[int, int] | None:
    if event.number is None or not event.name.startswith("pull_request"):
        return None
    return event.repository.id, event.number


def _when(event: Event) -> datetime | None:
    pull = event.payload.get("pull_request")
    text = pull.get("updated_at") if isinstance(pull, dict) else None
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is not None else None
