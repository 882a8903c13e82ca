"""The job graph: what starts, waits, is skipped, cancelled or refused."""

from __future__ import annotations

import time

import msgspec
import pytest

from runnerd.model import Outcome, Phase
from runnerd.workflow import load
from runnerd.workflow.calls import Scope
from runnerd.workflow.graph import (
    Cancel,
    Expand,
    Fail,
    Finish,
    LegState,
    NodeState,
    Skip,
    Start,
    decide,
    needs_context,
    node_result,
    run_outcome,
)

DONE = Phase.DONE


def workflow(*jobs: str):
    text = "on: push\njobs:\n"
    for job in jobs:
        name, _, rest = job.partition(" ")
        text += f"  {name}: {{runs-on: x, steps: [{{run: y}}]{', ' + rest if rest else ''}}}\n"
    return load(text, path="w.yml")


def leg(index=0, phase=Phase.WAITING, outcome=None, total=1, **keys):
    return LegState(index=index, total=total, phase=phase, outcome=outcome, **keys)


def done(outcome=Outcome.SUCCESS, **keys):
    return leg(phase=DONE, outcome=outcome, **keys)


def state(**nodes):
    return {
        key: NodeState(key=key, legs=value if isinstance(value, tuple) or value is None else (value,))
        for key, value in nodes.items()
    }


def act(found, contexts=None, *, cancelled=False, **nodes):
    return decide(
        found, state(**nodes), contexts or {"github": {"ref": "refs/heads/main"}}, cancelled=cancelled
    )


def test_a_job_without_needs_is_expanded_then_started():
    """First its legs are made, then the legs start; a leg under way is left alone."""
    found = workflow("a")
    (expand,) = act(found)
    assert isinstance(expand, Expand)
    assert [(each.leg.name, each.labels) for each in expand.legs] == [("a", ("x",))]
    assert act(found, a=leg()) == (Start("a", 0),)
    assert act(found, a=leg(phase=Phase.QUEUED)) == ()
    assert act(found, a=leg(phase=Phase.RUNNING)) == ()
    assert act(found, a=done()) == (Finish(Outcome.SUCCESS, ""),)


def test_a_job_waits_for_all_its_needs():
    """Each job starts as soon as its own needs ended, whatever others do."""
    found = workflow("a", "b", "c needs: a", "d needs: [a, b]")
    actions = act(found, a=done(), b=leg(phase=Phase.RUNNING), c=leg(), d=leg())
    assert actions == (Start("c", 0),)


def test_the_same_state_gives_the_same_actions():
    """Deciding changes nothing."""
    found = workflow("a", "b needs: a")
    nodes = state(a=done(Outcome.FAILURE), b=leg())
    assert decide(found, nodes, {}, cancelled=False) == decide(found, nodes, {}, cancelled=False)


@pytest.mark.parametrize(
    "outcome",
    [Outcome.FAILURE, Outcome.TIMED_OUT, Outcome.LOST, Outcome.INFRA_ERROR, Outcome.STARTUP_FAILURE],
)
def test_what_needs_a_failed_job_is_skipped(outcome):
    """Anything but success skips those that need it, and the reason names the job."""
    (skip,) = act(workflow("a", "b needs: a"), a=done(outcome), b=leg())
    assert isinstance(skip, Skip)
    assert skip.key == "b"
    assert skip.reason == "it needs 'a', which failed"


def test_a_failed_ancestor_skips_through_an_always_job():
    """success() looks at all ancestors: `always()` in between helps only itself."""
    found = workflow("a", "b needs: a, if: always()", "c needs: b", "d needs: b, if: failure()")
    assert act(found, a=done(Outcome.FAILURE), b=leg(), c=leg(), d=leg()) == (Start("b", 0),)
    actions = act(found, a=done(Outcome.FAILURE), b=done(), c=leg(), d=leg())
    assert isinstance(actions[0], Skip)
    assert actions[1] == Start("d", 0)


def test_a_skipped_need_skips_on():
    """Skipping is passed on, unless the `if` has a status function."""
    found = workflow("a if: false", "b needs: a", "c needs: a, if: '!failure()'")
    (skip,) = act(found, a=None, b=leg(), c=leg())
    assert skip == Skip("a", None, "its `if` is false: false")
    actions = act(found, a=done(Outcome.SKIPPED), b=leg(), c=leg())
    assert isinstance(actions[0], Skip)
    assert actions[1] == Start("c", 0)


def test_success_and_failure_take_names():
    """`success('a')` and `failure('a')` look at the named jobs only."""
    found = workflow("a", "b", "c needs: [a, b], if: success('a')", "d needs: [a, b], if: failure('A')")
    actions = act(found, a=done(), b=done(Outcome.FAILURE), c=leg(), d=leg())
    assert actions[0] == Start("c", 0)
    assert isinstance(actions[1], Skip)


def test_continue_on_error_counts_as_success():
    """A leg that may fail neither skips others nor fails the run."""
    found = workflow("a", "b needs: a")
    failed = done(Outcome.FAILURE, allowed_to_fail=True)
    assert act(found, a=failed, b=leg()) == (Start("b", 0),)
    assert act(found, a=failed, b=done()) == (Finish(Outcome.SUCCESS, ""),)


def test_the_condition_sees_needs():
    """`needs.a.result` and outputs are there; an error in `if` fails the job and not the scheduler."""
    found = workflow(
        "a", "b needs: a, if: needs.a.outputs.go == 'yes'", "c needs: a, if: fromJSON(needs.a.outputs.go)"
    )
    actions = act(found, a=done(outputs={"go": "yes"}), b=leg(), c=leg())
    assert actions[0] == Start("b", 0)
    assert isinstance(actions[1], Fail)
    assert (actions[1].key, actions[1].outcome) == ("c", Outcome.STARTUP_FAILURE)
    assert "fromJSON" in actions[1].reason


def test_outputs_of_legs_are_merged():
    """Later legs win, but an empty value hides nothing."""
    found = workflow("a", "b needs: a")
    nodes = state(
        a=(done(outputs={"x": "1", "y": "1"}), done(index=1, outputs={"x": "", "y": "2"})),
    )
    scope = Scope(workflow=found, contexts={})
    assert needs_context(scope, nodes, "b") == {"a": {"result": "success", "outputs": {"x": "1", "y": "2"}}}


MATRIX = "strategy: {matrix: {v: [1, 2, 3]}}"


def legs(*pairs):
    return tuple(
        leg(index=index, phase=phase, outcome=outcome, total=len(pairs), name=f"a ({index + 1})")
        for index, (phase, outcome) in enumerate(pairs)
    )


def test_fail_fast_stops_the_other_legs():
    """By default one failed leg cancels those under way and ends those that wait."""
    mixed = legs((DONE, Outcome.FAILURE), (Phase.RUNNING, None), (Phase.WAITING, None))
    actions = act(workflow(f"a {MATRIX}"), a=mixed)
    assert [type(each) for each in actions] == [Cancel, Fail]
    assert actions[1].outcome is Outcome.CANCELLED
    assert "fail-fast" in actions[0].reason


@pytest.mark.parametrize("value", ["false", "'${{ github.x }}'"])
def test_fail_fast_can_be_off(value):
    """With `fail-fast: false`, written or evaluated, the others go on."""
    found = workflow(f"a strategy: {{fail-fast: {value}, matrix: {{v: [1, 2, 3]}}}}")
    mixed = legs((DONE, Outcome.FAILURE), (Phase.RUNNING, None), (Phase.WAITING, None))
    assert act(found, {"github": {"x": False}}, a=mixed) == (Start("a", 2),)


def test_a_leg_that_may_fail_does_not_stop_others():
    """continue-on-error of a leg keeps the matrix going."""
    mixed = (done(Outcome.FAILURE, allowed_to_fail=True, total=2), leg(index=1, total=2))
    assert act(workflow(f"a {MATRIX}"), a=mixed) == (Start("a", 1),)


def test_max_parallel_bounds_what_is_under_way():
    """Never more legs at once than allowed; the next starts when one ended."""
    found = workflow("a strategy: {max-parallel: 2, matrix: {v: [1, 2, 3]}}")
    waiting = (Phase.WAITING, None)
    assert act(found, a=legs(waiting, waiting, waiting)) == (Start("a", 0), Start("a", 1))
    assert act(found, a=legs((DONE, Outcome.SUCCESS), (Phase.RUNNING, None), waiting)) == (Start("a", 2),)


def test_a_condition_is_decided_once():
    """A leg that waits behind max-parallel starts even if the `if` would be false by now."""
    found = workflow("a if: github.x, strategy: {max-parallel: 1, matrix: {v: [1, 2]}}")
    mixed = legs((DONE, Outcome.SUCCESS), (Phase.WAITING, None))
    assert act(found, {"github": {"x": ""}}, a=mixed) == (Start("a", 1),)


def test_a_matrix_from_an_output_is_expanded_when_its_needs_ended():
    """Until then the job has no legs; a bad matrix fails the job with the reason."""
    found = workflow("a", "b needs: a, strategy: {matrix: {v: '${{ fromJSON(needs.a.outputs.m) }}'}}")
    assert act(found, a=leg(phase=Phase.RUNNING), b=None) == ()
    (expand,) = act(found, a=done(outputs={"m": "[1, 2]"}), b=None)
    assert [each.leg.name for each in expand.legs] == ["b (1)", "b (2)"]
    (fail,) = act(found, a=done(outputs={"m": "[]"}), b=None)
    assert isinstance(fail, Fail)
    assert "does not contain any values" in fail.reason


def test_what_is_evaluated_per_leg():
    """Name, labels and continue-on-error see the leg's matrix and strategy."""
    found = load(
        """
on: push
jobs:
  a:
    name: T ${{ matrix.v }}/${{ strategy.job-total }}
    runs-on: [self-hosted, "os-${{ matrix.v }}"]
    continue-on-error: ${{ matrix.v == 2 }}
    strategy: {matrix: {v: [1, 2]}}
    steps: [{run: x}]
  b:
    name: Literal
    runs-on: {group: g, labels: [x, y]}
    strategy: {matrix: {v: [1]}}
    steps: [{run: x}]
""",
        path="w",
    )
    first, second = act(found)
    assert [each.leg.name for each in first.legs] == ["T 1/2", "T 2/2"]
    assert [each.labels for each in first.legs] == [("self-hosted", "os-1"), ("self-hosted", "os-2")]
    assert [each.continue_on_error for each in first.legs] == [False, True]
    assert second.legs[0].leg.name == "Literal (1)"
    assert second.legs[0].labels == ("group:g", "x", "y")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("runs-on: '${{ inputs.none }}'", "no label"),
        ("runs-on: '${{ github }}'", "no label"),
        ("runs-on: x, continue-on-error: '${{ github.ref }}'", "true or false"),
        ("runs-on: x, strategy: {max-parallel: '${{ 0 }}', matrix: {v: [1]}}", "max-parallel"),
        ("runs-on: x, strategy: {max-parallel: '${{ 1e999 }}', matrix: {v: [1]}}", "max-parallel"),
    ],
)
def test_what_cannot_be_evaluated_fails_the_job(keys, words):
    """Values of the wrong kind end the job as a startup failure that says so."""
    found = load(f"on: push\njobs: {{a: {{{keys}, steps: [{{run: y}}]}}}}", path="w")
    (fail,) = act(found)
    assert isinstance(fail, Fail)
    assert fail.outcome is Outcome.STARTUP_FAILURE
    assert words in fail.reason


def test_a_call_of_a_workflow_is_refused():
    """The scheduler says that it cannot run a called workflow, and never calls it green."""
    found = load("on: push\njobs: {a: {uses: ./.github/workflows/b.yml}}", path="w")
    (fail,) = act(found)
    assert isinstance(fail, Fail)
    assert (fail.index, fail.outcome) == (None, Outcome.STARTUP_FAILURE)


def test_cancelling_stops_what_runs_and_what_waits():
    """A cancelled run cancels its legs and ends the jobs that would have come."""
    found = workflow("a", "b needs: a", "c")
    actions = act(found, cancelled=True, a=leg(phase=Phase.RUNNING), b=None, c=leg())
    assert actions == (
        Cancel("a", 0, "the run was cancelled"),
        Fail("c", None, Outcome.CANCELLED, "the run was cancelled"),
    )
    assert act(found, cancelled=True, a=done(Outcome.CANCELLED), b=None, c=done()) == (
        Fail("b", None, Outcome.CANCELLED, "the run was cancelled"),
    )


@pytest.mark.parametrize("condition", ["always()", "cancelled()"])
def test_some_jobs_run_when_cancelled(condition):
    """`always()` and `cancelled()` start, and keep running, after the cancellation."""
    found = workflow("a", f"b needs: a, if: {condition}")
    assert act(found, cancelled=True, a=done(Outcome.CANCELLED), b=leg()) == (Start("b", 0),)
    assert act(found, cancelled=True, a=done(Outcome.CANCELLED), b=leg(phase=Phase.RUNNING)) == ()


@pytest.mark.parametrize(
    ("outcomes", "result"),
    [
        ([Outcome.SUCCESS, Outcome.SKIPPED], Outcome.SUCCESS),
        ([Outcome.SKIPPED, Outcome.SKIPPED], Outcome.SKIPPED),
        ([Outcome.SUCCESS, Outcome.CANCELLED], Outcome.CANCELLED),
        ([Outcome.FAILURE, Outcome.CANCELLED], Outcome.FAILURE),
        ([Outcome.TIMED_OUT, Outcome.SUCCESS], Outcome.TIMED_OUT),
        ([Outcome.LOST, Outcome.FAILURE], Outcome.FAILURE),
        ([Outcome.LOST, Outcome.SUCCESS], Outcome.LOST),
        ([Outcome.STARTUP_FAILURE], Outcome.STARTUP_FAILURE),
    ],
)
def test_how_a_run_ends(outcomes, result):
    """Failure over cancelled over success over skipped; a cause shared by all bad jobs is kept."""
    nodes = {str(index): NodeState(key=str(index), legs=(done(each),)) for index, each in enumerate(outcomes)}
    assert run_outcome(nodes) is result


def test_a_job_without_an_outcome_is_never_green():
    """A leg that is done and says nothing counts as failed."""
    assert node_result(NodeState(key="a", legs=(leg(phase=DONE),))) == "failure"
    assert node_result(NodeState(key="a", legs=None)) == ""


def test_planning_a_full_matrix_is_fast():
    """256 legs with names and labels are planned within milliseconds of a core."""
    found = load(
        "on: push\njobs: {a: {runs-on: '${{ matrix.a }}', strategy: {matrix: {"
        f"a: {list('abcdefghijklmnop')}, b: {list(range(16))}"
        "}}, steps: [{run: x}]}}",
        path="w",
    )
    best = 1.0
    for _ in range(5):
        start = time.thread_time()
        (expand,) = act(found)
        best = min(best, time.thread_time() - start)
    assert len(expand.legs) == 256
    assert best < 0.1


def test_a_leg_of_an_earlier_attempt_counts_but_stops_no_other():
    """Another leg runs again though fail-fast is on; what the job comes to is that of all its legs."""
    found = workflow("m strategy: {matrix: {n: [1, 2]}}", "z needs: m")
    old = done(Outcome.FAILURE, total=2, carried=True)
    assert act(found, m=(old, leg(1, total=2)), z=leg()) == (Start("m", 1),)
    both = (old, leg(1, DONE, Outcome.SUCCESS, total=2))
    assert act(found, m=both, z=leg()) == (Skip("z", None, "it needs 'm', which failed"),)
    new = msgspec.structs.replace(old, carried=False)
    (failed,) = act(found, m=(new, leg(1, total=2)), z=leg())
    assert isinstance(failed, Fail)
