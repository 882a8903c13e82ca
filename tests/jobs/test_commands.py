"""Workflow commands in a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.commands import CommandReader, WorkflowCommand, annotation


def read(line: str) -> WorkflowCommand | None:
    return CommandReader().read(line)


def test_a_command_has_a_name_properties_and_data():
    """Property names ignore case, values and data are unescaped."""
    line = "  ::ERROR file=a%3Ab.py,Line=3,title=x%2Cy,bad,=z::100%25%0Asure"
    assert read(line) == WorkflowCommand(
        name="error", properties={"file": "a:b.py", "line": "3", "title": "x,y"}, data="100%\nsure"
    )


def test_the_older_form_may_stand_anywhere_in_a_line():
    """`##[name key=value;…]data`, as GitHub's runner still takes it."""
    assert read("2026 ##[warning file=a%3Bb;line=2]text%5D") == WorkflowCommand(
        name="warning", properties={"file": "a;b", "line": "2"}, data="text]"
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "::",
        "::::",
        "::unknown::x",
        "text ::error::x",
        ":error::x",
        "::error",
        "::error x",
        "##[",
        "##[error",
        "##[section]Starting",
        "\x1b[31m::error::x",
        "::error\x00::x",
    ],
)
def test_anything_else_is_text(line):
    """Unknown names, unfinished forms and commands behind other characters are output."""
    assert read(line) is None


def test_escaped_percent_signs_are_unescaped_last():
    """`%250A` is the text `%0A`, not a line break."""
    command = read("::error::%250A")
    assert command is not None
    assert command.data == "%0A"


def test_commands_can_be_stopped_until_a_token():
    """Between the two lines everything is text, and the token's case does not matter."""
    reader = CommandReader()
    assert reader.read("::stop-commands::ToKen") is not None
    assert reader.stopped
    assert reader.read("::error::not one") is None
    assert reader.read("::stop-commands::other") is None
    assert reader.read("::other::") is None
    assert reader.read("::token::") == WorkflowCommand(name="resume-commands")
    assert reader.read("::error::one") is not None


@pytest.mark.parametrize("token", ["", "error", "Warning", "resume-commands"])
def test_a_token_that_is_a_command_stops_nothing(token):
    """Otherwise ordinary output would end the stop."""
    reader = CommandReader()
    assert reader.read(f"::stop-commands::{token}") is not None
    assert not reader.stopped
    assert reader.read("::error::x") is not None


@given(st.text(max_size=60))
def test_no_line_breaks_the_reader(text):
    """Whatever is printed is a command or text."""
    for line in (text, f"::{text}::{text}", f"::error {text}::", f"##[{text}]{text}"):
        found = read(line)
        assert found is None or found.name == found.name.lower()


def place(properties: str) -> tuple:
    command = read(f"::error {properties}::m")
    assert command is not None
    note = annotation(command, step=2, workspace="/w")
    return note.path, note.line, note.end_line, note.column, note.end_column


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ("file=/w/src/a.py,line=3,endLine=4", ("src/a.py", 3, 4, None, None)),
        ("file=/elsewhere/a.py,line=3,col=1,endColumn=9", ("/elsewhere/a.py", 3, None, 1, 9)),
        ("file=a,line=3,endLine=4,col=1", ("a", 3, 4, None, None)),
        ("file=a,endLine=4,endColumn=2", ("a", 4, 4, 2, 2)),
        ("file=a,col=2", ("a", None, None, None, None)),
        ("file=a,line=4,endLine=3", ("a", None, None, None, None)),
        ("file=a,line=4,col=9,endColumn=3", ("a", 4, None, None, None)),
        ("file=a,line=-1", ("a", None, None, None, None)),
        ("file=a,line=9999999999", ("a", None, None, None, None)),
        ("file=a,line=٣", ("a", None, None, None, None)),
    ],
)
def test_a_place_that_contradicts_itself_is_left_out(properties, expected):
    """Paths are relative to the workspace; columns need one line; ends come after beginnings."""
    assert place(properties) == expected


def test_an_annotations_text_is_bounded():
    """A report never carries a megabyte of message."""
    command = WorkflowCommand(
        name="notice", properties={"title": "t" * 9999, "file": "f" * 9999}, data="m" * 99999
    )
    note = annotation(command, step=1, workspace="/w")
    assert (len(note.message), len(note.title), len(note.path)) == (16384, 1024, 1024)
    assert (note.level, note.step) == ("notice", 1)
