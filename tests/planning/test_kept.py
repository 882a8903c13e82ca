"""Behaviour of runnerd.planning.kept: in which machines a job can be gone back to."""

from __future__ import annotations

import msgspec
import pytest

from runnerd.model import Actor, Event, JobRecord, Outcome, Repository, RunRecord, StepResult
from runnerd.planning.kept import UNKNOWN, kept_of, why_none


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


def run(*, fork: bool = False) -> RunRecord:
    event = Event(
        delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), fork=fork,
        sender=Actor(id=1, login="o"),
    )  # fmt: skip
    return RunRecord(
        id=1, delivery="d", repository="o/r", workflow_path="p", workflow_name="CI", title="t", source="s",
        event=event, number=1,
    )  # fmt: skip


def ended(outcome: Outcome | None, *steps: Outcome, machine: str = "m-1") -> JobRecord:
    results = (
        StepResult(number=number, id="", name="x", outcome=each, conclusion=each)
        for number, each in enumerate(steps, 1)
    )
    return msgspec.structs.replace(row(1), outcome=outcome, steps=tuple(results), machine=machine)


GOOD, BAD = Outcome.SUCCESS, Outcome.FAILURE


@pytest.mark.parametrize(
    ("job", "mode", "why"),
    [
        (ended(BAD, GOOD, BAD), "off", "mode is off"),
        (ended(BAD, machine=""), "each-step", "it never began"),
        (ended(GOOD, GOOD, GOOD), "on-failure", "it succeeded, and"),
        (ended(Outcome.CANCELLED, GOOD), "on-failure", "it was cancelled, and"),
        (ended(BAD, BAD, GOOD), "on-failure", "it failed in its first step"),
        (ended(BAD, BAD), "each-step", "it failed in its first step"),
        (ended(GOOD, GOOD), "each-step", "it has one step"),
        (ended(GOOD, GOOD, GOOD), "each-step", UNKNOWN),
        (ended(BAD, GOOD, BAD), "on-failure", UNKNOWN),
        (ended(None), "on-failure", UNKNOWN),
    ],
)
def test_why_nothing_is_kept(job: JobRecord, mode: str, why: str) -> None:
    """What is known for certain is said; otherwise what it can be."""
    assert why in why_none(run(), job, mode)


def test_what_was_said_when_it_was_not_kept_is_told() -> None:
    """Where nothing is certain without it."""
    bad = msgspec.structs.replace(ended(GOOD, GOOD, BAD), not_kept="the disk is full")
    good = msgspec.structs.replace(ended(GOOD, GOOD), not_kept="the disk is full")
    assert why_none(run(), bad, "each-step") == "the disk is full"
    assert "it succeeded" in why_none(run(), good, "on-failure")


def test_of_a_fork_nothing_is_kept() -> None:
    """Whatever the mode is, and however it ended."""
    assert why_none(run(fork=True), ended(BAD, GOOD, BAD), "each-step").startswith("the run is a fork's")
