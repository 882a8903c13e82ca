"""Going back to before a step: which steps of a job are tried again, and where their machine is kept."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import msgspec
import trio

from runnerd.machines.driver import NotKept
from runnerd.machines.rewinding import RewindingMachine


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator wants of steps that fail; see `[retry]` in config.toml."""

    folder: Path
    """Where machines are kept; what an earlier daemon left there is removed at the start."""
    steps: tuple[str, ...] = ()
    """Patterns of WORKFLOW/JOB/STEP."""
    times: int = 1
    limit: int = 8 << 30
    """Bytes that one kept machine may have."""

    def tries(self, step: str) -> int:
        """How many times a step, called WORKFLOW/JOB/STEP, may be run in all."""
        return 1 + self.times * any(fnmatchcase(step, pattern) for pattern in self.steps)


def sweep(rules: Rules) -> None:
    """Remove what was left behind. Blocks."""
    shutil.rmtree(rules.folder, ignore_errors=True)


class JobRewind:
    """A job's one kept machine, the newest. `denied` says why there is to be none, or is empty."""

    def __init__(
        self, rules: Rules, machine: RewindingMachine, *, job: int, prefix: str, denied: str
    ) -> None:
        self._rules = rules
        self._machine = machine
        self._folder = rules.folder / f"job-{job}"
        self._prefix = prefix
        self._denied = denied

    def tries(self, step: str) -> int:
        """How many times the step of this name may be run in all."""
        return self._rules.tries(f"{self._prefix}/{step}")

    def wants(self, number: int, status: str) -> bool:
        """Whether the machine is to be kept before a step that is not tried again: never."""
        return False

    @property
    def asked(self) -> bool:
        """Whether somebody asked for it beside those who want steps tried again."""
        return False

    async def keep(self, number: int, name: str, standing: bytes, *, masked: bool) -> None:
        """Keep the machine as it is now, instead of what was kept before. Raises NotKept."""
        if masked:
            raise NotKept("the job has masked a value, which counts as a secret")
        if self._denied:
            raise NotKept(self._denied)
        if not self._machine.capabilities.snapshot:
            raise NotKept("machines of this driver keep no snapshots")
        if not self._machine.capabilities.snapshot_outlives:
            raise NotKept("snapshots of this driver end with their machine")
        await self.drop()
        self._rules.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._machine.snapshot(self._folder, key=None, limit=self._rules.limit)

    async def back(self) -> None:
        """Be in the machine as it was kept. Raises MachineLost when that cannot be."""
        await self._machine.back(self._folder)

    async def drop(self) -> None:
        """Remove what was kept."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, self._folder, ignore_errors=True))
