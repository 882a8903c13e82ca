"""How many machines should stand ready, from the times at which jobs asked for one in the last hours.

A machine serves one job, and the next takes a while to come up. So as many have to stand ready as jobs come
within that while: then each job of a stream at the same pace finds a warm one.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from runnerd.machines.pool import Rules, Shelf, Slot, Stage, hindrance

WITHIN = 60.0
"""Seconds within which jobs come at once: as long as a few machines may take to be replaced."""
FULL = 3600.0
"""Seconds for which what came at once is counted in full."""
HALVES = 1800.0
"""Seconds after which, from then on, it counts half as much."""
MOST = 128
"""Machines of one image that may ever be wanted: it bounds what is remembered."""
MEMORY = FULL + 7 * HALVES
"""Seconds after which nothing counts any more."""

_SPAN = 360.0
_SPANS = int(FULL / _SPAN)


class Peak(msgspec.Struct, frozen=True):
    """So many jobs came at once, the last of them at this time."""

    at: float
    jobs: int


class Demand(msgspec.Struct, frozen=True):
    """What was asked of one image, in bounded memory; times in seconds of any one clock."""

    recent: tuple[float, ...] = ()
    """When jobs came that still come at once with the next."""
    peaks: tuple[Peak, ...] = ()
    """Each larger than all that came later: no other can ever count."""
    tally: tuple[tuple[int, int], ...] = ()
    """Jobs in each tenth of an hour that had any, for an hour."""

    def after(self, at: float) -> Demand:
        """The same, and one more job came; one that is told late counts as come with the last."""
        at = max(at, self.recent[-1]) if self.recent else at
        recent = (*(time for time in self.recent if time > at - WITHIN), at)[-MOST:]
        peaks = [peak for peak in self.peaks if peak.jobs > len(recent) and peak.at > at - MEMORY]
        span = int(at // _SPAN)
        tally = dict(pair for pair in self.tally if pair[0] > span - _SPANS)
        tally[span] = tally.get(span, 0) + 1
        return Demand(recent, (*peaks, Peak(at, len(recent))), tuple(tally.items()))

    def wanted(self, now: float) -> int:
        """Machines that the next jobs at the pace of the last hours would need at once."""
        return max((int(peak.jobs * _weight(now - peak.at)) for peak in self.peaks), default=0)

    def lately(self, now: float) -> int:
        """Jobs that came in the last hour, to a tenth of it."""
        return sum(jobs for span, jobs in self.tally if span > int(now // _SPAN) - _SPANS)


def ready(rules: Rules, wanted: Mapping[str, int]) -> dict[str, int]:
    """Say how many machines of each image should stand idle: its `min_idle`, and more where more are wanted.

    Up to `rules.max_idle` of each; -1: within half of what the pool may hold. What there is room for is
    shared out one by one.
    """
    bounds = rules if rules.max_idle >= 0 else _half(rules)
    kept = [Slot("", s.image, Stage.WARM, 0.0) for s in rules.shelves for _ in range(s.min_idle)]
    counts = {shelf.image: shelf.min_idle for shelf in rules.shelves}
    growing = [shelf.image for shelf in rules.shelves]
    while growing:
        for image in tuple(growing):
            most = min(wanted.get(image, 0), MOST if rules.max_idle < 0 else rules.max_idle)
            if counts[image] >= most or hindrance(kept, bounds, image) is not None:
                growing.remove(image)
            else:
                counts[image] += 1
                kept.append(Slot("", image, Stage.WARM, 0.0))
    return counts


def told(image: str, demand: Demand, shelf: Shelf, now: float) -> str:
    """Say for people how many machines of an image are kept warm, and why."""
    wanted, jobs = demand.wanted(now), demand.lately(now)
    kept = max(shelf.min_idle, shelf.ready)
    came = f"{jobs or 'no'} job{'' if jobs == 1 else 's'} in the last hour"
    if wanted <= shelf.min_idle:
        return f"image {image}: keeps {kept} warm, as min_idle says; {came}"
    short = "" if kept == wanted else ", but [pool] max_idle and the pool's size allow no more"
    return f"image {image}: keeps {kept} warm: {came}, and lately up to {wanted} within a minute{short}"


def _weight(age: float) -> float:
    return 1.0 if age <= FULL else 2.0 ** -((age - FULL) / HALVES)


def _half(rules: Rules) -> Rules:
    return msgspec.structs.replace(
        rules,
        memory=None if rules.memory is None else rules.memory // 2,
        vcpus=rules.vcpus and max(1, rules.vcpus // 2),
        max_total=rules.max_total and max(1, rules.max_total // 2),
    )
