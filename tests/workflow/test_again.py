"""Which jobs run again when one does."""

from hypothesis import given
from hypothesis import strategies as st

from runnerd.model import Outcome, Phase
from runnerd.workflow import load
from runnerd.workflow.again import dependents
from runnerd.workflow.calls import Scope, scope_of
from runnerd.workflow.graph import Expand, Finish, LegState, NodeState, Start, decide
from runnerd.workflow.model import Call

JOB = "runs-on: x, steps: [{run: y}]"
INNER = f"on:\n  workflow_call:\njobs:\n  c: {{{JOB}}}\n  d: {{needs: c, {JOB}}}\n  e: {{{JOB}}}\n"


def scope(*jobs):
    text = "on: push\njobs:\n" + "".join(f"  {job}\n" for job in jobs)
    return Scope(workflow=load(text, path="w.yml", resolve=lambda name: INNER), contexts={})


def test_all_that_need_a_job_and_what_needs_those():
    """In the order of the file, without the job itself and without what it needs."""
    found = scope(
        f"z: {{needs: [b, other], {JOB}}}",
        f"a: {{{JOB}}}",
        f"b: {{needs: a, {JOB}}}",
        f"other: {{{JOB}}}",
    )
    assert dependents(found, "a") == {"z": "z", "b": "b"}
    assert dependents(found, "other") == {"z": "z"}
    assert dependents(found, "z") == {}


def test_a_called_job_is_needed_within_its_call_and_through_its_caller():
    """Only the same call's jobs, and outside who needs the caller; a caller stands for its own calls."""
    found = scope(
        "call: {uses: ./.github/workflows/c.yml}",
        "next: {needs: call, uses: ./.github/workflows/c.yml}",
        f"last: {{needs: next, {JOB}}}",
        f"aside: {{{JOB}}}",
    )
    calls = {"call": (Call(key="call", leg=1, legs=2, name="call (1)", matrix=None, inputs={}),)}
    inner, id = scope_of(found, calls, "call.1/c")
    assert dependents(inner, id) == {"call.1/d": "call (1) / d", "next": "next", "last": "last"}


graphs = st.integers(1, 7).flatmap(
    lambda count: st.tuples(
        *(st.sets(st.integers(0, job - 1)) if job else st.just(set()) for job in range(count))
    )
)


@given(graphs, st.data())
def test_what_runs_again_is_what_the_graph_starts(needs, data):
    """Whatever the graph: beside the jobs that are carried over, it starts the job and those that need it."""
    jobs = [
        f"j{job}: {{needs: [{', '.join(f'j{need}' for need in found)}], {JOB}}}"
        for job, found in enumerate(needs)
    ]
    found = scope(*jobs)
    chosen = data.draw(st.sampled_from(sorted(found.workflow.jobs)))
    again = {chosen, *dependents(found, chosen)}
    over = LegState(index=0, phase=Phase.DONE, outcome=Outcome.SUCCESS, carried=True)
    nodes = {key: NodeState(key=key, legs=None if key in again else (over,)) for key in found.workflow.jobs}
    nodes[chosen] = NodeState(key=chosen, legs=(LegState(index=0),))
    started = []
    for _ in range(3 * len(nodes) + 1):
        for action in decide(found.workflow, nodes, {"github": {}}, cancelled=False):
            if isinstance(action, Expand):
                nodes[action.key] = NodeState(key=action.key, legs=(LegState(index=0),))
            elif isinstance(action, Start):
                started.append(action.key)
                done = LegState(index=0, phase=Phase.DONE, outcome=Outcome.SUCCESS)
                nodes[action.key] = NodeState(key=action.key, legs=(done,))
            else:
                assert action == Finish(Outcome.SUCCESS, "")
    assert sorted(started) == sorted(again)
