"""Asks the forge what it delivered, and takes what never came: nothing is missed while it remembers (I8)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
import trio

from runnerd import log
from runnerd.forge.delivery_list import (
    APP,
    Attempt,
    DeliveryList,
    Missed,
    Source,
    gap,
    missing,
    sent,
)
from runnerd.forge.events import Ignored, Malformed
from runnerd.forge.protocol import ForgeDenied, ForgeUnavailable
from runnerd.messages import DeliveryAccepted, DeliveryHeld
from runnerd.planning import intake
from runnerd.store.ledger import Held, Intake, Ledger
from runnerd.supervise.mailbox import Mailbox

EVERY = 300.0
"""Seconds between two readings of the lists."""
LISTS = 20
"""Lists that are read that often; of more each is read less often, to stay far from the forge's limits."""
OVERLAP = 900.0
"""Seconds that each reading goes back beyond the last one: lists are not complete at once."""
HELD_EVERY = 10.0
"""Seconds between two looks for a delivery that is held."""
HELD_FOR = 120.0
"""Seconds after which a delivery that is in no list was not sent by the forge."""
UNDECIDED = 3600.0
"""Seconds after which a held delivery runs although the forge could not be asked."""
HELD_AT_ONCE = 100

Word = list[Attempt] | Literal["never", "not now"]
"""What the forge says that it sent; or that we may not ask, or that it does not answer now."""

_log = log.get("reconciler")


class ReconcilerActor:
    """Reads the forge's delivery lists at start and from time to time.

    A delivery of the list that the ledger does not have is taken from the forge's own copy, whether it
    failed, was answered by a proxy or never arrived. As an App (`as_app`) there is one list; with a token
    there is one for each webhook of the repositories that are `named` or that a delivery was about. The
    first reading ever only remembers the time: what was before the daemon's first day is not its business.

    A held delivery (`DeliveryHeld`) runs once the forge's list has it, and is rejected when it has not.
    """

    name = "reconciler"

    def __init__(
        self,
        mailbox: Mailbox[DeliveryHeld],
        *,
        ledger: Ledger,
        lists: DeliveryList,
        parser: Mailbox[DeliveryAccepted],
        as_app: bool,
        named: Sequence[str],
        remembered: float,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[object]] = trio.sleep,
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._lists = lists
        self._parser = parser
        self._as_app = as_app
        self._named = tuple(named)
        self._remembered = remembered
        self._clock = clock
        self._sleep = sleep
        self._hooks: dict[str, list[Source]] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read and confirm until the mailbox is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_from_time_to_time)
            nursery.start_soon(self._confirm_from_time_to_time)
            task_status.started()
            async for _ in self._mailbox:
                await self._confirm()
            nursery.cancel_scope.cancel()

    async def _read_from_time_to_time(self) -> None:
        while True:
            self._hooks.clear()
            sources = await self._sources()
            for source in sources:
                await self._reconcile(source)
            await self._sleep(EVERY * max(1.0, len(sources) / LISTS))

    async def _confirm_from_time_to_time(self) -> None:
        while True:
            await self._sleep(HELD_EVERY)
            await self._confirm()

    async def _sources(self) -> list[Source]:
        if self._as_app:
            return [APP]
        names = dict.fromkeys([*self._named, *await self._ledger.repositories()])
        found: list[Source] = []
        for name in names:
            try:
                found += await self._hooks_of(name)
            except ForgeUnavailable as problem:
                await self._note(Source(name, ""), str(problem))
        return found

    async def _hooks_of(self, repository: str) -> list[Source]:
        """The lists of a repository's webhooks, none where we may not see them; `ForgeUnavailable`."""
        if repository not in self._hooks:
            try:
                self._hooks[repository] = await self._lists.hooks(repository)
            except ForgeDenied as problem:
                self._hooks[repository] = []
                await self._note(Source(repository, ""), str(problem))
            else:
                await self._clear(repository)
        return self._hooks[repository]

    async def _clear(self, source: str) -> None:
        """A problem that is over is not told any more."""
        mark = await self._mark(source)
        if mark is not None and mark.problem:
            await self._ledger.note_intake(msgspec.structs.replace(mark, problem=""))

    async def _mark(self, source: str) -> Intake | None:
        return next((mark for mark in await self._ledger.intake() if mark.source == source), None)

    async def _note(self, source: Source, problem: str) -> None:
        _log.warning("a delivery list cannot be read", source=source.name, problem=problem)
        mark = await self._mark(source.name) or Intake(
            source=source.name, begun=self._clock(), read_to=self._clock()
        )
        await self._ledger.note_intake(msgspec.structs.replace(mark, problem=problem[:500]))

    async def _reconcile(self, source: Source) -> None:
        """Take what one list has and the ledger has not, and remember how far it was read."""
        began = self._clock()
        mark = await self._mark(source.name)
        if mark is None:
            await self._ledger.note_intake(Intake(source=source.name, begun=began, read_to=began))
            return
        lost = gap(mark.read_to, began, self._remembered)
        if lost is not None:
            _log.error(
                "away for longer than the forge remembers: push again or start by hand what is missing",
                source=source.name, hours=round((lost[1] - lost[0]) / 3600, 1),
            )  # fmt: skip
            mark = msgspec.structs.replace(mark, gap_from=lost[0], gap_to=lost[1])
        try:
            attempts = await self._lists.since(source, max(mark.begun, mark.read_to - OVERLAP))
            ids = list(dict.fromkeys(attempt.guid for attempt in attempts))
            for attempt in missing(attempts, await self._ledger.unknown_deliveries(ids)):
                await self._take(source, attempt)
        except (ForgeDenied, ForgeUnavailable) as problem:
            await self._note(source, str(problem))
            return
        await self._ledger.note_intake(msgspec.structs.replace(mark, read_to=began, problem=""))

    async def _take(self, source: Source, attempt: Attempt) -> None:
        """Store one delivery from the forge's copy of it."""
        copy: Missed | None = await self._lists.payload(source, attempt)
        if copy is None:
            _log.error("the forge does not have a delivery any more", delivery=attempt.guid)
            return
        try:
            delivery, meaning = await trio.to_thread.run_sync(
                intake.read, copy.headers, copy.body, attempt.time, "fine"
            )
        except Malformed as problem:
            _log.warning("a missed delivery cannot be read", delivery=attempt.guid, problem=str(problem))
            return
        if await self._ledger.accept_delivery(delivery) == "duplicate":
            return  # it came just now
        _log.info("a missed delivery was recovered", delivery=delivery.id, webhook_event=delivery.event[:50])
        if isinstance(meaning, Ignored):
            await self._ledger.ignore_delivery(delivery.id, meaning.reason)
        else:
            self._parser.offer(DeliveryAccepted(delivery.id))

    async def _confirm(self) -> None:
        """Look for every held delivery in the lists."""
        lists: dict[str, Word] = {}
        waiting = await self._ledger.held_deliveries(HELD_AT_ONCE)
        for held in waiting:
            place = "" if self._as_app else held.repository
            if place not in lists:
                lists[place] = await self._recent(place, min(each.received for each in waiting) - OVERLAP)
            await self._decide(held, lists[place])

    async def _recent(self, repository: str, moment: float) -> Word:
        """What the forge sent since then about a repository."""
        try:
            sources = [APP] if self._as_app else await self._hooks_of(repository)
            if not sources:
                return "never"
            return [attempt for source in sources for attempt in await self._lists.since(source, moment)]
        except ForgeDenied:
            return "never"
        except ForgeUnavailable as problem:
            _log.warning("a held delivery cannot be confirmed now", problem=str(problem))
            return "not now"

    async def _decide(self, held: Held, attempts: Word) -> None:
        age = self._clock() - held.received
        if isinstance(attempts, str):
            if attempts == "not now" and age < UNDECIDED:
                return
            remark = f"{held.remark}; the forge could not be asked whether it sent both"
            await self._ledger.release_delivery(held.id, remark)
        elif sent(attempts, held.id):
            await self._ledger.release_delivery(held.id)
        elif age < HELD_FOR:
            return  # the list may be behind
        else:
            _log.error("a delivery that the forge did not send was rejected", delivery=held.id)
            await self._ledger.reject_delivery(held.id, f"{held.remark}, and the forge did not send this one")
            return
        self._parser.offer(DeliveryAccepted(held.id))
