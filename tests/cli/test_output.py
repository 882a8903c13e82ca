"""What commands print is aligned, readable, and safe whoever wrote it."""

import json

import pytest
import typer

from runnerd.cli import output


def test_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure is one sentence on standard error and an exit status."""
    with pytest.raises(typer.Exit) as caught:
        output.fail("no such run", output.Code.NOTHING)
    assert caught.value.exit_code == 4
    assert capsys.readouterr() == ("", "runnerd: no such run\n")


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain ünïcode", "plain ünïcode"),
        ("a\nb\tc", "a b c"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b[2J", "x"),
        ("\x1b]52;c;ZXZpbA==", ""),
        ("\x9b2J", "?2J"),
        ("a\rb\x00", "a?b?"),
        ("safe\u202etxt.exe", "safe?txt.exe"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    """A stranger's text cannot move the cursor, set titles, write the clipboard or turn the reading order."""
    assert output.clean(text) == cleaned


def test_log_text() -> None:
    """Job output keeps its colours where there are colours, and loses every other control sequence."""
    text = "\x1b[32mok\x1b[0m\x1b[2J\x1b]0;t\x07\r\tend"
    assert output.log_text(text, colour=True) == "\x1b[32mok\x1b[0m\tend"
    assert output.log_text(text, colour=False) == "ok\tend"


def test_table() -> None:
    """Columns are as wide as their widest cell, and no line ends in spaces."""
    assert output.table(("id", "name"), [(1, "a"), (200, "")]) == "id   name\n1    a\n200"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0421, "42 ms"), (0.9996, "1.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"),
     (245.2, "4 min 05 s"), (7800, "2 h 10 min"), (-1, "0 ms")],
)  # fmt: skip
def test_duration(seconds: float | None, text: str) -> None:
    """Time spans are written as people say them, with no 60 seconds in a minute."""
    assert output.duration(seconds) == text


def test_span() -> None:
    """What has not both begun and ended has no length."""
    assert output.span(1.0, 2.5) == "1.5 s"
    assert output.span(None, 2.5) == "-"
    assert output.span(1.0, None) == "-"


def test_show_json(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is one line for programs, in the characters it has."""
    output.show_json({"ü": [1, None]})
    text = capsys.readouterr().out
    assert text == '{"ü": [1, null]}\n'
    assert json.loads(text) == {"ü": [1, None]}
