"""What a job has come to so far."""

import pytest

from runnerd.jobs.masker import Masker
from runnerd.jobs.record import Record
from runnerd.model import Outcome


@pytest.fixture
def record(bench) -> Record:
    return Record(Masker(["hunter2secret"]), bench.observer, lambda: 5.0)


async def put(record: Record, number: int, outcome: Outcome, conclusion: Outcome | None = None) -> None:
    await record.put(number, "", f"s{number}", outcome, conclusion or outcome, reason="why", started=1.0)


async def test_the_first_step_that_failed_tells(record):
    """By its number, whichever ended first; forgiven and skipped steps do not."""
    await put(record, 4, Outcome.FAILURE)
    await put(record, 3, Outcome.TIMED_OUT)
    await put(record, 2, Outcome.SKIPPED)
    await put(record, 1, Outcome.FAILURE, Outcome.SUCCESS)
    assert record.judged() == (Outcome.FAILURE, "the step 's3' failed: why")
    assert [step.number for step in record.results] == [1, 2, 3, 4]


async def test_a_cancelled_step_fails_the_job_unless_it_was_meant(record):
    """A `cancel` is not held against the job; a step that ended so for another reason is."""
    await put(record, 1, Outcome.CANCELLED)
    assert record.judged()[0] is Outcome.FAILURE
    record.excused.add(1)
    assert record.judged() == (Outcome.SUCCESS, "")


async def test_a_step_that_failed_before_its_cancellation_counts(record):
    """Being excused covers only what the `cancel` did."""
    record.excused.add(1)
    await put(record, 1, Outcome.FAILURE)
    assert record.judged()[0] is Outcome.FAILURE


async def test_the_observer_is_told_of_each_end(record, bench):
    """With the time it ended."""
    await put(record, 1, Outcome.SUCCESS)
    assert bench.observer.told == [("ended", 1, "success")]
    assert (record.results[0].started, record.results[0].ended) == (1.0, 5.0)


async def test_summaries_stand_in_the_order_of_the_steps(record):
    """Whichever ended first; blank ones are left out, secrets are masked."""
    record.add(2, (), "two hunter2secret")
    record.add(3, (), " \n")
    record.add(1, (), "one")
    assert record.result(Outcome.SUCCESS, "", {}, summary=1000).summary == "one\n\ntwo ***"
