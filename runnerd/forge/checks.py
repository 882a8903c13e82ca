"""What a check run says about a job, or about a run that has no jobs to speak for it.

Pure: records in, `CheckReport` out, within the limits of GitHub's API: 65,535 bytes for a text, 64 KiB for
an annotation's message, three buttons of 20 letters.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from runnerd.model import Annotation, JobRecord, Outcome, Phase, RunRecord

from . import reports
from .links import NO_LINKS, Links
from .markdown import cut, fenced, inline, plain
from .protocol import CheckReport

TEXT_LIMIT = 65_535
"""Bytes of `summary` and of `text`, which GitHub's documentation calls characters."""
TITLE_LIMIT = 255
MESSAGE_LIMIT = 64 << 10
ANNOTATIONS = 500
"""Annotations shown of one job: ten requests."""
WORKSPACE = "/home/runner/work/"
RERUN, CANCEL = "rerun", "cancel"
"""What our buttons are called in the events they cause."""

_LEVELS = {"error": "failure", "warning": "warning", "notice": "notice"}
_STATUS: dict[Phase, Literal["queued", "in_progress", "completed"]] = {
    Phase.WAITING: "queued",
    Phase.QUEUED: "queued",
    Phase.RUNNING: "in_progress",
    Phase.DONE: "completed",
}


class Subject(msgspec.Struct, frozen=True):
    """What a check run's `external_id` refers to."""

    run: int
    job: int | None
    """None for the run itself."""
    mark: str
    """Of the delivery that started the run: ids of another ledger are not taken for ours."""

    def fits(self, run: RunRecord) -> bool:
        """Whether this is the run that is meant."""
        return self.run == run.id and self.mark == _mark(run)


def external_id(run: RunRecord, job: JobRecord | None) -> str:
    """Return the name by which we find a check run again; the same for one job, whenever asked."""
    return f"{run.id}/{0 if job is None else job.id}/{_mark(run)}"


def subject_of(external_id: str) -> Subject | None:
    """Read an `external_id` of ours; None for anybody else's."""
    parts = external_id.split("/")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts[:2]):
        return None
    run, job = int(parts[0]), int(parts[1])
    return Subject(run, job or None, parts[2])


def check_of(
    run: RunRecord, job: JobRecord | None, *, links: Links = NO_LINKS, tail: str = ""
) -> CheckReport:
    """Render the check run of a job (None: of the run); `tail` is the end of its failing step's log."""
    subject = run if job is None else job
    outcome = subject.outcome if subject.phase is Phase.DONE else None
    status = reports.status_of(run, job)
    green = outcome is None or outcome.green or (job is not None and job.allowed_to_fail)
    conclusion = "" if outcome is None else reports.conclusion(outcome)
    if outcome is None or conclusion == "skipped":
        annotations: list[Mapping[str, Any]] = []
    else:
        annotations = (
            [] if job is None else [_annotation(run, each) for each in job.annotations[:ANNOTATIONS]]
        )
    return CheckReport(
        name=status.context,
        external_id=external_id(run, job),
        status="completed" if outcome is not None else _STATUS[subject.phase],
        conclusion=conclusion,
        started_at=_time(subject.started),
        completed_at=_time(subject.ended) if outcome is not None else "",
        title=_title(run, job),
        summary=_summary(run, job, tail),
        text="" if job is None or outcome is None else _text(job),
        details_url=links.of(run.id, None if job is None else job.id),
        annotations=tuple(annotations),
        actions=_actions(outcome, green, whole=job is None),
    )


def _title(run: RunRecord, job: JobRecord | None) -> str:
    text = reports.description(run if job is None else job, () if job is None else job.steps)
    if job is not None and job.allowed_to_fail and job.outcome is not None and not job.outcome.green:
        text = f"Allowed to fail. {text}"
    return reports.short(text, TITLE_LIMIT)


def _summary(run: RunRecord, job: JobRecord | None, tail: str) -> str:
    """The run it belongs to, its steps with their times, and the end of what failed."""
    lines = [
        f"{inline(run.title, 200) or 'Run'} · {inline(run.event.name)} · run {run.id}, attempt {run.attempt}",
        "",
    ]
    if run.event.remark:
        lines += [f"Unconfirmed: {inline(run.event.remark)}.", ""]
    subject = run if job is None else job
    if subject.reason:
        lines += [inline(subject.reason, 2000), ""]
    if job is not None and job.resumes:
        lines += [f"It {reports.origin(job)}: the steps before it are as they were then.", ""]
    if job is not None and job.phase is Phase.DONE and job.steps:
        lines += ["| | Step | Result | Time |", "|---|---|---|---|"]
        for step in job.steps:
            ended = f", exit status {step.exit_code}" if step.exit_code else ""
            why = f": {inline(step.reason)}" if step.reason else ""
            softened = " (allowed to fail)" if step.conclusion.green and not step.outcome.green else ""
            lines.append(
                f"| {reports.sign(step.outcome)} | {step.number}. {inline(step.name, 100)} "
                f"| {reports.title(step.outcome)}{ended}{why}{softened} "
                f"| {reports.duration(step.started, step.ended)} |"
            )
        lines.append("")
    if job is not None and (more := len(job.annotations) - ANNOTATIONS) > 0:
        lines += [f"{more} more annotations are in the log.", ""]
    if tail.strip():
        lines += ["**Last lines of the log**", "", fenced(tail), ""]
    note = "_This text was cut at GitHub's limit; the log on the runner is whole._"
    return cut("\n".join(lines).rstrip() + "\n", TEXT_LIMIT, note)


def _text(job: JobRecord) -> str:
    """The step summaries as their steps wrote them: Markdown of the repository's own."""
    if not job.summary.strip():
        return ""
    note = "_The step summaries were cut at GitHub's limit._"
    return cut(plain(job.summary, lines=True), TEXT_LIMIT, note)


def _annotation(run: RunRecord, annotation: Annotation) -> dict[str, Any]:
    path = _path(annotation.path)
    first = annotation.line if path and annotation.line and annotation.line > 0 else 1
    last = max(first, annotation.end_line or first)
    said: dict[str, Any] = {
        "path": path or run.workflow_path,
        "start_line": first,
        "end_line": last,
        "annotation_level": _LEVELS.get(annotation.level, "notice"),
        "message": _bytes(plain(annotation.message, lines=True).strip(), MESSAGE_LIMIT) or "(no message)",
    }
    if annotation.title:
        said["title"] = reports.short(annotation.title, TITLE_LIMIT)
    if (
        path and first == last and annotation.column and annotation.column > 0
    ):  # elsewhere GitHub refuses them
        said["start_column"] = annotation.column
        said["end_column"] = max(annotation.column, annotation.end_column or annotation.column)
    return said


def _path(path: str) -> str:
    """Return a file's path within the repository; empty for one outside of it."""
    path = plain(path).replace("\\", "/")
    if path.startswith(WORKSPACE):
        path = path.removeprefix(WORKSPACE).partition("/")[2].partition("/")[2]
    path = posixpath.normpath(path) if path else ""
    return "" if path in ("", ".", "..") or path.startswith(("/", "../")) else path[:1000]


def _actions(outcome: Outcome | None, green: bool, *, whole: bool) -> tuple[Mapping[str, str], ...]:
    """At most three buttons: label 20 letters, description 40, identifier 20."""
    if outcome is None:
        return ({"label": "Cancel", "description": "Cancel this whole run", "identifier": CANCEL},)
    if green:
        return ()
    what = "Run this whole workflow again" if whole else "Run this job and what needs it again"
    return ({"label": "Run again", "description": what, "identifier": RERUN},)


def _mark(run: RunRecord) -> str:
    return hashlib.sha256(run.delivery.encode("utf-8", "replace")).hexdigest()[:12]


def _time(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bytes(text: str, limit: int) -> str:
    return text.encode()[:limit].decode("utf-8", "ignore")
