"""What one job reached, and what it was refused: lines for its log, however much a job asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

Say = Callable[[str], Awaitable[None]]
"""Takes one line for the job's log, which it masks."""

LINES = 50
"""Refusals that are logged as they happen; the same one once."""
PLACES = 1000
"""Places that are counted one by one."""
SHOWN = 20
"""Places that the summary names."""


class Traffic(msgspec.Struct):
    """What went to one place, in bytes of payload."""

    connections: int = 0
    sent: int = 0
    received: int = 0


class Account:
    """Counts for one job. What it is given as a place is a host and port that may stand in a log."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._places: dict[str, Traffic] = {}
        self._others = Traffic()
        self._refused: Counter[str] = Counter()
        self._unsaid = 0

    def reached(self, place: str) -> Traffic:
        """Count a connection; its bytes are added to what this returns."""
        if place in self._places or len(self._places) < PLACES:
            traffic = self._places.setdefault(place, Traffic())
        else:
            traffic = self._others
        traffic.connections += 1
        return traffic

    async def refused(self, place: str, rule: str) -> None:
        """Name a refusal in the log, the same one once."""
        line = f"##[warning]The network policy refused a connection to {place}: {rule}."
        if line in self._refused or len(self._refused) < LINES:
            self._refused[line] += 1
            if self._refused[line] == 1:
                await self._say(line)
        else:
            self._unsaid += 1

    async def close(self) -> None:
        """Write the summary, where there is something to sum up."""
        if self._places:
            await self._say("##[group]Network")
            busiest = sorted(self._places.items(), key=lambda item: -(item[1].sent + item[1].received))
            for place, traffic in busiest[:SHOWN]:
                await self._say(f"{place}: {_told(traffic)}")
            rest = [traffic for _, traffic in busiest[SHOWN:]]
            rest += [self._others] if self._others.connections else []
            if rest:
                total = Traffic(
                    sum(each.connections for each in rest),
                    sum(each.sent for each in rest),
                    sum(each.received for each in rest),
                )
                await self._say(f"other places: {_told(total)}")
            await self._say("##[endgroup]")
        repeated = self._unsaid + sum(self._refused.values()) - len(self._refused)
        if repeated:
            await self._say(f"##[warning]The network policy refused {repeated} more connections of this job.")


def _told(traffic: Traffic) -> str:
    many = "" if traffic.connections == 1 else "s"
    return (
        f"{traffic.connections} connection{many}, "
        f"{traffic.sent:,} bytes sent, {traffic.received:,} bytes received"
    )
