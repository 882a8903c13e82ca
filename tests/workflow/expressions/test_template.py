"""Text with expressions in it."""

from __future__ import annotations

import pytest

from runnerd.workflow.expressions import interpolate, value_of
from runnerd.workflow.expressions.template import templated
from runnerd.workflow.model import ExpressionError

CONTEXTS = {"github": {"sha": "abc", "n": 1.10, "list": [1]}, "inputs": {"evil": "${{ github.sha }}"}}


def test_expressions_in_text_become_text():
    """Each expression is replaced by its value as GitHub prints it."""
    assert interpolate("a ${{ github.sha }}-${{github.n}} ${{ github.list }}", CONTEXTS) == "a abc-1.1 Array"
    assert interpolate(True, CONTEXTS) == "true"
    assert interpolate(None, CONTEXTS) == ""


def test_results_are_never_evaluated_again():
    """A value that looks like an expression stays text."""
    assert interpolate("${{ inputs.evil }}", CONTEXTS) == "${{ github.sha }}"


def test_braces_inside_a_string_do_not_close():
    """`}}` in a literal belongs to the literal."""
    assert interpolate("${{ format('{{{0}}}', 'x}}') }}!", {}) == "{x}}}!"


def test_a_whole_expression_keeps_its_type():
    """`value_of` gives the list itself, walks containers, and leaves other scalars alone."""
    assert value_of("${{ github.list }}", CONTEXTS) == [1]
    assert value_of({"a": ["${{ github.n }}", 2]}, CONTEXTS) == {"a": [1.1, 2]}


@pytest.mark.parametrize(
    ("text", "words", "offset"),
    [
        ("a ${{ github.sha", "not closed", 2),
        ("a ${{ 'x }}", "not closed", 2),
        ("${{ }}", "expected", 3),
        ("ab ${{ 1 + }}", "Unexpected symbol", 9),
    ],
)
def test_errors_count_their_offset_in_the_whole_text(text, words, offset):
    """The caret can be put under the text as written."""
    with pytest.raises(ExpressionError, match=words) as caught:
        interpolate(text, {})
    assert caught.value.offset == offset
    assert caught.value.text == text


def test_a_text_with_an_expression_counts_as_a_whole():
    """GitHub's length limit holds for the text around an expression too, and not without one."""
    with pytest.raises(ExpressionError, match="21000"):
        interpolate("x" * 21_000 + "${{ 1 }}", {})
    assert len(interpolate("x" * 22_000, {})) == 22_000


def test_the_parts_of_a_text_are_known():
    """The expressions of a text can be checked without evaluating them."""
    assert [each.text for each in templated("a ${{ b.c }} ${{ d() }}").expressions] == ["b.c", "d()"]
