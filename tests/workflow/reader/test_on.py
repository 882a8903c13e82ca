# ruff: noqa: E501 - flow-style workflows are read best on one line
"""Every spelling of `on`."""

from __future__ import annotations

import pytest

from runnerd.workflow import load
from runnerd.workflow.model import Input

JOBS = "jobs: {a: {runs-on: x, steps: [{run: y}]}}\n"


def triggers(on: str):
    return {each.event: each for each in load(f"on: {on}\n{JOBS}", path="w").triggers}


def test_every_form_is_read():
    """A word, a list, a mapping; single words count as lists."""
    assert list(triggers("push")) == ["push"]
    assert list(triggers("[push, pull_request]")) == ["push", "pull_request"]
    found = triggers("{push: {branches: main, paths: [a, '!b']}, pull_request: {types: [opened]}, fork: }")
    assert found["push"].branches == ("main",)
    assert found["push"].paths == ("a", "!b")
    assert found["push"].tags is None
    assert found["pull_request"].types == ("opened",)
    assert found["fork"].types is None


def test_schedules_have_a_zone():
    """Each schedule is a cron with its time zone, UTC unless said."""
    found = triggers("{schedule: [{cron: '0 0 * * *'}, {cron: '5 4 * * *', timezone: Europe/Berlin}]}")
    assert found["schedule"].schedules == (("0 0 * * *", "UTC"), ("5 4 * * *", "Europe/Berlin"))


def test_inputs_secrets_and_outputs_are_read():
    """Declarations of manual starts and calls come out typed."""
    found = triggers(
        "{workflow_dispatch: {inputs: {a: {type: choice, options: [x, y], default: x, description: '${{ no }}'}, b: }}, "
        "workflow_call: {inputs: {n: {type: number, required: true}}, secrets: {s: {required: true}, t: }, "
        "outputs: {o: {value: '${{ jobs.a.outputs.x }}'}}}}"
    )
    assert found["workflow_dispatch"].inputs == {
        "a": Input(type="choice", options=("x", "y"), default="x", description="${{ no }}"),
        "b": Input(),
    }
    call = found["workflow_call"]
    assert call.inputs["n"].required
    assert call.secrets == {"s": True, "t": False}
    assert call.outputs == {"o": "${{ jobs.a.outputs.x }}"}


@pytest.mark.parametrize(
    ("on", "words"),
    [
        ("pusch", "did you mean 'push'"),
        ("[]", "names no event"),
        ("{}", "names no event"),
        ("{push: {branch: main}}", "did you mean 'branches'"),
        ("{push: {branches: [a], branches-ignore: [b]}}", "cannot both"),
        ("{push: {paths: [a], paths-ignore: [b]}}", "cannot both"),
        ("{push: {branches: ['[a']}}", "not closed"),
        ("{push: {branches: ['']}}", "Unexpected value ''"),
        ("{push: {types: [x]}}", "'types'"),
        ("{pull_request: {types: [openend]}}", "did you mean 'opened'"),
        ("{pull_request: {tags: [x]}}", "'tags'"),
        ("{fork: {types: [x]}}", "'types'"),
        ("{push: main}", "a mapping was expected"),
        ("schedule", "needs 'cron'"),
        ("{schedule: [{}]}", "needs 'cron'"),
        ("{schedule: [{cron: '@daily'}]}", "five fields"),
        ("{schedule: {cron: x}}", "A mapping was not expected"),
        ("{workflow_dispatch: {inputs: {a: {type: date}}}}", "'date'"),
        ("{workflow_dispatch: {inputs: {a: {typo: x}}}}", "'typo'; did you mean 'type'"),
        ("{workflow_dispatch: {inputs: {a: {type: choice}}}}", "needs 'options'"),
        ("{workflow_dispatch: {inputs: {a: {type: choice, options: [x], default: y}}}}", "does not fit"),
        ("{workflow_dispatch: {inputs: {a: {type: boolean, default: x}}}}", "does not fit"),
        ("{workflow_call: {inputs: {a: {required: true}}}}", "needs 'type'"),
        ("{workflow_call: {inputs: {a: {type: date}}}}", "value 'date'"),
        ("{workflow_call: {outputs: {a: {description: x}}}}", "needs 'value'"),
        ("{workflow_call: {outputs: {a: {value: '${{ needs.x }}'}}}}", "'needs' cannot be used here"),
        ("{'${{ github.x }}': }", "not allowed here"),
    ],
)
def test_wrong_triggers_are_named(problems, on, words):
    """Each mistake says what is wrong."""
    assert words in problems(f"on: {on}\n{JOBS}")[0][2]


def test_what_never_matches_is_warned_about():
    """Only negative patterns select nothing; unknown keys of a manual start are ignored as GitHub does."""
    found = load(f"on: {{push: {{branches: ['!x']}}, workflow_dispatch: {{nope: 1}}}}\n{JOBS}", path="w")
    assert ["never matches" in each.message or "ignored" in each.message for each in found.warnings] == [
        True,
        True,
    ]
