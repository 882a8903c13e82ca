"""The pages behind a report's links: what became of a run, and what a job printed, as it was stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from runnerd.forge.links import Links
from runnerd.forge.reports import duration, origin
from runnerd.model import JobRecord, Phase, RunRecord
from runnerd.store import logs
from runnerd.store.ledger import Ledger

KEY = 32
"""Bytes of the key that seals links."""
LOG = 4 << 20
"""Bytes of a log that a page shows, from its beginning."""


def key(folder: Path, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The key that seals this daemon's links, made when there is none. Blocks; raises OSError."""
    path = folder / "links.key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) != KEY:
            raise OSError(
                f"{path} is no key of {KEY} bytes: remove it, and older links lead nowhere"
            ) from None
        return found
    with open(descriptor, "wb") as file:
        file.write(made := random(KEY))
        file.flush()
        os.fsync(file.fileno())
    return made


class Pages:
    """Answers `web.pages.Page`."""

    def __init__(self, ledger: Ledger, state_directory: Path, links: Links) -> None:
        self._ledger = ledger
        self._state_directory = state_directory
        self._links = links

    async def page(self, run: int, job: int | None, seal: str) -> str | None:
        """The text of a page; None for a seal that is not its own, and for what is not there any more."""
        if not self._links.fits(run, job, seal):
            return None
        record = await self._ledger.run(run)
        if record is None:
            return None
        jobs = await self._ledger.jobs(run)
        if job is None:
            return "\n".join(self._of_run(record, jobs)) + "\n"
        found = next((each for each in jobs if each.id == job), None)
        if found is None:
            return None
        path = logs.log_path(self._state_directory, *found.logged)
        data, following = await logs.read(path, 0, LOG)
        more = (await logs.read(path, following, LOG))[0]
        rest = f"\n… the rest is on the runner's host: runnerd logs {run} {job}\n" if more else ""
        return "\n".join(_of_job(record, found)) + "\n\n" + data.decode("utf-8", "replace") + rest

    def _of_run(self, run: RunRecord, jobs: Sequence[JobRecord]) -> Iterator[str]:
        yield from _head(run)
        yield f"{_standing(run)}, {duration(run.started, run.ended)}"
        for job in jobs:
            yield ""
            yield _line(job)
            yield self._links.of(run.id, job.id)


def _head(run: RunRecord) -> Iterator[str]:
    yield f"{run.workflow_name}, run {run.id} of {run.repository}, attempt {run.attempt}"
    if run.title:
        yield run.title
    yield f"{run.event.name} on {run.event.ref} at {run.event.sha}"


def _of_job(run: RunRecord, job: JobRecord) -> Iterator[str]:
    yield from _head(run)
    yield _line(job)
    for step in job.steps:
        took = duration(step.started, step.ended)
        yield f"  {step.number} {step.name}: {step.conclusion.value}, {took}"


def _line(job: JobRecord) -> str:
    where = f" ({said})" if (said := origin(job)) else ""
    return f"{job.name}: {_standing(job)}, {duration(job.started, job.ended)}{where}"


def _standing(subject: RunRecord | JobRecord) -> str:
    done = subject.phase is Phase.DONE and subject.outcome is not None
    word = subject.outcome.value if done and subject.outcome else subject.phase.value
    return f"{word}: {subject.reason}" if subject.reason else word
