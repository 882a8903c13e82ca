"""Legs of a matrix: order, include and exclude, names, limits."""

from __future__ import annotations

import functools
import time

import pytest

from runnerd.workflow import ExpressionError, expand_matrix
from runnerd.workflow.model import Limits, Strategy


def legs(matrix, contexts=None, **keys):
    return expand_matrix(Strategy(matrix=matrix), contexts or {}, job_name="job", **keys)


def names(matrix, contexts=None):
    return [leg.name for leg in legs(matrix, contexts)]


def test_the_first_key_is_slowest():
    """Vectors multiply in the order of the file, and the names follow their values."""
    assert names({"os": ["x", "y"], "v": [1.10, 2]}) == [
        "job (x, 1.1)",
        "job (x, 2)",
        "job (y, 1.1)",
        "job (y, 2)",
    ]
    found = legs({"os": ["x", "y"]})
    assert [(leg.index, leg.total, leg.matrix) for leg in found] == [(0, 2, {"os": "x"}), (1, 2, {"os": "y"})]


def test_a_job_without_a_matrix_is_one_leg():
    """No strategy, an empty matrix and a null one all give one leg without values."""
    for strategy in (None, Strategy(), Strategy(matrix={}), Strategy(matrix="${{ null }}")):
        (leg,) = expand_matrix(strategy, {}, job_name="job")
        assert (leg.name, leg.matrix, leg.total) == ("job", None, 1)


def test_include_extends_what_it_matches_and_stands_alone_otherwise():
    """The documentation's example of fruits and animals."""
    found = legs(
        {
            "fruit": ["apple", "pear"],
            "animal": ["cat", "dog"],
            "include": [
                {"color": "green"},
                {"color": "pink", "animal": "cat"},
                {"fruit": "apple", "shape": "circle"},
                {"fruit": "banana"},
                {"fruit": "banana", "animal": "cat"},
            ],
        }
    )
    assert [leg.matrix for leg in found] == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_extras_do_not_show_in_names_unless_they_stand_alone():
    """A leg is named by its vectors, an include of its own by all its values."""
    assert names({"v": [1], "include": [{"v": 1, "x": "a"}, {"v": 2, "x": "b"}]}) == ["job (1)", "job (2, b)"]


def test_include_alone_makes_the_legs():
    """A matrix of include entries only has one leg for each."""
    assert names({"include": [{"a": 1}, {"b": 2}]}) == ["job (1)", "job (2)"]


def test_exclude_matches_loosely_and_deeply():
    """Values are compared as `==` compares, inside objects too."""
    assert names({"v": [14, 16], "exclude": [{"v": "14"}]}) == ["job (16)"]
    matrix = {"o": [{"a": 1, "b": 2}, {"a": 2, "b": 2}], "exclude": [{"o": {"a": "1"}}]}
    assert [leg.matrix for leg in legs(matrix)] == [{"o": {"a": 2, "b": 2}}]


def test_everything_excluded_leaves_one_leg_without_values():
    """GitHub then runs the job once with a null matrix."""
    (leg,) = legs({"v": [1], "exclude": [{"v": 1}]})
    assert leg.matrix is None


def test_a_matrix_comes_from_expressions():
    """The whole matrix, a vector, or a value may be an expression."""
    contexts = {"needs": {"a": {"outputs": {"m": '{"v": [1, 2]}', "l": '["x"]'}}}}
    assert names("${{ fromJSON(needs.a.outputs.m) }}", contexts) == ["job (1)", "job (2)"]
    assert names({"v": "${{ fromJSON(needs.a.outputs.l) }}"}, contexts) == ["job (x)"]


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ({"v": []}, "does not contain any values"),
        ({"v": "${{ 'x' }}"}, "must be a sequence"),
        ("${{ fromJSON('[1]') }}", "must be a mapping"),
        ({"include": ["x"]}, "sequence of mappings"),
        ({"a": list(range(257))}, "more than 256"),
        ({"a": list(range(250)), "exclude": [{"a": 1}] * 1000}, "too many"),
        ({"a": [functools.reduce(lambda inner, _: [inner], range(5000), 1)]}, "nested too deeply"),
        ({name: list(range(10)) for name in "abcdefgh"}, "more than 256"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix, words):
    """A wrong shape, an empty vector and too many legs are errors, the last before they are built."""
    start = time.thread_time()
    with pytest.raises(ExpressionError, match=words):
        legs(matrix)
    assert time.thread_time() - start < 0.5


def test_the_limit_counts_what_is_left_after_exclude():
    """257 combinations of which one is excluded are 256."""
    assert len(legs({"v": list(range(257)), "exclude": [{"v": 0}]}, limits=Limits())) == 256


def test_names_are_cut_at_a_hundred_characters():
    """A long name ends in three dots."""
    (leg,) = legs({"v": ["x" * 200]})
    assert len(leg.name) == 100
    assert leg.name.endswith("...")
