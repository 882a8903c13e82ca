"""Reading the schedules of `on.schedule`: POSIX cron with names, and time zones by their form."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

_MONTH_NAMES = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"
_DAY_NAMES = "SUN MON TUE WED THU FRI SAT"
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES.split(), 1)}
_DAYS = {name: number for number, name in enumerate(_DAY_NAMES.split())}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of the month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?", re.ASCII).fullmatch
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}").fullmatch


def cron_problem(text: str) -> str | None:
    """What is wrong with a cron expression, or None."""
    if len(text) > 500:
        return "a schedule has at most 500 characters"
    if text.startswith("@"):
        return f"{text!r} is not supported: write the five fields"
    fields = text.split()
    if len(fields) != len(_FIELDS):
        return f"{text!r} has {len(fields)} fields; minute, hour, day, month and day of the week are five"
    for field, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            if not _valid(part, low, high, names):
                return f"{part!r} is no valid {name} in {text!r}; it goes from {low} to {high}"
    return None


def _valid(part: str, low: int, high: int, names: dict[str, int]) -> bool:
    found = _PART(part)
    if found is None:
        return False
    _, first, last, step = found.groups()
    if step is not None and not (len(step) < 4 and 1 <= int(step) <= high):
        return False
    if first is None:
        return True
    start, end = _number(first, names), _number(last or first, names)
    return start is not None and end is not None and low <= start <= end <= high


class Cron(NamedTuple):
    """The numbers each field takes; Sunday is 0. A field counts as open where it starts with `*`."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    open_hours: bool
    open_days: bool
    open_weekdays: bool


@functools.lru_cache(maxsize=1024)
def parse_cron(text: str) -> Cron:
    """What a cron expression says; raises ValueError with the sentence of `cron_problem`."""
    problem = cron_problem(text)
    if problem:
        raise ValueError(problem)
    fields = text.split()
    taken = [
        frozenset(number for part in field.split(",") for number in _numbers(part, low, high, names))
        for field, (_, low, high, names) in zip(fields, _FIELDS, strict=True)
    ]
    minutes, hours, days, months, weekdays = taken
    return Cron(
        minutes,
        hours,
        days,
        months,
        frozenset(day % 7 for day in weekdays),
        fields[1].startswith("*"),
        fields[2].startswith("*"),
        fields[4].startswith("*"),
    )


def _numbers(part: str, low: int, high: int, names: dict[str, int]) -> range:
    """The numbers of one valid part; `5/10` counts from 5 to the field's end."""
    found = _PART(part)
    assert found is not None
    _, first, last, step = found.groups()
    every = int(step) if step is not None else 1
    if first is None:
        return range(low, high + 1, every)
    start = _number(first, names)
    end = _number(last, names) if last is not None else (start if step is None else high)
    assert start is not None
    assert end is not None
    return range(start, end + 1, every)


def _number(word: str, names: dict[str, int]) -> int | None:
    if word.isdigit():
        return int(word) if len(word) <= 2 else None
    return names.get(word.upper())


def zone_problem(text: str) -> str | None:
    """What is wrong with the form of a time zone's name, or None; if it exists is known where it is used."""
    if len(text) > 64 or not _ZONE(text):
        return f"{text[:100]!r} is no time zone name like Europe/Berlin"
    return None
