"""Every job of a run says what it waits for, or what its condition came to and why."""

from runnerd.model import Outcome, Phase
from runnerd.workflow import load
from runnerd.workflow.explain import explain
from runnerd.workflow.graph import LegState, NodeState
from runnerd.workflow.model import Call

WORKFLOW = load(
    """
on: push
jobs:
  build: {runs-on: x, steps: [{run: x}]}
  test: {needs: build, runs-on: x, steps: [{run: x}]}
  deploy: {needs: [build, test], if: github.ref == 'refs/heads/main', runs-on: x, steps: [{run: x}]}
  tidy: {needs: build, if: always() && needs.build.result == 'failure', runs-on: x, steps: [{run: x}]}
""",
    path="ci.yml",
)


def ended(key, outcome):
    return NodeState(key=key, legs=(LegState(index=0, phase=Phase.DONE, outcome=outcome),))


def explained(nodes, cancelled=False):
    contexts = {"github": {"ref": "refs/heads/main"}}
    return {each.key: each for each in explain(WORKFLOW, nodes, contexts, cancelled=cancelled)}


def test_a_job_waits_for_what_has_not_ended():
    """The names of the jobs it waits for, and nothing evaluated."""
    found = explained({"build": ended("build", Outcome.SUCCESS)})
    assert found["deploy"].reason == "it waits for test"
    assert found["deploy"].needs == {"build": "success", "test": ""}
    assert found["deploy"].operands is None


def test_the_implied_success_and_the_written_condition_are_told_apart():
    """The `if` held and the job was skipped all the same: the implied success() did not hold."""
    nodes = {"build": ended("build", Outcome.SUCCESS), "test": ended("test", Outcome.FAILURE)}
    deploy = explained(nodes)["deploy"]
    assert (deploy.operands.value, deploy.implied) == ("true", "false")
    assert [(each.text, each.value) for each in deploy.operands.operands] == [
        ("github.ref", "'refs/heads/main'")
    ]


def test_a_status_function_takes_the_place_of_the_implied_one():
    """With always() nothing is implied; a job without an `if` has only the implied one."""
    found = explained({"build": ended("build", Outcome.FAILURE)})
    assert (found["tidy"].implied, found["tidy"].operands.value) == (None, "true")
    assert (found["test"].implied, found["test"].operands) == ("false", None)
    assert explained({}, cancelled=True)["build"].implied == "false"


CALLED = """
on: {workflow_call: {inputs: {go: {type: boolean, default: false}}}}
jobs:
  inner: {if: inputs.go, runs-on: x, steps: [{run: x}]}
"""


def test_jobs_of_a_called_workflow_are_explained_where_they_stand():
    """They follow who called them, under their whole key, and see the inputs of their call."""
    text = "on: push\njobs: {call: {uses: ./.github/workflows/c.yml, with: {go: true}}}\n"
    workflow = load(text, path="ci.yml", resolve=lambda name: CALLED)
    call = Call(key="call", leg=0, legs=1, name="call", inputs={"go": True})
    nodes = {"call": NodeState(key="call", calls=(call,)), "call.0/inner": NodeState(key="call.0/inner")}
    found = explain(workflow, nodes, {"github": {}, "inputs": {}}, cancelled=False)
    assert [each.key for each in found] == ["call", "call.0/inner"]
    operands = found[1].operands
    assert operands is not None
    assert (operands.text, operands.value) == ("inputs.go", "true")
