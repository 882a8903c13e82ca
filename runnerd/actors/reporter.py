"""Tells the forge how jobs and runs stand, from the outbox, until it has heard every end (I4).

Without a forge the same reports are written to disk. What is sent is read when it is sent, so that a
report sent late or twice says the same as one sent in time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio

from runnerd import log, metrics
from runnerd.forge import checks, reports
from runnerd.forge.links import NO_LINKS, Links
from runnerd.forge.protocol import Forge, ForgeDenied, ForgeUnavailable
from runnerd.messages import OutboxChanged
from runnerd.model import JobRecord, RunRecord
from runnerd.store import logs
from runnerd.store.ledger import Kind, Ledger, LedgerUnavailable, OutboxRow, ReportState
from runnerd.supervise.mailbox import Mailbox

TICK = 1.0
"""Seconds between looks at the outbox when no hint comes."""
BATCH = 200
"""Reports taken from the outbox at once."""
COMMENT_PAUSE = 5.0
"""Seconds between two edits of one comment: GitHub allows 500 an hour, people included."""
RETRY = 5.0
"""Seconds before a report is offered a second time, doubled with each time after that."""
RETRY_LIMITED = 1.0
"""The same where the forge named a time: only one that names times in vain is left alone for longer."""
RETRY_MAX = 600.0
DENIED_RETRY = 3600.0
DENIED_TRIES = 24
"""How often a report that the forge refuses is offered again, once an hour, in case a right was missing."""
RUNS_SEEN = 200
"""Newest runs of a repository among which those of one pull request are looked for."""

_log = log.get("reporter")


class ReporterActor:
    """Sends what the outbox holds, oldest first, one after the other; a report is done when it was heard.

    `forge` None writes `reports/RUN.json` and `reports/RUN.md` in `directory`. `state_directory` is where
    the logs lie. `comments` is "on", "off" or "auto": where results are no check runs. `clock` gives the
    seconds since the epoch that the ledger counts in.
    """

    name = "reporter"

    def __init__(
        self,
        mailbox: Mailbox[OutboxChanged],
        *,
        ledger: Ledger,
        forge: Forge | None,
        directory: Path,
        state_directory: Path,
        links: Links = NO_LINKS,
        comments: str = "auto",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._mailbox = mailbox
        self._ledger = ledger
        self._forge = forge
        self._directory = directory
        self._state_directory = state_directory
        self._links = links
        self._comments = comments
        self._clock = clock
        self._edited: dict[tuple[str, int], float] = {}
        self._paused_until = 0.0
        self._put_off: set[str] = set()
        """Repositories of which nothing more is sent from this batch."""
        self._refused: set[tuple[str, str]] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send reports until the mailbox is closed, and then what is due at that moment."""
        self._directory.mkdir(parents=True, exist_ok=True)
        task_status.started()
        listening = True
        while listening:
            while await self._send_due():
                pass
            listening = await self._hint()
        while await self._send_due():
            pass

    async def _hint(self) -> bool:
        """Wait until there may be something to do; False when nothing more will come."""
        try:
            with trio.move_on_after(TICK):
                await self._mailbox.receive()
                while self._mailbox.depth:  # one look serves all hints that wait
                    await self._mailbox.receive()
        except trio.EndOfChannel:
            return False
        return True

    async def _send_due(self) -> int:
        """Send one batch; returns how many reports were done with."""
        try:
            rows = [] if self._paused else await self._ledger.outbox_due(self._clock(), BATCH)
            self._put_off.clear()
            done = 0
            for run in dict.fromkeys(row.run for row in rows):
                done += await self._report(run, [row for row in rows if row.run == run])
            metrics.report_outbox.set(await self._ledger.outbox_depth())
        except LedgerUnavailable as error:
            _log.error("outbox_not_read", error=str(error))
            return 0
        return done

    async def _report(self, id: int, rows: Sequence[OutboxRow]) -> int:
        """Send the reports of one run."""
        found = await self._ledger.whole_run(id)
        if found is None:
            return await self._done(rows, "the run is gone")
        run, jobs = found
        with log.context(run=id):
            if self._forge is None:
                await self._write(run, jobs, lasting=any(_terminal(row) for row in rows))
                return await self._done(rows)
            done = 0
            for row in rows:
                if not self._paused and run.repository not in self._put_off:
                    done += await self._tell(self._forge, run, jobs, row)
            return done

    @property
    def _paused(self) -> bool:
        return self._clock() < self._paused_until

    async def _tell(self, forge: Forge, run: RunRecord, jobs: list[JobRecord], row: OutboxRow) -> int:
        try:
            note = await self._say(forge, run, jobs, row)
        except ForgeUnavailable as error:
            await self._delay(run, row, error)
            return 0
        except ForgeDenied as error:
            if (run.repository, error.permission) not in self._refused:  # a missing right is said once
                _log.error("report_refused", error=str(error), attempts=row.attempts + 1)
            if error.permission:
                self._refused.add((run.repository, error.permission))
            await self._write(run, jobs, lasting=True)  # so that nothing is lost meanwhile
            if row.attempts < DENIED_TRIES:
                await self._ledger.outbox_retry(row.id, self._clock() + DENIED_RETRY, str(error))
                return 0
            note = f"given up: {error}"
        return 0 if note is None else await self._done([row], note)

    async def _delay(self, run: RunRecord, row: OutboxRow, error: ForgeUnavailable) -> None:
        """Put a report off, and with it those for which it would be no better."""
        pause = RETRY_LIMITED if error.scope == "repository" else RETRY
        later = self._clock() + min(pause * 2.0 ** min(row.attempts, 10), RETRY_MAX)
        await self._ledger.outbox_retry(row.id, max(error.retry_at, later), str(error))
        match error.scope:
            case "forge":
                self._paused_until = error.retry_at
            case "repository":
                await self._ledger.outbox_put_off(run.repository, error.retry_at, str(error))
                self._put_off.add(run.repository)
        _log.warning("report_delayed", error=str(error), attempts=row.attempts + 1)

    async def _say(self, forge: Forge, run: RunRecord, jobs: list[JobRecord], row: OutboxRow) -> str | None:
        """Tell the forge what one row is about; returns a note, or None when it is to be said later."""
        if row.kind is Kind.COMMENT:
            return await self._comment(forge, run, row)
        job = next((job for job in jobs if job.id == row.job), None)
        if row.kind is Kind.JOB and job is None:
            return "the job was replaced by its legs"
        if row.kind is Kind.RUN and jobs and not run.gate:
            return "its jobs speak for it"
        if not run.event.report_sha:
            return "there is no commit to report on"
        if await forge.has_checks(run.repository):
            tail = "" if job is None else (await self._tails(run, [job])).get(job.id, "")
            check = checks.check_of(run, job, links=self._links, tail=tail)
            await forge.set_check(run.repository, run.event.report_sha, check)
            return ""
        status = reports.status_of(run, job, links=self._links)
        await forge.set_status(
            run.repository,
            run.event.report_sha,
            status.context,
            status.state,
            status.description,
            status.target_url,
        )
        return ""

    async def _comment(self, forge: Forge, run: RunRecord, row: OutboxRow) -> str | None:
        number = run.event.number
        if number is None or self._comments == "off":
            return "comments are off"
        if self._comments == "auto" and await forge.has_checks(run.repository):
            return "check runs say it all"
        place = (run.repository, number)
        wait = self._edited.get(place, -COMMENT_PAUSE) + COMMENT_PAUSE - self._clock()
        if wait > 0:
            await self._ledger.outbox_retry(row.id, self._clock() + wait, "waits for the edits before it")
            return None
        newest = await self._runs_of(run.repository, number)
        if not any(other.id == run.id for other, _ in newest):
            return "the comment is about a newer commit"
        tails: dict[int, str] = {}
        for other, jobs in newest:
            tails |= await self._tails(other, jobs)
        event = newest[0][0].event
        marker, text = reports.comment_of(event, newest, links=self._links, tails=tails)
        await forge.upsert_comment(run.repository, number, marker, text)
        self._forget_edits()
        self._edited[place] = self._clock()
        return ""

    async def _runs_of(self, repository: str, number: int) -> list[tuple[RunRecord, list[JobRecord]]]:
        """The runs of a pull request's newest commit, each workflow's last attempt, in the order of files."""
        found = [
            run
            for run in await self._ledger.runs(RUNS_SEEN, repository=repository)
            if run.event.number == number
        ]
        last: dict[str, RunRecord] = {}
        for run in found:
            if run.event.report_sha == found[0].event.report_sha:
                last.setdefault(run.workflow_path, run)
        return [(run, await self._ledger.jobs(run.id)) for _, run in sorted(last.items())]

    def _forget_edits(self) -> None:
        now = self._clock()
        self._edited = {place: at for place, at in self._edited.items() if now - at < COMMENT_PAUSE}

    async def _tails(self, run: RunRecord, jobs: Sequence[JobRecord]) -> dict[int, str]:
        """The last lines that the failing step of each job that did not succeed logged."""
        tails = {}
        for job in jobs:
            if job.outcome is not None and not job.outcome.green:
                path = logs.log_path(self._state_directory, *job.logged)
                step = next((step for step in job.steps if not step.conclusion.green), None)
                tails[job.id] = await (
                    logs.tail(path, step.started, step.ended, step=step.number)
                    if step
                    else logs.tail(path, None, None)
                )
        return tails

    async def _write(self, run: RunRecord, jobs: list[JobRecord], *, lasting: bool) -> None:
        tails = await self._tails(run, jobs)
        data, markdown = reports.local_report(run, jobs, links=self._links, tails=tails)
        files = {f"{run.id}.md": markdown.encode("utf-8", "replace"), f"{run.id}.json": data}
        await trio.to_thread.run_sync(partial(_replace, self._directory, files, lasting=lasting))

    async def _done(self, rows: Sequence[OutboxRow], note: str = "") -> int:
        async with trio.open_nursery() as nursery:  # so that one commit serves all
            for row in rows:
                nursery.start_soon(self._ledger.outbox_done, row.id, note)
        now = self._clock()
        for row in rows:
            if _terminal(row):
                metrics.report_latency_seconds.observe(max(0.0, now - row.created))
        return len(rows)


def _terminal(row: OutboxRow) -> bool:
    return row.state is ReportState.COMPLETED


def _replace(directory: Path, files: dict[str, bytes], *, lasting: bool) -> None:
    """Write files so that a reader finds the old or the new one whole; `lasting` survives a power cut."""
    for name, data in files.items():
        fresh = directory / f".{name}.new"
        with fresh.open("wb") as file:
            file.write(data)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(directory / name)
