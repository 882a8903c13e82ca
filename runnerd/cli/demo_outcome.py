"""Whether a demo showed what it promises, judged from the records, the logs and the host; and its times."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from runnerd.cli import demo_sample
from runnerd.cli.output import duration
from runnerd.model import JobRecord, Outcome, RunRecord

_BOOT = re.compile(r"boot-id ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_MACHINE = re.compile(r"machine-id ([0-9a-f]{32})")


class Claim(msgspec.Struct, frozen=True):
    """One sentence the demo stands for, and whether it held; `detail` says what was seen."""

    sentence: str
    held: bool
    detail: str = ""


class Host(msgspec.Struct, frozen=True):
    """The identity of the host, which no job may have."""

    boot_id: str
    machine_id: str

    @classmethod
    def of_this_machine(cls) -> Host:
        """Read it; a host without a machine id (a container) has an empty one."""
        machine = Path("/etc/machine-id")
        return cls(
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            machine_id=machine.read_text().strip() if machine.exists() else "",
        )


def claims(
    run: RunRecord, jobs: Sequence[JobRecord], logs: Mapping[int, str], host: Host
) -> tuple[Claim, ...]:
    """Judge a finished run of the sample repository; `logs` maps a job's id to its whole log."""
    names = [job.name for job in jobs]
    outcomes = [f"{job.name}: {job.outcome}" for job in jobs]
    fragile = [step for job in jobs if job.key == "test" for step in job.steps if step.id == "fragile"]
    release = next((logs.get(job.id, "") for job in jobs if job.key == "release"), "")
    greeted = [f"hello, {flavour} world" for flavour in ("plain", "spicy")]
    tested = "".join(logs.get(job.id, "") for job in jobs if job.key == "test")
    return (
        Claim("the run ended with success", run.outcome is Outcome.SUCCESS, str(run.outcome)),
        Claim(
            "every job ran: build, both legs of the matrix, release",
            sorted(names) == sorted(demo_sample.JOBS),
            ", ".join(names),
        ),
        Claim(
            "every job ended with success",
            all(job.outcome is Outcome.SUCCESS for job in jobs),
            "; ".join(outcomes),
        ),
        Claim("jobs kept the order of their needs", _in_order(jobs)),
        Claim("each leg saw its own environment", all(text in tested for text in greeted)),
        Claim(
            "a step failed and its job went on",
            len(fragile) == 2
            and all((step.outcome, step.conclusion) == (Outcome.FAILURE, Outcome.SUCCESS) for step in fragile)
            and all(step.exit_code == 3 for step in fragile),
        ),
        Claim(
            "a job read another job's output",
            f"releasing version {demo_sample.VERSION} of {demo_sample.NAME}" in release,
        ),
        *_identities(jobs, logs, host),
    )


def _in_order(jobs: Sequence[JobRecord]) -> bool:
    """Whether no job started before all jobs of the stage before it had ended."""
    stages = [[job for job in jobs if job.key == key] for key in ("build", "test", "release")]
    return all(
        before.ended is not None and after.started is not None and before.ended <= after.started
        for earlier, later in itertools.pairwise(stages)
        for before in earlier
        for after in later
    )


def _identities(jobs: Sequence[JobRecord], logs: Mapping[int, str], host: Host) -> tuple[Claim, ...]:
    seen = {job.id: (_first(_BOOT, logs, job), _first(_MACHINE, logs, job)) for job in jobs}
    recorded = {job.id: (job.boot_id, job.machine_id.replace("-", "")) for job in jobs}
    boots = [boot for boot, _ in seen.values()]
    machines = [machine for _, machine in seen.values()]
    detail = "; ".join(f"{job.name}: {seen[job.id][0]}" for job in jobs)
    return (
        Claim("every job told its boot id and machine id", bool(seen) and all(map(all, seen.values()))),
        Claim("they are those the daemon recorded", seen == recorded),
        Claim("no two jobs had the same boot id", len(set(boots)) == len(boots), detail),
        Claim("no two jobs had the same machine id", len(set(machines)) == len(machines)),
        Claim("none was the host's", host.boot_id not in boots and host.machine_id not in machines),
    )


def _first(pattern: re.Pattern[str], logs: Mapping[int, str], job: JobRecord) -> str:
    found = pattern.search(logs.get(job.id, ""))
    return found[1] if found else ""


def phases(
    posted: float,
    acknowledged: float,
    run: RunRecord,
    jobs: Sequence[JobRecord],
    logs: Mapping[int, str],
    reported: float | None,
) -> list[tuple[str, str, str]]:
    """Return (phase, when it was over, how long it took) rows; times in seconds since the epoch."""
    started = [job.started for job in jobs if job.started is not None]
    spoken = [moment for text in logs.values() if (moment := first_output(text)) is not None]
    rows = [("webhook acknowledged", acknowledged, acknowledged - posted)]
    rows.append(("run planned", run.created, run.created - acknowledged))
    if started:
        rows.append(("first job has its machine", min(started), min(started) - run.created))
    if spoken and started:
        rows.append(("first output of a step", min(spoken), min(spoken) - min(started)))
    for job in jobs:
        if job.started is not None and job.ended is not None:
            rows.append((f"job {job.name}", job.ended, job.ended - job.started))
    if run.ended is not None:
        rows.append(("run ended", run.ended, run.ended - posted))
        if reported is not None:
            rows.append(("report written", reported, reported - run.ended))
    return [(name, duration(at - posted), duration(took)) for name, at, took in rows]


def first_output(log: str) -> float | None:
    """Return when a job's first command spoke: the time stamp of its boot id, the sample's first output."""
    for line in log.splitlines():
        stamp, _, text = line.partition(" ")
        if _BOOT.search(text):
            return datetime.fromisoformat(stamp).timestamp()
    return None


def records(run: Any, jobs: Any) -> tuple[RunRecord, tuple[JobRecord, ...]]:
    """Turn what the control API gave into records. Raises `msgspec.ValidationError`."""
    return msgspec.convert(run, RunRecord), msgspec.convert(jobs, tuple[JobRecord, ...])
