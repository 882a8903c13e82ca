"""Between the pure job graph and the ledger's rows: rows to nodes, decisions to changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from runnerd.model import JobRecord, JobResult, Outcome, Phase
from runnerd.store.changes import (
    UNEXPANDED,
    Change,
    EndJob,
    EndRun,
    EnterCalls,
    ExpandJob,
    JoinGroup,
    LeaveGroup,
    NewJob,
    QueueJob,
    SkipJob,
)
from runnerd.store.groups import Member
from runnerd.workflow import graph
from runnerd.workflow.model import Call


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a round of decisions comes to: what to store first, and what to do after."""

    changes: tuple[Change, ...] = ()
    start: tuple[int, ...] = ()
    """Jobs that were queued by `changes` and now want a machine."""
    cancel: Mapping[int, str] = msgspec.field(default_factory=dict)
    """Jobs that run or wait for a machine and are to be stopped, with the reason."""
    outcome: Outcome | None = None
    """How the run ended, if this round ends it."""


def nodes(rows: Iterable[JobRecord], calls: Iterable[Call] = ()) -> dict[str, graph.NodeState]:
    """The graph's state as the ledger has it, from the rows and calls of a run."""
    legs: dict[str, list[JobRecord]] = {}
    for row in rows:
        legs.setdefault(row.key, []).append(row)
    made: dict[str, list[Call]] = {}
    for call in calls:
        made.setdefault(call.key, []).append(call)
    callers = {
        key: graph.NodeState(key=key, calls=tuple(sorted(of_job, key=lambda call: call.leg)))
        for key, of_job in made.items()
    }
    return callers | {
        key: graph.NodeState(
            key=key,
            legs=None
            if any(row.leg == UNEXPANDED and row.phase is not Phase.DONE for row in of_job)
            else tuple(_leg(row) for row in sorted(of_job, key=lambda row: row.leg)),
        )
        for key, of_job in legs.items()
    }


def holds(members: Iterable[Member]) -> dict[tuple[str, int], graph.Hold]:
    """How a run's members of concurrency groups stand, as the graph takes it."""
    return {(each.key, each.leg): graph.Hold(each.shown, each.standing, each.reason) for each in members}


def progress(
    actions: Sequence[graph.Action],
    rows: Sequence[JobRecord],
    now: float,
    *,
    ours: Callable[[tuple[str, ...]], bool] = lambda labels: True,
) -> Progress:
    """Turn the graph's decisions into changes of the ledger and work for the executor.

    Of a matrix with some legs whose labels are `ours` and some whose are not, only ours are written down;
    where none is, all are, for somebody must say that nothing claims them.
    """
    by_leg = {(row.key, row.leg): row for row in rows}

    def waiting(key: str, index: int | None) -> list[JobRecord]:
        if index is not None:
            return [by_leg[key, index]]
        return [row for row in rows if row.key == key and row.phase is Phase.WAITING]

    changes: list[Change] = []
    start: list[int] = []
    cancel: dict[int, str] = {}
    ended: Outcome | None = None
    for action in actions:
        match action:
            case graph.Expand(key, legs):
                mine = [leg for leg in legs if ours(leg.labels)] or list(legs)
                changes.append(
                    ExpandJob(
                        key=key,
                        legs=tuple(
                            NewJob(
                                key=key,
                                leg=leg.leg.index,
                                legs=leg.leg.total,
                                name=leg.leg.name,
                                labels=tuple(leg.labels),
                                matrix=leg.leg.matrix,
                                allowed_to_fail=leg.continue_on_error,
                            )
                            for leg in mine
                        ),
                    )
                )
            case graph.Enter(key, calls, jobs):
                new = tuple(NewJob(key=of_job, leg=UNEXPANDED, name=name) for of_job, name in jobs)
                changes.append(EnterCalls(key=key, calls=calls, jobs=new))
            case graph.Join(key, leg, group, cancels, queue):
                changes.append(JoinGroup(key=key, leg=leg, group=group, cancels=cancels, queue=queue))
            case graph.Leave(key, leg):
                changes.append(LeaveGroup(key=key, leg=leg))
            case graph.Skip(key, index, reason):
                changes += [SkipJob(job=row.id, reason=reason) for row in waiting(key, index)]
            case graph.Start(key, index):
                job = by_leg[key, index].id
                changes.append(QueueJob(job=job, now=now))
                start.append(job)
            case graph.Cancel(key, index, reason):
                cancel[by_leg[key, index].id] = reason
            case graph.Fail(key, index, outcome, reason):
                changes += [_end(row, outcome, reason) for row in waiting(key, index)]
            case graph.Finish(outcome, reason):
                changes.append(EndRun(outcome=outcome, reason=reason))
                ended = outcome
    return Progress(changes=tuple(changes), start=tuple(start), cancel=cancel, outcome=ended)


def _end(row: JobRecord, outcome: Outcome, reason: str) -> EndJob:
    return EndJob(job=row.id, epoch=row.epoch, result=JobResult(outcome=outcome, reason=reason))


def _leg(row: JobRecord) -> graph.LegState:
    return graph.LegState(
        index=max(row.leg, 0),
        total=row.legs,
        name=row.name,
        matrix=row.matrix,
        labels=row.labels,
        phase=row.phase,
        outcome=row.outcome,
        outputs=row.outputs,
        allowed_to_fail=row.allowed_to_fail,
        carried=bool(row.carried),
    )
