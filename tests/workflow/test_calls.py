"""Reusable workflows in the graph: entering, inner jobs, inputs, outputs, secrets, groups."""

import msgspec
import pytest

from runnerd.model import CalledFile, Outcome, Phase
from runnerd.workflow import ExpressionError, load
from runnerd.workflow.calls import Scope, file_of, make_calls, scope_of, secrets_of
from runnerd.workflow.concurrency import Standing
from runnerd.workflow.graph import (
    Enter,
    Expand,
    Fail,
    Finish,
    Hold,
    Join,
    Leave,
    LegState,
    NodeState,
    Skip,
    Start,
    decide,
    needs_context,
    with_calls,
)

GITHUB = {"ref": "refs/heads/main", "repository": "octo/hello"}
CALLED = (
    "on:\n  workflow_call:\n    inputs: {who: {type: string, default: you}, n: {type: number}}\n"
    "    secrets: {key: {required: false}}\n    outputs: {tag: {value: '${{ jobs.inner.outputs.t }}'}}\n"
    "jobs:\n  inner: {runs-on: x, steps: [{run: y}]}\n  last: {needs: inner, runs-on: x, steps: [{run: y}]}\n"
)


def caller(rest="", after=True, called=CALLED):
    text = f"on: push\njobs:\n  call: {{uses: ./.github/workflows/c.yml{rest and ', '}{rest}}}\n"
    text += "  after: {needs: call, runs-on: x, steps: [{run: y}]}\n" if after else ""
    return load(text, path="a.yml", resolve=lambda name: called)


def entered(found, contexts=None):
    """The calls that a run of this file makes first."""
    scope = Scope(workflow=found, contexts=contexts or {"github": GITHUB, "inputs": {}, "vars": {}})
    return scope, make_calls(scope, found.jobs["call"], {**scope.contexts, "needs": {}})


def leg(phase=Phase.WAITING, outcome=None, **keys):
    return LegState(index=keys.pop("index", 0), phase=phase, outcome=outcome, **keys)


def done(outcome=Outcome.SUCCESS, **keys):
    return leg(Phase.DONE, outcome, **keys)


def act(found, nodes, *, cancelled=False, holds=None):
    return decide(found, nodes, {"github": GITHUB, "inputs": {}}, cancelled=cancelled, holds=holds)


def state(calls, **inner):
    nodes = {"call": NodeState(key="call", calls=calls)}
    for key, legs in inner.items():
        key = key.replace("__", "/").replace("_", ".") if "__" in key else key
        nodes[key] = NodeState(key=key, legs=(legs,) if isinstance(legs, LegState) else legs)
    return nodes


def test_a_call_is_entered_with_all_jobs_of_its_workflow():
    """In place of the calling job stand the called ones, with joined names."""
    (action,) = act(caller(), {})
    assert isinstance(action, Enter)
    assert action.jobs == (("call.0/inner", "call / inner"), ("call.0/last", "call / last"))


def test_a_matrix_makes_a_call_of_each_leg():
    """Each leg has its own matrix, name and inputs."""
    found = caller("strategy: {matrix: {v: [a, b]}}, with: {who: '${{ matrix.v }}', n: 3}")
    _, calls = entered(found)
    assert [(call.name, call.inputs) for call in calls] == [
        ("call (a)", {"who": "a", "n": 3}),
        ("call (b)", {"who": "b", "n": 3}),
    ]


def test_inputs_that_are_not_given_have_their_defaults():
    """A number without one is 0."""
    _, (call,) = entered(caller())
    assert call.inputs == {"who": "you", "n": 0}


def test_an_input_of_the_wrong_type_is_refused():
    """Text is no number, also where an expression gives it."""
    with pytest.raises(ExpressionError, match="input 'n' is a number"):
        entered(caller("with: {n: '${{ github.ref }}'}"))


def test_needs_within_a_called_workflow_are_its_own():
    """The second job of it waits for the first."""
    found = caller()
    _, calls = entered(found)
    nodes = state(calls, call_0__inner=None, call_0__last=None)
    (action,) = act(found, nodes)
    assert isinstance(action, Expand)
    assert (action.key, action.legs[0].leg.name) == ("call.0/inner", "call / inner")
    nodes = state(calls, call_0__inner=done(), call_0__last=leg())
    assert act(found, nodes) == (Start("call.0/last", 0),)


def test_a_skipped_call_is_one_skipped_job():
    """Its workflow's jobs never come to be."""
    found = caller("if: false")
    (action,) = act(found, {})
    assert isinstance(action, Skip)
    assert action.key == "call"


def test_outputs_of_a_call_are_those_its_workflow_declares():
    """What its jobs give stays within, unless it is mapped."""
    found = caller()
    scope, calls = entered(found)
    nodes = with_calls(state(calls, call_0__inner=done(outputs={"t": "v1"}), call_0__last=done()))
    assert needs_context(scope, nodes, "after") == {"call": {"result": "success", "outputs": {"tag": "v1"}}}


def test_a_failed_inner_job_fails_the_call():
    """Who needs the call is skipped, and the run fails."""
    found = caller()
    _, calls = entered(found)
    nodes = state(calls, call_0__inner=done(Outcome.FAILURE), call_0__last=done(Outcome.SKIPPED))
    (action,) = act(found, nodes)
    assert isinstance(action, Skip)
    assert action.key == "after"
    nodes["after"] = NodeState(key="after", legs=(done(Outcome.SKIPPED),))
    assert act(found, nodes) == (Finish(Outcome.FAILURE, ""),)


def test_a_failed_call_of_a_matrix_stops_the_others():
    """`fail-fast` holds for calls as for jobs."""
    found = caller("strategy: {matrix: {v: [a, b]}}", after=False)
    _, calls = entered(found)
    nodes = state(
        calls, call_0__inner=done(Outcome.FAILURE), call_0__last=done(Outcome.SKIPPED),
        call_1__inner=leg(), call_1__last=None,
    )  # fmt: skip
    actions = act(found, nodes)
    assert [(action.key, action.index) for action in actions if isinstance(action, Fail)] == [
        ("call.1/inner", 0),
        ("call.1/last", None),
    ]


def test_max_parallel_holds_calls_back():
    """The second call begins nothing while the first goes on."""
    found = caller("strategy: {max-parallel: 1, matrix: {v: [a, b]}}", after=False)
    _, calls = entered(found)
    nodes = state(
        calls, call_0__inner=leg(Phase.RUNNING), call_0__last=None, call_1__inner=leg(), call_1__last=None
    )
    assert act(found, nodes) == ()


def test_secrets_go_through_a_call_as_its_map_says():
    """Only what is passed is seen; GITHUB_TOKEN goes by itself; `inherit` passes all."""
    secrets = {"A": "open", "GITHUB_TOKEN": "t"}
    for rest, wanted in (
        ("", {"GITHUB_TOKEN": "t"}),
        ("secrets: {key: '<${{ secrets.A }}>'}", {"key": "<open>", "GITHUB_TOKEN": "t"}),
        ("secrets: inherit", secrets),
    ):
        found = caller(rest)
        scope, (call,) = entered(found)
        inner = scope.enter(found.jobs["call"], call)
        assert secrets_of(inner, secrets, lambda scope, key: {}) == wanted


def test_a_jobs_scope_is_found_by_its_key():
    """It is the called workflow with its inputs; `github` stays the caller's."""
    found = caller("with: {who: ada}")
    scope, calls = entered(found)
    inner, id = scope_of(scope, {"call": calls}, "call.0/inner")
    assert (id, inner.contexts["inputs"]["who"], inner.contexts["github"]) == ("inner", "ada", GITHUB)
    with pytest.raises(LookupError):
        scope_of(scope, {"call": calls}, "call.1/inner")


def test_a_called_job_knows_its_file():
    """`job.workflow_*` name the called file and its commit."""
    found = caller()
    scope, (call,) = entered(found)
    inner = scope.enter(found.jobs["call"], call)
    path = ".github/workflows/c.yml"
    file = CalledFile(source="", repository="octo/ci", path=path, ref="v1", sha="b" * 40)
    assert file_of(inner, GITHUB, {f"./{path}": file}) == {
        "workflow_ref": "octo/ci/.github/workflows/c.yml@v1",
        "workflow_sha": "b" * 40,
        "workflow_repository": "octo/ci",
        "workflow_file_path": path,
    }


GROUPED = load("on: push\nconcurrency: G\njobs: {a: {runs-on: x, steps: [{run: y}]}}", path="w.yml")


def test_a_run_comes_to_its_group_before_anything_else():
    """It waits there, and begins when it holds the group."""
    assert act(GROUPED, {}) == (Join("", 0, "G", False, "single"),)
    assert act(GROUPED, {}, holds={("", 0): Hold("G", Standing.WAITING)}) == ()
    (action,) = act(GROUPED, {}, holds={("", 0): Hold("G", Standing.HOLDING)})
    assert isinstance(action, Expand)


@pytest.mark.parametrize("standing", [Standing.DISPLACED, Standing.STOPPING])
def test_a_run_that_was_called_off_in_its_group_is_cancelled(standing):
    """The reason is the group's."""
    holds = {("", 0): Hold("G", standing, "because")}
    nodes = {"a": NodeState(key="a", legs=None)}
    assert [type(each) for each in act(GROUPED, nodes, holds=holds)] == [Fail]
    nodes = {"a": NodeState(key="a", legs=(done(Outcome.CANCELLED),))}
    assert act(GROUPED, nodes, holds=holds) == (Finish(Outcome.CANCELLED, "because"),)


def test_a_run_that_is_cancelled_while_it_waits_ends():
    """Nothing of it begins, `always()` or not."""
    holds = {("", 0): Hold("G", Standing.WAITING, "waits")}
    (action,) = act(GROUPED, {}, cancelled=True, holds=holds)
    assert isinstance(action, Fail)


JOBS = load(
    "on: push\njobs: {a: {concurrency: 'g-${{ matrix.v }}', strategy: {matrix: {v: [1, 2]}}, "
    "runs-on: x, steps: [{run: y}]}}",
    path="w.yml",
)
LEGS = {"a": NodeState(key="a", legs=tuple(leg(index=n, total=2, matrix={"v": n + 1}) for n in (0, 1)))}


def test_each_leg_comes_to_the_group_that_its_values_name():
    """One starts when it holds its group; the other waits in its own."""
    assert act(JOBS, LEGS) == (
        Join("a", 0, "g-1", False, "single"),
        Join("a", 1, "g-2", False, "single"),
    )
    holds = {("a", 0): Hold("g-1", Standing.HOLDING), ("a", 1): Hold("g-2", Standing.WAITING)}
    assert act(JOBS, LEGS, holds=holds) == (Start("a", 0),)


def test_a_leg_leaves_its_group_when_it_ended():
    """Others may follow then."""
    nodes = {"a": msgspec.structs.replace(LEGS["a"], legs=(done(), LEGS["a"].legs[1]))}
    holds = {("a", 0): Hold("g-1", Standing.HOLDING), ("a", 1): Hold("g-2", Standing.WAITING)}
    assert act(JOBS, nodes, holds=holds) == (Leave("a", 0),)


def test_a_group_of_caller_and_called_is_come_to_once():
    """The inner one would wait for the outer for ever: it is dropped."""
    found = caller("concurrency: G", called=CALLED.replace("jobs:\n", "concurrency: g\njobs:\n"))
    _, calls = entered(found)
    nodes = state(calls, call_0__inner=leg(), call_0__last=None)
    assert act(found, nodes) == (Join("call", 0, "G", False, "single"),)
    assert act(found, nodes, holds={("call", 0): Hold("G", Standing.HOLDING)}) == (Start("call.0/inner", 0),)


def test_a_call_of_an_earlier_attempt_stops_no_other():
    """One that failed then and does not run again lets another run, though fail-fast is on."""
    found = load(
        "on: push\njobs:\n  call: {strategy: {matrix: {n: [1, 2]}}, uses: ./.github/workflows/c.yml}\n",
        path="a.yml",
        resolve=lambda name: CALLED,
    )
    _, calls = entered(found)

    def standing(carried):
        failed = done(Outcome.FAILURE, carried=carried)
        skipped = done(Outcome.SKIPPED, carried=carried)
        first = {"call.0/inner": failed, "call.0/last": skipped}
        second = {"call.1/inner": leg(), "call.1/last": leg()}
        legs = {key: NodeState(key=key, legs=(each,)) for key, each in (first | second).items()}
        return {"call": NodeState(key="call", calls=calls), **legs}

    assert act(found, standing(carried=True)) == (Start("call.1/inner", 0),)
    assert all(isinstance(each, Fail) for each in act(found, standing(carried=False)))
