"""The tree of a condition: every operand with its value, what was left out marked, no secret shown."""

import pytest

from runnerd.workflow import ExpressionError
from runnerd.workflow.expressions.trace import trace

CONTEXTS = {
    "github": {"ref": "refs/heads/main", "event_name": "push", "token": "hush", "event": {"commits": [1, 2]}},
    "secrets": {"KEY": "hush"},
}
FUNCTIONS = {"success": lambda *_: True, "failure": lambda *_: False}


def lines(text, depth=0, found=None):
    found = trace(text, CONTEXTS, functions=FUNCTIONS) if found is None else found
    yield f"{'  ' * depth}{found.text} = {found.value}"
    for each in found.operands:
        yield from lines(text, depth + 1, each)


def test_each_operand_has_its_value():
    """Comparisons, paths and calls, down to what they were made of."""
    assert list(lines("github.event_name == 'push' && !startsWith(github.ref, 'x')")) == [
        "(github.event_name == 'push') && !startsWith(github.ref, 'x') = true",
        "  github.event_name == 'push' = true",
        "    github.event_name = 'push'",
        "  !startsWith(github.ref, 'x') = true",
        "    startsWith(github.ref, 'x') = false",
        "      github.ref = 'refs/heads/main'",
    ]


def test_what_short_circuiting_left_out_has_no_value():
    """It was never evaluated, and says so."""
    found = trace("${{ failure() && github.ref == 'x' }}", CONTEXTS, functions=FUNCTIONS)
    assert [(each.text, each.value) for each in found.operands] == [
        ("failure()", "false"),
        ("github.ref == 'x'", None),
    ]
    assert found.operands[1].operands[0].value is None


def test_secrets_are_never_shown():
    """Neither they, nor tokens, nor what a function or an operator gives back of them."""
    for text in ("secrets.KEY", "github.token", "github['token']", "format('{0}', secrets.KEY)", "secrets.*",
                 "secrets.KEY || 'x'", "(secrets.KEY && secrets.KEY) == 'x'", "toJSON(secrets)"):  # fmt: skip
        assert "hush" not in "\n".join(lines(text))
    assert trace("github.event", CONTEXTS).value == "an object"
    assert trace("github.event.commits", CONTEXTS).value == "an array of 2"


def test_nothing_to_show_and_what_cannot_be_read():
    """No `if` and mixed text have no tree; a fault in evaluating is the value, a bad text raises."""
    assert trace(None, {}) is None
    assert trace("x ${{ 1 }} y", {}) is None
    assert trace("fromJSON('{')", {}).value.startswith("error: ")
    with pytest.raises(ExpressionError):
        trace("github.", {})
