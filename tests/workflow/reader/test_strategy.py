"""The strategy of a job as data, and its mistakes."""

from __future__ import annotations

import pytest

from runnerd.workflow import load


def test_a_matrix_becomes_plain_data(job):
    """No trace of the parser is left in it."""
    found = job(
        "strategy: {fail-fast: false, max-parallel: 2, matrix: {a: [1, {b: [c]}], include: [{x: y}]}}"
    )
    assert found.strategy.matrix == {"a": [1, {"b": ["c"]}], "include": [{"x": "y"}]}
    assert type(found.strategy.matrix["a"][1]) is dict
    assert (found.strategy.fail_fast, found.strategy.max_parallel) == (False, 2)


@pytest.mark.parametrize(
    "matrix",
    ["'${{ fromJSON(needs.b.outputs.m) }}'", "{a: '${{ fromJSON(vars.x) }}'}", "{include: '${{ vars.x }}'}"],
)
def test_expressions_may_give_any_part(job_problems, matrix):
    """The matrix, a vector, include: each may be one expression."""
    assert job_problems(f"strategy: {{matrix: {matrix}}}") == []


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("{matrix: {a: []}}", "does not contain any values"),
        ("{matrix: {a: x}}", "a sequence was expected"),
        ("{matrix: {include: {a: b}}}", "A mapping was not expected"),
        ("{matrix: {include: [x]}}", "a mapping was expected"),
        ("{matrix: {a: [1], exclude: [{b: 1}]}}", "does not match any key"),
        ("{matrix: {a: ['${{ matrix.b }}']}}", "'matrix' cannot be used here"),
        ("{matrix: {a: ['${{ github.b']}}", "not closed"),
        ("{matrix: '${{ vars.x }}y'}", "whole value"),
        ("{matrixx: {}}", "did you mean 'matrix'"),
        ("{max-parallel: 0, matrix: {a: [1]}}", "at least 1"),
        ("{fail-fast: 1}", "true or false"),
        ("x", "a mapping was expected"),
    ],
)
def test_wrong_strategies_are_named(job_problems, strategy, words):
    """Each mistake says what is wrong."""
    assert words in job_problems(f"strategy: {strategy}")[0]


def test_a_strategy_that_is_an_expression_is_said_to_be_unsupported():
    """GitHub takes it; here the run says that it cannot."""
    found = load(
        "on: push\njobs: {a: {runs-on: x, strategy: '${{ fromJSON(vars.x) }}', steps: [{run: y}]}}", path="w"
    )
    assert "strategy" in found.unsupported[0].message
