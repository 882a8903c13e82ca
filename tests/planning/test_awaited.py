"""What jobs wait to go on from is known, also while it changes."""

import trio

from runnerd.model import JobRecord, Phase
from runnerd.planning.awaited import goes_on_from, leave_awaited


class Shelf:
    """Only knows what is awaited."""

    def __init__(self, awaited):
        self.awaited = awaited


class ReadsSlowly:
    """A ledger whose answer is old when it comes."""

    def __init__(self, shelf):
        self.shelf = shelf

    async def awaited_machines(self):
        await trio.lowlevel.checkpoint()
        self.shelf.awaited |= {"2/2"}
        return frozenset({"1/2"})


async def test_what_is_learned_meanwhile_is_not_forgotten():
    """What the ledger does not name any more goes; what came up while it was read stays."""
    shelf = Shelf(frozenset({"7/2"}))
    await leave_awaited(shelf, ReadsSlowly(shelf))
    assert shelf.awaited == {"1/2", "2/2"}


def test_what_has_ended_goes_on_from_nothing():
    """Neither does what begins at its start."""
    rows = [
        JobRecord(id=1, run=1, key="a", name="a", resumes="7/2", phase=Phase.QUEUED),
        JobRecord(id=2, run=1, key="b", name="b", resumes="8/2", phase=Phase.DONE),
        JobRecord(id=3, run=1, key="c", name="c"),
    ]
    assert goes_on_from(rows) == {"7/2"}
