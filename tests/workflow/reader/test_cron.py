"""Schedules as POSIX cron."""

from __future__ import annotations

import pytest

from runnerd.workflow.reader.cron import cron_problem, zone_problem


@pytest.mark.parametrize(
    "text", ["0 0 * * *", "*/15 0-5,22 1,15 JAN-MAR mon-FRI", "30 5 * * 7", "0 */12 * * *", "5/10 1 31 12 0"]
)
def test_valid_schedules(text):
    """Steps, lists, ranges and names are taken."""
    assert cron_problem(text) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("@daily", "five fields"),
        ("* * * *", "4 fields"),
        ("60 * * * *", "minute"),
        ("* 24 * * *", "hour"),
        ("* * 0 * *", "day of the month"),
        ("* * * 13 *", "month"),
        ("* * * * 8", "day of the week"),
        ("5-1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("a * * * *", "minute"),
        ("* * * * L", "day of the week"),
        ("1,, * * * *", "minute"),
        ("0" * 600, "500 characters"),
    ],
)
def test_invalid_schedules_are_explained(text, words):
    """The sentence names the field."""
    assert words in (cron_problem(text) or "")


def test_time_zones_by_their_form():
    """A name is taken, anything else explained."""
    assert zone_problem("America/Argentina/Buenos_Aires") is None
    assert zone_problem("UTC") is None
    assert "no time zone name" in (zone_problem("../../etc") or "")
