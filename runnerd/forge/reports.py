"""What a forge is told about runs and jobs: statuses, one comment per pull request, a report on disk.

Pure: records in, text out. An outcome keeps its name where GitHub has one; a fault of ours is a failure
there with its own title, and nothing that did not succeed is ever shown as success.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from runnerd.model import Event, JobRecord, Outcome, Phase, RunRecord, StepResult, status_name

from .links import NO_LINKS, Links
from .markdown import cut, fenced, inline, plain

DESCRIPTION_LIMIT = 140
"""Characters of a status's description; GitHub refuses more."""
CONTEXT_LIMIT = 255
COMMENT_LIMIT = 65_536
"""GitHub's limit in characters, kept in bytes, which are never fewer."""
TAIL_LINES = 20
"""Last lines of a failed job's log that a comment shows."""

_CONCLUSIONS = {
    Outcome.STARTUP_FAILURE: "failure",
    Outcome.LOST: "failure",
    Outcome.INFRA_ERROR: "failure",
}
_TITLES = {
    Outcome.SUCCESS: "Successful",
    Outcome.FAILURE: "Failed",
    Outcome.CANCELLED: "Cancelled",
    Outcome.SKIPPED: "Skipped",
    Outcome.TIMED_OUT: "Timed out",
    Outcome.STARTUP_FAILURE: "Could not start",
    Outcome.LOST: "Lost",
    Outcome.INFRA_ERROR: "Infrastructure error",
}
_SIGNS = {
    Outcome.SUCCESS: "✅",
    Outcome.FAILURE: "❌",
    Outcome.CANCELLED: "🚫",
    Outcome.SKIPPED: "⏭️",
    Outcome.TIMED_OUT: "⌛",
    Outcome.STARTUP_FAILURE: "❌",
    Outcome.LOST: "⚠️",
    Outcome.INFRA_ERROR: "⚠️",
}

Jobs = Sequence[JobRecord]
Tails = Mapping[int, str]
"""The last lines of a job's log by the job's id, secrets already masked."""


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """A commit status as GitHub's API takes it."""

    context: str
    state: str
    """`pending`, `success` or `failure`."""
    description: str
    target_url: str = ""


def conclusion(outcome: Outcome) -> str:
    """Return GitHub's word for how something ended; what GitHub cannot say is a `failure`."""
    return _CONCLUSIONS.get(outcome, outcome.value)


def origin(job: JobRecord) -> str:
    """Where a job's result comes from that did not begin in its run; empty for one that did."""
    if job.carried:
        return f"as it was in run {job.logged[0]}"
    before, _, step = job.resumes.partition("/")
    return f"goes on from step {step} of job {before}" if step else ""


def status_of(run: RunRecord, job: JobRecord | None, *, links: Links = NO_LINKS) -> StatusReport:
    """Render the status of a job, or of a run that has no jobs to speak for it."""
    if job is None:
        context = status_name(run.workflow_name, "").rstrip(" /")
        text = description(run, ())
    else:
        context = status_name(run.workflow_name, job.name)
        text = description(job, job.steps)
        if job.allowed_to_fail and job.outcome is not None and not job.outcome.green:
            text = f"Allowed to fail. {text}"
    if run.event.remark:
        text = f"{text}. Unconfirmed: {run.event.remark}"
    subject = run if job is None else job
    return StatusReport(
        context=_context(context),
        state=_state(subject),
        description=short(text, DESCRIPTION_LIMIT),
        target_url=links.of(run.id, None if job is None else job.id),
    )


def comment_marker(event: Event) -> str:
    """Return the first line of a pull request's comment, by which it is found again."""
    return f"<!-- runnerd:v1 repository={event.repository.id} pull={event.number} -->"


def comment_of(
    event: Event,
    runs: Sequence[tuple[RunRecord, Jobs]],
    *,
    links: Links = NO_LINKS,
    tails: Tails | None = None,
) -> tuple[str, str]:
    """Render the comment of a pull request: its marker, and the whole text that starts with it.

    `runs` are the runs of the pull request's newest commit. Names and reasons come from strangers.
    """
    marker = comment_marker(event)
    lines = [marker, f"### runnerd: {_headline([run for run, _ in runs])}", ""]
    if event.report_sha:
        lines += [f"Commit {event.report_sha[:12]}", ""]
    lines += _table(runs, links)
    for run, jobs in runs:
        if run.held and run.outcome is None:
            lines += [
                f"**{inline(run.workflow_name, 100)}** waits for approval: {inline(run.gate)}. Somebody who "
                f"may write here approves this commit by a comment "
                f"`/runnerd approve {run.event.report_sha[:40]}`, or the "
                f"runner's operator by `runnerd approve {run.id}`.",
                "",
            ]
        if run.event.remark:
            lines += [f"**{inline(run.workflow_name, 100)}** is unconfirmed: {inline(run.event.remark)}.", ""]
        for job in jobs:
            lines += _details(run, job, (tails or {}).get(job.id, ""))
    note = "_This comment was cut at GitHub's limit; the reports and logs on the runner are whole._"
    return marker, cut("\n".join(lines).rstrip() + "\n", COMMENT_LIMIT, note)


def local_report(
    run: RunRecord, jobs: Jobs, *, links: Links = NO_LINKS, tails: Tails | None = None
) -> tuple[bytes, str]:
    """Render one run as GitHub would get it, for the disk: JSON with every record, and Markdown."""
    statuses = [status_of(run, job, links=links) for job in jobs] or [status_of(run, None, links=links)]
    if run.gate and jobs:
        statuses.append(status_of(run, None, links=links))
    comment = None
    if run.event.number is not None:
        comment = comment_of(run.event, [(run, jobs)], links=links, tails=tails)[1]
    event = msgspec.structs.replace(run.event, payload={})
    report = {
        "repository": run.repository,
        "sha": run.event.report_sha,
        "conclusion": conclusion(run.outcome) if run.outcome else None,
        "statuses": statuses,
        "comment": comment,
        "run": msgspec.structs.replace(run, event=event),
        "jobs": jobs,
    }
    lines = [
        f"# {inline(run.workflow_name)} #{run.number}: {_headline([run])}",
        "",
        ", ".join(inline(text) for text in (run.repository, run.event.name, run.event.ref, run.event.sha)),
        "",
        *_table([(run, jobs)], links),
    ]
    for job in jobs:
        lines += _details(run, job, (tails or {}).get(job.id, ""))
    data = msgspec.json.format(msgspec.json.encode(report), indent=2)
    return data + b"\n", "\n".join(lines).rstrip() + "\n"


def _headline(runs: Sequence[RunRecord]) -> str:
    if not runs:
        return "nothing to run"
    if any(run.held and run.outcome is None for run in runs):
        return "waiting for approval"
    if any(run.outcome is None for run in runs):
        return "running"
    bad = [run.outcome for run in runs if run.outcome is not None and not run.outcome.green]
    if bad:
        return _TITLES[bad[0]].lower() if len(set(bad)) == 1 else "failed"
    return "all skipped" if all(run.outcome is Outcome.SKIPPED for run in runs) else "successful"


def _table(runs: Sequence[tuple[RunRecord, Jobs]], links: Links) -> list[str]:
    lines = ["| | Workflow | Job | Result | Time |", "|---|---|---|---|---|"]
    for run, jobs in runs:
        workflow = inline(run.workflow_name, 100)
        if not jobs:
            reason = f": {inline(run.reason)}" if run.reason else ""
            took = duration(run.started, run.ended)
            lines.append(f"| {sign(run.outcome)} | {workflow} | | {_word(run)}{reason} | {took} |")
        for job in jobs:
            name, place = inline(job.name, 100), links.of(run.id, job.id)
            name = f"[{name}]({place})" if place else name
            allowed = " (allowed to fail)" if job.allowed_to_fail and not _green(job) else ""
            took = duration(job.started, job.ended)
            lines.append(f"| {sign(job.outcome)} | {workflow} | {name} | {_word(job)}{allowed} | {took} |")
    return [*lines, ""]


def _details(run: RunRecord, job: JobRecord, tail: str) -> list[str]:
    """Say about a job that did not succeed where it went wrong, with the end of its log."""
    if job.outcome is None or job.outcome.green:
        return []
    lines = [f"**{inline(run.workflow_name, 100)} / {inline(job.name, 100)}**"]
    if step := _failing(job.steps):
        ended = f"exit status {step.exit_code}" if step.exit_code is not None else inline(step.reason)
        lines.append(
            f"Step {step.number}, {inline(step.name, 100)}: {ended or _TITLES[step.outcome].lower()}"
        )
    if job.reason:
        lines.append(inline(job.reason, 500))
    if tail.strip():
        last = "\n".join(tail.splitlines()[-TAIL_LINES:])
        lines += ["", "<details><summary>Last lines of the log</summary>", "", fenced(last), "", "</details>"]
    return [*lines, ""]


def description(subject: RunRecord | JobRecord, steps: Sequence[StepResult]) -> str:
    """Say in one line how something stands, of whatever length."""
    outcome, reason = subject.outcome, subject.reason
    if outcome is None and isinstance(subject, RunRecord) and subject.held:
        return f"Waiting for approval (runnerd approve {subject.id}): {subject.gate}"
    if outcome is None:
        return "Running" if subject.phase is Phase.RUNNING else "Queued"
    text = _TITLES[outcome]
    if (time := duration(subject.started, subject.ended)) and outcome is not Outcome.SKIPPED:
        text += f" {'in' if outcome is Outcome.SUCCESS else 'after'} {time}"
    step = _failing(steps)
    if reason and outcome is not Outcome.SUCCESS:
        return f"{text}: {reason}"
    if step is not None and outcome is Outcome.FAILURE:
        ended = f" exited with {step.exit_code}" if step.exit_code is not None else ""
        return f"{text}: step {step.number} ({step.name}){ended}"
    return text


def _failing(steps: Sequence[StepResult]) -> StepResult | None:
    return next((step for step in steps if not step.conclusion.green), None)


def _state(subject: RunRecord | JobRecord) -> str:
    if subject.phase is not Phase.DONE or subject.outcome is None:
        return "pending"
    return "success" if subject.outcome.green else "failure"


def _green(subject: RunRecord | JobRecord) -> bool:
    return subject.outcome is None or subject.outcome.green


def sign(outcome: Outcome | None) -> str:
    """Return the sign of an outcome; None is still running."""
    return _SIGNS[outcome] if outcome else "🕐"


def title(outcome: Outcome) -> str:
    """Return an outcome as people read it."""
    return _TITLES[outcome]


def _word(subject: RunRecord | JobRecord) -> str:
    if subject.outcome is not None:
        return _TITLES[subject.outcome]
    return "Running" if subject.phase is Phase.RUNNING else "Queued"


def duration(started: float | None, ended: float | None) -> str:
    """Return how long something took, shortly; empty for what has not both begun and ended."""
    if started is None or ended is None:
        return ""
    seconds = max(0.0, ended - started)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s" if minutes else f"{rest}s"


def _context(text: str) -> str:
    """Keep a status's name within GitHub's limit; a longer one stays its own by a hash of the whole."""
    cropped = short(text, CONTEXT_LIMIT)
    if cropped == plain(text):
        return cropped
    mark = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{short(text, CONTEXT_LIMIT - 9)} {mark}"


def short(text: str, limit: int) -> str:
    """Cut a text to so many UTF-16 units, the strictest way in which a forge may count characters."""
    text = plain(text)
    if len(text.encode("utf-16-le")) // 2 <= limit:
        return text
    return text.encode("utf-16-le")[: 2 * (limit - 1)].decode("utf-16-le", "ignore") + "…"
