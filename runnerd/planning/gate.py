"""Who may run: which repositories, whose pull requests wait, and who has one go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from runnerd.forge.people import People
from runnerd.model import Approval, Event, RunRecord
from runnerd.store.changes import NewRun
from runnerd.trust.approval import LOOSEST, MAY_APPROVE, STRICTEST, our_own, why_approval, wish
from runnerd.trust.grants import strangers


class Gate:
    """Decides for the parser. `refuses` says of a repository why nothing of it runs here, or None."""

    def __init__(
        self,
        people: People,
        *,
        refuses: Callable[[str, int], str | None] = lambda name, id: None,
    ) -> None:
        self._people = people
        self._refuses = refuses

    def why_nothing(self, event: Event, *, pressed: bool = False) -> str:
        """Why an event starts nothing whatever the workflows say; empty where it may.

        One that somebody caused by a button at a check run of ours is about us, but no echo of ours.
        """
        repository = event.repository
        return self._refuses(repository.full_name, repository.id) or ("" if pressed else our_own(event))

    async def why_no_answer(self, event: Event) -> str:
        """Why what our own App did starts nothing, for it would go on for ever; empty for others' doing.

        As with GitHub's token, a dispatch is meant to start something
        (docs.github.com, "Triggering a workflow from a workflow"). Raises `ForgeUnavailable`.
        """
        if event.name in ("workflow_dispatch", "repository_dispatch"):
            return ""
        ours = await self._people.is_our_bot(event.sender)
        return f"{event.sender.login} is this runner's own account" if ours else ""

    async def guarded(self, runs: list[NewRun]) -> list[NewRun]:
        """The same runs, those of strangers held for approval where the setting says so."""
        guarded = []
        for run in runs:
            if run.outcome is None and strangers(run.event):
                run = msgspec.structs.replace(run, gate=await self._why_approval(run.event))
            guarded.append(run)
        return guarded

    async def _why_approval(self, event: Event) -> str:
        """Ask for the setting where it makes a difference."""
        if why_approval(event, LOOSEST) or not why_approval(event, STRICTEST):
            return why_approval(event, STRICTEST)
        return why_approval(event, await self._people.setting(event.repository.full_name))

    async def approved(self, event: Event, held: Iterable[RunRecord]) -> dict[int, Approval]:
        """The held runs that a comment lets go on, if it is by somebody who may; asks the forge both times.

        Raises `ForgeUnavailable` when it cannot be asked who the person is.
        """
        asked = wish(event)
        if asked is None:
            return {}
        meant = [
            run
            for run in held
            if run.event.repository.id == event.repository.id
            and run.event.number == asked.number
            and run.event.report_sha == asked.sha
        ]
        if not meant:
            return {}
        permission = await self._people.permission(event.repository.full_name, event.sender)
        if permission not in MAY_APPROVE:
            return {}
        approval = Approval(
            sha=asked.sha, login=event.sender.login, id=event.sender.id, permission=permission
        )
        return {run.id: approval for run in meant if not await self._people.why_void(run)}


def renews(event: Event) -> bool:
    """Whether the event gives a pull request another commit, so that there may be something `expired`."""
    return event.name == "pull_request" and event.action in ("opened", "synchronize", "reopened")


def expired(event: Event, open_runs: Iterable[RunRecord]) -> list[int]:
    """Which runs that wait for approval are about an older commit of the event's pull request."""
    if not renews(event):
        return []
    return [
        run.id
        for run in open_runs
        if run.held
        and run.event.repository.id == event.repository.id
        and run.event.number == event.number
        and event.report_sha
        and run.event.report_sha != event.report_sha
    ]
