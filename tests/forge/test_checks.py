"""Behaviour of runnerd.forge.checks: what check runs say, within the API's limits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.forge import checks
from runnerd.forge.checks import check_of, external_id, subject_of
from runnerd.forge.links import Links
from runnerd.model import (
    Actor,
    Annotation,
    Event,
    JobRecord,
    Outcome,
    Phase,
    Repository,
    RunRecord,
    StepResult,
)

EVENT = Event(
    delivery="d-1", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o"),
    sha="c" * 40, ref="refs/heads/main", report_sha="c" * 40,
)  # fmt: skip
RUN = RunRecord(
    id=5, delivery="d-1", repository="o/r", workflow_path=".github/workflows/ci.yml", workflow_name="CI",
    title="Make it fast", source="s", event=EVENT, number=3,
)  # fmt: skip


def step(number, outcome=Outcome.SUCCESS, **changes):
    ended = {"started": 100.0, "ended": 103.4} | changes
    return StepResult(
        number=number, id="", name=f"step {number}", outcome=outcome, conclusion=outcome, **ended
    )


def job(outcome=None, **changes):
    done = {} if outcome is None else {"phase": Phase.DONE, "started": 100.0, "ended": 175.0}
    return JobRecord(id=9, run=5, key="build", name="build (a, 1)", outcome=outcome, **(done | changes))


@pytest.mark.parametrize(
    ("phase", "status"),
    [(Phase.WAITING, "queued"), (Phase.QUEUED, "queued"), (Phase.RUNNING, "in_progress")],
)
def test_a_job_that_has_not_ended_has_no_conclusion(phase, status):
    """It is queued or in progress, and can be cancelled at the check run."""
    check = check_of(RUN, job(phase=phase, started=100.0 if phase is Phase.RUNNING else None))
    assert (check.name, check.status, check.conclusion) == ("runnerd / CI / build (a, 1)", status, "")
    assert check.completed_at == ""
    assert [action["identifier"] for action in check.actions] == [checks.CANCEL]


@pytest.mark.parametrize(
    ("outcome", "conclusion", "title"),
    [
        (Outcome.SUCCESS, "success", "Successful in 1m 15s"),
        (Outcome.FAILURE, "failure", "Failed after 1m 15s"),
        (Outcome.CANCELLED, "cancelled", "Cancelled after 1m 15s"),
        (Outcome.SKIPPED, "skipped", "Skipped"),
        (Outcome.TIMED_OUT, "timed_out", "Timed out after 1m 15s"),
        (Outcome.STARTUP_FAILURE, "failure", "Could not start after 1m 15s"),
        (Outcome.LOST, "failure", "Lost after 1m 15s"),
        (Outcome.INFRA_ERROR, "failure", "Infrastructure error after 1m 15s"),
    ],
)
def test_every_outcome_keeps_its_name_or_is_a_failure(outcome, conclusion, title):
    """Never neutral, and green only for what is green; a fault of ours has a title of its own."""
    check = check_of(RUN, job(outcome))
    assert (check.status, check.conclusion, check.title) == ("completed", conclusion, title)
    assert (check.started_at, check.completed_at) == ("1970-01-01T00:01:40Z", "1970-01-01T00:02:55Z")
    assert [action["identifier"] for action in check.actions] == ([] if outcome.green else [checks.RERUN])


def test_the_steps_are_listed_with_their_times_and_ends():
    """Which failed with what, which was allowed to, and how long each took."""
    steps = (
        step(1),
        msgspec.structs.replace(step(2, Outcome.FAILURE, exit_code=3), conclusion=Outcome.SUCCESS),
        step(3, Outcome.FAILURE, exit_code=1),
        step(4, Outcome.SKIPPED, started=None, ended=None, reason="an earlier step failed"),
    )
    summary = check_of(RUN, job(Outcome.FAILURE, steps=steps), tail="boom").summary
    assert "| ✅ | 1. step 1 | Successful | 3.4s |" in summary
    assert "| 2. step 2 | Failed, exit status 3 (allowed to fail) |" in summary
    assert "| 4. step 4 | Skipped: an earlier step failed |  |" in summary
    assert "```text\nboom\n```" in summary
    assert "run 5, attempt 1" in summary


def test_a_job_that_goes_on_says_from_where():
    """Its first steps ran in an earlier attempt, which their times would not tell."""
    summary = check_of(RUN, job(Outcome.SUCCESS, steps=(step(1),), resumes="7/2")).summary
    assert "It goes on from step 2 of job 7: the steps before it are as they were then." in summary
    assert "goes on" not in check_of(RUN, job(Outcome.SUCCESS, steps=(step(1),))).summary


def test_step_summaries_are_the_text():
    """As Markdown, without what a terminal would act on; only once the job has ended."""
    text = check_of(RUN, job(Outcome.SUCCESS, summary="# Coverage\n\x1b[31m80 %\x1b[0m\n")).text
    assert text == "# Coverage\n80 %\n"
    assert check_of(RUN, job(phase=Phase.RUNNING, summary="# Coverage")).text == ""


@given(st.text(max_size=300), st.integers(1, 2000))
def test_texts_are_cut_on_bytes_with_their_fences_closed(piece, times):
    """Whatever stands in a summary, no text is longer than the API takes."""
    summary = f"~~~~ js\n{'é' * 30000}\n" + (piece + "\n") * times
    check = check_of(RUN, job(Outcome.FAILURE, summary=summary, reason=piece * times), tail=piece * times)
    assert len(check.text.encode()) <= 65535
    assert len(check.summary.encode()) <= 65535
    assert len(check.title) <= 255


def test_an_open_code_block_is_closed_where_a_text_is_cut():
    """Tildes and backticks of any length and with any words behind them."""
    for fence in ("~~~~", "```", "`````"):
        text = check_of(RUN, job(Outcome.SUCCESS, summary=f"{fence} js title\n" + "line\n" * 20000)).text
        assert f"\n{fence}\n\n_The step summaries were cut" in text


def test_annotations_point_into_the_repository():
    """Paths of the guest's workspace become the repository's; one without a place stands at the workflow."""
    given_ = (
        Annotation(
            level="error", message="bad", title="t", path="/home/runner/work/r/r/src/a.py", line=3, column=7
        ),
        Annotation(level="warning", message="span", path="./b.py", line=4, end_line=6, column=2),
        Annotation(level="notice", message="nowhere"),
        Annotation(level="error", message="", path="/etc/passwd", line=9),
        Annotation(level="error", message="up", path="../../x", line=9),
    )
    found = check_of(RUN, job(Outcome.FAILURE, annotations=given_)).annotations
    assert found[0] == {
        "path": "src/a.py", "start_line": 3, "end_line": 3, "annotation_level": "failure", "message": "bad",
        "title": "t", "start_column": 7, "end_column": 7,
    }  # fmt: skip
    assert (found[1]["path"], found[1]["end_line"], "start_column" in found[1]) == ("b.py", 6, False)
    assert [each["path"] for each in found[2:]] == [RUN.workflow_path] * 3
    assert [each["start_line"] for each in found[2:]] == [1, 1, 1]
    assert all(each["message"] for each in found)


def test_annotations_are_counted_where_there_are_too_many():
    """The first five hundred are shown, and how many are not."""
    many = tuple(Annotation(level="error", message=str(n)) for n in range(510))
    check = check_of(RUN, job(Outcome.FAILURE, annotations=many))
    assert len(check.annotations) == 500
    assert "10 more annotations are in the log." in check.summary


def test_an_allowed_failure_says_so_and_offers_no_new_run():
    """The check run keeps the truth, its title the context."""
    check = check_of(RUN, job(Outcome.FAILURE, allowed_to_fail=True))
    assert check.title.startswith("Allowed to fail. Failed")
    assert (check.conclusion, check.actions) == ("failure", ())


def test_a_run_without_jobs_speaks_for_itself():
    """Its reason is the summary, and its external id names no job."""
    run = msgspec.structs.replace(
        RUN, phase=Phase.DONE, outcome=Outcome.STARTUP_FAILURE, reason="Invalid workflow file"
    )
    check = check_of(run, None)
    assert (check.name, check.conclusion) == ("runnerd / CI", "failure")
    assert "Invalid workflow file" in check.summary
    assert subject_of(check.external_id) == checks.Subject(5, None, external_id(run, None)[-12:])


def test_an_external_id_leads_back_to_its_run():
    """Ours is read again and fits that run alone; another's is nobody's."""
    subject = subject_of(external_id(RUN, job()))
    assert subject is not None
    assert (subject.run, subject.job) == (5, 9)
    assert subject.fits(RUN)
    assert not subject.fits(msgspec.structs.replace(RUN, id=6))
    assert not subject.fits(msgspec.structs.replace(RUN, delivery="another ledger's"))
    for strange in ("", "5/9", "a/b/c", "-5/9/x", "5/9/x/y", "9" * 30 + "/1/x"):
        assert subject_of(strange) is None


def test_links_lead_somewhere_or_are_not_there():
    """Only with a public address."""
    links = Links(public_url="https://ci.example", key=b"k" * 32)
    assert check_of(RUN, job()).details_url == ""
    assert check_of(RUN, job(), links=links).details_url == links.of(5, 9)
    assert check_of(RUN, None, links=links).details_url == links.of(5, None)


def test_a_repeated_body_that_nobody_confirmed_is_said():
    """The summary of a check that ran without the forge's word says so."""
    event = msgspec.structs.replace(EVENT, remark="its body came before, as delivery d-0")
    run = msgspec.structs.replace(RUN, event=event)
    assert (
        "Unconfirmed: its body came before, as delivery d-0." in check_of(run, job(Outcome.SUCCESS)).summary
    )
    assert "Unconfirmed" not in check_of(RUN, job(Outcome.SUCCESS)).summary
