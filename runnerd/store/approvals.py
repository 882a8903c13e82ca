"""Approvals: a run that waits for one starts by this alone, once, for the commit that was looked at."""

from __future__ import annotations

import sqlalchemy as sa

from runnerd.model import Approval, Phase
from runnerd.store import outbox, runs
from runnerd.store.errors import IllegalTransition
from runnerd.store.records import Kind, ReportState
from runnerd.store.tables import runs as table


def approve(connection: sa.Connection, id: int, approval: Approval, now: float) -> None:
    """Let a run start; see `Ledger.approve`."""
    run = runs.known(connection, id)
    if not run.held:
        raise IllegalTransition(f"run {id} does not wait for approval")
    if run.phase is Phase.DONE or run.cancel_requested:
        raise IllegalTransition(f"run {id} has ended, or is about to: it cannot be approved any more")
    if approval.sha != run.event.report_sha:
        raise IllegalTransition(f"run {id} is about commit {run.event.report_sha}, not {approval.sha}")
    connection.execute(sa.update(table).where(table.c.id == id).values(approval=approval))
    outbox.owe(connection, id, None, Kind.RUN, ReportState.QUEUED, now)
