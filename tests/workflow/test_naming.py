"""Which secrets a job can name."""

import pytest

from runnerd.workflow import load
from runnerd.workflow.calls import Scope
from runnerd.workflow.model import Call
from runnerd.workflow.naming import named_at_root, named_secrets, names_token


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


def inner_names(passed, steps="[{run: x, env: {T: '${{ secrets.key }}'}}]"):
    called = (
        "on: {workflow_call: {secrets: {key: {required: false}, other: {required: false}}}}\n"
        f"jobs: {{inner: {{runs-on: x, steps: {steps}}}}}\n"
    )
    text = f"on: push\njobs:\n  call: {{uses: ./.github/workflows/c.yml, {passed}}}\n"
    scope = Scope(workflow=load(text, path="ci.yml", resolve=lambda name: called), contexts={})
    call = Call(key="call", leg=0, legs=1, name="call")
    inner = scope.enter(scope.workflow.jobs["call"], call)
    return named_at_root(inner, inner.workflow.jobs["inner"])


@pytest.mark.parametrize(
    ("passed", "names"),
    [
        ("secrets: inherit", {"KEY"}),
        ("secrets: {key: '${{ secrets.DEPLOY }}', other: '${{ secrets.UNUSED }}'}", {"DEPLOY"}),
        ("secrets: {key: '${{ secrets.A }}-${{ secrets.B }}'}", {"A", "B"}),
        ("secrets: {key: plain}", set()),
        ("with: {}", set()),
        ("secrets: {key: '${{ secrets[github.ref] }}'}", None),
    ],
)
def test_a_called_job_names_what_its_callers_pass_it(passed, names):
    """Only what the inner job names, followed through the call's map, is asked of the host."""
    assert inner_names(passed) == names


def test_a_called_job_that_may_name_any_gets_what_is_passed():
    """`toJSON(secrets)` in the called workflow means all that the map holds, and through `inherit` all."""
    steps = "[{run: x, env: {T: '${{ toJSON(secrets) }}'}}]"
    assert inner_names("secrets: {key: '${{ secrets.A }}', other: '${{ secrets.B }}'}", steps) == {"A", "B"}
    assert inner_names("secrets: inherit", steps) is None


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ("[{run: make}]", False),
        (
            "[{uses: actions/checkout@v4}, {run: 'echo ${{ github.sha }} ${{ github.event.token }} token'}]",
            False,
        ),
        ("[{run: 'echo ${{ github.token }}'}]", True),
        ("[{run: \"echo ${{ GitHub['TOKEN'] }}\"}]", True),
        ("[{run: 'echo ${{ secrets.GITHUB_TOKEN }}'}]", True),
        ("[{run: 'echo ${{ toJSON(github) }}'}]", True),
        ("[{run: 'echo ${{ github[env.WHICH] }}'}]", True),
        ("[{run: 'echo ${{ toJSON(secrets) }}'}]", True),
        ("[{if: github.token != '', run: make}]", True),
        ("[{uses: octo/tool@v1}]", True),
        ("[{parallel: [{uses: octo/tool@v1}, {run: make}]}]", True),
        ("[{parallel: [{uses: actions/checkout@v4}, {run: make}]}]", False),
    ],
)
def test_a_token_is_named_by_any_way_to_it(steps, names):
    """What only plain text says names none; what is not known before it runs counts, and so do actions."""
    workflow = load(f"on: push\njobs: {{a: {{runs-on: x, steps: {steps}}}}}", path="ci.yml")
    assert names_token(Scope(workflow=workflow, contexts={}), workflow.jobs["a"]) is names


@pytest.mark.parametrize(
    ("passed", "names"),
    [
        ("with: {name: plain}", False),
        ("with: {name: '${{ github.token }}'}", True),
        ("secrets: {key: '${{ secrets.GITHUB_TOKEN }}'}", True),
        ("secrets: {key: '${{ github.token }}'}", True),
        ("secrets: inherit", False),
    ],
)
def test_a_token_that_a_call_hands_down_is_named(passed, names):
    """As an input or as a secret; all secrets are no token to a job that names another one."""
    called = (
        "on: {workflow_call: {inputs: {name: {type: string}}, secrets: {key: {required: false}}}}\n"
        "jobs: {inner: {runs-on: x, steps: [{run: '${{ secrets.key }} ${{ inputs.name }}'}]}}\n"
    )
    text = f"on: push\njobs:\n  call: {{uses: ./.github/workflows/c.yml, {passed}}}\n"
    scope = Scope(workflow=load(text, path="ci.yml", resolve=lambda name: called), contexts={})
    inner = scope.enter(scope.workflow.jobs["call"], Call(key="call", leg=0, legs=1, name="call"))
    assert names_token(inner, inner.workflow.jobs["inner"]) is names
