"""Schedules against minutes: once per minute that is due, across zones, clock changes and downtimes."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.workflow.ticks import CATCH_UP, SPACING, due

BERLIN = ZoneInfo("Europe/Berlin")


def minute(text, zone=UTC):
    """Minutes since the epoch of a time as clocks in the zone show it."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) // 60


def starts(cron, first, last, zone=UTC):
    """Every minute of a stretch in which a daemon that looks each minute starts the schedule."""
    found, fired = [], None
    for now in range(first, last + 1):
        tick = due(cron, zone, looked=now - 1, now=now, fired=fired)
        if tick is not None:
            fired = tick
            found.append(tick)
    return found


def shown(ticks, zone=UTC):
    return [datetime.fromtimestamp(each * 60, zone).strftime("%a %d %H:%M") for each in ticks]


def test_minutes_hours_and_days():
    """Fields are taken together; Sunday is 0 and 7."""
    day = minute("2026-03-01T00:00")
    week = (day, day + 7 * 1440)
    assert shown(starts("30 5 * * 1,3", *week)) == ["Mon 02 05:30", "Wed 04 05:30"]
    assert shown(starts("0 12 * * 0", *week)) == shown(starts("0 12 * * 7", *week)) == ["Sun 01 12:00"]
    assert shown(starts("0 */12 1 MAR *", *week)) == ["Sun 01 00:00", "Sun 01 12:00"]
    assert shown(starts("5/20 3 2 3 *", *week)) == ["Mon 02 03:05", "Mon 02 03:25", "Mon 02 03:45"]


def test_day_of_the_month_or_of_the_week():
    """Where both are restricted either is enough, as POSIX says; where one is open both must hold."""
    first = minute("2026-03-01T00:00")
    assert shown(starts("0 0 3 * FRI", first, first + 7 * 1440)) == ["Tue 03 00:00", "Fri 06 00:00"]
    assert shown(starts("0 0 */2 * FRI", first, first + 14 * 1440)) == ["Fri 13 00:00"]


def test_never_more_often_than_every_five_minutes():
    """`* * * * *` starts every fifth minute."""
    first = minute("2026-03-01T00:00")
    assert [each - first for each in starts("* * * * *", first, first + 12)] == [0, 5, 10]


def test_a_zone_s_own_clock_counts():
    """9 in Berlin is 8 UTC in winter and 7 in summer."""
    for day, hour in (("2026-01-15", 8), ("2026-07-15", 7)):
        (tick,) = starts("0 9 * * *", minute(f"{day}T00:00"), minute(f"{day}T23:59"), BERLIN)
        assert tick == minute(f"{day}T{hour:02}:00")


def test_the_hour_that_is_left_out():
    """In spring 02:30 does not exist: a fixed schedule comes at 03:00, an open one just goes on."""
    night = (minute("2026-03-29T00:00"), minute("2026-03-29T04:00"))
    assert shown(starts("30 2 * * *", *night, BERLIN), BERLIN) == ["Sun 29 03:00"]
    assert shown(starts("30 * * * *", *night, BERLIN), BERLIN)[:3] == [
        "Sun 29 01:30",
        "Sun 29 03:30",
        "Sun 29 04:30",
    ]


def test_the_hour_that_comes_twice():
    """In autumn a fixed schedule starts once, an open one in both hours."""
    night = (minute("2026-10-24T23:00"), minute("2026-10-25T02:59"))
    assert shown(starts("30 2 * * *", *night, BERLIN), BERLIN) == ["Sun 25 02:30"]
    assert len(starts("30 * * * *", *night, BERLIN)) == 4


def test_a_downtime_costs_one_start_at_most():
    """The newest missed minute is made up for, the others are not, and one of long ago neither."""
    now = minute("2026-03-01T12:10")
    assert due("0 * * * *", UTC, looked=now - 600, now=now, fired=None) == now - 10
    assert due("0 * * * *", UTC, looked=now, now=now, fired=None) is None
    assert due("0 0 1 1 *", UTC, looked=0, now=now, fired=None) is None


def test_a_clock_that_went_back_starts_nothing():
    """Minutes that were decided are not decided again."""
    assert due("* * * * *", UTC, looked=1000, now=900, fired=1000) is None


@pytest.mark.parametrize("cron", ["@daily", "61 * * * *", ""])
def test_what_is_no_cron_expression_is_refused(cron):
    """It never becomes a start."""
    with pytest.raises(ValueError, match=r"\w"):
        due(cron, UTC, looked=0, now=1, fired=None)


@settings(max_examples=60)
@given(st.integers(0, 2**26), st.integers(0, 3000), st.integers(0, 3000))
def test_one_start_lies_where_it_may(now, away, since):
    """Whatever was missed, the start is in the time not decided yet and keeps its distance from the last."""
    looked, fired = now - away, now - since
    tick = due("*/7 * * * *", BERLIN, looked=looked, now=now, fired=fired)
    if tick is not None:
        assert looked < tick <= now
        assert tick > now - CATCH_UP
        assert tick >= fired + SPACING
