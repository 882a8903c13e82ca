"""The grammar of expressions."""

from __future__ import annotations

import pytest

from runnerd.workflow.expressions.nodes import Call, Compare, Index, Logical, Not
from runnerd.workflow.expressions.parser import parse
from runnerd.workflow.model import ExpressionError


def test_operators_bind_as_in_github():
    """`!` over comparison over equality over `&&` over `||`, all from the left."""
    root = parse("a || b && !c == d < e")
    assert isinstance(root, Logical)
    assert root.operator == "||"
    right = root.operands[1]
    assert isinstance(right, Logical)
    equality = right.operands[1]
    assert isinstance(equality, Compare)
    assert isinstance(equality.left, Not)
    assert isinstance(equality.right, Compare)


def test_postfix_binds_tighter_than_not():
    """`!a.b` negates the property."""
    root = parse("!a.b[0].*")
    assert isinstance(root, Not)
    assert isinstance(root.operand, Index)


def test_calls_take_their_own_arguments():
    """Nested calls keep their arguments apart."""
    root = parse("f(1, g(2, 3), h())")
    assert isinstance(root, Call)
    assert [len(each.arguments) for each in root.arguments if isinstance(each, Call)] == [2, 0]


def test_ten_thousand_brackets_do_not_exhaust_the_stack():
    """Groups cost no depth, as at GitHub, and the parser does not recurse."""
    assert parse("(" * 10_000 + "1" + ")" * 10_000).depth == 1


@pytest.mark.parametrize("text", ["!" * 60 + "1", "a" + ".b" * 60, "f(" * 60 + ")" * 60, "1" + "==1" * 60])
def test_depth_is_bounded(text):
    """A tree deeper than 50 is refused."""
    with pytest.raises(ExpressionError, match="depth 50"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "words", "offset"),
    [
        ("1 <", "Unexpected end", 2),
        ("(1,", "','", 2),
        ("foo[1", "Unexpected end", 4),
        ("foo[*", "Unexpected end", 4),
        ("(1]", "']'", 2),
        ("1)", "')'", 1),
        ("contains(1)", "Too few", 0),
        ("1 || always(2)", "Too many", 5),
        ("case(true, 1, false, 2)", "Even number", 0),
        ("", "expression was expected", 0),
    ],
)
def test_mistakes_are_named_with_their_place(text, words, offset):
    """Each error says what is wrong and where."""
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert caught.value.offset == offset
