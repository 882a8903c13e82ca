"""The process that tries problem matchers, as its pipes see it."""

from __future__ import annotations

import io
import json

import msgspec

from runnerd.jobs.matchers import Found, Matcher, Pattern
from runnerd.jobs.matching import Answer, Ask, serve

WORD = Matcher(owner="word", pattern=(Pattern(regexp="^bad (.*)$", message=1),))


def answers(*asks: Ask) -> list[Answer]:
    requests = io.BytesIO(b"".join(msgspec.json.encode(ask) + b"\n" for ask in asks))
    written = io.BytesIO()
    serve(requests, written)
    return [msgspec.json.decode(line, type=Answer) for line in written.getvalue().splitlines()]


def test_each_request_has_one_answer():
    """Problems are told by the place of their line."""
    added, looked, removed, again = answers(
        Ask(verb="add", matchers=(WORD,)),
        Ask(verb="lines", step=1, lines=("fine", "bad luck")),
        Ask(verb="remove", owners=("WORD",)),
        Ask(verb="lines", step=1, lines=("bad luck",)),
    )
    assert (added, removed, again) == (Answer(), Answer(), Answer())
    assert looked.found == {1: Found(message="luck")}


def test_a_bad_pattern_is_an_answer_too():
    """The process goes on."""
    bad = Matcher(owner="o", pattern=(Pattern(regexp="(", message=0),))
    refused, ended = answers(Ask(verb="add", matchers=(bad,)), Ask(verb="end", step=1))
    assert "cannot be used" in refused.error
    assert ended == Answer()


def test_patterns_cross_with_the_names_their_files_have():
    """`fromPath` is read as GitHub spells it, in the file and on the pipe."""
    assert json.loads(msgspec.json.encode(Pattern(from_path=3)))["fromPath"] == 3
