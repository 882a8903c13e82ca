"""Behaviour of runnerd.planning.judge."""

from __future__ import annotations

import pytest

from runnerd.model import Actor, Event, Outcome, Repository
from runnerd.planning import judge as judging
from runnerd.planning.judge import judge, listed
from runnerd.workflow import load

EVENT = Event(
    delivery="d",
    name="push",
    repository=Repository(id=7, full_name="octo/hello"),
    sender=Actor(id=1, login="ada"),
    sha="a" * 40,
    ref="refs/heads/main",
    message="a change\n\nwhy",
)


def read(jobs: str, on: str = "push"):
    return load(f"name: CI\non: {on}\njobs:\n{jobs}", path="ci.yml")


def test_a_run_has_the_jobs_that_an_image_claims(site):
    """A foreign job and what needs it are left out, and the note says why."""
    workflow = read(
        "  a: {runs-on: ubuntu-latest, steps: [{run: x}]}\n"
        "  b: {runs-on: windows-latest, steps: [{run: x}]}\n"
        "  c: {needs: b, runs-on: ubuntu-latest, steps: [{run: x}]}\n"
    )
    run, note = judge(EVENT, workflow, "text", None, site)
    assert [job.key for job in run.jobs] == ["a"]
    assert (run.title, run.source_text, run.outcome) == ("a change", "text", None)
    assert "job b is not ours: no image claims windows-latest" in note.reason
    assert "job c is not ours: it needs b, which is not ours" in note.reason


def test_a_workflow_that_does_not_match_has_only_a_note(site):
    """The note is why."""
    run, note = judge(EVENT, read("  a: {runs-on: x, steps: [{run: x}]}", "release"), "", None, site)
    assert (run, note.matched) == (None, False)


def test_wrong_inputs_are_a_failed_run(site):
    """A manual start with an input nobody declared is not green and not silent."""
    event = Event(**{f: getattr(EVENT, f) for f in EVENT.__struct_fields__} | {
        "name": "workflow_dispatch", "inputs": {"nobody": "1"}, "workflow": "ci.yml"})  # fmt: skip
    workflow = read("  a: {runs-on: ubuntu-latest, steps: [{run: x}]}", "workflow_dispatch")
    run, _ = judge(event, workflow, "", None, site)
    assert (run.outcome, run.jobs) == (Outcome.STARTUP_FAILURE, ())
    assert "'nobody' is not declared" in run.reason


@pytest.mark.parametrize(("number", "lines"), [(3, 3), (10, 10), (12, 11)])
def test_many_problems_are_counted(number, lines):
    """The first are shown, and how many more there are."""
    text = listed([f"problem {n}" for n in range(number)])
    assert len(text.splitlines()) == lines
    assert (f"and {number - judging.PROBLEMS_SHOWN} more" in text) is (number > judging.PROBLEMS_SHOWN)


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("run-name: 'Deploy ${{ github.ref_name }} by  ${{ github.actor }}'", "Deploy main by ada"),
        ("run-name: ''", "a change"),
        ("", "a change"),
    ],
)
def test_a_run_has_the_name_its_file_gives_it(site, line, title):
    """`run-name` is evaluated when the run is made; where it gives nothing the commit's first line stands."""
    text = f"on: push\n{line}\njobs: {{a: {{runs-on: ubuntu-latest, steps: [{{run: x}}]}}}}\n"
    run, _ = judge(EVENT, load(text, path="ci.yml"), text, None, site)
    assert run.title == title
