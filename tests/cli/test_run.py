"""`runnerd run`: its options as the daemon's one-time entry gets them, and what comes of it for people."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runnerd import daemon
from runnerd.machines.driver import NoMachine
from runnerd.model import Actor, Event, JobRecord, Outcome, Phase, Repository, RunRecord
from runnerd.store.changes import WorkflowNote

EVENT = Event(
    delivery="d",
    name="push",
    repository=Repository(id=1, full_name="o/r"),
    sender=Actor(id=1, login="o"),
    sha="1" * 40,
    ref="refs/heads/main",
)


def report(outcome: Outcome, *, interrupted: bool = False, machine: str = "") -> daemon.Report:
    run = RunRecord(
        id=1, delivery="d", repository="o/r", workflow_path="w.yml", workflow_name="CI", title="first",
        source="", event=EVENT, number=1, phase=Phase.DONE, outcome=outcome, started=1.0, ended=2.0,
    )  # fmt: skip
    job = JobRecord(
        id=1, run=1, key="a", name="a \x1b]0;x\x07", phase=Phase.DONE, outcome=outcome, machine=machine
    )
    note = WorkflowNote(path="other.yml", matched=False, reason="push is not among its events")
    return daemon.Report(runs=((run, (job,)),), notes=(note,), interrupted=interrupted)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder is a checkout with one commit."""
    subprocess.run(["git", "init", "-q", "-b", "main", tmp_path], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", tmp_path, *identity, "commit", "-q", "--allow-empty", "-m", "first"]
    subprocess.run(command, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is run: requests are remembered and answered with what `answer` holds, first of all green."""
    seen: list[Any] = []

    def run_once(request: daemon.Request, **options: Any) -> daemon.Report:
        seen.append((request, options))
        options["note"]("it takes its time")
        for line in ("##[group]Run it", "hello", "##[endgroup]"):
            options["show"]("a", line)
        return report(Outcome.SUCCESS)

    monkeypatch.setattr(daemon, "run_once", run_once)
    return seen


def test_defaults(invoke, checkout: Path, ran: list[Any]) -> None:
    """Without options the current folder's workflows are run for a push of its commit; green is 0."""
    result = invoke("run")
    assert result.exit_code == 0, result.output
    ((request, options),) = ran
    assert options["config"].machines.driver_name == "qemu"
    assert (request.path, request.workflow_files, request.job) == (checkout, [], None)
    assert (request.event.name, request.event.ref) == ("push", "refs/heads/main")
    assert json.loads(request.body)["after"] == request.event.sha


def test_what_people_see(invoke, checkout: Path, ran: list[Any]) -> None:
    """Log lines carry their job's name; then each run with its jobs, and the files that did not match."""
    result = invoke("run")
    output = result.stdout
    assert output.startswith("a │ ▸ Run it\na │ hello\n\nrun 1: ")
    assert result.stderr == "runnerd: it takes its time\n"
    assert "run 1: CI of o/r" in output
    assert "other.yml was not run: push is not among its events" in output
    assert "\x1b" not in output


def test_json(invoke, checkout: Path, ran: list[Any]) -> None:
    """With --json standard output is the report alone."""
    answer = json.loads(invoke("run", "--json").stdout)
    assert answer["runs"][0][0]["outcome"] == "success"
    assert answer["notes"][0]["path"] == "other.yml"


def test_options(invoke, checkout: Path, ran: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option arrives; a secret may come from the environment, and no secret's value is ever logged."""
    from runnerd import log

    monkeypatch.setattr(log, "_hidden", ())
    words = "run -W a.yml -j test --event workflow_dispatch -i n=1 -s TOKEN -s K=v=w --var V=2 --env E=3"
    result = invoke(*words.split(), "--driver", "process", TOKEN="hunter2")
    assert result.exit_code == 0, result.output
    ((request, options),) = ran
    assert options["config"].machines.driver_name == "process"
    assert (request.workflow_files, request.job) == (["a.yml"], "test")
    assert (request.event.name, request.event.inputs) == ("workflow_dispatch", {"n": "1"})
    assert request.secrets == {"TOKEN": "hunter2", "K": "v=w"}
    assert (request.variables, request.env) == ({"V": "2"}, {"E": "3"})
    assert log.hide("hunter2 v=w") == "*** ***"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (report(Outcome.FAILURE), 1),
        (report(Outcome.INFRA_ERROR), 5),
        (report(Outcome.INFRA_ERROR, machine="m-1"), 1),
        (report(Outcome.SKIPPED), 1),
        (report(Outcome.CANCELLED, interrupted=True), 130),
        (daemon.Nothing("nothing matches"), 4),
        (daemon.Unusable("no"), 2),
        (NoMachine("no image"), 5),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_status(invoke, checkout: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, code: int) -> None:
    """Only a run that succeeded is 0; what kept it from running has a status of its own."""

    def run_once(*_: Any, **__: Any) -> daemon.Report:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(daemon, "run_once", run_once)
    assert invoke("run").exit_code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent",), "is not a folder"),
        (("--payload", "absent"), "is not a file"),
        (("-i", "x"), "wants NAME=VALUE"),
        (("-s", "NO_SUCH_SECRET"), "has no value"),
        (("--driver", "nonesuch"), "machines.driver must be one of"),
    ],
)
def test_usage(invoke, ran: list[Any], arguments: tuple[str, ...], message: str) -> None:
    """What cannot be run says why, with status 2, and nothing is started."""
    result = invoke("run", *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)
    assert ran == []
