"""`runnerd eval`: JSON out, carets under mistakes."""

import json
from pathlib import Path

import pytest

from runnerd.cli import evaluate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 == 1", True),
        ("${{ format('{0}!', 'a') }}", "a!"),
        ("fromJSON('[1, 2.5, 3.0, null]')", [1, 2.5, 3, None]),
        ("success() && !failure() && always() && !cancelled()", True),
        ("github.nothing", None),
    ],
)
def test_value(invoke, expression: str, value: object) -> None:
    """The value is printed as JSON, whole numbers without a fraction."""
    result = invoke("eval", expression)
    assert (result.exit_code, json.loads(result.stdout)) == (0, value)


def test_hash_files(invoke) -> None:
    """hashFiles reads the current folder, and a pattern it refuses is a bad expression."""
    Path("a").write_text("a")
    assert len(json.loads(invoke("eval", "hashFiles('a')").stdout)) == 64
    assert invoke("eval", "hashFiles('absent')").stdout == '""\n'
    result = invoke("eval", "hashFiles('../a')")
    assert result.exit_code == 2
    assert "hashFiles: " in result.stderr


def test_contexts(invoke) -> None:
    """Contexts come from a file."""
    Path("c.json").write_text('{"github": {"ref": "refs/heads/main"}}')
    assert invoke("eval", "github.ref", "--contexts", "c.json").stdout == '"refs/heads/main"\n'


@pytest.mark.parametrize("text", ["[1]", "{", "\ufffe"])
def test_bad_contexts(invoke, text: str) -> None:
    """A contexts file that holds no object is a sentence, not a trace."""
    Path("c.json").write_text(text)
    result = invoke("eval", "1", "--contexts", "c.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("runnerd: c.json ")
    assert invoke("eval", "1", "--contexts", "absent.json").exit_code == 2


def test_bad_expression(invoke) -> None:
    """A bad expression exits 2 with a caret under the place."""
    result = invoke("eval", "github.ref == ==")
    assert result.exit_code == 2
    _, line, caret = result.stderr.rstrip("\n").split("\n")
    assert line == "  github.ref == =="
    assert caret == " " * 16 + "^"


def test_caret_in_a_later_line() -> None:
    """Of an expression of several lines, the line with the mistake is shown."""
    assert evaluate.caret("bad\x1b[2J", "a &&\nb ? c", 7) == "runnerd: bad\n  b ? c\n    ^"


def test_plain() -> None:
    """What JSON cannot write becomes null, deep inside too."""
    assert evaluate.plain({"a": [float("nan"), float("-inf"), 2.0]}) == {"a": [None, None, 2]}
