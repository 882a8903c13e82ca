"""Whether a job was handed what must not outlive it."""

import pytest

from runnerd.trust.handed import handed
from runnerd.workflow import load
from runnerd.workflow.calls import Scope


def go(secrets, step="{run: make}"):
    workflow = load(f"on: push\njobs: {{a: {{runs-on: x, steps: [{step}]}}}}", path="ci.yml")
    return handed(Scope(workflow=workflow, contexts={}), workflow.jobs["a"], secrets, secrets)


@pytest.mark.parametrize(
    ("secrets", "counts"),
    [
        ({}, False),
        ({"KEY": ""}, False),
        ({"KEY": "open sesame"}, True),
        ({"ACTIONS_STEP_DEBUG": "true"}, False),
        ({"GITHUB_TOKEN": "ghs_abc"}, False),
    ],
)
def test_what_a_job_was_given_counts_unless_it_cannot_name_it(secrets, counts):
    """Secrets come only to those that name them; the token comes to all."""
    assert go(secrets) is counts


def test_a_token_that_can_be_named_counts():
    """If there is one."""
    step = "{run: 'x ${{ github.token }}'}"
    assert go({"GITHUB_TOKEN": "ghs_abc"}, step)
    assert not go({"GITHUB_TOKEN": ""}, step)


@pytest.mark.parametrize(
    ("step", "context", "counts"),
    [
        ("{run: 'x ${{ secrets.key }}'}", {"key": "made by a job"}, True),
        ("{run: 'x ${{ toJSON(secrets) }}'}", {"key": "made by a job"}, True),
        ("{run: 'x ${{ secrets.key }}'}", {"key": ""}, False),
        ("{run: make}", {"key": "made by a job"}, False),
        ("{run: 'x ${{ secrets.GITHUB_TOKEN }}'}", {"GITHUB_TOKEN": "ghs_abc"}, True),
    ],
)
def test_what_a_call_hands_over_counts_whatever_it_was_made_of(step, context, counts):
    """An output of an earlier job is a secret to the called one, if it names it."""
    workflow = load(f"on: push\njobs: {{a: {{runs-on: x, steps: [{step}]}}}}", path="ci.yml")
    assert handed(Scope(workflow=workflow, contexts={}), workflow.jobs["a"], {}, context) is counts
