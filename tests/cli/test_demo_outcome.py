"""The demo's own judgement: it passes what is true and fails everything else."""

from typing import Any

import msgspec
import pytest

from runnerd.cli import demo_outcome
from runnerd.cli.demo_outcome import Host
from runnerd.model import Actor, Event, JobRecord, Outcome, Phase, Repository, RunRecord, StepResult

HOST = Host(boot_id="f" * 8 + "-ffff-ffff-ffff-" + "f" * 12, machine_id="f" * 32)
JOBS = (("build", "build"), ("test", "test (plain)"), ("test", "test (spicy)"), ("release", "release"))


def boot(number: int) -> str:
    return f"0000000{number}-0000-4000-8000-000000000000"


def a_run(**changes: Any) -> RunRecord:
    event = Event(
        delivery="d",
        name="push",
        repository=Repository(id=1, full_name="demo/hello"),
        sender=Actor(id=1, login="x"),
    )
    run = RunRecord(
        id=1,
        delivery="d",
        repository="demo/hello",
        workflow_path="w",
        workflow_name="Hello",
        title="t",
        source="",
        event=event,
        number=1,
        phase=Phase.DONE,
        outcome=Outcome.SUCCESS,
        created=100.2,
        ended=109.0,
    )
    return msgspec.structs.replace(run, **changes)


def some_jobs() -> list[JobRecord]:
    fragile = StepResult(
        number=4, id="fragile", name="Fail", outcome=Outcome.FAILURE, conclusion=Outcome.SUCCESS, exit_code=3
    )
    starts = (100.5, 103.0, 103.5, 106.0)
    return [
        JobRecord(
            id=number,
            run=1,
            key=key,
            name=name,
            phase=Phase.DONE,
            outcome=Outcome.SUCCESS,
            boot_id=boot(number),
            machine_id=f"{number:032x}",
            started=starts[number],
            ended=starts[number] + 2,
            steps=(fragile,) if key == "test" else (),
        )
        for number, (key, name) in enumerate(JOBS)
    ]


def some_logs() -> dict[int, str]:
    said = {1: "hello, plain world", 2: "hello, spicy world", 3: "releasing version 1.2.3 of demo/hello"}
    return {
        number: f"2026-11-23T18:22:09.5Z Set up\n2026-11-23T18:22:10.5Z boot-id {boot(number)}\n"
        f"2026-11-23T18:22:11Z machine-id {number:032x}\n2026-11-23T18:22:12Z {said.get(number, '')}\n"
        for number in range(4)
    }


def failed(run: RunRecord, jobs: list[JobRecord], logs: dict[int, str], host: Host = HOST) -> list[str]:
    return [claim.sentence for claim in demo_outcome.claims(run, jobs, logs, host) if not claim.held]


def test_everything_held() -> None:
    """A run as it should be breaks no claim."""
    assert failed(a_run(), some_jobs(), some_logs()) == []


@pytest.mark.parametrize(
    ("job", "changes", "broken"),
    [
        (0, {"outcome": Outcome.LOST}, ["every job ended with success"]),
        (3, {"started": 105.0}, ["jobs kept the order of their needs"]),
        (3, {"started": None}, ["jobs kept the order of their needs"]),
        (1, {"steps": ()}, ["a step failed and its job went on"]),
        (2, {"boot_id": boot(1)}, ["they are those the daemon recorded"]),
        (2, {"name": "test"}, ["every job ran: build, both legs of the matrix, release"]),
    ],
)
def test_records_that_break_a_claim(job: int, changes: dict[str, Any], broken: list[str]) -> None:
    """Each way a job's record can be wrong breaks the claim about it and no other."""
    jobs = some_jobs()
    jobs[job] = msgspec.structs.replace(jobs[job], **changes)
    assert failed(a_run(), jobs, some_logs()) == broken


@pytest.mark.parametrize(
    ("job", "old", "new", "broken"),
    [
        (2, boot(2), boot(1), ["they are those the daemon recorded", "no two jobs had the same boot id"]),
        (
            2,
            f"{2:032x}",
            f"{1:032x}",
            ["they are those the daemon recorded", "no two jobs had the same machine id"],
        ),
        (
            0,
            "boot-id",
            "",
            ["every job told its boot id and machine id", "they are those the daemon recorded"],
        ),
        (0, boot(0), HOST.boot_id, ["they are those the daemon recorded", "none was the host's"]),
        (1, "plain", "", ["each leg saw its own environment"]),
        (3, "1.2.3", "", ["a job read another job's output"]),
    ],
)
def test_logs_that_break_a_claim(job: int, old: str, new: str, broken: list[str]) -> None:
    """What a machine said about itself must fit, be its own, and be no other's."""
    logs = some_logs()
    logs[job] = logs[job].replace(old, new)
    assert failed(a_run(), some_jobs(), logs) == broken


def test_nothing_ran() -> None:
    """Without a job almost nothing holds; above all the identities do not."""
    broken = failed(a_run(outcome=Outcome.STARTUP_FAILURE), [], {})
    assert "the run ended with success" in broken
    assert "every job told its boot id and machine id" in broken
    assert "a step failed and its job went on" in broken


def test_phases() -> None:
    """Every phase has the moment it was over, counted from the post, and its own length."""
    rows = demo_outcome.phases(100.0, 100.05, a_run(), some_jobs(), {}, 109.25)
    assert rows == [
        ("webhook acknowledged", "50 ms", "50 ms"),
        ("run planned", "200 ms", "150 ms"),
        ("first job has its machine", "500 ms", "300 ms"),
        ("job build", "2.5 s", "2.0 s"),
        ("job test (plain)", "5.0 s", "2.0 s"),
        ("job test (spicy)", "5.5 s", "2.0 s"),
        ("job release", "8.0 s", "2.0 s"),
        ("run ended", "9.0 s", "9.0 s"),
        ("report written", "9.2 s", "250 ms"),
    ]


def test_phases_of_a_run_that_never_started() -> None:
    """Phases that did not happen are not invented."""
    rows = demo_outcome.phases(100.0, 100.05, a_run(ended=None), [], {}, None)
    assert [name for name, _, _ in rows] == ["webhook acknowledged", "run planned"]


def test_first_output() -> None:
    """The first output is the first line the sample's own script wrote, not the daemon's notes."""
    assert demo_outcome.first_output(some_logs()[0]) == 1795458130.5
    assert demo_outcome.first_output("2026-11-23T18:22:09.5Z Set up\n") is None


def test_records() -> None:
    """What the API sends as JSON becomes records again."""
    run, jobs = demo_outcome.records(msgspec.to_builtins(a_run()), msgspec.to_builtins(some_jobs()))
    assert run == a_run()
    assert list(jobs) == some_jobs()
