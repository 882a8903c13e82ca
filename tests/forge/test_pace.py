"""Behaviour of runnerd.forge.pace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runnerd.forge.pace import CONTENT, POINTS, Pace

WINDOWS = ((60.0, 10), (600.0, 30))


def test_what_is_free_is_free_now():
    """Up to the window's allowance nothing waits, and then until the oldest has left it."""
    pace = Pace(WINDOWS)
    for second in range(10):
        assert pace.free_at(float(second)) == second
        pace.spend(float(second))
    assert pace.free_at(10.0) == 60.0
    assert pace.free_at(10.0, 3) == 62.0
    assert pace.free_at(60.5) == 60.5


def test_the_longer_window_counts_as_well():
    """Ten a minute for three minutes, and then the rest of the hour is waited for."""
    pace = Pace(WINDOWS)
    for n in range(30):
        pace.spend(n * 6.0)
    assert pace.free_at(240.0) == 600.0


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from([1, 5])), max_size=80))
def test_no_window_is_ever_overspent(steps):
    """Whoever waits as he is told never spends more in any window than it allows."""
    pace, now, spent = Pace(WINDOWS), 0.0, []
    for pause, cost in steps:
        now = pace.free_at(now + pause, cost)
        pace.spend(now, cost)
        spent.append((now, cost))
    for length, allowed in WINDOWS:
        for at, _ in spent:
            assert sum(cost for when, cost in spent if at - length < when <= at) <= allowed


def test_the_windows_stay_below_what_github_allows():
    """900 points a minute; of 80 and 500 pieces of content a part is left to people."""
    assert POINTS == ((60.0, 900),)
    assert CONTENT[0][1] < 80
    assert CONTENT[1][1] < 500
