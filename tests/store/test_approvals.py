"""A run that waits for approval: held in the ledger, let go once, for one commit."""

import msgspec
import pytest

from runnerd.model import Approval
from runnerd.store import approvals, outbox, runs
from runnerd.store.errors import IllegalTransition

SHA = "c" * 40
BY = Approval(sha=SHA, login="grace", id=3, permission="write")


def held(desk, **fields):
    desk.deliver()
    event = msgspec.structs.replace(desk.event(), report_sha=SHA)
    new = desk.new_run(desk.new_job(leg=-1), gate="a fork", event=event, **fields)
    (run,) = runs.plan(desk.connection, "d1", [new], [], desk.now)
    return run


def owed(desk, run):
    return [
        (row.kind.value, row.state.value) for row in outbox.due(desk.connection, 1e9, 9) if row.run == run
    ]


def test_an_approval_is_kept_with_who_gave_it(desk):
    """The run waits until then, and says both at the commit."""
    run = held(desk)
    assert runs.known(desk.connection, run).held
    assert owed(desk, run) == [("run", "queued")]
    approvals.approve(desk.connection, run, BY, desk.now)
    after = runs.known(desk.connection, run)
    assert (after.held, after.approval, after.gate) == (False, BY, "a fork")


@pytest.mark.parametrize("reason", ["twice", "another commit", "cancelled", "never held"])
def test_what_cannot_be_approved_stays_as_it_is(desk, reason):
    """Approved already, for another commit, cancelled meanwhile, or nothing that waits."""
    run = held(desk)
    by = BY
    if reason == "twice":
        approvals.approve(desk.connection, run, BY, desk.now)
    elif reason == "another commit":
        by = msgspec.structs.replace(BY, sha="d" * 40)
    elif reason == "cancelled":
        runs.request_cancel(desk.connection, run)
    else:
        desk.deliver("d2")
        (run,) = runs.plan(desk.connection, "d2", [desk.new_run(desk.new_job())], [], desk.now)
    before = runs.known(desk.connection, run)
    with pytest.raises(IllegalTransition):
        approvals.approve(desk.connection, run, by, desk.now)
    assert runs.known(desk.connection, run) == before
