"""Conditions, and what evaluating takes and gives."""

from __future__ import annotations

import time

import pytest

from runnerd.workflow import ExpressionError, condition, evaluate, interpolate, value_of

CONTEXTS = {"github": {"sha": "abc", "n": 1.10, "list": [1]}}


def test_conditions_imply_success():
    """Without a status function `success() &&` is implied; with one it is not."""
    ok, bad = {"success": lambda: True}, {"success": lambda: False, "failure": lambda: True}
    assert condition(None, {}, functions=ok)
    assert not condition("", {}, functions=bad)
    assert condition("github.sha == 'ABC'", CONTEXTS, functions=ok)
    assert not condition("true", {}, functions=bad)
    assert condition("${{ failure() }}", {}, functions=bad)
    assert not condition("'success()'", {}, functions=bad)
    assert not condition("false", {}, functions=ok)
    assert not condition(0, {}, functions=ok)


def test_a_condition_mixed_with_text_always_holds():
    """GitHub makes a non-empty string of it, which is true."""
    assert condition("${{ false }} == true", {}, functions={"success": lambda: True})
    assert not condition("${{ false }}", {}, functions={"success": lambda: True})


def test_a_condition_needs_to_know_success():
    """Without the function a condition that implies it cannot be decided."""
    with pytest.raises(ExpressionError, match="'success' is not available"):
        condition("true", {})


def test_expressions_come_with_or_without_braces():
    """`evaluate` takes both; an empty one is null."""
    assert evaluate("${{ github.sha }}", CONTEXTS) == evaluate("github.sha", CONTEXTS) == "abc"
    assert evaluate("", {}) is None


def test_values_keep_their_types():
    """`value_of` gives the list itself, walks containers, and leaves other scalars alone."""
    assert value_of("${{ github.list }}", CONTEXTS) == [1]
    assert value_of({"a ${{ github.sha }}": ["${{ github.n }}", 2, None]}, CONTEXTS) == {
        "a abc": [1.1, 2, None]
    }
    assert interpolate(1.10, {}) == "1.1"


def test_a_text_of_quotes_takes_no_quadratic_time():
    """A text too long to hold an expression is refused before its braces are looked for."""
    text = "${{ " + "'a' " * 200_000 + "}}"
    start = time.thread_time()
    with pytest.raises(ExpressionError, match="21000"):
        interpolate(text, {})
    assert time.thread_time() - start < 0.1
