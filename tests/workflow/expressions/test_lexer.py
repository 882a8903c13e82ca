"""Splitting an expression into tokens."""

from __future__ import annotations

import time

import pytest

from runnerd.workflow.expressions.lexer import tokenize
from runnerd.workflow.model import ExpressionError


def kinds(text):
    return [token.kind for token in tokenize(text)]


def test_tokens_carry_kind_value_and_offset():
    """Names, strings with doubled quotes, numbers and operators are told apart."""
    tokens = tokenize("foo.bar != 'it''s' && 0x10")
    assert [token.kind for token in tokens] == ["name", ".", "name", "!=", "string", "&&", "number", "end"]
    assert tokens[4].value == "it's"
    assert tokens[6].value == 16
    assert tokens[4].offset == 11


def test_keywords_are_names_after_a_dot():
    """`x.true` reads a property."""
    assert kinds("x.true") == ["name", ".", "name", "end"]
    assert kinds("true") == ["keyword", "end"]


@pytest.mark.parametrize(
    ("text", "offset"), [("1 @abc", 2), ("'foo", 0), ("foo.b@r", 4), ("1 = 2", 2), ("-0xFF", 0), ("1..2", 0)]
)
def test_what_begins_no_token_is_named_with_its_place(text, offset):
    """The error's offset is where the symbol stands."""
    with pytest.raises(ExpressionError, match="Unexpected symbol") as caught:
        tokenize(text)
    assert caught.value.offset == offset


def test_unclosed_quotes_take_linear_time():
    """No text makes the lexer go back and forth."""
    start = time.thread_time()
    with pytest.raises(ExpressionError):
        tokenize("'" + "''a" * 7000)
    assert time.thread_time() - start < 0.5
