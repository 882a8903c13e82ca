"""Checking `needs`: every job that is named exists, something can start, and nothing waits for itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runnerd.workflow.model import Job
from runnerd.workflow.reader.source import Source
from runnerd.workflow.yaml import Map, Seq

Needs = Mapping[str, tuple[str, ...]]


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


def _cycles(source: Source, needs: Needs, jobs: dict[str, Job], mapping: Map) -> None:
    behind: dict[str, list[str]] = {name: [] for name in needs}
    for name, before in needs.items():
        for need in before:
            behind[need].append(name)
    after = {name: tuple(names) for name, names in behind.items()}
    # What can run leads to no cycle; of the rest, what nobody in it needs hangs on one.
    waiting = _left(set(needs), needs, after)
    waiting = _left(waiting, after, needs)
    folded = {name.lower() for name in waiting}
    for name in (each for each in needs if each in waiting):
        for index, need in enumerate(jobs[name].needs):
            if need.lower() in folded:
                source.problem(
                    _place(mapping[name], index),
                    f"Job {name!r} depends on job {need!r} which creates a cycle in the dependency graph.",
                )


def _left(names: set[str], before: Needs, after: Needs) -> set[str]:
    """The names that remain when those with nothing left before them are taken away, again and again."""
    count = {name: sum(each in names for each in before[name]) for name in names}
    ready = [name for name, waits in count.items() if not waits]
    while ready:
        name = ready.pop()
        del count[name]
        for each in after[name]:
            if each in count:
                count[each] -= 1
                if not count[each]:
                    ready.append(each)
    return set(count)


def _place(job: Map, index: int) -> Any:
    value = job["needs"]
    return value.items_at[index] if type(value) is Seq else job.values_at["needs"]
