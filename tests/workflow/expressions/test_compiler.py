"""Evaluating expressions: GitHub's own examples and what they leave open."""

from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.workflow.expressions import evaluate
from runnerd.workflow.expressions.compiler import compiled
from runnerd.workflow.expressions.values import kind_of
from runnerd.workflow.model import ExpressionError, Limits


def plain(value):
    """A value in which equal numbers compare equal and NaN equals itself."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value


def test_every_example_of_github_gives_its_value_or_its_error(reference):
    """All worked examples agree; the one about memory under the budget it was written for."""
    wrong = []
    examples = reference("expressions.json")
    for example in examples:
        limits = Limits(memory=1 << 20) if "memory-errors" in example["id"] else Limits()
        try:
            value = evaluate(example["expr"], example["contexts"], limits=limits)
        except ExpressionError as error:
            if "error" not in example:
                wrong.append((example["id"], str(error)))
            continue
        expected = example.get("expected")
        if expected is None:
            wrong.append((example["id"], "no error"))
        elif kind_of(value).capitalize() != expected["kind"] or (
            value is not None and plain(value) != plain(expected["value"])
        ):
            wrong.append((example["id"], value))
    assert wrong == []
    assert len(examples) == 1020


def test_env_is_the_only_context_with_case():
    """`env.PATH` and `env.path` differ; other contexts and their names do not."""
    contexts = {"env": {"A": "1"}, "github": {"Ref": "x"}, "inputs": {"A": "2"}}
    assert evaluate("env.a", contexts) is None
    assert evaluate("ENV['A']", contexts) == "1"
    assert evaluate("GitHub.ref", contexts) == "x"
    assert evaluate("inputs.a", contexts) == "2"


def test_known_contexts_may_be_missing_and_others_not():
    """A context of GitHub's that is not there is null; a name GitHub does not have is an error."""
    assert evaluate("steps.x.outputs.y", {}) is None
    with pytest.raises(ExpressionError, match="Unrecognized named-value: 'stepz'") as caught:
        evaluate("true || stepz.x", {})
    assert caught.value.offset == 8


def test_the_caller_supplies_functions():
    """hashFiles and the status functions come from the caller, whatever the case of their names."""
    functions = {"hashFiles": lambda *patterns: "+".join(patterns)}
    assert evaluate("hashfiles('a', 'b')", {}, functions=functions) == "a+b"
    with pytest.raises(ExpressionError, match="not available here"):
        evaluate("success()", {})
    with pytest.raises(ExpressionError, match="Unrecognized function: 'nope'"):
        evaluate("false && nope()", {})


def test_filtered_arrays_reach_through():
    """A path behind `*` reads every item that has it."""
    contexts = {"inputs": {"a": [{"b": 1}, {"c": 2}, {"B": 3}]}}
    assert evaluate("inputs.a.*.b", contexts) == [1, 3]
    assert evaluate("contains(inputs.a.*.b, '3')", contexts) is True


def test_the_same_text_is_compiled_once():
    """Compiled expressions are cached by their text."""
    assert compiled("github.ref == 'x'") is compiled("github.ref == 'x'")


def test_length_is_bounded():
    """An expression longer than GitHub reads is refused before it is read."""
    with pytest.raises(ExpressionError, match="21000"):
        evaluate("1" * 21_001, {})


def test_a_typical_expression_is_fast():
    """A compiled condition costs tens of microseconds of a core."""
    text = "github.event_name == 'push' && contains(github.ref, 'main') && !startsWith(github.actor, 'bot')"
    contexts = {"github": {"event_name": "push", "ref": "refs/heads/main", "actor": "octo"}}
    best = math.inf
    for _ in range(20):
        start = time.thread_time()
        for _ in range(50):
            assert evaluate(text, contexts) is True
        best = min(best, (time.thread_time() - start) / 50)
    assert best < 100e-6


TEXT = """github inputs env . .* [0] [*] ['a'] ( ) ! != == < >= && || , 'x' '' 1 -1 0x1 NaN null true
toJSON( fromJSON( format( join( contains( case( startsWith( '{0}' '[1,{}]' }} ${{ é"""
TOKENS = TEXT.split()


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from(TOKENS), max_size=25).map("".join),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_nothing_but_an_expression_error_comes_out(text, value):
    """Whatever the expression and the data, the answer is a value or an `ExpressionError`, in time."""
    start = time.thread_time()
    try:
        json.dumps(evaluate(text, {"github": value, "inputs": value, "env": {}}))
    except ExpressionError:
        pass
    assert time.thread_time() - start < 1.0
