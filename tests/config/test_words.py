"""The configuration in sentences."""

from typing import Literal

from runnerd.config import words
from runnerd.config.sections import Port, Secret, Word


def test_expected() -> None:
    """Every kind of field is described by what it takes."""
    assert words.expected(str) == "a string"
    assert words.expected(bool) == "true or false"
    assert words.expected(Port) == "a port from 0 to 65535"
    assert words.expected(Literal["a", "b"]) == 'one of "a", "b"'
    assert words.expected(tuple[Word, ...]) == "a list, each one word of letters, digits and ._+-"
    assert words.expected(Secret | None) == "a string"


def test_shown() -> None:
    """Values read as they would stand in the file, secrets as stars."""
    assert words.shown(("a", "b")) == '["a", "b"]'
    assert words.shown(True) == "true"
    assert words.shown(2.5) == "2.5"
    assert words.shown(None) == '""'
    assert words.shown(Secret("hunter2")) == "***"


def test_nearest() -> None:
    """A misspelt name is led to the right one, a strange one to the list, if that is short."""
    assert words.nearest("prot", ["port", "host"]) == "; did you mean 'port'?"
    assert words.nearest("zzz", ["port", "host"]) == "; known are port, host"
    assert words.nearest("zzz", [f"port{n}" for n in range(20)]) == ""


def test_is_secret() -> None:
    """Only fields that hold a Secret are secret."""
    assert words.is_secret(Secret | None)
    assert not words.is_secret(str)
