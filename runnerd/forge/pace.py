"""How fast we may write at a forge without being told to stop: counted here, before it has to count.

GitHub's secondary limits ("Rate limits for the REST API"): 900 points a minute, of which a read costs 1
and a write 5, and 80 pieces of content a minute and 500 an hour, which people at its pages share with us.
"""

from __future__ import annotations

from collections import deque

READ, WRITE = 1, 5
POINTS = ((60.0, 900),)
"""Windows in seconds, and what may be spent in each."""
CONTENT = ((60.0, 60), (3600.0, 400))
"""A part of GitHub's 80 and 500: the rest is for people."""


class Pace:
    """Counts what was spent in some windows of time. Times are seconds of one clock, never going back."""

    def __init__(self, windows: tuple[tuple[float, int], ...]) -> None:
        self._windows = windows
        self._spent: deque[tuple[float, int]] = deque()

    def free_at(self, now: float, cost: int = 1) -> float:
        """Return when so much may be spent: `now` or later."""
        self._forget(now)
        at = now
        for length, allowed in self._windows:
            inside = [(when, what) for when, what in self._spent if when > now - length]
            over = sum(what for _, what in inside) + cost - allowed
            for when, what in inside:
                if over <= 0:
                    break
                over -= what
                at = max(at, when + length)
        return at

    def spend(self, now: float, cost: int = 1) -> None:
        """Count something that was sent."""
        self._forget(now)
        self._spent.append((now, cost))

    def _forget(self, now: float) -> None:
        longest = max(length for length, _ in self._windows)
        while self._spent and self._spent[0][0] <= now - longest:
            self._spent.popleft()
