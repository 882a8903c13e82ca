"""What a job has come to."""

import pytest

from runnerd.jobs.spec import JobLimits
from runnerd.jobs.state import JobState
from runnerd.machines.driver import Paths
from runnerd.model import Outcome


@pytest.fixture
def state(bench) -> JobState:
    spec = bench.spec(
        "on: push\njobs: {a: {runs-on: x, steps: [{run: x}]}}", limits=JobLimits(step_outputs=10)
    )
    return JobState(spec, {"KEY": "s"}, Paths(), "m1")


@pytest.mark.parametrize(
    ("conclusion", "status"),
    [
        (Outcome.SUCCESS, "success"),
        (Outcome.SKIPPED, "success"),
        (Outcome.FAILURE, "failure"),
        (Outcome.TIMED_OUT, "failure"),
    ],
)
def test_the_status_follows_conclusions(state, conclusion, status):
    """What was forgiven or skipped changes nothing."""
    state.take_step("a", {}, Outcome.FAILURE, conclusion)
    assert state.status == status


def test_a_cancelled_job_stays_cancelled(state):
    """A failing clean-up step does not turn it into a failure."""
    state.status = "cancelled"
    state.take_step("a", {}, Outcome.FAILURE, Outcome.FAILURE)
    assert state.status == "cancelled"


def test_steps_are_seen_by_id_with_githubs_words(state):
    """A time-out is a failure to expressions; a step without an id is not seen."""
    state.take_step("a", {"x": "1"}, Outcome.TIMED_OUT, Outcome.TIMED_OUT)
    state.take_step("", {"x": "2"}, Outcome.SUCCESS, Outcome.SUCCESS)
    assert state.contexts({})["steps"] == {
        "a": {"outputs": {"x": "1"}, "outcome": "failure", "conclusion": "failure"}
    }


def test_contexts_hold_what_expressions_may_name(state):
    """Secrets, variables, the machine and the job's status."""
    contexts = state.contexts({"A": "1"})
    assert contexts["secrets"] == {"KEY": "s"}
    assert contexts["env"] == {"A": "1"}
    assert contexts["job"] == {"status": "success"}
    assert contexts["runner"]["temp"] == "/home/runner/work/_temp"


def test_variables_and_their_protection(state):
    """Ours win over a step's; refused names are told."""
    assert state.take_variables([("A", "1"), ("NODE_OPTIONS", "x"), ("GITHUB_X", "y"), ("B", "\0")]) == [
        "NODE_OPTIONS",
        "GITHUB_X",
        "B",
    ]
    variables = state.variables({"GITHUB_REF": "fake", "A": "2"}, {"GITHUB_ENV": "/e"})
    assert (variables["GITHUB_REF"], variables["A"], variables["GITHUB_ENV"]) == (
        "refs/heads/main",
        "2",
        "/e",
    )
    assert state.environment == {"A": "1"}


def test_added_folders_come_before_the_search_path(state):
    """Also before one that a workflow's `env` gives."""
    state.take_paths(["/a", "/b"])
    assert state.variables({"PATH": "/mine"}, {})["PATH"] == "/b:/a:/mine"


def test_outputs_have_room_together(state):
    """What is over the limit is not counted, so that a small one still fits."""
    assert state.room_for({"a": "12345678"})
    assert not state.room_for({"b": "1"})
