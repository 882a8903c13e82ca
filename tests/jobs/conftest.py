"""A machine of this host's processes, a log and an observer that remember, and a bench to run a job on."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.jobs.contexts import github_context
from runnerd.jobs.runner import run_job
from runnerd.jobs.spec import JobSpec
from runnerd.machines.driver import Capabilities, Command, Exit, Identity, MachineLost, Output, Paths
from runnerd.model import Actor, Event, JobRecord, JobResult, Repository, RunRecord, StepResult
from runnerd.workflow import load

SHA = "1" * 40
EVENT = Event(
    delivery="d",
    name="push",
    repository=Repository(id=7, full_name="octo/hello"),
    sender=Actor(id=5, login="mona"),
    sha=SHA,
    ref="refs/heads/main",
    payload={"repository": {"owner": {"id": 99}}, "head_commit": {"message": "hi"}},
)


class LocalMachine:
    """Runs commands as processes of this host, under a folder of its own; counts what it is asked."""

    id = "machine-1"
    image = "default"
    reason = ""
    capabilities = Capabilities(isolated=False)
    identity = Identity(hostname="h", boot_id="boot-1", machine_id="id-1")

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = Paths(
            home=str(root / "home"),
            work=str(root / "work"),
            temp=str(root / "work/_temp"),
            tools=str(root / "t"),
        )
        self.lost = trio.Event()
        self.calls: Counter[str] = Counter()
        self.commands: list[Command] = []
        self.console: tuple[str, ...] = ()
        self.ends: list[Exit | Exception] = []
        """What the next commands come to, instead of running."""

    async def exec(self, command: Command, output: Output) -> Exit:
        self.calls["exec"] += 1
        self.commands.append(command)
        if self.ends:
            end = self.ends.pop(0)
            if isinstance(end, Exception):
                raise end
            return end
        process = await trio.lowlevel.open_process(
            list(command.argv),
            env=command.env,
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        assert process.stderr is not None

        async def drain(name: str, stream: trio.abc.ReceiveStream) -> None:
            async with stream:
                async for data in stream:
                    await output(name, data)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain, "stdout", process.stdout)
                nursery.start_soon(drain, "stderr", process.stderr)
                await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    os.killpg(process.pid, 9)
                except ProcessLookupError:
                    pass
                await process.wait()
        code = process.returncode
        assert code is not None
        return Exit(code=code) if code >= 0 else Exit(signal=-code)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        self.calls["put"] += 1
        _write(Path(path), data, mode)

    async def get(self, path: str, *, limit: int) -> bytes:
        self.calls["get"] += 1
        return _read(Path(path), limit)

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        self.calls["get_all"] += 1
        found: dict[str, bytes | OSError | ValueError] = {}
        for path, limit in limits.items():
            try:
                found[path] = _read(Path(path), limit)
            except (OSError, ValueError) as error:
                found[path] = error
        return found

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        self.calls["lay_out"] += 1
        for folder in folders:
            _make(Path(folder))
        for path in files:
            _write(Path(path), b"", 0o644)
        found = {name: shutil.which(name, path=search) for name in programs}
        return {name: path for name, path in found.items() if path is not None}

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        self.calls["unpack"] += 1
        with tarfile.open(archive) as opened:
            opened.extractall(into, filter="tar")

    def console_end(self) -> tuple[str, ...]:
        return self.console

    def lose(self, reason: str) -> MachineLost:
        self.reason = reason
        self.lost.set()
        return MachineLost(reason)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def _write(place: Path, data: bytes, mode: int) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    place.chmod(mode)


def _read(place: Path, limit: int) -> bytes:
    if not os.path.lexists(place):
        raise FileNotFoundError(place)
    if place.is_symlink() or not place.is_file():
        raise ValueError(f"{place} is not a regular file")
    if place.stat().st_size > limit:
        raise ValueError(f"{place} has more than {limit} bytes")
    return place.read_bytes()


class RememberingLog:
    """Keeps lines by step."""

    def __init__(self) -> None:
        self.steps: dict[int, list[str]] = {}
        self.background: set[int] = set()
        self.ended: list[int] = []
        self._step = 0
        self._awaited: tuple[str, trio.Event] | None = None

    async def begin_step(self, number: int, *, background: bool = False) -> None:
        self._step = number
        self.steps.setdefault(number, [])
        if background:
            self.background.add(number)

    async def end_step(self, number: int) -> None:
        self.ended.append(number)

    async def line(self, text: str, step: int | None = None) -> None:
        assert "\n" not in text
        self.steps.setdefault(self._step if step is None else step, []).append(text)
        if self._awaited and text == self._awaited[0]:
            self._awaited[1].set()

    async def note(self, text: str) -> None:
        self.steps.setdefault(self._step, []).append(text)

    async def wait_for(self, line: str) -> None:
        """Return when this line is logged."""
        self._awaited = (line, trio.Event())
        await self._awaited[1].wait()

    def text(self) -> str:
        return "\n".join(line for lines in self.steps.values() for line in lines)

    def output(self, number: int) -> list[str]:
        """What a step's own process printed: after the group that introduces it."""
        lines = self.steps[number]
        return lines[lines.index("##[endgroup]") + 1 :]


class RememberingObserver:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, str]] = []

    async def step_started(self, number: int, name: str) -> None:
        self.told.append(("started", number, name))

    async def step_ended(self, result: StepResult) -> None:
        self.told.append(("ended", result.number, str(result.outcome)))


class RefusingCheckout:
    """Has nothing to check out."""

    async def checkout(self, machine: Any, **asked: Any) -> tuple[str, str]:
        raise OSError("there is nothing to check out here")


class WritingCheckout:
    """Puts one file where the commit would be, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def checkout(self, machine: Any, **asked: Any) -> tuple[str, str]:
        self.asked.append(asked)
        await machine.put(f"{asked['into']}/README", b"hello\n")
        return asked["sha"] or "2" * 40, asked["ref"]


class Bench:
    """One job on one machine, with everything that can be looked at afterwards."""

    def __init__(self, machine: LocalMachine) -> None:
        self.machine = machine
        self.log = RememberingLog()
        self.observer = RememberingObserver()
        self.checkout: Any = RefusingCheckout()
        self.cancel = trio.Event()
        self.result: JobResult | None = None

    def spec(self, text: str, contexts: Mapping[str, Any] = {}, **changes: Any) -> JobSpec:
        """The only job of a workflow's text, as it would be run for a push."""
        workflow = load(text, path=".github/workflows/ci.yml")
        (job,) = workflow.jobs.values()
        run = RunRecord(
            id=3,
            delivery="d",
            repository="octo/hello",
            workflow_path=workflow.path,
            workflow_name=workflow.name,
            title="hi",
            source="",
            event=EVENT,
            number=4,
        )
        record = JobRecord(id=1, run=3, key=job.id, name=job.id, labels=("ubuntu-latest",))
        given = {"github": github_context(EVENT, run, job.id), "vars": {}, "needs": {}, **contexts}
        return JobSpec(run=run, record=record, workflow=workflow, job=job, contexts=given, **changes)

    async def run(
        self, text: str, *, secrets: Mapping[str, str] = {}, contexts: Mapping[str, Any] = {}, **changes: Any
    ) -> JobResult:
        """Run the only job of a workflow's text."""
        return await self.run_spec(self.spec(text, contexts, **changes), secrets=secrets)

    async def steps(self, steps: str, *, head: str = "", **changes: Any) -> JobResult:
        """Run steps written as YAML, indented as one likes; `head` is more of the job."""
        body = "\n".join(" " * 6 + line for line in _dedented(steps))
        more = "\n".join(" " * 4 + line for line in _dedented(head))
        return await self.run(
            f"on: push\njobs:\n  one:\n    runs-on: x\n{more}\n    steps:\n{body}\n", **changes
        )

    async def run_spec(self, spec: JobSpec, *, secrets: Mapping[str, str] = {}) -> JobResult:
        clock: Callable[[], float] = trio.current_time
        self.result = await run_job(
            spec,
            self.machine,
            checkout=self.checkout,
            log=self.log,
            observer=self.observer,
            secrets=secrets,
            cancel=self.cancel,
            clock=clock,
        )
        return self.result


def _dedented(text: str) -> list[str]:
    return textwrap.dedent(text).strip("\n").split("\n")


@pytest.fixture
def machine(tmp_path: Path) -> LocalMachine:
    return LocalMachine(tmp_path / "machine")


@pytest.fixture
def bench(machine: LocalMachine) -> Bench:
    return Bench(machine)


@pytest.fixture
def checkout() -> WritingCheckout:
    return WritingCheckout()
