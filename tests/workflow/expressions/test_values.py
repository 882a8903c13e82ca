"""Coercions between values, beyond what GitHub's worked examples show."""

from __future__ import annotations

import math

import pytest

from runnerd.workflow.expressions.values import (
    equal,
    fold,
    format_number,
    kind_of,
    less,
    parse_number,
    to_text,
    truthy,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.10, "1.1"),
        (1e15, "1E+15"),
        (10**15, "1E+15"),
        (123456789012345, "123456789012345"),
        (1587106672383762434, "1.58710667238376E+18"),
        (0.84551240822557006, "0.84551240822557"),
        (0.0001, "0.0001"),
        (0.00001, "1E-05"),
        (1.7976931348623157e308, "1.79769313486232E+308"),
        (-0.0, "0"),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (10**400, "Infinity"),
    ],
)
def test_numbers_have_fifteen_digits(value, text):
    """Numbers are printed with 15 significant digits."""
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("text", "number"),
    [("", 0), (" 0x1F ", 31), ("0o17", 15), ("1e3", 1000), ("+Infinity", math.inf)],
)
def test_strings_become_numbers(text, number):
    """Decimal, hexadecimal, octal and Infinity; blank is 0."""
    assert parse_number(text) == number


@pytest.mark.parametrize("text", ["abc", "1_0", "0b1", "-0x1", "١", "1 2"])
def test_other_strings_are_not_numbers(text):
    """What GitHub cannot read is NaN."""
    assert math.isnan(parse_number(text))


def test_folding_keeps_length():
    """Comparing without case goes character by character."""
    assert fold("straße") == "STRAßE"
    assert fold("ς") == fold("σ") == "Σ"
    assert fold("ı") == "ı"


def test_truth():
    """Empty containers are true; NaN, zero and the empty string are false."""
    assert truthy([])
    assert truthy({})
    assert truthy("0")
    assert not any(map(truthy, (0, -0.0, math.nan, "", None, False)))


def test_containers_equal_only_themselves():
    """Objects and arrays are compared by identity and never ordered."""
    value = {}
    assert equal(value, value)
    assert not equal({}, {})
    assert not less({}, {})


def test_text_of_containers_names_their_kind():
    """An object inside text is only named; a foreign type is refused."""
    assert (to_text({}), to_text([])) == ("Object", "Array")
    assert kind_of([]) == "array"
    with pytest.raises(TypeError, match="not a value"):
        to_text(object())
