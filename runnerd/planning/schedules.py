"""Schedules: which there are on a default branch, and a start of one as the delivery that it becomes."""

from __future__ import annotations

import hashlib

import msgspec
import trio

from runnerd.forge import events
from runnerd.git.mirror import Mirrors, Refused
from runnerd.model import Repository
from runnerd.reading.process import Reader
from runnerd.store.ledger import Ledger
from runnerd.store.records import Delivery, DeliveryRecord, ScheduleRow
from runnerd.workflow.model import WorkflowErrors

EVENT = "schedule"


class Schedules:
    """Reads the schedules of default branches from the mirrors; workflow files as `Planner` finds them."""

    def __init__(self, ledger: Ledger, mirrors: Mirrors, folders: tuple[str, ...], reader: Reader) -> None:
        self._ledger, self._mirrors, self._folders, self._reader = ledger, mirrors, folders, reader

    async def repositories(self) -> list[Repository]:
        """Return the repositories that pushed, as the newest push of each describes them."""
        found = []
        for id in await self._ledger.newest_pushes():
            record = await self._ledger.delivery(id)
            if record is not None:
                repository = await trio.to_thread.run_sync(_repository, record)
                found += [repository] if repository is not None else []
        return found

    async def of(self, repository: Repository) -> set[tuple[str, str, str]]:
        """Return (path, cron, time zone) of every schedule at the tip of the default branch.

        A file that is not valid has none. Raises `GitError` when the remote cannot be asked.
        """
        ref = f"refs/heads/{repository.default_branch}"
        await self._mirrors.fetch(repository, ref)
        tip = await self._mirrors.resolve(repository, ref)
        found: set[tuple[str, str, str]] = set()
        for folder in self._folders if tip is not None else ():
            assert tip is not None
            if files := await self._mirrors.workflow_files(repository, tip, folder):
                for path, text in files.items():
                    if not isinstance(text, Refused) and b"schedule" in text:
                        found.update(await self._in_file(path, text))
                break
        return found

    async def _in_file(self, path: str, text: bytes) -> set[tuple[str, str, str]]:
        try:
            workflow = await self._reader.load(text.decode("utf-8", "replace"), path)
        except WorkflowErrors:
            return set()
        triggers = [trigger for trigger in workflow.triggers if trigger.event == EVENT]
        return {(path, cron, zone) for trigger in triggers for cron, zone in trigger.schedules}


def _repository(record: DeliveryRecord) -> Repository | None:
    try:
        event = events.decode(record.event, record.id, record.body)
    except events.Malformed:
        return None
    return None if isinstance(event, events.Ignored) else event.repository


def start_of(row: ScheduleRow, minute: int, now: float) -> Delivery:
    """The delivery of one start: the same id for the same schedule and minute, whoever makes it (I2).

    Its body is GitHub's for `schedule` as far as it is known: `schedule`, `workflow`, the repository.
    """
    repository = row.repository
    identity = (repository.id, repository.full_name, row.path, row.cron, row.zone, minute)
    owner = {"login": repository.owner}
    body = {
        "schedule": row.cron,
        "timezone": row.zone,
        "workflow": row.path,
        "repository": {
            **msgspec.to_builtins(repository),
            "name": repository.name,
            "owner": owner,
        },
        "sender": {"id": 0, "login": repository.owner},
    }
    return Delivery(
        id=f"{EVENT}-{hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:40]}",
        event=EVENT,
        body=msgspec.json.encode(body),
        received=now,
        repository=repository.full_name,
        repeated="fine",
    )
