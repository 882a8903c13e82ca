"""Commands over the control API: what they ask for, print and exit with."""

import json
import time
from typing import Any

import msgspec
import pytest

from runnerd.cli import runs
from runnerd.cli.runs import standing
from runnerd.model import Actor, Event, JobRecord, Outcome, Phase, Repository, RunRecord, StepResult
from runnerd.web import client

EVENT = Event(
    delivery="d",
    name="push",
    repository=Repository(id=1, full_name="octo/cat"),
    sender=Actor(id=1, login="ann"),
    ref="refs/heads/main",
    sha="a" * 40,
)


def a_run(number: int, outcome: Outcome = Outcome.SUCCESS) -> RunRecord:
    return RunRecord(
        id=number,
        delivery="d",
        repository="octo/cat",
        workflow_path="w",
        workflow_name="CI",
        source="",
        number=1,
        title="Fix\x1b[2J it",
        event=EVENT,
        phase=Phase.DONE,
        outcome=outcome,
        created=1.0,
        started=2.0,
        ended=65.0,
    )


def a_job(number: int, name: str, outcome: Outcome = Outcome.SUCCESS) -> JobRecord:
    steps = (
        StepResult(
            number=1,
            id="",
            name="Run x",
            outcome=Outcome.FAILURE,
            conclusion=Outcome.SUCCESS,
            exit_code=3,
            started=2.0,
            ended=2.5,
        ),
    )
    return JobRecord(
        id=number,
        run=7,
        key=name.split(" ")[0],
        name=name,
        phase=Phase.DONE,
        outcome=outcome,
        steps=steps,
        started=2.0,
        ended=4.0,
    )


class Answering:
    """Answers as the control API does, and remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.outcome = Outcome.SUCCESS
        self.capacity = 4
        self.snapshots: list[dict[str, Any]] = []
        self.not_kept: dict[str, str] = {}
        self.jobs = [a_job(1, "build"), a_job(2, "test (a)"), a_job(3, "test (b)", Outcome.FAILURE)]

    def __call__(self, path: Any) -> "Answering":
        return self

    def status(self) -> Any:
        times = {"started": 1.0, "uptime": 61.0}
        return {"version": "0.1.0", **times, "draining": False, "open_runs": [7, 8], "x": []}

    def runs(self, limit: int = 20, before: int | None = None, repository: str | None = None) -> Any:
        self.asked.append((limit, repository))
        return json.loads(msgspec.json.encode([msgspec.structs.replace(a_run(7), created=time.time() - 61)]))

    def run(self, run: int) -> Any:
        if run != 7:
            raise client.Refusal(f"there is no run {run}", 404)
        view = {"run": a_run(7, self.outcome), "jobs": self.jobs, "notes": [], "snapshots": self.snapshots}
        view["not_kept"] = self.not_kept
        return json.loads(msgspec.json.encode(view))

    def log(self, run: int, job: int, offset: int = 0) -> Any:
        text = f"2026Z output of {job}\n"[offset:]
        return {"text": text, "next": offset + len(text), "end": not text}

    def cancel(self, run: int) -> Any:
        self.asked.append(("cancel", run))
        return {"run": run, "message": f"run {run} is being cancelled"}

    def approve(self, run: int) -> Any:
        return {"message": f"run {run} is approved"}

    def rerun(self, run: int, job: str | None, step: str | None, *, failed: bool) -> Any:
        if run != 7:
            raise client.Refusal(f"run {run} has not ended", 409)
        self.asked.append(("rerun", job, step, failed))
        return {"run": 8, "message": "run 7 runs again as run 8"}

    def drain(self) -> Any:
        self.asked.append("drain")
        return {"message": "draining"}

    def pause(self, reason: str = "") -> Any:
        self.asked.append(("pause", reason))
        return {"message": "paused"}

    def resume(self) -> Any:
        raise client.Refusal("the pool is not paused", 409)

    def pool(self) -> Any:
        return {
            "driver": "qemu", "isolated": True, "emulated": True, "remote": False, "capacity": self.capacity,
            "keeps": ["image default: keeps 1 warm"],
            "machines": [{"machine": "m1", "image": "default", "stage": "busy", "age": 2.0, "job": 3}],
            "waiting": [{"job": 4, "image": "default", "age": 1.0, "why": "no room"}],
            "trouble": ["image x: absent"], "trials": ["image y: generation 12 is on trial"],
            "paused": "the pool is paused: a disk",
        }  # fmt: skip

    def machines(self) -> Any:
        now = time.time()
        return [
            {
                "id": "m2", "image": "default", "stage": "warm", "made": now - 60, "job": None, "epoch": None,
                "leased": None, "asked": None, "ended": None, "why": "",
            },
            {
                "id": "m1", "image": "default", "stage": "gone", "made": now - 120, "job": 3, "epoch": 1,
                "leased": 1060.0, "asked": 1058.0, "ended": 1065.0, "why": "its job \x1b[2Jended: success",
            },
        ]  # fmt: skip


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Answering:
    from runnerd.cli import control

    answering = Answering()
    monkeypatch.setattr(control, "Client", answering)
    return answering


def test_status(invoke, daemon: Answering) -> None:
    """The daemon's status is one line per fact."""
    lines = invoke("status").stdout.splitlines()
    assert lines == ["version: 0.1.0", "uptime: 1 min 01 s", "draining: no", "open runs: 7, 8", "x: none"]


def test_runs(invoke, daemon: Answering) -> None:
    """Runs are a table, and titles cannot act on the terminal."""
    header, row = invoke("runs", "-n", "3", "--repository", "octo/cat").stdout.splitlines()
    assert header.split() == ["run", "state", "repository", "workflow", "event", "created", "title"]
    assert row.split() == [
        *("7", "success", "octo/cat", "CI", "push", "1", "min", "01", "s", "ago", "Fix", "it")
    ]
    assert daemon.asked == [(3, "octo/cat")]


def test_show(invoke, daemon: Answering) -> None:
    """A run is shown with its jobs and steps, what was allowed to fail marked."""
    lines = invoke("show", "7").stdout.splitlines()
    assert lines[0] == "run 7: CI of octo/cat"
    assert "  success, took 1 min 03 s" in lines
    assert "  3 test (b): failure, took 2.0 s" in lines
    assert "    1 Run x: failure (allowed), exit status 3, took 500 ms" in lines
    daemon.jobs = [
        msgspec.structs.replace(a_job(4, "build"), carried="6/1"),
        msgspec.structs.replace(a_job(5, "test"), resumes="2/3"),
    ]
    lines = invoke("show", "7").stdout.splitlines()
    assert "  4 build: success (as it was in run 6), took 2.0 s" in lines
    assert "  5 test: success (goes on from step 3 of job 2), took 2.0 s" in lines


def test_a_job_that_never_began_took_no_time() -> None:
    """Nothing is said about its time."""
    run, job = a_run(7), msgspec.structs.replace(a_job(6, "x", Outcome.SKIPPED), started=None, ended=None)
    lines = list(runs.tree(*json.loads(msgspec.json.encode((run, [job])))))
    assert "  6 x: skipped" in lines


def test_show_tells_how_to_use_what_is_kept(invoke, daemon: Answering) -> None:
    """Under the job it is of, with the newest as an example; of the others nothing is said."""
    assert "kept" not in invoke("show", "7").stdout
    daemon.snapshots = [{"job": 3, "step": 2, "name": "x"}, {"job": 3, "step": 5, "name": "y"}]
    lines = invoke("show", "7").stdout.splitlines()
    assert lines[-3:] == [
        "    kept as it was before step 2, 5:",
        "      `runnerd shell 7 --job 3 --at 5` opens a terminal in a copy",
        "      `runnerd rerun 7 --job 3 --from 5` runs it again from there",
    ]


def test_show_goes_back_to_before_the_failure(invoke, daemon: Answering) -> None:
    """And not to before a step that ran because of it; the reason stands at the end of its line."""
    job = a_job(3, "test", Outcome.FAILURE)
    bad, good = Outcome.FAILURE, Outcome.SUCCESS
    ended = ((1, good), (2, bad), (3, good))
    steps = [StepResult(number=n, id="", name="x", outcome=how, conclusion=how) for n, how in ended]
    daemon.jobs = [msgspec.structs.replace(job, steps=tuple(steps), reason="status 1.")]
    daemon.snapshots = [{"job": 3, "step": n, "name": "x"} for n in (2, 3)]
    lines = invoke("show", "7").stdout.splitlines()
    assert "  3 test: failure, took 2.0 s: status 1." in lines
    assert lines[-1] == "      `runnerd rerun 7 --job 3 --from 2` runs it again from there"
    daemon.snapshots, daemon.not_kept = daemon.snapshots[1:], {"3": "it took too long", "9": "of another"}
    lines = invoke("show", "7").stdout.splitlines()
    assert lines[-1] == "    not kept as it was before step 2: it took too long"
    daemon.snapshots = []
    lines = invoke("show", "7").stdout.splitlines()
    assert lines[-1] == "    not kept: it took too long"


@pytest.mark.parametrize(
    "command", [("status",), ("runs",), ("show", "7"), ("cancel", "7"), ("drain",), ("pool",)]
)
def test_json(invoke, daemon: Answering, command: tuple[str, ...]) -> None:
    """Every command that prints data prints it as JSON on request."""
    result = invoke(*command, "--json")
    assert result.exit_code == 0
    json.loads(result.stdout)


def test_logs(invoke, daemon: Answering) -> None:
    """Without -f the logs as they are, all jobs or one, status 0 whatever the outcome."""
    result = invoke("logs", "7")
    assert result.exit_code == 0
    assert "build    │ output of 1" in result.stdout
    assert invoke("logs", "7", "build").stdout.splitlines() == ["output of 1", "success"]


def test_logs_as_data(invoke, daemon: Answering) -> None:
    """A line of JSON for each line, with its job and its time, and one for the end of each job."""
    lines = [json.loads(line) for line in invoke("logs", "7", "build", "--json").stdout.splitlines()]
    assert lines == [
        {"job": 1, "name": "build", "time": "2026Z", "line": "output of 1"},
        {"job": 1, "name": "build", "outcome": "success", "reason": ""},
    ]


@pytest.mark.parametrize(
    ("outcome", "job", "code"),
    [
        (Outcome.SUCCESS, None, 0),
        (Outcome.LOST, None, 1),
        (Outcome.LOST, "build", 0),
        (Outcome.SUCCESS, "3", 1),
    ],
)
def test_logs_followed(invoke, daemon: Answering, outcome: Outcome, job: str | None, code: int) -> None:
    """With -f the exit status is that of the run, or of the job that is followed."""
    daemon.outcome = outcome
    assert invoke("logs", "7", *([job] if job else []), "-f").exit_code == code


def test_logs_of_no_job(invoke, daemon: Answering) -> None:
    """A name that means no job or several is status 4 with the choice; so is a run without jobs."""
    result = invoke("logs", "7", "test")
    assert result.exit_code == 4
    assert "means several jobs of this run: there are 2 (test (a)), 3 (test (b))" in result.stderr
    result = invoke("logs", "7", "deploy")
    assert (result.exit_code, "means no job" in result.stderr) == (4, True)
    daemon.jobs = []
    assert invoke("logs", "7").exit_code == 4


def test_actions(invoke, daemon: Answering) -> None:
    """cancel and drain tell the daemon; what it refuses is status 1."""
    assert invoke("cancel", "7").stdout == "run 7 is being cancelled\n"
    assert invoke("drain").stdout == "draining\n"
    assert daemon.asked == [("cancel", 7), "drain"]
    result = invoke("rerun", "9")
    assert (result.exit_code, result.stderr) == (1, "runnerd: run 9 has not ended\n")


def test_a_part_of_a_run_is_run_again(invoke, daemon: Answering) -> None:
    """One job, from a step or not, or all that failed; what contradicts itself is not even asked."""
    for words in ([], ["--job", "build"], ["--job", "build", "--from", "Test it"], ["--failed"]):
        assert invoke("rerun", "7", *words).stdout == "run 7 runs again as run 8\n"
    assert daemon.asked == [
        ("rerun", None, None, False),
        ("rerun", "build", None, False),
        ("rerun", "build", "Test it", False),
        ("rerun", None, None, True),
    ]
    for words, said in ((["--from", "3"], "say which with --job"), (["--failed", "--job", "x"], "exclude")):
        result = invoke("rerun", "7", *words)
        assert (result.exit_code, said in result.stderr) == (2, True)


def test_pause_and_resume(invoke, daemon: Answering) -> None:
    """The reason may be left out, and where nothing is paused there is nothing to resume."""
    assert invoke("pause", "a new disk").stdout == "paused\n"
    assert invoke("pause").exit_code == 0
    assert daemon.asked == [("pause", "a new disk"), ("pause", "")]
    result = invoke("resume")
    assert (result.exit_code, result.stderr) == (1, "runnerd: the pool is not paused\n")


def test_unknown_run(invoke, daemon: Answering) -> None:
    """A run that does not exist is status 4; what is no run's number is status 2."""
    assert invoke("show", "8").exit_code == 4
    assert invoke("show", "x").exit_code == 2
    assert invoke("show", "0").exit_code == 2


def test_pool(invoke, daemon: Answering) -> None:
    """Machines, who waits for one and why, and what troubles the pool."""
    text = invoke("pool").stdout
    assert "driver qemu, emulated, room for 4 machines" in text
    daemon.capacity = 1
    assert "room for 1 machine\n" in invoke("pool").stdout
    assert "m1       default  busy   2.0 s  3" in text
    assert "\nthe pool is paused: a disk\n" in text
    assert "\nimage default: keeps 1 warm\n" in text
    assert "no room" in text
    assert "trouble: image x: absent" in text
    assert "image y: generation 12 is on trial" in text


def test_machines_of_the_last_day(invoke, daemon: Answering) -> None:
    """Also those that are gone: who had them for how long, how long it had waited, and why they ended."""
    header, warm, gone = invoke("pool", "--history").stdout.splitlines()
    assert header.split() == [
        *("machine", "image", "stage", "made", "job", "waited", "had", "it", "why", "it", "ended")
    ]
    assert warm.split() == ["m2", "default", "warm", "1", "min", "00", "s", "ago", "-", "-", "-"]
    assert " gone " in gone
    assert gone.split()[7:] == ["ago", "3.1", "2.0", "s", "5.0", "s", "its", "job", "ended:", "success"]
    assert json.loads(invoke("pool", "--history", "--json").stdout)[1]["why"].startswith("its job")


def test_no_daemon(invoke) -> None:
    """Where no daemon listens the status is 3, with what to look at."""
    result = invoke("status", "--socket", "absent.sock")
    assert result.exit_code == 3
    assert "runnerd serve" in result.stderr


def test_chosen() -> None:
    """A job is meant by number, by name, or by a key that only it has."""
    jobs: list[Any] = [msgspec.to_builtins(a_job(1, "build")), msgspec.to_builtins(a_job(2, "test (a)"))]
    assert runs.chosen(jobs, "1") == 1
    assert runs.chosen(jobs, "test (a)") == 2
    assert runs.chosen(jobs, "test") == 2


def test_status_tells_what_was_missed() -> None:
    """A delivery list that cannot be read, and an outage nobody remembers, are lines of the status."""
    mark = {"source": "o/r#1", "begun": 0.0, "read_to": 0.0, "gap_from": None, "gap_to": None, "problem": ""}
    assert list(runs.described({"intake": [mark]})) == []
    gap = mark | {"gap_from": 0.0, "gap_to": 7200.0}
    refused, lost = runs.described({"intake": [mark | {"problem": "403"}, gap]})
    assert refused == "missed deliveries of o/r#1: not recovered: 403"
    assert "2.0 hours are beyond what the forge remembers" in lost


def test_status_says_that_no_machine_can_be_had() -> None:
    """With what is wrong, made safe for a terminal; where machines are ready a word says so."""
    assert list(runs.described({"machines": {"ready": True, "trouble": []}})) == ["machines: ready"]
    trouble = ["a build of image x failed: \x1b[2Jthere is no image"]
    assert list(runs.described({"machines": {"ready": False, "trouble": trouble}})) == [
        "machines: none can be had",
        "trouble: a build of image x failed: there is no image",
    ]


def test_status_says_what_keeps_anything_from_being_written() -> None:
    """Nothing is said of it where all is well."""
    assert list(runs.described({"ledger": ""})) == []
    assert list(runs.described({"ledger": "the disk\x07 is full"})) == ["trouble: the disk? is full"]


def test_a_backlog_of_reports_says_how_old_it_is_and_why() -> None:
    """Nothing where nothing is owed; otherwise the oldest one's age, and the last problem made safe."""
    status = {"started": 100.0, "uptime": 400.0, "reports_owed": 2}
    owed = {"owed": 2, "oldest": 380.0, "due": 510.0, "problem": "the token lacks\x1b[2J a permission"}
    assert list(runs.described(status | {"reports": owed})) == [
        "uptime: 6 min 40 s",
        "reports owed: 2",
        "oldest report: 2 min 00 s old",
        "last report problem: the token lacks a permission",
    ]
    none = {"owed": 0, "oldest": None, "due": None, "problem": ""}
    assert list(runs.described(status | {"reports": none}))[2:] == []


def test_approve(invoke, daemon: Answering) -> None:
    """The answer is the daemon's."""
    assert invoke("approve", "7").stdout == "run 7 is approved\n"


def test_a_run_that_waits_for_approval_says_so() -> None:
    """In the list by a word, when shown with the reason, and later with who approved it."""
    run = {"gate": "a fork", "approval": None, "outcome": None, "phase": "queued"}
    assert standing(run) == "approval"
    by = {"login": "grace", "permission": "write"}
    assert standing({**run, "approval": by}) == "queued"
    assert standing({**run, "outcome": "cancelled"}) == "cancelled"
