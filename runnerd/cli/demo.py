"""`runnerd demo`, what `make demo` runs: one signed webhook, real microVMs, the result, all checked."""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runnerd.cli import demo_sample
from runnerd.cli.demo_daemon import DaemonDied, DemoDaemon, clean_environment
from runnerd.cli.output import Code, clean, fail, table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from runnerd.cli.demo_outcome import Host
    from runnerd.model import JobRecord

PATIENCE = 900.0
"""Seconds for the daemon to be ready (it may have a template to build), and again for the run to end."""
POLL = 0.02
LOG_LIMIT = 4 << 20


def demo(
    state: Annotated[
        Path, typer.Option("--state", metavar="DIR", help="Where the daemon's state is kept.")
    ] = Path(".state/demo"),
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="DIR", help="Where images and templates are kept, if shared."),
    ] = None,
) -> None:
    """Run a sample repository's workflow for a signed push, each job in a microVM of its own."""
    state = state.absolute()
    prepare(state, cache.absolute() if cache else state)
    secret = secrets.token_hex(32)
    with tempfile.TemporaryDirectory(prefix="runnerd-demo-") as runtime:
        say("Starting the daemon")
        daemon = DemoDaemon(state, Path(runtime), secret=secret)
        try:
            held = perform(daemon, state, secret)
        except DaemonDied as error:
            daemon.stop()
            fail(f"{error}; the end of {daemon.log}:\n{daemon.tail()}", Code.NOT_GREEN)
        finally:
            code = daemon.stop()
    say(f"The daemon was asked to end with SIGTERM, and ended with status {code}")
    if code != 0 or not held:
        fail(f"not everything held; the daemon's own words are in {daemon.log}", Code.NOT_GREEN)
    say("Everything held")


def say(sentence: str) -> None:
    """Tell the person at the terminal what happens."""
    typer.secho(f"── {sentence}", bold=True)


def prepare(state: Path, cache: Path) -> None:
    """Have the image, shared through the cache, and a new commit in the sample repository."""
    from runnerd.cli import image
    from runnerd.config import load
    from runnerd.git.process import GitError

    for name in ("images", "snapshots"):
        (cache / name).mkdir(parents=True, exist_ok=True)
        if cache != state and not (state / name).exists():
            state.mkdir(parents=True, exist_ok=True)
            (state / name).symlink_to(cache / name)
    say("The guest image: built once, from Debian's archive")
    settings = load(None, environ=clean_environment(os.environ), flags={"state_directory": state})
    built = image.ensure(
        settings, "default", preset="minimal", progress=lambda sentence: typer.echo(f"   {sentence}")
    )
    typer.echo(f"   image {built.digest[:12]}")
    say(f"The sample repository {demo_sample.NAME}, in {state / 'sample'}")
    try:
        demo_sample.make(state / "sample", stamp=time.strftime("%Y-%m-%dT%H:%M:%S%z"), warn=typer.echo)
    except GitError as error:
        fail(str(error))


def perform(daemon: DemoDaemon, state: Path, secret: str) -> bool:
    """Post the webhook, follow the run, print its outcome; returns whether all the demo stands for held."""
    import msgspec
    import trio

    from runnerd.cli import checkout, demo_outcome
    from runnerd.cli.follow import Follower, follow
    from runnerd.cli.send import post
    from runnerd.web.client import Refusal, Unreachable

    daemon.wait_ready(PATIENCE, lambda reasons: typer.echo(f"   not ready yet: {clean(reasons)}"))
    facts = trio.run(checkout.describe, state / "sample")
    facts = msgspec.structs.replace(facts, full_name=demo_sample.NAME, default_branch=demo_sample.BRANCH)
    body = msgspec.json.encode(checkout.payload("push", facts))
    delivery = str(uuid.uuid4())
    say(f"A signed push of {facts.sha[:12]} to POST /webhook")
    posted = time.time()
    status, answer = post(f"http://127.0.0.1:{daemon.port}/webhook", "push", delivery, body, secret)
    acknowledged = time.time()
    typer.echo(f"   {status} {json.dumps(answer)}")
    if status != 202:
        return False
    try:
        run = find_run(daemon, delivery)
        say(f"Run {run}, live")
        follower = Follower(daemon.client, run, show=typer.echo, colour=sys.stdout.isatty())
        if not follow(follower, sleep=watchful(daemon), patience=PATIENCE):
            raise DaemonDied(f"the run had not ended after {PATIENCE:.0f} s")
        report = state / "reports" / f"{run}.json"
        reported = wait_report(daemon, report)
        view = daemon.client.run(run)
        record, jobs = demo_outcome.records(view["run"], view["jobs"])
        logs = {job.id: whole_log(daemon, job) for job in jobs}
    except (Unreachable, Refusal) as error:
        raise DaemonDied(str(error)) from error
    say(f"The outcome, as GitHub would get it ({report.parent}/{run}.*)")
    typer.echo(report.with_suffix(".md").read_text("utf-8"))
    say("How long each phase took")
    rows = demo_outcome.phases(posted, acknowledged, record, jobs, logs, reported)
    typer.echo(table(("phase", "over after", "took"), rows))
    say("Who ran it")
    host = demo_outcome.Host.of_this_machine()
    typer.echo(table(("", "boot id", "machine id"), identities(jobs, host)))
    say("What had to hold")
    claims = demo_outcome.claims(record, jobs, logs, host)
    for claim in claims:
        typer.echo(f"   {'✓' if claim.held else '✗'} {claim.sentence}")
        if not claim.held and claim.detail:
            typer.echo(f"     {clean(claim.detail)}")
    return all(claim.held for claim in claims)


def find_run(daemon: DemoDaemon, delivery: str, patience: float = 60.0) -> int:
    """Wait for the run that a delivery was planned into; raises `DaemonDied`."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        daemon.check()
        for run in daemon.client.runs():
            if run["delivery"] == delivery:
                return int(run["id"])
        time.sleep(POLL)
    raise DaemonDied(f"the delivery was not planned within {patience:.0f} s")


def watchful(daemon: DemoDaemon) -> Callable[[float], None]:
    """Return a sleep that raises `DaemonDied` when the daemon has ended."""

    def sleep(seconds: float) -> None:
        daemon.check()
        time.sleep(seconds)

    return sleep


def wait_report(daemon: DemoDaemon, path: Path, patience: float = 60.0) -> float:
    """Wait for the report of the run's end; returns when it was written, in seconds since the epoch."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        daemon.check()
        try:
            if json.loads(path.read_bytes())["conclusion"] is not None:
                return path.stat().st_mtime
        except FileNotFoundError:
            pass
        time.sleep(POLL)
    raise DaemonDied(f"{path} was not written within {patience:.0f} s")


def whole_log(daemon: DemoDaemon, job: JobRecord) -> str:
    """Return a job's log, up to a limit the sample stays far below."""
    text, offset = "", 0
    while len(text) < LOG_LIMIT:
        piece = daemon.client.log(job.run, job.id, offset)
        if not piece["text"]:
            break
        text, offset = text + piece["text"], piece["next"]
    return text


def identities(jobs: Sequence[JobRecord], host: Host) -> list[tuple[str, str, str]]:
    """Return rows of (who, boot id, machine id), the host's last."""
    return [(job.name, job.boot_id, job.machine_id) for job in jobs] + [
        ("this host", host.boot_id, host.machine_id)
    ]
