"""Which jobs run again when one does."""

from runnerd.workflow import load
from runnerd.workflow.again import dependents
from runnerd.workflow.calls import Scope, scope_of
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
