"""What a job has come to."""

import pytest

from runnerd.jobs.spec import JobLimits
from runnerd.jobs.state import Effects, JobState
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
        (Outcome.CANCELLED, "success"),
    ],
)
def test_the_status_follows_conclusions(state, conclusion, status):
    """What was forgiven, skipped or cancelled on purpose changes nothing."""
    state.count(conclusion)
    assert state.status == status


def test_a_cancelled_job_stays_cancelled(state):
    """A failing clean-up step does not turn it into a failure."""
    state.status = "cancelled"
    state.count(Outcome.FAILURE)
    assert state.status == "cancelled"


def test_steps_are_seen_by_id_with_githubs_words(state):
    """A time-out is a failure to expressions; a step without an id is not seen."""
    state.show("a", Effects(outputs={"x": "1"}), Outcome.TIMED_OUT, Outcome.TIMED_OUT)
    state.show("", Effects(outputs={"x": "2"}), Outcome.SUCCESS, Outcome.SUCCESS)
    assert state.contexts({})["steps"] == {
        "a": {"outputs": {"x": "1"}, "outcome": "failure", "conclusion": "failure"}
    }


def test_contexts_hold_what_expressions_may_name(state):
    """Secrets, variables, the machine and the job's status."""
    contexts = state.contexts({"A": "1"})
    assert contexts["secrets"] == {"KEY": "s"}
    assert contexts["env"] == {"A": "1"}
    assert contexts["job"]["status"] == "success"
    assert contexts["runner"]["temp"] == "/home/runner/work/_temp"


def test_the_runners_variables_win(state):
    """Whatever a step's `env` says of them."""
    variables = state.variables({"GITHUB_REF": "fake", "A": "2"}, {"GITHUB_ENV": "/e"}, "me")
    names = ("GITHUB_REF", "A", "GITHUB_ENV", "GITHUB_ACTION")
    assert [variables[name] for name in names] == ["refs/heads/main", "2", "/e", "me"]


def test_what_a_step_set_shows_to_later_ones(state):
    """Variables it wrote are in the job's environment from then on."""
    state.show("", Effects(variables={"A": "1"}), Outcome.SUCCESS, Outcome.SUCCESS)
    assert state.environment == {"A": "1"}


def test_added_folders_come_before_the_search_path(state):
    """Also before one that a workflow's `env` gives."""
    state.show("", Effects(paths=("/a", "/b")), Outcome.SUCCESS, Outcome.SUCCESS)
    assert state.variables({"PATH": "/mine"}, {})["PATH"] == "/b:/a:/mine"


def test_outputs_have_room_together(state):
    """What is over the limit is not counted, so that a small one still fits."""
    assert state.room_for({"a": "12345678"})
    assert not state.room_for({"b": "1"})


def test_the_runner_is_the_machine_that_there_is_now(state):
    """After a step went back it is another; what else is known of the runner stays."""
    before = state.contexts({})["runner"]
    state.goes_on_in("m2")
    assert state.contexts({})["runner"] == {**before, "name": "m2"}
    assert state.variables({}, {})["RUNNER_NAME"] == "m2"
