"""Behaviour of runnerd.workflow.meant."""

from __future__ import annotations

import pytest

from runnerd.workflow.meant import LISTED, Named, Unclear, meant

STEPS = (
    Named(1, "", "Build"),
    Named(2, "unit", "Test"),
    Named(3, "", "Test"),
    Named(4, "Test2", "2"),
)


@pytest.mark.parametrize(
    ("wanted", "number"), [("1", 1), ("Build", 1), ("unit", 2), ("UNIT", 2), ("test2", 4), ("2", 2)]
)
def test_a_number_goes_before_a_name_before_an_id(wanted: str, number: int) -> None:
    """One thing is meant by its number, else by its name, else by its id in any case."""
    assert meant(wanted, STEPS, what="step", whole="job 5").number == number


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ("Test", "'Test' means several steps of job 5: there are 2 (Test), 3 (Test)"),
        ("9", "'9' means no step of job 5: there are 1 (Build), 2 (Test), 3 (Test), 4 (2)"),
        ("build", "'build' means no step of job 5: there are 1 (Build), 2 (Test), 3 (Test), 4 (2)"),
        ("", "'' means no step of job 5: there are 1 (Build), 2 (Test), 3 (Test), 4 (2)"),
    ],
)
def test_what_is_unclear_is_refused_with_the_choices(wanted: str, sentence: str) -> None:
    """Who means nothing or several things is told what there is."""
    with pytest.raises(Unclear) as refused:
        meant(wanted, STEPS, what="step", whole="job 5")
    assert str(refused.value) == sentence


def test_a_refusal_stays_short() -> None:
    """However many there are, and however long the word was."""
    many = [Named(number, "", "x") for number in range(1, 500)]
    with pytest.raises(Unclear) as refused:
        meant("y" * 10_000, many, what="job", whole="run 1")
    assert len(str(refused.value)) < 600
    assert str(refused.value).endswith(f"and {499 - LISTED} more")
    with pytest.raises(Unclear, match="there are none"):
        meant("y", (), what="job", whole="run 1")
