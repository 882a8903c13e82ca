# ruff: noqa: E501 - flow-style workflows are read best on one line
"""Single values: text, numbers, booleans, conditions, ids, maps."""

from __future__ import annotations

import pytest

from runnerd.workflow import load


def test_scalars_become_text_as_github_prints_them(job):
    """Numbers lose their zeros, booleans are lower case, null is empty."""
    assert job("env: {A: 1.10, B: True, C: null, D: 0o17, E: 12345678901234567890}").env == {
        "A": "1.1",
        "B": "true",
        "C": "",
        "D": "15",
        "E": "1.23456789012346E+19",
    }


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("timeout-minutes: abc", "'abc'; a number was expected"),
        ("timeout-minutes: '5'", "'5'; a number was expected"),
        ("timeout-minutes: true", "a number was expected"),
        ("timeout-minutes: 'a ${{ github.x }}'", "text around an expression"),
        ("continue-on-error: maybe", "true or false was expected"),
        ("continue-on-error: 1", "true or false was expected"),
        ("if: [a]", "A sequence was not expected"),
        ("if: '1 =='", "Unexpected end"),
        ('if: "\'${{ github.x }}"', ""),
        ("env: text", "a mapping was expected"),
        ("env: {'${{ github.x }}': 1}", "An expression is not allowed here"),
        ("env: 'a ${{ github.x }}'", "text around"),
        ("name: '${{ github.x '", "not closed"),
        ("name: '${{ }}'", "expression was expected"),
    ],
)
def test_wrong_scalars_are_named(job_problems, keys, words):
    """Each kind of value says what it expected."""
    found = job_problems(keys)
    assert (words in found[0]) if words else found == []


@pytest.mark.parametrize(
    "keys", ["timeout-minutes: 1.5", "timeout-minutes: '${{ fromJSON(vars.x) }}'", "if: false"]
)
def test_right_scalars_are_taken(job_problems, keys):
    """Numbers, booleans and whole expressions pass."""
    assert job_problems(keys) == []


@pytest.mark.parametrize("name", ["my.job", "0a", "-a", '" a"', "a" * 101, "__a", '""'])
def test_ids_are_checked(problems, name):
    """Ids have letters, digits, `_` and `-`, at most 100, and do not start with two underscores."""
    assert problems(f"on: push\njobs: {{{name}: {{runs-on: x, steps: [{{run: y}}]}}}}")


def test_a_condition_mixed_with_text_is_warned_about():
    """GitHub takes it for always true; the file is valid and says so loudly."""
    found = load(
        "on: push\njobs: {a: {if: \"${{ github.x }} == 'y'\", runs-on: x, steps: [{run: y}]}}", path="w"
    )
    assert "always true" in found.warnings[0].message


def test_an_inserted_map_is_kept_and_not_supported(job):
    """`${{ insert }}` is GitHub's; the file is valid and the run says that it cannot do it."""
    text = "on: push\njobs: {a: {runs-on: x, env: {'${{insert}}': '${{ fromJSON(vars.x) }}'}, steps: [{run: y}]}}"
    found = load(text, path="w")
    assert list(found.jobs["a"].env) == ["${{ insert }}"]
    assert "insert" in found.unsupported[0].message
