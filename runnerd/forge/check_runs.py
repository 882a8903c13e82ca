"""Check runs, each made once and brought up to date, whatever becomes of the forge's answers.

GitHub has no key that makes a creation safe to repeat. A check run is therefore looked for by its name and
our `external_id` before it is made; annotations, which every write adds to, are counted before more are sent.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from urllib.parse import quote

import msgspec

from .permissions import CHECKS
from .protocol import CheckReport, Gone
from .rest import ATTEMPTS, Doubt, repository_path
from .speaker import PAGES, PER_PAGE, Speaker
from .statuses import remember

BATCH = 50
"""Annotations that one request may carry."""
REMEMBERED = 1000


class _Output(msgspec.Struct):
    title: str | None = None
    summary: str | None = None
    text: str | None = None
    annotations_count: int = 0


class _App(msgspec.Struct):
    slug: str = ""


class _CheckRun(msgspec.Struct):
    id: int
    status: str
    external_id: str | None = None
    conclusion: str | None = None
    output: _Output = msgspec.field(default_factory=_Output)
    app: _App | None = None

    def says(self, report: CheckReport) -> bool:
        """Whether it is what the report wants it to be, annotations apart."""
        ours = (report.status, report.conclusion, report.title, report.summary, report.text)
        output = self.output
        theirs = (self.status, self.conclusion, output.title, output.summary, output.text)
        return [(text or "").strip() for text in ours] == [(text or "").strip() for text in theirs]


class _Page(msgspec.Struct):
    check_runs: list[_CheckRun]


class CheckRuns:
    """Keeps our check runs."""

    def __init__(self, speaker: Speaker) -> None:
        self._speaker = speaker
        self._known: OrderedDict[tuple[str, str], _CheckRun] = OrderedDict()

    async def set(self, repository: str, sha: str, report: CheckReport) -> None:
        """Make the check run with the report's `external_id` say this; needs "Checks: write"."""
        place = (repository, report.external_id)
        async with self._speaker.turn:
            for attempt in range(ATTEMPTS):
                known = self._known.pop(place, None)  # kept again when everything went well
                try:
                    said = await self._settle(repository, sha, report, known)
                except Doubt as doubt:
                    await self._speaker.rest.again(attempt, doubt)
                else:
                    remember(self._known, place, said, REMEMBERED)
                    return

    async def _settle(
        self, repository: str, sha: str, report: CheckReport, known: _CheckRun | None
    ) -> _CheckRun:
        known = known or await self._find(repository, sha, report)
        if known is not None:
            try:
                return await self._bring_up(repository, report, known)
            except Gone:
                pass  # GitHub deletes old ones
        path = f"{repository_path(repository)}/check-runs"
        body = {"head_sha": sha, **_body(report, 0)}
        answer = await self._speaker.once("POST", path, "POST check-runs", CHECKS.title, repository, body)
        made = _said(answer.decode(_CheckRun), report, len(report.annotations[:BATCH]))
        return await self._bring_up(repository, report, made)

    async def _bring_up(self, repository: str, report: CheckReport, known: _CheckRun) -> _CheckRun:
        """Write until it says all that the report says."""
        path = f"{repository_path(repository)}/check-runs/{known.id}"
        while not known.says(report) or known.output.annotations_count < len(report.annotations):
            had = known.output.annotations_count
            body = _body(report, had)
            answer = await self._speaker.once(
                "PATCH", path, "PATCH check-run", CHECKS.title, repository, body
            )
            known = _said(answer.decode(_CheckRun), report, had + len(report.annotations[had : had + BATCH]))
        return known

    async def _find(self, repository: str, sha: str, report: CheckReport) -> _CheckRun | None:
        """Find our check run; another App may have copied the `external_id`, so that the App counts too."""
        login = await self._speaker.identity.login()
        path = (
            f"{repository_path(repository)}/commits/{quote(sha, safe='')}/check-runs"
            f"?check_name={quote(report.name, safe='')}&filter=all"
        )
        for number in range(1, PAGES + 1):
            page = await self._speaker.page(path, number, "GET check-runs", CHECKS.title, repository, _Page)
            for run in page.check_runs:
                if run.external_id == report.external_id and run.app and f"{run.app.slug}[bot]" == login:
                    return run
            if len(page.check_runs) < PER_PAGE:
                break
        return None


def _said(run: _CheckRun, report: CheckReport, annotations: int) -> _CheckRun:
    """The check run after a write that was answered; the forge may show texts in its own way."""
    output = _Output(report.title, report.summary, report.text, annotations)
    return msgspec.structs.replace(run, status=report.status, conclusion=report.conclusion, output=output)


def _body(report: CheckReport, had: int) -> dict[str, Any]:
    """What is written of a report, with the annotations that follow the first `had`."""
    output: dict[str, Any] = {"title": report.title, "summary": report.summary}
    if report.text:
        output["text"] = report.text
    if batch := report.annotations[had : had + BATCH]:
        output["annotations"] = list(batch)
    optional = {
        "conclusion": report.conclusion,
        "started_at": report.started_at,
        "completed_at": report.completed_at,
        "details_url": report.details_url,
    }
    return {
        "name": report.name,
        "external_id": report.external_id,
        "status": report.status,
        **{key: value for key, value in optional.items() if value},
        "output": output,
        "actions": list(report.actions),
    }
