"""What the keys of a step say."""

import pytest

from runnerd.jobs.evaluation import Functions
from runnerd.jobs.keys import StepFailed, default_name, environment_of, minutes_of
from runnerd.workflow import ExpressionError
from runnerd.workflow.model import Step

NONE: Functions = {}


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Step(run="\n\n  echo hi  \nmore"), "Run echo hi"),
        (Step(uses="actions/checkout@v4"), "Run actions/checkout@v4"),
        (Step(run=""), "Run"),
    ],
)
def test_a_step_without_a_name_is_called_after_what_it_does(step, name):
    """`Run` and the first line of the script, or the action."""
    assert default_name(step) == name


def test_an_evaluated_script_names_its_step():
    """Where the expressions are worked out already, the name shows their values."""
    assert default_name(Step(run="echo ${{ env.A }}"), "echo 1\nmore") == "Run echo 1"


def test_an_env_may_be_one_expression():
    """It must give a map; values become text as GitHub prints them."""
    contexts = {"vars": {"E": {"A": True, "B": 1.5, "C": None}}}
    assert environment_of("${{ vars.E }}", contexts, NONE) == {"A": "true", "B": "1.5", "C": ""}
    with pytest.raises(ExpressionError, match="must be a map"):
        environment_of("${{ vars.E.A }}", contexts, NONE)
    with pytest.raises(ExpressionError, match="must be text"):
        environment_of({"X": "${{ vars.E }}"}, contexts, NONE)


@pytest.mark.parametrize("value", [0, -1, "x", "nan", "inf", [1], True and 1e9])
def test_minutes_are_a_sensible_number(value):
    """What is no time is refused, with the key's name."""
    with pytest.raises(StepFailed, match="`timeout-minutes`"):
        minutes_of(value, "timeout-minutes")


def test_minutes_may_be_absent_or_a_fraction():
    """None and the empty text mean no limit of its own."""
    assert (minutes_of(None, "t"), minutes_of("", "t"), minutes_of("0.5", "t")) == (None, None, 0.5)
