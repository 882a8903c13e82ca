"""Which kept machines go, and how large one more may be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.machines.driver import NotKept
from runnerd.machines.quota import Limits, excess, room


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """One of job `job`, which alone has it."""

    job: int
    repository: str = "o/r"
    at: float = 0.0
    bytes: int = 0

    @property
    def folder(self):
        return Path(str(self.job))


def jobs(found):
    return [each.job for each in found]


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 50), st.booleans()), max_size=12),
    st.integers(0, 8),
    st.integers(1, 60),
    st.integers(0, 150),
)
def test_what_goes_is_no_more_than_the_limits_ask(all_kept, count, age, disk):
    """Nothing in use goes; the rest is within the limits, or nothing more could go; no older one outlives."""
    machines = [Machine(job=n, at=at, bytes=size) for n, (at, size, _) in enumerate(all_kept)]
    held = {machines[n].folder for n, (_, _, in_use) in enumerate(all_kept) if in_use}
    limits = Limits(count=count, age=age, disk=disk)
    gone = excess(machines, 100.0, limits, held)
    stay = [each for each in machines if each not in gone]
    free = [each for each in stay if each.folder not in held]
    assert not [each for each in gone if each.folder in held]
    assert not [each for each in free if 100 - each.at > age]
    if free:
        assert len(stay) <= count
        assert sum(each.bytes for each in stay) <= disk
        oldest = min(each.at for each in free)
        assert all(each.at <= oldest or 100 - each.at > age for each in gone)
    for last in gone[-1:]:
        if 100 - last.at <= age:
            assert len(stay) + 1 > count or sum(each.bytes for each in stay) + last.bytes > disk


ONE = st.tuples(st.sampled_from("abc"), st.integers(0, 100), st.integers(0, 60))


@given(st.lists(ONE, max_size=12), st.integers(1, 8), st.integers(1, 150), st.integers(0, 60))
def test_a_repository_within_its_share_loses_nothing_to_others(all_kept, count, disk, wanted):
    """Whatever one of them keeps more, as large as it may be: its own go, or those of who has too much."""
    limits = Limits(count=count, disk=disk)
    machines = [Machine(job=n, repository=r, at=at, bytes=b) for n, (r, at, b) in enumerate(all_kept)]
    before = [each for each in machines if each not in excess(machines, 100.0, limits)]
    try:
        most = room(before, limits, job=99, repository="a", stays=())
    except NotKept:
        return
    new = Machine(job=99, repository="a", at=100.0, bytes=min(wanted, most))
    gone = excess([*before, new], 100.0, limits, {new.folder})
    left = [each for each in [*before, new] if each not in gone]
    assert len(left) <= count
    assert sum(each.bytes for each in left) <= disk
    whose = {each.repository for each in [*before, new]}
    for other in whose - {"a"}:
        its = [each for each in before if each.repository == other]
        if len(its) <= count // len(whose) and sum(each.bytes for each in its) <= disk // len(whose):
            assert not [each for each in gone if each.repository == other]


def test_who_has_the_most_loses_its_oldest():
    """Of what there is too much of: of machines, or of bytes; where they are equal, who has the oldest."""
    many = [Machine(job=n, repository="o/many", at=n, bytes=1) for n in range(4)]
    large = [Machine(job=n, repository="o/large", at=n, bytes=40) for n in (-2, -1)]
    assert jobs(excess(many + large, 9.0, Limits(count=5, disk=1000))) == [0]
    assert jobs(excess(many + large, 9.0, Limits(count=9, disk=50))) == [-2]
    assert jobs(excess(many + large, 9.0, Limits(count=3, disk=1000))) == [0, 1, -2]


def test_there_is_room_for_a_newcomer():
    """A repository that has everything leaves it its share, but for what is in use."""
    full = [Machine(job=n, repository="o/busy", bytes=25) for n in range(4)]
    limits = Limits(count=4, disk=100)
    assert room(full, limits, job=9, repository="o/new", stays=()) == 50
    assert room(full, limits, job=9, repository="o/busy", stays=()) == 100
    assert room(full, limits, job=9, repository="o/new", stays={each.folder for each in full[:3]}) == 25
    with pytest.raises(NotKept, match="in use"):
        room(full, limits, job=9, repository="o/new", stays={each.folder for each in full})
    assert room(full, limits, job=0, repository="o/busy", stays={each.folder for each in full[:3]}) == 50


def test_running_jobs_of_one_repository_do_not_drive_out_anothers():
    """What each of them holds counts against its own share, and one more has no room."""
    quiet = [Machine(job=n, repository="o/quiet", bytes=10) for n in range(2)]
    busy = [Machine(job=n, repository="o/busy", bytes=10) for n in range(2, 4)]
    stays = {each.folder for each in busy}
    with pytest.raises(NotKept, match="in use"):
        room(quiet + busy, Limits(count=4, disk=1000), job=9, repository="o/busy", stays=stays)
    with pytest.raises(NotKept, match="in use"):
        room(quiet + busy, Limits(count=9, disk=40), job=9, repository="o/busy", stays=stays)
