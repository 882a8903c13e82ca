"""A run's workflow read once more from what the ledger has kept of it."""

import pytest

from runnerd.model import Actor, Event, Repository
from runnerd.planning.reread import reread
from runnerd.reading.process import Reader
from runnerd.store.changes import NewCalled, NewRun
from runnerd.workflow.model import WorkflowErrors

EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o")
)
CALLED = "on: {workflow_call: {}}\njobs: {inner: {runs-on: x, steps: [{run: y}]}}\n"


async def reread_of(ledger, source, called=()):
    new = NewRun(
        workflow_path="ci.yml", workflow_name="CI", title="t", source_text=source, event=EVENT, called=called
    )
    [run] = await ledger.plan_delivery("d", [new], [])
    return await reread(await ledger.run(run), ledger=ledger, reader=Reader())


async def test_a_file_is_read_with_the_files_it_calls(ledger):
    """The texts are those that were pinned when the run was planned."""
    name = "./.github/workflows/c.yml"
    file = NewCalled(name=name, text=CALLED, repository="o/r", path=name[2:], ref="main", sha="c" * 40)
    found = await reread_of(ledger, f"on: push\njobs: {{call: {{uses: {name}}}}}\n", (file,))
    assert list(found.jobs["call"].called.jobs) == ["inner"]


async def test_a_file_that_cannot_be_read_is_said_to_be_so(ledger):
    """As it was when it was read first."""
    with pytest.raises(WorkflowErrors):
        await reread_of(ledger, "on: push\njobs: 7\n")
