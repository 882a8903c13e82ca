"""When a schedule is due: cron in a time zone against minutes since the epoch. No clock is read here.

Where the clocks change, a schedule with fixed hours keeps its one start a day: what falls into the hour
that is left out comes right behind it, and the hour that comes twice counts once. A schedule whose hours
are open (`*`, `*/2`) follows the minutes that pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from runnerd.workflow.reader.cron import Cron, parse_cron

SPACING = 5
"""Minutes that lie between two starts of one schedule at least: GitHub's shortest interval."""
CATCH_UP = 24 * 60
"""Minutes after which a start that was missed is not made up for."""

_MINUTE = timedelta(minutes=1)
_LONGEST_GAP = 180


def due(cron: str, zone: tzinfo, *, looked: int, now: int, fired: int | None) -> int | None:
    """The minute for which the schedule is to be started now, or None.

    All are minutes since the epoch: `looked` was the last to be decided, `fired` that of the last start. Of
    several that were missed it is the newest, so that a downtime costs one start at most.
    Raises ValueError for a cron expression that is none.
    """
    fields = parse_cron(cron)
    first = max(looked, now - CATCH_UP)
    if fired is not None:
        first = max(first, fired + SPACING - 1)
    return next((minute for minute in range(now, first, -1) if _comes(fields, zone, minute)), None)


def _comes(cron: Cron, zone: tzinfo, minute: int) -> bool:
    here = datetime.fromtimestamp(minute * 60, UTC).astimezone(zone)
    if here.fold and not cron.open_hours:
        return False
    return any(_matches(cron, each) for each in _wall_times(cron, zone, minute, here))


def _wall_times(cron: Cron, zone: tzinfo, minute: int, here: datetime) -> Iterator[datetime]:
    """What clocks on a wall show in this minute, and what they jumped over to show it."""
    yield here
    if cron.open_hours:
        return
    before = datetime.fromtimestamp((minute - 1) * 60, UTC).astimezone(zone)
    shown, last = here.replace(tzinfo=None), before.replace(tzinfo=None)
    gap = round((shown - last) / _MINUTE)
    for back in range(1, min(gap, _LONGEST_GAP)):
        yield shown - back * _MINUTE


def _matches(cron: Cron, at: datetime) -> bool:
    if at.minute not in cron.minutes or at.hour not in cron.hours or at.month not in cron.months:
        return False
    day, weekday = at.day in cron.days, at.isoweekday() % 7 in cron.weekdays
    # POSIX: where both are restricted, either is enough.
    return (day and weekday) if cron.open_days or cron.open_weekdays else (day or weekday)
