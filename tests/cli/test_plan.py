"""`runnerd plan`: what would run, what would not, and the reasons."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runnerd.cli import plan
from runnerd.workflow import load

IMAGES = {"default": ("ubuntu-latest", "linux")}

WORKFLOW = """\
name: CI
on:
  push:
    branches: [main]
jobs:
  build:
    runs-on: ubuntu-latest
    steps: [{run: "true"}]
  test:
    needs: build
    strategy: {matrix: {os: [ubuntu-latest, windows-latest], n: [1]}}
    runs-on: ${{ matrix.os }}
    steps: [{run: "true"}]
  nightly:
    if: github.event_name == 'schedule'
    runs-on: ubuntu-latest
    steps: [{run: "true"}]
  after-nightly:
    needs: nightly
    runs-on: ubuntu-latest
    steps: [{run: "true"}]
  on-failure:
    needs: build
    if: failure()
    runs-on: ubuntu-latest
    steps: [{run: "true"}]
  dynamic:
    needs: build
    strategy: {matrix: "${{ fromJSON(needs.build.outputs.matrix) }}"}
    runs-on: ubuntu-latest
    steps: [{run: "true"}]
  last:
    needs: [dynamic, test]
    runs-on: [ubuntu-latest, linux]
    steps: [{run: "true"}]
"""


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b", *arguments], check=True)


@pytest.fixture
def checkout(invoke) -> Path:
    folder = Path.cwd() / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "ci.yml").write_text(WORKFLOW)
    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    return Path.cwd()


def jobs_of(text: str) -> dict[str, plan.JobPlan]:
    workflow = load(text, path="ci.yml")
    contexts: dict[str, Any] = {"github": {"event_name": "push"}, "inputs": {}, "vars": {}}
    return {job.key: job for job in plan.forecast(workflow, contexts, IMAGES)}


def test_forecast() -> None:
    """Each job has its fate: legs with labels and images, a reason not to run, or the output it waits for."""
    jobs = jobs_of(WORKFLOW)
    assert list(jobs) == ["build", "test", "nightly", "after-nightly", "on-failure", "dynamic", "last"]
    assert [(leg.name, leg.image) for leg in jobs["test"].legs] == [
        ("test (ubuntu-latest, 1)", "default"),
        ("test (windows-latest, 1)", None),
    ]
    assert jobs["test"].legs[0].matrix == {"os": "ubuntu-latest", "n": 1}
    assert (jobs["nightly"].runs, "schedule" in jobs["nightly"].reason) == (False, True)
    assert (jobs["after-nightly"].runs, "nightly" in jobs["after-nightly"].reason) == (False, True)
    assert jobs["on-failure"].runs is False
    assert (jobs["dynamic"].runs, jobs["dynamic"].reason) == (None, "only the outputs of build can tell")
    assert (jobs["last"].runs, jobs["last"].legs[0].labels) == (True, ("ubuntu-latest", "linux"))


CALLED = "on: workflow_call\njobs:\n  inner: {runs-on: linux, steps: [{run: y}]}\n"
CALLING = """\
on: push
concurrency: everything
jobs:
  call: {uses: ./.github/workflows/called.yml}
  after: {needs: call, concurrency: one, runs-on: linux, steps: [{run: y}]}
"""


def test_forecast_of_a_called_workflow(invoke, checkout: Path) -> None:
    """The jobs of a called workflow follow the job that calls it, and a group holds nothing up in a plan."""
    (checkout / ".github/workflows/called.yml").write_text(CALLED)
    (checkout / ".github/workflows/ci.yml").write_text(CALLING)
    result = invoke("plan", "--json")
    called, calling = json.loads(result.stdout)["workflows"]
    assert (result.exit_code, called["matched"]) == (0, False)
    assert [(job["key"], job["runs"]) for job in calling["jobs"]] == [
        ("call", True),
        ("call.0/inner", True),
        ("after", True),
    ]
    assert calling["jobs"][0]["reason"] == "calls ./.github/workflows/called.yml"
    assert calling["jobs"][1]["legs"][0]["name"] == "call / inner"
    assert calling["jobs"][2]["needs"] == ["call"]


def test_forecast_of_a_workflow_elsewhere(invoke, checkout: Path) -> None:
    """What a workflow of another repository would run is not known here, and is not said to be a mistake."""
    text = CALLING.replace("./.github", "octo/cat/.github").replace("called.yml", "called.yml@v1")
    (checkout / ".github/workflows/ci.yml").write_text(text)
    result = invoke("plan", "--json")
    (workflow,) = json.loads(result.stdout)["workflows"]
    assert (result.exit_code, workflow["problems"]) == (0, [])
    assert (workflow["jobs"][0]["runs"], workflow["jobs"][1]["runs"]) == (None, True)
    assert "not in this checkout" in workflow["jobs"][0]["reason"]


def test_forecast_of_a_bad_expression() -> None:
    """A job that could not be started as written is planned as one that does not run, with the reason."""
    text = WORKFLOW.replace("github.event_name == 'schedule'", "fromJSON('{')")
    jobs = jobs_of(text)
    assert jobs["nightly"].runs is False
    assert "nightly" in jobs["nightly"].reason


def test_tree(invoke, checkout: Path) -> None:
    """For people the plan is a tree, and the status is 0 when something runs."""
    result = invoke("plan")
    assert result.exit_code == 0, result.output
    first, *rest = result.stdout.splitlines()
    assert first.startswith(".github/workflows/ci.yml (CI) starts: ")
    assert "  ├─ test (needs build)" in rest
    assert "  │  ├─ test (ubuntu-latest, 1) on default [ubuntu-latest]" in rest
    assert "  │  └─ test (windows-latest, 1) not ours: no image claims [windows-latest]" in rest
    assert "  └─ last (needs dynamic, test)" in rest


def test_json(invoke, checkout: Path) -> None:
    """Programs get the same as data."""
    (workflow,) = json.loads(invoke("plan", "--json").stdout)["workflows"]
    assert (workflow["path"], workflow["matched"]) == (".github/workflows/ci.yml", True)
    assert workflow["jobs"][1]["legs"][0]["matrix"] == {"os": "ubuntu-latest", "n": 1}


def test_branch_filter_says_no(invoke, checkout: Path) -> None:
    """A filter that does not match is named, and the status is 4 when nothing runs."""
    git("checkout", "-q", "-b", "topic")
    result = invoke("plan")
    assert result.exit_code == 4
    assert "ci.yml (CI) does not start: " in result.stdout
    assert "branch" in result.stdout


def test_path_filter_uses_the_commit(invoke, checkout: Path) -> None:
    """Path filters see what the current commit changed."""
    file = checkout / ".github/workflows/ci.yml"
    file.write_text(WORKFLOW.replace("branches: [main]", "paths: ['docs/**']"))
    git("commit", "-q", "-am", "two")
    assert invoke("plan").exit_code == 4
    (checkout / "docs").mkdir()
    (checkout / "docs/a").touch()
    git("add", ".")
    git("commit", "-q", "-m", "three")
    assert invoke("plan").exit_code == 0


def test_payload_file(invoke, checkout: Path) -> None:
    """A payload decides the branch instead of the checkout; one that is none is refused."""
    from runnerd.cli import checkout as facts

    made = facts.payload("push", facts.Checkout(full_name="a/b", ref="refs/heads/x", sha="a" * 40))
    Path("p.json").write_text(json.dumps(made))
    assert invoke("plan", "--payload", "p.json").exit_code == 4
    Path("p.json").write_text("[]")
    assert invoke("plan", "--payload", "p.json").exit_code == 2
    assert invoke("plan", "--payload", "absent").exit_code == 2


def test_folder_without_git(invoke, tmp_path: Path) -> None:
    """A folder that is no repository is planned as the first commit on main."""
    folder = tmp_path / "plain" / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "ci.yml").write_text(WORKFLOW)
    assert invoke("plan", str(tmp_path / "plain")).exit_code == 0


def test_broken_file(invoke, checkout: Path) -> None:
    """A file with errors is shown with each of them, and the status is 1."""
    (checkout / ".github/workflows/b.yml").write_text("on: push\njobs: 3\n")
    result = invoke("plan")
    assert result.exit_code == 1
    assert "b.yml) does not start: the file has errors" in result.stdout
    assert "✗ .github/workflows/b.yml:2:7: error: " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--event", "release"), 2), (("--event", "workflow_dispatch"), 2), (("--event", "ping"), 4)],
)
def test_other_events(invoke, checkout: Path, arguments: tuple[str, ...], code: int) -> None:
    """Events that need more, or start nothing, say so."""
    assert invoke("plan", *arguments).exit_code == code


def test_nothing_to_plan(invoke) -> None:
    """A folder without workflow files is status 4."""
    assert invoke("plan").exit_code == 4
