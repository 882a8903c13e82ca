"""Every message that crosses a channel, and nothing else.

Past tense is a fact, imperative a request. Facts about stored things are hints: the ledger is the truth,
and a hint that is lost costs a moment, never a run. Bytes never travel here; files and rows are named.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from runnerd.machines.driver import Machine
from runnerd.model import Pause, Repository
from runnerd.supervise.reply import Reply


class DeliveryAccepted(msgspec.Struct, frozen=True, tag=True):
    """Receiver to parser: a delivery is durable and waits to be planned."""

    delivery: str


class DeliveryHeld(msgspec.Struct, frozen=True, tag=True):
    """Receiver to reconciler: a delivery is durable and waits for the forge to say that it sent it."""

    delivery: str


class BranchMoved(msgspec.Struct, frozen=True, tag=True):
    """Parser to timekeeper: a default branch has a new tip, and may have other schedules."""

    repository: Repository


class RunCreated(msgspec.Struct, frozen=True, tag=True):
    """Parser or control to executor: a run stands in the ledger and may start."""

    run: int


class CancelRun(msgspec.Struct, frozen=True, tag=True):
    """Control to executor: the ledger says that this run is to be cancelled; do it now."""

    run: int


class OutboxChanged(msgspec.Struct, frozen=True, tag=True):
    """Executor or parser to reporter: there is something to report."""


class LeaseMachine(msgspec.Struct, frozen=True, tag=True):
    """Executor to pool: give me a machine of this image, or one that is as it was kept in a folder.

    The reply is refused with `NoMachine` when there will be none (what was kept is harmed, gone or of
    another template), and with `PoolRestarted` when the pool went down while the request waited, so that it
    may be sent again. The folder stays as it is: each lease of it is a copy.
    """

    image: str
    job: int
    reply: Reply[Machine]
    kept: Path | None = None
    by: str = ""
    """The repository of the job; empty where its losing the machine says nothing about the machine."""


class RestoreMachine(msgspec.Struct, frozen=True, tag=True):
    """Executor to pool: end a leased machine and lease me one that is as it was kept in a folder.

    The reply is refused with `NoMachine` when that cannot be, and with `PoolRestarted`; the job has
    no machine then.
    """

    machine: str
    kept: Path
    reply: Reply[Machine]


class PoolRestarted(Exception):
    """The pool crashed and forgot who waited; ask again."""


class DescribePool(msgspec.Struct, frozen=True, tag=True):
    """Control to pool: what is there, and what does each waiting job wait for?"""

    reply: Reply[PoolDescription]


class PausePool(msgspec.Struct, frozen=True, tag=True):
    """Control to pool: start nothing more, or with None go on; the ledger has it already."""

    pause: Pause | None


class ImagesChanged(msgspec.Struct, frozen=True, tag=True):
    """Control to pool: an image was built or went back; look at what is on disk."""


class MachineLine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine as `runnerd pool` shows it; `age` in seconds since it entered its stage."""

    machine: str
    image: str
    stage: str
    age: float
    job: int | None = None


class WaitingLine(msgspec.Struct, frozen=True, kw_only=True):
    """One job that waits for a machine, since how many seconds, and for what."""

    job: int
    image: str
    age: float
    why: str


class PoolDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The pool at one moment."""

    driver: str
    isolated: bool
    emulated: bool
    capacity: int | None
    """Machines there may be at once; None where nothing limits them here."""
    remote: bool = False
    """The machines are another host's, and nothing of this one's memory and processors."""
    machines: tuple[MachineLine, ...] = ()
    waiting: tuple[WaitingLine, ...] = ()
    keeps: tuple[str, ...] = ()
    """A sentence for each image: how many of it are kept warm, and why."""
    trouble: tuple[str, ...] = ()
    """A sentence for each image whose builds fail."""
    trials: tuple[str, ...] = ()
    """A sentence for each image with a generation that is to take over."""
    ready: bool = True
    """Machines of at least one image can be had, or could if the operator had not paused the pool."""
    paused: str | None = None
    """A sentence that says so while nothing is started because the operator paused the pool."""

    @property
    def problem(self) -> str:
        """Why no job can get a machine, with the cure; empty where some can."""
        if self.capacity is not None and self.capacity < 1:
            return (
                "no machine fits into the memory the pool may use: make [machines] memory or "
                "[pool] memory_reserve smaller"
            )
        if not self.ready:
            making = any(each.stage in ("building", "preparing") for each in self.machines)
            known = "the first template is being made" if making else "no image has its template yet"
            return "; ".join(self.trouble) or known
        return ""
