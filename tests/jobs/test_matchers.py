"""Problem matchers: their files, and what lines come to."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.jobs.matchers import BadMatcher, Found, Scanner, owners_of, read_matchers

TSC = {
    "owner": "tsc",
    "pattern": [
        {
            "regexp": r"^([^\s].*)\((\d+),(\d+)\)\s*:\s+(error|warning|info)\s+(\w{1,2}\d+)\s*:\s*(.*)$",
            "file": 1,
            "line": 2,
            "column": 3,
            "severity": 4,
            "code": 5,
            "message": 6,
        }
    ],
}
STYLISH = {
    "owner": "eslint-stylish",
    "pattern": [
        {"regexp": r"^([^\s].*)$", "file": 1},
        {
            "regexp": r"^\s+(\d+):(\d+)\s+(error|warning|info)\s+(.*)\s\s+(.*)$",
            "line": 1,
            "column": 2,
            "severity": 3,
            "message": 4,
            "code": 5,
            "loop": True,
        },
    ],
}
WORD = {"owner": "word", "pattern": [{"regexp": "^bad (.*)$", "message": 1}]}


def file_of(*matchers: Any) -> bytes:
    return json.dumps({"problemMatcher": matchers}).encode()


def scanner(*matchers: Any) -> Scanner:
    scanner = Scanner()
    scanner.add(read_matchers(file_of(*matchers)))
    return scanner


def found(scanner: Scanner, *lines: str, step: int = 1) -> list[Found | None]:
    return [scanner.take(step, line)[0] for line in lines]


def test_one_pattern_gives_what_its_groups_have():
    """File, line, column, severity, code and message; other lines give nothing."""
    problem, nothing = found(scanner(TSC), "src/a.ts(3,7): error TS1005: ';' expected.", "all good")
    assert nothing is None
    assert problem == Found(
        file="src/a.ts", line="3", column="7", severity="error", code="TS1005", message="';' expected."
    )


def test_a_looping_pattern_gives_one_problem_a_line():
    """Each with the file of the line before them, until a line does not match."""
    lines = ["a.js", "  1:5   error  Missing semicolon  semi", "  2:6   warning  Unused  no-unused", "b.js"]
    problems = found(scanner(STYLISH), *lines)
    assert problems[0] is problems[3] is None
    assert [(each.file, each.line, each.severity) for each in problems if each] == [
        ("a.js", "1", "error"),
        ("a.js", "2", "warning"),
    ]


def test_a_problem_of_several_lines_needs_them_in_a_row():
    """A line between them ends it."""
    three = {
        "owner": "three",
        "pattern": [
            {"regexp": "^in (.*)$", "file": 1},
            {"regexp": "^at (.*)$", "line": 1},
            {"regexp": "^!(.*)$", "message": 1},
        ],
    }
    assert found(scanner(three), "in f", "at 3", "!no")[-1] == Found(file="f", line="3", message="no")
    assert found(scanner(three), "in f", "other", "at 3", "!no")[-1] is None


def test_a_line_belongs_to_the_matcher_added_last():
    """Only one takes it."""
    one, two = (
        {"owner": owner, "severity": severity, "pattern": WORD["pattern"]}
        for owner, severity in (("one", "error"), ("two", "notice"))
    )
    tried = scanner(one)
    tried.add(read_matchers(file_of(two)))
    (problem,) = found(tried, "bad luck")
    assert problem == Found(severity="notice", message="luck")


def test_a_later_matcher_of_an_owner_takes_the_place_of_the_earlier():
    """Owners are compared without case."""
    tried = scanner(WORD)
    tried.add(read_matchers(file_of({**WORD, "owner": "WORD", "severity": "warning"})))
    tried.remove(["Word"])
    assert found(tried, "bad luck") == [None]


def test_the_matchers_severity_is_for_lines_that_name_none():
    """A line's own wins."""
    pattern = {"regexp": "^(?:(warning): )?bad (.*)$", "severity": 1, "message": 2}
    tried = scanner({"owner": "o", "severity": "notice", "pattern": [pattern]})
    assert [each.severity for each in found(tried, "bad x", "warning: bad y") if each] == [
        "notice",
        "warning",
    ]


@pytest.mark.parametrize("line", ["bad  ", "fatal: bad luck"])
def test_an_empty_message_or_an_unknown_severity_is_no_problem(line):
    """The line is logged as it is."""
    pattern = {"regexp": "^(?:(fatal): )?bad (.*)$", "severity": 1, "message": 2}
    assert found(scanner({"owner": "o", "pattern": [pattern]}), line) == [None]


def test_steps_do_not_mix():
    """A file named in one step's output is not that of a problem in another's."""
    tried = scanner(STYLISH)
    assert found(tried, "a.js", step=1) == [None]
    assert found(tried, "  1:5   error  Missing semicolon  semi", step=2) == [None]
    tried.end(1)
    assert found(tried, "  1:5   error  Missing semicolon  semi", step=1) == [None]


def test_a_pattern_that_takes_too_long_is_removed():
    """The others go on; the owner is told."""
    tried = scanner({"owner": "evil", "pattern": [{"regexp": "^((a|aa)+)+$", "message": 1}]}, WORD)
    assert tried.take(1, "a" * 5000 + "b") == (None, ["evil"])
    assert tried.take(1, "a" * 5000 + "b") == (None, [])
    assert found(tried, "bad luck") == [Found(message="luck")]


def test_comments_and_a_byte_order_mark_are_left_out():
    """Of both kinds, and a comma after the last element; not within texts."""
    text = """\ufeff{ // list
      "problemMatcher": [ /* only
        one */ { "owner": "a//b", "pattern": [ { "regexp": "/\\\\*\\"(.*)", "message": 1, }, ], }, // end
      ]
    }"""
    (matcher,) = read_matchers(text.encode())
    assert (matcher.owner, matcher.pattern[0].regexp) == ("a//b", '/\\*"(.*)')


@pytest.mark.parametrize("text", ["/*" * 100_000, '"' + "\\\\" * 100_000, ", " * 100_000, "[" * 200_000])
def test_a_hostile_file_is_refused_in_no_time(text):
    """What is left open is looked through once."""
    began = time.process_time()
    with pytest.raises(BadMatcher):
        read_matchers(text.encode())
    assert time.process_time() - began < 1


def test_numbers_may_be_written_as_texts():
    """As GitHub's reader takes them."""
    (matcher,) = read_matchers(file_of({"owner": "o", "pattern": [{"regexp": "(.*)", "message": "1"}]}))
    assert matcher.pattern[0].message == 1


def test_the_owners_of_a_file_are_known_without_trying_it():
    """For who only removes."""
    assert owners_of(file_of(TSC, WORD)) == ("tsc", "word")


MESSAGE = {"regexp": "(.*)", "message": 1}


@pytest.mark.parametrize(
    ("matchers", "said"),
    [
        ([{**WORD, "owner": ""}], "has no owner"),
        ([WORD, {**WORD, "owner": "Word"}], "is there twice"),
        ([{**WORD, "severity": "fatal"}], "severity 'fatal' is none of"),
        ([{"owner": "o", "pattern": []}], "it has no pattern"),
        ([{"owner": "o", "pattern": [{"regexp": "x"}]}], "no pattern sets 'message'"),
        ([{"owner": "o", "pattern": [MESSAGE, MESSAGE]}], "'message' is set twice"),
        (
            [{"owner": "o", "pattern": [{**MESSAGE, "loop": True}]}],
            "only the last of several patterns may loop",
        ),
        ([{"owner": "o", "pattern": [MESSAGE, {"regexp": "x", "loop": True}]}], "must set 'message'"),
        ([{"owner": "o", "pattern": [{"regexp": "x" * 5000, "message": 0}]}], "longer than"),
        ([{"owner": f"o{n}", "pattern": [MESSAGE]} for n in range(101)], "more than 100"),
        ([{"owner": "o", "pattern": "x"}], "no list of problem matchers"),
    ],
)
def test_a_file_that_breaks_the_rules_is_refused(matchers, said):
    """With a sentence that names the rule."""
    with pytest.raises(BadMatcher, match=said):
        read_matchers(file_of(*matchers))


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ({"regexp": "(", "message": 0}, "cannot be used"),
        ({"regexp": "(a)", "message": 2}, "'message' is 2"),
        ({"regexp": "(" * 2000 + ")" * 2000, "message": 0}, "cannot be used"),
    ],
)
def test_a_pattern_that_cannot_be_compiled_is_refused(pattern, said):
    """And what was there before stays."""
    tried = scanner(WORD)
    with pytest.raises(BadMatcher, match=said):
        tried.add(read_matchers(file_of({"owner": "word", "pattern": [pattern]})))
    assert found(tried, "bad luck") == [Found(message="luck")]


KEYS = st.sampled_from(["problemMatcher", "owner", "severity", "pattern", "regexp", "message", "loop"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(KEYS, x)
)


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_file_raises_anything_else(data):
    """Whatever a step wrote: matchers, or the one error."""
    try:
        read_matchers(data)
    except BadMatcher as error:
        assert str(error)  # noqa: PT017
