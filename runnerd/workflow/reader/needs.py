"""Checking `needs`: every job that is named exists, something can start, and nothing waits for itself."""

from __future__ import annotations

from typing import Any

from runnerd.workflow.model import Job
from runnerd.workflow.reader.source import Source
from runnerd.workflow.yaml import Map, Seq


def resolve_needs(source: Source, jobs: dict[str, Job], mapping: Map, at: Any) -> dict[str, tuple[str, ...]]:
    """The needs of each job by the ids of the file (they are compared without case)."""
    by_folded = {name.lower(): name for name in jobs}
    resolved: dict[str, tuple[str, ...]] = {}
    whole = True
    for name, job in jobs.items():
        found = []
        for index, need in enumerate(job.needs):
            known = by_folded.get(need.lower())
            if known is not None:
                found.append(known)
            elif need:
                whole = False
                source.problem(
                    _place(mapping[name], index), f"Job {name!r} depends on unknown job {need[:100]!r}."
                )
        resolved[name] = tuple(dict.fromkeys(found))
    if not any(not job.needs for job in jobs.values()):
        source.problem(at, "The workflow must contain at least one job with no dependencies.")
    elif whole:
        _cycles(source, resolved, jobs, mapping)
    return resolved


def _cycles(source: Source, needs: dict[str, tuple[str, ...]], jobs: dict[str, Job], mapping: Map) -> None:
    waiting = dict(needs)
    while True:  # take away what can run; what is left is in a cycle or behind one
        ready = [name for name, before in waiting.items() if not any(each in waiting for each in before)]
        if not ready:
            break
        for name in ready:
            del waiting[name]
    while True:  # take away what nobody left needs; what is left is in a cycle
        needed = {each for before in waiting.values() for each in before}
        behind = [name for name in waiting if name not in needed]
        if not behind:
            break
        for name in behind:
            del waiting[name]
    for name in waiting:
        for index, need in enumerate(jobs[name].needs):
            if any(need.lower() == each.lower() for each in waiting):
                source.problem(
                    _place(mapping[name], index),
                    f"Job {name!r} depends on job {need!r} which creates a cycle in the dependency graph.",
                )


def _place(job: Map, index: int) -> Any:
    value = job["needs"]
    return value.items_at[index] if type(value) is Seq else job.values_at["needs"]
