# ruff: noqa: E501 - flow-style workflows are read best on one line
"""Jobs: their two kinds and what each needs."""

from __future__ import annotations

import pytest

from runnerd.workflow import load


def test_jobs_keep_their_order_and_keys(job):
    """All keys come out as data, in the order of the file."""
    found = load(
        "on: push\njobs: {b: {runs-on: x, steps: [{run: x}]}, a: {runs-on: x, steps: [{run: x}]}}", path="w"
    )
    assert list(found.jobs) == ["b", "a"]
    one = job(
        "name: N, if: github.x, timeout-minutes: 5, cancel-timeout-minutes: 1, continue-on-error: true, outputs: {o: v}"
    )
    assert (one.id, one.name, one.condition, one.timeout_minutes, one.cancel_timeout_minutes) == (
        "a",
        "N",
        "github.x",
        5,
        1,
    )
    assert (one.continue_on_error, one.outputs) == (True, {"o": "v"})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{steps: [{run: x}]}", "needs 'runs-on'"),
        ("{runs-on: x, uses: ./.github/workflows/x.yml}", "'uses'"),
        ("{uses: ./.github/workflows/x.yml, steps: []}", "key of a job that calls a workflow 'steps'"),
        ("{uses: ./.github/workflows/x.yml, secrets: inhrit}", "did you mean 'inherit'"),
        ("{uses: ./.github/workflows/x.yml, secrets: [a]}", "A sequence was not expected"),
        ("{runs-on: x, steps: [{run: x}], if: secrets.x}", "'secrets' cannot be used here"),
        ("[a]", "A sequence was not expected"),
        ("x", "a mapping was expected"),
    ],
)
def test_wrong_jobs_are_named(problems, body, words):
    """Each mistake says what is wrong."""
    assert words in problems(f"on: push\njobs: {{a: {body}}}")[0][2]


def test_a_job_without_steps_is_valid_and_never_green():
    """GitHub reads it; there is nothing that could succeed, so the run says so."""
    for body in ("{runs-on: x}", "{runs-on: x, steps: []}"):
        (problem,) = load(f"on: push\njobs: {{a: {body}}}", path="w").unsupported
        assert "no steps" in problem.message
        assert problem.severity == "error"


def test_a_call_keeps_the_types_of_its_inputs():
    """Numbers and booleans under `with` of a call stay what they are."""
    found = load(
        "on: push\njobs: {a: {uses: o/r/.github/workflows/x.yml@v1, with: {n: 1, b: true, s: '1'}, secrets: inherit}}",
        path="w",
    )
    assert found.jobs["a"].with_ == {"n": 1, "b": True, "s": "1"}
    assert found.jobs["a"].secrets == "inherit"
