"""Behaviour of runnerd.planning.kept: in which machines a job can be gone back to."""

from __future__ import annotations

import msgspec
import pytest

from runnerd.model import JobRecord
from runnerd.planning.kept import kept_of


class Kept(msgspec.Struct, frozen=True):
    """A machine that is kept."""

    job: int
    step: int
    name: str = "a step"


class Attempts:
    """A ledger that knows jobs, by number."""

    def __init__(self, *rows: JobRecord) -> None:
        self.rows = {row.id: row for row in rows}

    async def job(self, job: int) -> JobRecord | None:
        return self.rows.get(job)


def row(number: int, *, resumes: str = "", carried: str = "") -> JobRecord:
    return JobRecord(id=number, run=1, key="build", name="build", resumes=resumes, carried=carried)


KEPT = {1: (2, 3, 4), 2: (4, 5), 3: (5, 6)}
"""Steps from before which machines of each job are kept."""


async def of(*rows: JobRecord) -> list[tuple[int, int]]:
    """Where the last of these goes back to: pairs of job and step, in order."""
    found = await kept_of(
        rows[-1],
        ledger=Attempts(*rows),  # type: ignore[arg-type]
        kept=lambda job: [Kept(job, step) for step in KEPT.get(job, ())],
    )
    assert list(found) == [each.step for each in found.values()]
    return [(each.job, each.step) for each in found.values()]


async def test_a_job_has_its_own() -> None:
    """Those of a job that began by itself are all of them."""
    assert await of(row(1)) == [(1, 2), (1, 3), (1, 4)]
    assert await of(row(9)) == []


async def test_a_job_that_went_on_has_those_before_as_well() -> None:
    """Of the one it went on from those up to the step it went on from: what came after was another story."""
    first, second = row(1), row(2, resumes="1/3")
    assert await of(first, second) == [(1, 2), (1, 3), (2, 4), (2, 5)]
    assert await of(first, second, row(3, resumes="2/4")) == [(1, 2), (1, 3), (2, 4), (3, 5), (3, 6)]


async def test_a_carried_job_has_those_of_the_one_that_ran() -> None:
    """It stands in a later attempt under another number."""
    assert await of(row(1), row(7, carried="1/1")) == [(1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("resumes", ["5/3", "2/9"])
async def test_no_history_is_endless(resumes: str) -> None:
    """A job that says it went on from one that is gone, or from itself, has what is there."""
    assert await of(row(2, resumes=resumes)) == [(2, 4), (2, 5)]
