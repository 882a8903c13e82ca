"""The legs of a job before anything ran, and the labels they ask for."""

from __future__ import annotations

import pytest

from runnerd.workflow import ExpressionError, load
from runnerd.workflow.legs import boolean, labels_of, max_parallel, plan_legs, strategy_context


def workflow(*jobs: str):
    text = "on: push\njobs:\n"
    for job in jobs:
        name, _, rest = job.partition(" ")
        text += f"  {name}: {{runs-on: x, steps: [{{run: y}}], {rest}}}\n"
    return load(text, path="w.yml")


def test_what_can_be_planned_before_anything_ran():
    """Jobs that look at no other job's outputs have their legs at once; the rest have none yet."""
    found = workflow(
        "a strategy: {matrix: {v: [1, 2]}}",
        "b needs: a, name: '${{ needs.a.result }}'",
        "c needs: a, strategy: {matrix: '${{ fromJSON(needs.a.outputs.m) }}'}",
        "d strategy: {matrix: '${{ fromJSON(vars.m) }}'}",
    )
    planned = plan_legs(found, {"vars": {"m": "nonsense"}})
    assert {key: legs and len(legs) for key, legs in planned.items()} == {
        "a": 2,
        "b": None,
        "c": None,
        "d": None,
    }


def test_a_call_of_a_workflow_has_no_legs():
    """The scheduler says why."""
    found = load("on: push\njobs: {a: {uses: ./.github/workflows/b.yml}}", path="w")
    assert plan_legs(found, {}) == {"a": None}


@pytest.mark.parametrize(
    ("runs_on", "labels"),
    [
        ("x", ("x",)),
        (["x", "", "x", 5], ("x", "5")),
        ("${{ fromJSON('[1, 2]') }}", ("1", "2")),
        ({"group": "g"}, ("group:g",)),
        ({"group": "g", "labels": "l"}, ("group:g", "l")),
        ("${{ fromJSON('{\"labels\": [1]}') }}", ("1",)),
    ],
)
def test_labels_come_from_every_form_of_runs_on(runs_on, labels):
    """One label, a list, a group with labels, and expressions that give them; each once."""
    assert labels_of(runs_on, {}) == labels


@pytest.mark.parametrize("runs_on", ["", "${{ inputs.x }}", [[]], [{}], None, {}])
def test_runs_on_must_give_a_label(runs_on):
    """Nothing, or no single value, is an error with a sentence."""
    with pytest.raises(ExpressionError, match="label"):
        labels_of(runs_on, {})


def test_max_parallel_is_a_number_of_at_least_one():
    """Text that is a number counts; zero and words do not."""
    (job,) = workflow("a strategy: {max-parallel: '${{ vars.n }}', matrix: {v: [1]}}").jobs.values()
    assert max_parallel(job, {"vars": {"n": "2"}}) == 2
    assert max_parallel(job, {"vars": {"n": ""}}) is None
    for wrong in ("0", "many"):
        with pytest.raises(ExpressionError, match="max-parallel"):
            max_parallel(job, {"vars": {"n": wrong}})


def test_booleans_may_be_text():
    """An expression often gives the words; anything else is refused."""
    assert boolean("${{ vars.b }}", {"vars": {"b": "true"}}, "x", default=False)
    assert boolean("${{ vars.c }}", {"vars": {}}, "x", default=True)
    with pytest.raises(ExpressionError, match="true or false"):
        boolean("${{ vars.b }}", {"vars": {"b": "yes"}}, "x", default=False)


def test_the_strategy_context_of_a_leg():
    """Its place among the legs, and the evaluated bounds; without a strategy the defaults."""
    (job,) = workflow("a strategy: {fail-fast: false, matrix: {v: [1, 2]}}").jobs.values()
    assert strategy_context(job, {}, 1, 2) == {
        "fail-fast": False,
        "job-index": 1,
        "job-total": 2,
        "max-parallel": 2,
    }
    (plain,) = workflow("a name: x").jobs.values()
    assert strategy_context(plain, {}, 0, 1)["fail-fast"] is True
