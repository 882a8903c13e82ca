"""Commands that ask a daemon or tell it something: status, runs, show, logs, cancel, pause, drain, pool."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer

from runnerd.cli import options
from runnerd.cli.control import daemon
from runnerd.cli.follow import Follower, follow
from runnerd.cli.output import Code, clean, duration, fail, show_json, show_json_line, span, table
from runnerd.workflow.meant import Named, Unclear, meant

RunId = Annotated[
    int, typer.Argument(metavar="RUN", help="A run's number, as `runnerd runs` lists it.", min=1)
]


def status(socket: options.Socket = None, json: options.Json = False) -> None:
    """Show how the daemon is."""
    with daemon(socket) as client:
        answer = client.status()
    if json:
        show_json(answer)
    else:
        typer.echo("\n".join(described(answer)))


def runs(
    limit: Annotated[int, typer.Option("--limit", "-n", help="How many, the newest first.", min=1)] = 20,
    repository: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Only this repository's.")
    ] = None,
    socket: options.Socket = None,
    json: options.Json = False,
) -> None:
    """List runs, the newest first."""
    with daemon(socket) as client:
        found = client.runs(limit, repository=repository)
    if json:
        show_json(found)
        return
    now = time.time()
    rows = [
        (
            run["id"],
            standing(run),
            run["repository"],
            run["workflow_name"],
            run["event"]["name"],
            duration(now - run["created"]) + " ago",
            run["title"],
        )
        for run in found
    ]
    typer.echo(table(("run", "state", "repository", "workflow", "event", "created", "title"), rows))


def show(run: RunId, socket: options.Socket = None, json: options.Json = False) -> None:
    """Show a run with its jobs and steps."""
    with daemon(socket) as client:
        view = client.run(run)
    if json:
        show_json(view)
    else:
        typer.echo("\n".join(tree(view["run"], view["jobs"], view["snapshots"], view["not_kept"])))


def logs(
    run: RunId,
    job: Annotated[str | None, typer.Argument(help="Only this job: its name or its number.")] = None,
    following: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the run has ended.")] = False,
    socket: options.Socket = None,
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each line of log.")] = False,
) -> None:
    """Print the logs of a run; with -f exit 0 when it ended green and 1 when not."""
    with daemon(socket) as client:
        view = client.run(run)
        if not view["jobs"]:
            fail(f"run {run} has no jobs: {clean(view['run']['reason'])}", Code.NOTHING)
        only = None if job is None else chosen(view["jobs"], job)
        follower = Follower(
            client,
            run,
            show=typer.echo,
            colour=sys.stdout.isatty(),
            only=only,
            data=show_json_line if json else None,
        )
        if not following:
            follower.step()
            return
        follow(follower, sleep=time.sleep)
        view = client.run(run)
    outcomes = [each["outcome"] for each in view["jobs"] if each["id"] == only] or [view["run"]["outcome"]]
    raise typer.Exit(Code.GREEN if outcomes[0] in ("success", "skipped") else Code.NOT_GREEN)


def _done(answer: Mapping[str, Any], json: bool) -> None:
    """Say what the daemon did."""
    if json:
        show_json(answer)
    else:
        typer.echo(clean(answer["message"]))


def cancel(run: RunId, socket: options.Socket = None, json: options.Json = False) -> None:
    """Cancel a run; its always() steps still run."""
    with daemon(socket) as client:
        _done(client.cancel(run), json)


def approve(run: RunId, socket: options.Socket = None, json: options.Json = False) -> None:
    """Let a fork's run start that waits for approval, at the commit it is about."""
    with daemon(socket) as client:
        _done(client.approve(run), json)


def rerun(
    run: RunId,
    job: Annotated[
        str | None,
        typer.Option(help="Only this job and those that need it: its number, its name or its key."),
    ] = None,
    step: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP",
            help="Go on from this step of --job, in the machine as it was kept before it: a number, an id "
            "or a name.",
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only the jobs that did not succeed, and those that need them.")
    ] = False,
    socket: options.Socket = None,
    json: options.Json = False,
) -> None:
    """Run a run's workflow again, or some of its jobs, on the same commit with the same file."""
    if step is not None and not job:
        fail("--from names a step of a job: say which with --job", Code.USAGE)
    if failed and job:
        fail("--failed and --job exclude each other", Code.USAGE)
    with daemon(socket) as client:
        _done(client.rerun(run, job or None, step or None, failed=failed), json)


def drain(socket: options.Socket = None, json: options.Json = False) -> None:
    """Let running jobs end, start no others, and end the daemon, as SIGTERM does."""
    with daemon(socket) as client:
        _done(client.drain(), json)


def pause(
    reason: Annotated[str, typer.Argument(help="Why, for whoever asks what the jobs wait for.")] = "",
    socket: options.Socket = None,
    json: options.Json = False,
) -> None:
    """Let running jobs end and all others wait, until `runnerd resume`; it outlives a restart."""
    with daemon(socket) as client:
        _done(client.pause(reason), json)


def resume(socket: options.Socket = None, json: options.Json = False) -> None:
    """Start jobs again after `runnerd pause`."""
    with daemon(socket) as client:
        _done(client.resume(), json)


def pool(
    socket: options.Socket = None,
    json: options.Json = False,
    history: Annotated[
        bool, typer.Option("--history", help="The machines of the last day, also those that are gone.")
    ] = False,
) -> None:
    """Show the machines, and the jobs that wait for one."""
    with daemon(socket) as client:
        answer = client.machines() if history else client.pool()
    if json:
        show_json(answer)
        return
    if history:
        typer.echo(table(_HISTORY, [_life(each) for each in answer]))
        return
    kind = "emulated" if answer["emulated"] else "isolated" if answer["isolated"] else "without isolation"
    count = "as many machines as there are jobs" if answer["capacity"] is None else answer["capacity"]
    room = f"{count} machine{'' if count == 1 else 's'}" if isinstance(count, int) else count
    typer.echo(f"driver {clean(answer['driver'])}, {kind}, room for {room}")
    if answer["remote"]:
        typer.echo("they are another host's: only [pool] max_total limits them, nothing of this host")
    if answer["paused"]:
        typer.echo(clean(answer["paused"]))
    machines = [
        (each["machine"], each["image"], each["stage"], duration(each["age"]), each["job"] or "-")
        for each in answer["machines"]
    ]
    typer.echo(table(("machine", "image", "stage", "for", "job"), machines))
    if waiting := [
        (each["job"], each["image"], duration(each["age"]), each["why"]) for each in answer["waiting"]
    ]:
        typer.echo(table(("waiting", "image", "since", "for"), waiting))
    for kept in answer["keeps"]:
        typer.echo(clean(kept))
    for trial in answer["trials"]:
        typer.echo(clean(trial))
    for trouble in answer["trouble"]:
        typer.echo(f"trouble: {clean(trouble)}")


_HISTORY = ("machine", "image", "stage", "made", "job", "waited", "had it", "why it ended")


def _life(machine: Mapping[str, Any]) -> tuple[Any, ...]:
    """One machine of the journal, for people."""
    job = "-" if machine["job"] is None else f"{machine['job']}.{machine['epoch'] or '?'}"
    waited = had = "-"
    if machine["leased"] is not None:
        waited = duration(machine["leased"] - machine["asked"])
        had = duration((machine["ended"] or time.time()) - machine["leased"])
    made = duration(time.time() - machine["made"]) + " ago"
    known = (machine["id"], machine["image"], machine["stage"], made)
    return (*known, job, waited, had, machine["why"])


def standing(run: Mapping[str, Any]) -> str:
    """How far a run is, in a word."""
    held = run.get("gate") and run["approval"] is None and not run["outcome"]
    return "approval" if held else str(run["outcome"] or run["phase"])


def chosen(jobs: list[Mapping[str, Any]], wanted: str) -> int:
    """Return the number of the one job that is meant by its number, its name or its key."""
    named = [Named(job["id"], job["key"], clean(job["name"])) for job in jobs]
    try:
        return meant(wanted, named, what="job", whole="this run").number
    except Unclear as unclear:
        fail(str(unclear), Code.NOTHING)


def tree(
    run: Mapping[str, Any],
    jobs: list[Mapping[str, Any]],
    snapshots: Sequence[Mapping[str, Any]] = (),
    not_kept: Mapping[str, str] = {},
) -> Iterator[str]:
    """Yield a run for people: what it is, then each job with its steps and what is kept of its machine.

    `not_kept` has, by the number of a job, why there is none of before the step that failed.
    """
    event = run["event"]
    yield f"run {run['id']}: {clean(run['workflow_name'])} of {clean(run['repository'])}"
    yield f"  {clean(run['title'])} (attempt {run['attempt']})"
    yield f"  {clean(event['name'])} on {clean(event['ref'])} at {clean(event['sha'][:12])}"
    reason = f": {clean(run['reason'])}" if run["reason"] else ""
    if run.get("gate"):
        by = run["approval"]
        who = f"{clean(by['login'] or 'the operator')} ({clean(by['permission'])})" if by else "nobody yet"
        yield f"  needs approval: {clean(run['gate'])}; approved by {who}"
    yield f"  {standing(run)}{_took(run)}{reason}"
    for job in jobs:
        reason = f": {clean(job['reason'])}" if job["reason"] else ""
        state = f"{job['outcome'] or job['phase']}{_origin(job)}{_took(job)}{reason}"
        yield f"  {job['id']} {clean(job['name'])}: {state}"
        for step in job["steps"]:
            allowed = " (allowed)" if step["outcome"] != step["conclusion"] else ""
            code = f", exit status {step['exit_code']}" if step["exit_code"] else ""
            yield f"    {step['number']} {clean(step['name'])}: {step['outcome']}{allowed}{code}{_took(step)}"
        if steps := [each["step"] for each in snapshots if each["job"] == job["id"]]:
            yield from _way_back(run["id"], job, steps)
        if why := not_kept.get(str(job["id"])):
            where = f" as it was before step {_failed(job)[0]}" if steps and _failed(job) else ""
            yield f"    not kept{where}: {clean(why)}"


def _took(timed: Mapping[str, Any]) -> str:
    """Say how long a run, a job or a step took; nothing of one that never began or has not ended."""
    if timed["started"] is None or timed["ended"] is None:
        return ""
    return f", took {span(timed['started'], timed['ended'])}"


def _failed(job: Mapping[str, Any]) -> list[int]:
    """The numbers of the steps of a job that failed."""
    return [step["number"] for step in job["steps"] if step["conclusion"] not in ("success", "skipped")]


def _way_back(run: int, job: Mapping[str, Any], steps: Sequence[int]) -> Iterator[str]:
    """Yield how to use what is kept of a job, with that of before the step that failed as the example."""
    failed = _failed(job)
    step = next((each for each in reversed(steps) if not failed or each <= failed[0]), steps[-1])
    yield f"    kept as it was before step {', '.join(map(str, steps))}:"
    yield f"      `runnerd shell {run} --job {job['id']} --at {step}` opens a terminal in a copy"
    yield f"      `runnerd rerun {run} --job {job['id']} --from {step}` runs it again from there"


def _origin(job: Mapping[str, Any]) -> str:
    """Say where a job's result comes from that did not begin in this run."""
    if job["carried"]:
        return f" (as it was in run {job['carried'].partition('/')[0]})"
    before, _, step = job["resumes"].partition("/")
    return f" (goes on from step {step} of job {before})" if step else ""


def _backlog(reports: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    """Yield how old the oldest report is that the forge has not heard, and why."""
    now = status["started"] + status["uptime"]
    if reports["oldest"] is not None:
        yield f"oldest report: {duration(now - reports['oldest'])} old"
    if reports["problem"]:
        yield f"last report problem: {clean(reports['problem'])}"


def _intake(marks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what is known about deliveries that were missed and cannot be had."""
    for mark in marks:
        if mark["problem"]:
            yield f"missed deliveries of {clean(mark['source'])}: not recovered: {clean(mark['problem'])}"
        if mark["gap_from"] is not None:
            hours = (mark["gap_to"] - mark["gap_from"]) / 3600
            yield (
                f"missed deliveries of {clean(mark['source'])}: {hours:.1f} hours are beyond what the forge "
                "remembers (runnerd doctor says which)"
            )


def _machines(machines: Mapping[str, Any]) -> Iterator[str]:
    """Yield whether jobs can get machines, and what is wrong with those that cannot be had."""
    yield f"machines: {'ready' if machines['ready'] else 'none can be had'}"
    for trouble in machines["trouble"]:
        yield f"trouble: {clean(trouble)}"


def described(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the daemon's status as `key: value` lines."""
    for key, value in status.items():
        if key == "started":
            continue  # the uptime says it
        if key == "reports":
            yield from _backlog(value, status)
            continue
        if key == "intake":
            yield from _intake(value)
            continue
        if key == "ledger":
            yield from [f"trouble: {clean(value)}"] if value else []
            continue
        if key == "machines":
            yield from _machines(value)
            continue
        text = duration(value) if key == "uptime" else value
        if isinstance(value, list):
            text = ", ".join(map(str, value)) or "none"
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        yield f"{clean(key).replace('_', ' ')}: {clean(text)}"
