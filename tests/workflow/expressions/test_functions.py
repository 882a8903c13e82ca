"""The functions and their budget."""

from __future__ import annotations

import pytest

from runnerd.workflow.expressions import evaluate
from runnerd.workflow.expressions.functions import Budget, format_text, to_json
from runnerd.workflow.model import ExpressionError, Limits


def test_json_is_indented_and_keeps_order():
    """toJSON writes two spaces per level and the keys in their order."""
    assert to_json([{"b": [1, "é\u2028"], "a": {}}], Budget(1000)) == (
        '{\n  "b": [\n    1,\n    "é\\u2028"\n  ],\n  "a": {}\n}'
    )


def test_json_of_deep_values_is_refused():
    """A value nested deeper than JSON is written here is an error, not a stack overflow."""
    value: list = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ExpressionError, match="deeper than"):
        evaluate("toJSON(inputs)", {"inputs": value})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "{'a': 1}"])
def test_what_is_not_json_is_an_expression_error(text):
    """fromJSON never raises anything else."""
    with pytest.raises(ExpressionError, match="fromJSON"):
        evaluate("fromJSON(inputs.x)", {"inputs": {"x": text}})


def test_memory_is_bounded_before_it_is_used():
    """Ten factors of ten stop at the budget."""
    text = "'0123456789'"
    for _ in range(10):
        text = f"format('{'{0}' * 10}', {text})"
    with pytest.raises(ExpressionError, match="bytes of memory"):
        evaluate(text, {})


def test_arguments_of_format_are_evaluated_when_referred_to():
    """An argument no place refers to costs nothing and cannot fail."""
    assert evaluate("format('{1}', fromJSON('{'), 'x')", {}) == "x"


def test_format_counts_its_arguments():
    """An index beyond the arguments is refused, however many digits it has."""
    with pytest.raises(ExpressionError, match="more arguments"):
        format_text("{99999999999999999999}", lambda index: index, 3, Budget(100))


def test_the_error_of_a_function_points_at_its_call():
    """The offset of an evaluation error is where the function is named."""
    with pytest.raises(ExpressionError) as caught:
        evaluate("1 == fromJSON('{')", {})
    assert caught.value.offset == 5


def test_a_long_text_searched_again_and_again_is_bounded():
    """Work on large values counts against the same budget."""
    expression = " || ".join(["contains(inputs.x, 'b')"] * 100)
    with pytest.raises(ExpressionError, match="memory"):
        evaluate(expression, {"inputs": {"x": "a" * 100_000}}, limits=Limits(memory=1 << 20))
