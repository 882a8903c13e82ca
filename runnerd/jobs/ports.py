"""What a job needs of the daemon: who fills the workspace, keeps the log, and is told of steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runnerd.machines.driver import Machine
from runnerd.model import Repository, RunRecord, StepResult


class Checkout(Protocol):
    """Fills a folder of a machine with a commit's files and its `.git`."""

    async def checkout(
        self, machine: Machine, *, repository: Repository, ref: str, sha: str, into: str, depth: int, url: str
    ) -> tuple[str, str]:
        """Unpack a commit into the folder `into`, and return its (sha, full ref).

        Without `sha` it is what `ref` (full ref, branch or tag) names now. `depth` counts commits of
        history, 0 is all of it; `url` is what `origin` shall be called. Raises `OSError`, whose text is
        the sentence to show, when it cannot be had.
        """
        ...


class LogSink(Protocol):
    """Keeps the log of one job. Every line it gets is masked already. Steps may write side by side."""

    async def begin_step(self, number: int, *, background: bool = False) -> None:
        """A step begins to write; 0 is the set-up of the job.

        Lines of a step in the `background` stand between those of others, and say whose they are.
        """
        ...

    async def end_step(self, number: int) -> None:
        """The step has written all it has."""
        ...

    async def line(self, text: str, step: int | None = None) -> None:
        """Add one line of a step's output (None: the step begun last); waits while the log cannot keep up."""
        ...

    async def note(self, text: str) -> None:
        """Add one line of the daemon's own."""
        ...


class StepObserver(Protocol):
    """Is told of every step as it happens. What it raises ends the job and reaches `run_job`'s caller."""

    async def step_started(self, number: int, name: str) -> None:
        """A step begins; not called for a step that is skipped."""
        ...

    async def step_ended(self, result: StepResult) -> None:
        """A step ended or was skipped."""
        ...


Clock = Callable[[], float]
"""Seconds since the epoch."""

Write = Callable[[str], Awaitable[None]]
"""Takes one line for the log."""


class Rewind(Protocol):
    """Keeps the machine as it is before a step, and goes back so that the step can be tried again."""

    def tries(self, step: str) -> int:
        """How many times the step of this name may be run in all."""
        ...

    def wants(self, number: int, status: str) -> bool:
        """Whether the machine is to be kept before a step that is not tried again, by the job's status."""
        ...

    @property
    def asked(self) -> bool:
        """Whether somebody asked for it, and is told when nothing is kept."""
        ...

    @property
    def given(self) -> bool:
        """Whether the job was given a secret: all that is kept of it is encrypted."""
        ...

    async def keep(self, number: int, name: str, standing: bytes, *, masked: bool, wanted: bool) -> None:
        """Keep the machine as it is now, before the step of this number, beside how the job stands.

        `masked`: the job has masked a value, which counts as a secret. `wanted`: what `wants` said.
        Raises `NotKept`, `OSError` and `MachineLost`.
        """
        ...

    async def conceal(self, *, again: bool = False) -> None:
        """The job has masked a value, which its machine may have held before: what is not encrypted goes.

        When this returns nobody finds it, not even after a crash; what a step that runs may be tried `again`
        from is removed by the call after that step. Safe twice.
        """
        ...

    async def back(self) -> str:
        """Have the machine be as it was kept; what was done since is gone. Raises `MachineLost`.

        Returns the id of the machine that it is now.
        """
        ...


class PolicyUnheld(Exception):
    """A job may not run here, because what it may reach cannot be limited as it must be; says why."""


class Network(Protocol):
    """Gives a job its way out of the machine."""

    def open(
        self, machine: Machine, run: RunRecord, say: Write
    ) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """A context for the life of one job, which gives the variables that every step is to have.

        `say` takes lines for the job's log; leaving says what was reached, and is bounded. Entering raises
        `PolicyUnheld`, and OSError when the machine does not take what it must be given.
        """
        ...
