"""The whole ledger: what it answered is there after a crash, and a model agrees with it after any history."""

import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trio.testing import wait_all_tasks_blocked

from runnerd.model import Actor, Event, JobResult, Outcome, Phase, Repository, StepResult
from runnerd.store import ledger as module
from runnerd.store.changes import Again, EndJob, EndRun, NewJob, NewRun, QueueJob, WorkflowNote
from runnerd.store.ledger import (
    CannotOpen,
    Delivery,
    DeliveryState,
    IllegalTransition,
    Ledger,
    LedgerUnavailable,
    MachineNews,
    StaleEpoch,
    open_ledger,
)
from runnerd.store.records import Stage

GREEN = JobResult(outcome=Outcome.SUCCESS)


def delivery(id: str, body: bytes = b'{"ref": "main"}') -> Delivery:
    """A delivery that was just received."""
    return Delivery(id=id, event="push", body=body, received=1.0)


def new_run(path: str, jobs: int = 1, delivery: str = "d1") -> NewRun:
    """A run of some jobs."""
    event = Event(
        delivery=delivery,
        name="push",
        repository=Repository(id=5, full_name="o/r"),
        sender=Actor(id=1, login="ada"),
    )
    return NewRun(
        workflow_path=path,
        workflow_name=path,
        title="a commit",
        source_text="on: push",
        event=event,
        jobs=tuple(NewJob(key=f"j{n}", name=f"j{n}") for n in range(jobs)),
    )


async def test_the_way_of_one_webhook(ledger):
    """Accepted, planned, run, ended and reported, through the methods that the actors use."""
    assert await ledger.accept_delivery(delivery("d1")) == "accepted"
    assert await ledger.accept_delivery(delivery("d1")) == "duplicate"
    assert await ledger.pending_deliveries(10) == ["d1"]
    assert await ledger.try_delivery("d1") == 1
    assert await ledger.payload("d1") == {"ref": "main"}
    note = WorkflowNote(path="a.yml", matched=True, reason="push")
    [run] = await ledger.plan_delivery("d1", [new_run("a.yml")], [note])
    assert (await ledger.delivery("d1")).state is DeliveryState.PLANNED
    assert await ledger.notes("d1") == [note]
    assert await ledger.open_runs() == [run]
    [job] = await ledger.jobs(run)
    await ledger.apply(run, [QueueJob(job=job.id, now=1.0)])
    m1 = {"id": "m1", "driver": "fake", "image": "default"}
    await ledger.note_machine(MachineNews(**m1, stage=Stage.BUILDING, pid=7, started=1.0))
    ledger.tell_machine(MachineNews(**m1, stage=Stage.WARM))
    ledger.tell_machine(MachineNews(**m1, stage=Stage.LEASED, job=job.id, waited=2.0))
    epoch = await ledger.claim_job(job.id, "m1")
    [machine] = await ledger.machines()
    assert (machine.stage, machine.job, machine.epoch) == ("leased", job.id, epoch)
    await ledger.move_job(job.id, epoch, "m1", "boot", "machine")
    await ledger.step_started(job.id, epoch, 1)
    step = StepResult(number=1, id="", name="A", outcome=Outcome.SUCCESS, conclusion=Outcome.SUCCESS)
    await ledger.step_ended(job.id, epoch, step)
    await ledger.apply(run, [EndJob(job=job.id, epoch=epoch, result=GREEN)])
    await ledger.apply(run, [EndRun(outcome=Outcome.SUCCESS)])
    ledger.tell_machine_leaves("m1", "its job ended")
    await ledger.note_machine(MachineNews(**m1, stage=Stage.GONE))
    assert await ledger.machines() == []
    assert [row.why for row in await ledger.machine_history(9)] == ["its job ended"]
    assert await ledger.leases(3.0) == [("default", 2.0)]
    assert (await ledger.job(job.id)).steps == (step,)
    ended = await ledger.run(run)
    assert (ended.phase, ended.outcome) == (Phase.DONE, Outcome.SUCCESS)
    assert await ledger.whole_run(run) == (ended, await ledger.jobs(run))
    assert await ledger.whole_run(run + 100) is None
    assert await ledger.source(ended.source) == "on: push"
    owed = await ledger.outbox_due(1e9, 10)
    assert [(row.job, row.state) for row in owed] == [(job.id, "completed"), (None, "completed")]
    await ledger.outbox_retry(owed[0].id, 500.0, "502")
    assert [row.id for row in await ledger.outbox_due(400.0, 10)] == [owed[1].id]
    for row in owed:
        await ledger.outbox_done(row.id)
    assert await ledger.outbox_depth() == 0
    again = await ledger.rerun(run)
    assert [found.id for found in await ledger.runs(10)] == [again, run]
    assert await ledger.request_cancel(again)


async def test_ends_that_are_no_runs(ledger):
    """A delivery may be ignored or rejected, with its reason."""
    await ledger.accept_delivery(delivery("a"))
    await ledger.accept_delivery(delivery("b"))
    await ledger.ignore_delivery("a", "a ping")
    await ledger.reject_delivery("b", "no such commit")
    found = [await ledger.delivery(id) for id in "ab"]
    assert [(one.state, one.reason) for one in found] == [
        ("ignored", "a ping"),
        ("rejected", "no such commit"),
    ]


async def test_apply_is_all_or_nothing(ledger):
    """When one change is refused, those before it in the same call did not happen."""
    await ledger.accept_delivery(delivery("d1"))
    [run] = await ledger.plan_delivery("d1", [new_run("a.yml", jobs=2)], [])
    first, _ = await ledger.jobs(run)
    with pytest.raises(IllegalTransition):
        await ledger.apply(run, [QueueJob(job=first.id, now=1.0), EndRun(outcome=Outcome.SUCCESS)])
    assert (await ledger.job(first.id)).phase is Phase.WAITING


async def test_one_claim_of_many_wins(ledger, nursery):
    """However many ask for a job at once, one gets it (I6)."""
    await ledger.accept_delivery(delivery("d1"))
    [run] = await ledger.plan_delivery("d1", [new_run("a.yml")], [])
    [job] = await ledger.jobs(run)
    await ledger.apply(run, [QueueJob(job=job.id, now=1.0)])
    epochs: list[int | None] = []

    async def claim(machine: str) -> None:
        epochs.append(await ledger.claim_job(job.id, machine))

    async with trio.open_nursery() as claims:
        for number in range(20):
            claims.start_soon(claim, f"m{number}")
    assert sorted(epochs, key=str) == [1] + [None] * 19


async def test_one_hundred_equal_deliveries_are_one(ledger):
    """Of the same delivery arriving at the same time exactly one is accepted (I2)."""
    answers: list[str] = []

    async def accept() -> None:
        answers.append(await ledger.accept_delivery(delivery("d1")))

    async with trio.open_nursery() as arrivals:
        for _ in range(100):
            arrivals.start_soon(accept)
    assert sorted(answers) == ["accepted"] + ["duplicate"] * 99


async def test_readiness_is_a_real_write(ledger, tmp_path, monkeypatch):
    """Writable while the writer runs; not when it does not answer, or is closed."""
    await ledger.check_writable()
    await ledger.check_writable()
    monkeypatch.setattr(module, "PULSE_TIMEOUT", 0.05)
    async with open_ledger(tmp_path / "other") as idle:
        with pytest.raises(LedgerUnavailable, match=r"did not answer within 0\.05 s"):
            await idle.check_writable()
        idle.close()
        with pytest.raises(LedgerUnavailable, match="is closed"):
            await idle.check_writable()


async def test_reading_what_is_broken_is_said(ledger, tmp_path):
    """A failing database raises the ledger's own error, not the library's."""
    await ledger._write(lambda connection: connection.exec_driver_sql("DROP TABLE machines"))
    with pytest.raises(LedgerUnavailable, match=r"cannot be read \(no such table: machines\)"):
        await ledger.machines()


async def test_one_daemon_per_state(tmp_path):
    """A second opening is refused by name while the first is open, and works after it."""
    async with open_ledger(tmp_path / "ledger.db"):
        with pytest.raises(CannotOpen, match=f"in use by the process {os.getpid()}"):
            async with open_ledger(tmp_path):
                pass
    async with open_ledger(tmp_path):
        pass


async def test_where_a_ledger_may_be(tmp_path):
    """A file, a folder and a SQLite URL are understood; another database is refused without its password."""
    async with open_ledger(tmp_path / "new" / "x.db"):
        assert (tmp_path / "new" / "x.db").exists()
    async with open_ledger(f"sqlite:///{tmp_path}/new"):
        assert (tmp_path / "new" / "ledger.db").exists()
    with pytest.raises(CannotOpen, match=r"me:\*\*\*@db/x cannot be used: .* SQLite") as caught:
        async with open_ledger("postgresql://me:secret@db/x"):
            pass
    assert "secret" not in str(caught.value)


async def test_a_failed_opening_leaves_no_lock(tmp_path):
    """What cannot be opened can be tried again."""
    (tmp_path / "ledger.db").write_text("not a database" * 1000)
    for _ in range(2):
        with pytest.raises(CannotOpen, match="file is not a database"):
            async with open_ledger(tmp_path):
                pass


async def test_leaving_refuses_what_nobody_wrote(tmp_path):
    """Writes without a writer are not left hanging when the ledger goes away."""
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery, open_ledger(tmp_path) as ledger:

        async def accept() -> None:
            try:
                await ledger.accept_delivery(delivery("d1"))
            except LedgerUnavailable as error:
                failures.append(error)

        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
    assert len(failures) == 1


class Life(RuleBasedStateMachine):
    """Any history of one ledger, with crashes, beside a model of what it promises (I1 to I4, I6).

    The model: deliveries by id, runs by id, jobs by id, each a small dict.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.time = 0.0
        self.deliveries: dict[str, dict] = {}
        self.runs: dict[int, dict] = {}
        self.jobs: dict[int, dict] = {}
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(Path(self.folder.name) / "ledger.db", clock=lambda: self.time)

    def teardown(self) -> None:
        self.ledger.dispose()
        self.folder.cleanup()

    def do(self, method, *arguments):
        """Call a method of the ledger while its writer runs; returns the answer or the error."""

        async def call():
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(Ledger.serve_writes, self.ledger))
                try:
                    answer = await getattr(self.ledger, method)(*arguments)
                except Exception as error:
                    answer = error
                nursery.cancel_scope.cancel()
            return answer

        self.time += 1.0
        return trio.run(call)

    def pick(self, data, things, label):
        return data.draw(st.sampled_from(sorted(things)), label=label)

    @initialize()
    def first(self) -> None:
        self.deliver("a", b"{}")

    @rule(id=st.sampled_from("abcd"), body=st.binary(max_size=20))
    def deliver(self, id, body) -> None:
        answer = self.do("accept_delivery", delivery(id, body))
        assert answer == ("duplicate" if id in self.deliveries else "accepted")
        self.deliveries.setdefault(id, {"body": body, "state": "pending", "runs": []})

    @rule(data=st.data(), how=st.sampled_from(["ignored", "rejected"]))
    def settle(self, data, how) -> None:
        id = self.pick(data, self.deliveries, "delivery")
        answer = self.do({"ignored": "ignore_delivery", "rejected": "reject_delivery"}[how], id, "reason")
        known = self.deliveries[id]
        if known["state"] == "pending":
            known["state"] = how
        assert isinstance(answer, IllegalTransition) == (known["state"] != how)

    @rule(data=st.data(), paths=st.lists(st.sampled_from("xyz"), unique=True), jobs=st.integers(1, 2))
    def plan(self, data, paths, jobs) -> None:
        id = self.pick(data, self.deliveries, "delivery")
        answer = self.do("plan_delivery", id, [new_run(path, jobs, id) for path in paths], [])
        known = self.deliveries[id]
        if known["state"] == "pending":
            known["state"] = "planned" if paths else "ignored"
            known["runs"] = answer
            for run, path in zip(answer, paths, strict=True):
                self.add_run(run, id, path, 1)
        elif known["state"] == ("planned" if paths else "ignored"):
            assert answer == known["runs"]
        else:
            assert isinstance(answer, IllegalTransition)

    def add_run(self, run: int, delivery: str, path: str, attempt: int) -> None:
        self.runs[run] = {"key": (delivery, path, attempt), "phase": "queued", "cancel": False}
        for job in self.do("jobs", run):
            self.jobs[job.id] = {"run": run, "phase": "waiting", "epoch": 0, "touched": False}

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def queue(self, data) -> None:
        id = self.pick(data, self.jobs, "job")
        job = self.jobs[id]
        answer = self.do("apply", job["run"], [QueueJob(job=id, now=self.time)])
        if job["phase"] == "waiting":
            assert answer in (None, frozenset())
            job["phase"] = "queued"
        else:
            assert isinstance(answer, IllegalTransition)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def claim(self, data) -> None:
        id = self.pick(data, self.jobs, "job")
        job = self.jobs[id]
        answer = self.do("claim_job", id, "m")
        if job["phase"] == "queued" and not self.runs[job["run"]]["cancel"]:
            job.update(phase="running", epoch=job["epoch"] + 1, touched=False)
            self.runs[job["run"]]["phase"] = "running"
            assert answer == job["epoch"]
        else:
            assert answer in (None, frozenset())

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), old=st.integers(0, 1), what=st.sampled_from(["step_started", "retry_job"]))
    def work(self, data, old, what) -> None:
        id = self.pick(data, self.jobs, "job")
        job = self.jobs[id]
        answer = self.do(what, id, job["epoch"] - old, *((1,) if what == "step_started" else ("lost",)))
        if old or job["phase"] != "running":
            assert isinstance(answer, StaleEpoch)
        elif what == "step_started":
            job["touched"] = True
        else:
            job["phase"] = "queued"

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), old=st.integers(0, 1), outcome=st.sampled_from(Outcome))
    def end_job(self, data, old, outcome) -> None:
        id = self.pick(data, self.jobs, "job")
        job = self.jobs[id]
        end = EndJob(job=id, epoch=job["epoch"] - old, result=JobResult(outcome=outcome))
        answer = self.do("apply", job["run"], [end])
        needs_an_attempt = outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIMED_OUT)
        if self.runs[job["run"]]["phase"] == "done":
            assert isinstance(answer, IllegalTransition)
        elif old:
            assert isinstance(answer, StaleEpoch)
        elif job["phase"] == "done":
            assert isinstance(answer, IllegalTransition)
        elif job["phase"] != "running" and needs_an_attempt:
            assert isinstance(answer, StaleEpoch)
        else:
            assert answer in (None, frozenset())
            job["phase"] = "done"

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def end_run(self, data) -> None:
        id = self.pick(data, self.runs, "run")
        answer = self.do("apply", id, [EndRun(outcome=Outcome.SUCCESS)])
        open_jobs = any(job["run"] == id and job["phase"] != "done" for job in self.jobs.values())
        if self.runs[id]["phase"] == "done" or open_jobs:
            assert isinstance(answer, IllegalTransition)
        else:
            assert answer in (None, frozenset())
            self.runs[id]["phase"] = "done"

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        id = self.pick(data, self.runs, "run")
        run = self.runs[id]
        assert self.do("request_cancel", id) == (run["phase"] != "done")
        run["cancel"] = run["cancel"] or run["phase"] != "done"

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def rerun(self, data) -> None:
        id = self.pick(data, self.runs, "run")
        answer = self.do("rerun", id)
        delivery, path, _ = self.runs[id]["key"]
        attempts = [run for run in self.runs.values() if run["key"][:2] == (delivery, path)]
        if all(run["phase"] == "done" for run in attempts):
            self.add_run(answer, delivery, path, max(run["key"][2] for run in attempts) + 1)
        else:
            assert isinstance(answer, IllegalTransition)

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def rerun_a_part(self, data) -> None:
        id = self.pick(data, self.runs, "run")
        mine = sorted(job for job, known in self.jobs.items() if known["run"] == id)
        chosen = data.draw(st.sets(st.sampled_from(mine)), label="jobs")
        answer = self.do("rerun", id, Again(jobs=frozenset(chosen)))
        delivery, path, attempt = self.runs[id]["key"]
        newest = max(run["key"][2] for run in self.runs.values() if run["key"][:2] == (delivery, path))
        if self.runs[id]["phase"] != "done" or attempt != newest or not chosen:
            assert isinstance(answer, IllegalTransition)
            return
        self.add_run(answer, delivery, path, attempt + 1)
        new = sorted(job for job, known in self.jobs.items() if known["run"] == answer)
        for old, job in zip(mine, new, strict=True):
            if old not in chosen:
                self.jobs[job] |= {"phase": "done", "epoch": self.jobs[old]["epoch"], "carried": True}

    @rule()
    def send_a_report(self) -> None:
        for row in self.do("outbox_due", 1e9, 1):
            self.do("outbox_done", row.id)

    @rule(id=st.sampled_from("abcd"))
    def crash(self, id) -> None:
        """The process ends with writes on their way that nobody had answered; the next one recovers."""

        async def unanswered() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.ledger.accept_delivery, delivery(f"unanswered {id}"))
                for run in self.runs:
                    nursery.start_soon(self.ledger.request_cancel, run)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        trio.run(unanswered)
        self.ledger.dispose()
        self.open()
        recovery = self.do("recover", self.time)
        running = {id: job for id, job in self.jobs.items() if job["phase"] == "running"}
        for job in running.values():
            job["phase"] = "queued" if not job["touched"] and job["epoch"] < 3 else "done"
        lost = {(job["run"], id, job["epoch"]) for id, job in running.items() if job["phase"] == "done"}
        assert set(recovery.lost) == lost
        assert len(recovery.requeued) == len(running) - len(lost)

    @invariant()
    def what_was_accepted_is_there(self) -> None:
        """I1 and I3: each delivery with its body, in the state the model knows, and none besides."""
        found = {id: self.do("delivery", id) for id in self.deliveries}
        assert {id: (one.body, one.state) for id, one in found.items()} == {
            id: (known["body"], known["state"]) for id, known in self.deliveries.items()
        }
        pending = [id for id, known in self.deliveries.items() if known["state"] == "pending"]
        assert sorted(self.do("pending_deliveries", 100)) == sorted(pending)

    @invariant()
    def runs_and_jobs_are_those_of_the_model(self) -> None:
        """I2 and I6: no run or attempt that the model does not know, each in its phase."""
        runs = self.do("runs", 1000)
        assert {run.id: (run.delivery, run.workflow_path, run.attempt) for run in runs} == {
            id: run["key"] for id, run in self.runs.items()
        }
        assert {run.id: (run.phase, run.cancel_requested) for run in runs} == {
            id: (run["phase"], run["cancel"]) for id, run in self.runs.items()
        }
        jobs = [job for run in self.runs for job in self.do("jobs", run)]
        assert {job.id: (job.run, job.phase, job.epoch) for job in jobs} == {
            id: (job["run"], job["phase"], job["epoch"]) for id, job in self.jobs.items()
        }

    @invariant()
    def every_end_has_its_report(self) -> None:
        """I4: each ended run and job has exactly one terminal report, sent or owed; no other has one.

        One that was carried over has that of the attempt in which it ended.
        """
        with self.ledger._reading.begin() as connection:
            rows = connection.exec_driver_sql(
                "SELECT run, job FROM outbox WHERE state = 'completed' AND kind IN ('run', 'job')"
            ).all()
        ended = [(id, None) for id, run in self.runs.items() if run["phase"] == "done"]
        ended += [
            (job["run"], id)
            for id, job in self.jobs.items()
            if job["phase"] == "done" and not job.get("carried")
        ]
        assert sorted(map(tuple, rows), key=str) == sorted(ended, key=str)


TestAnyHistory = Life.TestCase
TestAnyHistory.__doc__ = "Whatever happens in whatever order, the ledger and the model agree."
TestAnyHistory.settings = settings(max_examples=25, stateful_step_count=30)
