"""Starts schedules: each minute, what `workflow.ticks.due` says becomes a delivery like any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from zoneinfo import ZoneInfo

import trio

from runnerd import log
from runnerd.messages import BranchMoved, DeliveryAccepted
from runnerd.model import Repository
from runnerd.planning.schedules import start_of
from runnerd.store.ledger import Ledger, ScheduleRow
from runnerd.supervise.mailbox import Mailbox
from runnerd.workflow.ticks import due

_log = log.get("timekeeper")

MINUTE = 60
SOON = 0.05
"""Seconds between two looks at least: clocks round."""
TRIES = 3
"""How often the schedules of one repository are asked for before they stay as they are known."""
PAUSE = 30.0
"""Seconds before the second try; they double."""
PATIENCE = 60.0
"""Seconds that one try may take: others wait for it."""
SETTLE = 2.0
"""Seconds between a push and the look at its branch: one look serves all pushes that come meanwhile."""


class Schedules(Protocol):
    """What reads the schedules of a default branch; the daemon fills it in."""

    async def of(self, repository: Repository) -> set[tuple[str, str, str]]:
        """Return (path, cron, time zone) of each."""
        ...

    async def repositories(self) -> list[Repository]:
        """Return every repository that is known."""
        ...


class TimekeeperActor:
    """Starts the schedules of the default branches of all repositories the ledger knows.

    A start is a stored delivery whose id names schedule and minute, written together with the minute, so
    that there is exactly one, whatever is restarted when. After a downtime each schedule is started once at
    most, for the newest minute that was missed in the last day; a schedule counts from when it was first
    seen. The set of schedules is read anew at the start and when a default branch moved.
    """

    name = "timekeeper"

    def __init__(
        self,
        mailbox: Mailbox[BranchMoved],
        *,
        ledger: Ledger,
        schedules: Schedules,
        parser: Mailbox[DeliveryAccepted],
        clock: Callable[[], float],
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._schedules = schedules
        self._parser = parser
        self._clock = clock
        self._turn = trio.CapacityLimiter(1)
        """Branches are read one at a time, so that what was read last is what is kept."""
        self._moved: dict[str, Repository] = {}
        """Repositories that will be looked at in a moment, each as the newest push describes it."""
        self._unknown: set[str] = set()
        """Time zones that this host does not have, each said once."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep time until the mailbox is closed; what is due after that is made up for by the next start."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._read_all)
            task_status.started()
            async for moved in self._mailbox:
                name = moved.repository.full_name
                if name not in self._moved:
                    nursery.start_soon(self._refresh_soon, name)
                self._moved[name] = moved.repository
            nursery.cancel_scope.cancel()

    async def _keep_time(self) -> None:
        while True:
            await self._look()
            await trio.sleep(max(MINUTE - self._clock() % MINUTE, SOON))

    async def _look(self) -> None:
        """Start what is due, then remember that this minute was decided."""
        now = int(self._clock()) // MINUTE
        rows = await self._ledger.schedules()
        for row in rows:
            await trio.lowlevel.checkpoint()
            if (tick := self._due(row, now)) is None:
                continue
            delivery = start_of(row, tick, self._clock())
            if await self._ledger.start_schedule(row, now, tick, delivery):
                late = now - tick
                _log.info("a schedule is due", path=row.path, cron=row.cron, late=late, delivery=delivery.id)
                self._parser.offer(DeliveryAccepted(delivery.id))
        if rows:
            await self._ledger.look_at_schedules(now)

    def _due(self, row: ScheduleRow, now: int) -> int | None:
        try:
            zone = ZoneInfo(row.zone)
        except (LookupError, ValueError, OSError):
            if row.zone not in self._unknown:
                self._unknown.add(row.zone)
                _log.warning(
                    "a schedule never starts: this host does not know its time zone (is tzdata installed?)",
                    repository=row.repository.full_name,
                    path=row.path,
                    zone=row.zone,
                )
            return None
        return due(row.cron, zone, looked=row.looked, now=now, fired=row.fired)

    async def _read_all(self) -> None:
        """Look at every default branch the ledger knows, for it may have moved while nobody looked."""
        known = {row.repository.full_name: row.repository for row in await self._ledger.schedules()}
        known |= {repository.full_name: repository for repository in await self._schedules.repositories()}
        for repository in known.values():
            await self._refresh(repository)

    async def _refresh_soon(self, name: str) -> None:
        """A look asks the remote and keeps the mirror from those who plan the same pushes."""
        await trio.sleep(SETTLE)
        await self._refresh(self._moved.pop(name))

    async def _refresh(self, repository: Repository) -> None:
        """Read a default branch's schedules; where that fails, those that are known stay."""
        for attempt in range(TRIES):
            if attempt:
                await trio.sleep(PAUSE * 2.0 ** (attempt - 1))
            async with self._turn:
                try:
                    with trio.fail_after(PATIENCE):
                        found = await self._schedules.of(repository)
                    await self._ledger.keep_schedules(repository, found, int(self._clock()) // MINUTE)
                    return
                except (OSError, trio.TooSlowError) as problem:
                    _log.warning(
                        "the schedules of a default branch could not be read",
                        repository=repository.full_name,
                        problem=str(problem) or "it took too long",
                    )
