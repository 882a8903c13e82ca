"""Which secrets a job can name."""

import pytest

from runnerd.workflow import load
from runnerd.workflow.naming import named_secrets


def named(steps, *, top="", job=""):
    text = f"on: push\n{top}\njobs:\n  a:\n    runs-on: x\n{job}\n    steps: {steps}\n"
    workflow = load(text, path="ci.yml")
    return named_secrets(workflow, workflow.jobs["a"])


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ("[{run: make}]", set()),
        ("[{run: 'echo secrets.NOT and $SECRETS'}]", set()),
        ("[{run: x, env: {T: '${{ secrets.Deploy_Key }}'}}]", {"DEPLOY_KEY"}),
        ("[{run: 'a ${{ SECRETS.a }} b ${{ secrets[''b''] }}'}]", {"A", "B"}),
        ("[{run: x, env: {T: \"${{ format('{0}', secrets.a || 'no') }}\"}}]", {"A"}),
        ("[{run: x, env: {T: '${{ !(secrets.a == secrets.b) }}'}}]", {"A", "B"}),
        ("[{uses: o/r@v1, with: {token: '${{ secrets.a }}'}}]", {"A"}),
        ("[{run: x, env: {T: '${{ github.event.secrets }}'}}]", set()),
    ],
)
def test_secrets_named_by_a_constant_are_found(steps, names):
    """Wherever a step names one, in whatever case and notation; plain text names none."""
    assert named(steps) == names


@pytest.mark.parametrize(
    "expression",
    ["toJSON(secrets)", "secrets[matrix.key]", "secrets.*", "secrets[github.ref]", "join(secrets.*, ',')"],
)
def test_a_use_of_the_whole_context_may_name_any(expression):
    """What is only known when it runs counts as every secret."""
    assert named('[{run: x, env: {T: "${{ EXPRESSION }}"}}]'.replace("EXPRESSION", expression)) is None


def test_the_environments_of_job_and_workflow_count():
    """Each job sees the workflow's `env` and its own."""
    top = "env: {A: '${{ secrets.one }}'}"
    job = "    env: {B: '${{ secrets.two }}'}"
    assert named("[{run: make}]", top=top, job=job) == {"ONE", "TWO"}
