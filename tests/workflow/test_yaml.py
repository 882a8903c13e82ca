"""The YAML reader: core schema, places, limits, and errors of its own kind only."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.workflow.model import Limits, WorkflowErrors
from runnerd.workflow.yaml import Map, Seq, read


def load(text: str, **limits):
    return read(text, path="w.yml", limits=Limits(**limits)).root


def refused(source: str, **limits):
    with pytest.raises(WorkflowErrors) as caught:
        read(source, path="w.yml", limits=Limits(**limits))
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("TRUE", True),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("", None),
        ("0o17", 15),
        ("0x1F", 31),
        ("017", 17),
        ("1e3", 1000),
        (".5", 0.5),
        ("1.10", 1.1),
        ("12:30", "12:30"),
        ("12_345", "12_345"),
        ("2001-12-14", "2001-12-14"),
        ("'1'", "1"),
        ("-.inf", -math.inf),
        ("0x" + "f" * 300, math.inf),
        ("9" * 5000, math.inf),
        ("!!float 1", 1),
        ("!!str 1", "1"),
        ("1345678912345678912", 1345678912345678912.0),
    ],
)
def test_plain_scalars_follow_the_core_schema(text, value):
    """A plain scalar is what YAML 1.2's core schema says, whatever YAML 1.1 said."""
    found = load(f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_the_key_on_is_a_string():
    """`on` is not a boolean."""
    assert list(load("on: push")) == ["on"]


def test_keys_values_and_items_know_their_places():
    """Lines and columns count from the parser's marks, for keys, values and items."""
    root = load("a:\n  - x\n  -   y: 1\n")
    assert isinstance(root, Map)
    assert isinstance(root["a"], Seq)
    item = root["a"].items_at[1].start_mark
    assert (item.line, item.column) == (2, 6)
    value = root["a"][1].values_at["y"].start_mark
    assert (value.line, value.column) == (2, 9)


@pytest.mark.parametrize("second", ["a", "A"])
def test_duplicate_keys_are_problems_and_the_first_counts(second):
    """A key that differs in case alone is a duplicate; reading goes on."""
    document = read(f"a: 1\n{second}: 2\n", path="w.yml")
    assert document.root == {"a": 1}
    assert [(p.line, p.column) for p in document.problems] == [(2, 1)]
    assert "already defined, at line 1" in document.problems[0].message


def test_anchors_are_expanded():
    """An alias is the anchored value."""
    assert load("a: &x [1, 2]\nb: *x\n")["b"] == [1, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "merge keys"),
        ("a: *nowhere", "no anchor"),
        ("&a [*a]", "no anchor"),
        ("? [a]\n: b", "single value"),
        ("a: !!timestamp 2001-01-01", "tag"),
        ("a: !!int '300'", "quoted"),
        ("a: !!bool test", "not a valid bool"),
        ("a: !python/object x", "tag"),
        ("a: 1\n---\nb: 2", "one document"),
        ("", "empty"),
        ("a: [", "expected"),
        ("a: \x01", "control characters"),
        ("a: \ud800", "surrogate"),
    ],
)
def test_what_is_refused_says_why(text, words):
    """Each refusal is one problem whose sentence names the reason."""
    assert words in refused(text).message


def test_a_syntax_error_has_its_place():
    """The parser's mark becomes line and column from 1."""
    problem = refused("a: 1\nb: c: d\n")
    assert (problem.line, problem.column) == (2, 5)


def test_a_colon_in_a_flow_scalar_is_read_by_the_second_parser():
    """What libyaml refuses although it is valid is accepted."""
    assert load("a: [http://x:80/, c]")["a"] == ["http://x:80/", "c"]


def test_limits_hold():
    """Size, depth, values and expanded aliases are bounded, each with its own sentence."""
    assert "characters" in refused("a: " + "x" * 100, text=50).message
    assert "deeper" in refused("[" * 60 + "]" * 60).message
    assert load("[" * 50 + "]" * 50)
    assert "more than 100 values" in refused("[" + "1," * 200 + "]", nodes=100).message
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join('*' + before for _ in range(9))}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases" in refused(bomb).message


def test_depth_counts_through_aliases():
    """An alias under deep nesting cannot exceed the depth."""
    assert "aliases" in refused("a: &a [[[1]]]\nb: [[*a]]\n", depth=5).message


def test_a_large_broken_text_is_not_given_to_the_slow_parser():
    """Above the bound libyaml's verdict stands even for what the other parser would accept."""
    text = "a: [http://x:80/, c]\n" + "#" * Limits().second_opinion
    assert refused(text).line == 1


@settings(max_examples=300)
@given(st.text(alphabet=st.sampled_from("ab01:-?[]{},&*!|>'\"%@#<\\ \n\t~.é\x85\u2028\ud800"), max_size=80))
def test_nothing_but_its_own_error_comes_out(text):
    """Whatever the text, the reader gives a document or `WorkflowErrors`."""
    problems = ()
    try:
        read(text, path="w.yml")
    except WorkflowErrors as errors:
        problems = errors.problems
    assert all(problem.line >= 1 and problem.column >= 1 for problem in problems)
