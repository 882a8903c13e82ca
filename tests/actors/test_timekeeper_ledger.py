"""The timekeeper on a real ledger, in real time: its clock stands still."""

import json

import trio

from runnerd.actors.timekeeper import TimekeeperActor
from runnerd.messages import DeliveryAccepted
from runnerd.model import Repository
from runnerd.store.ledger import open_ledger
from runnerd.supervise.mailbox import Mailbox

HELLO = Repository(id=5, full_name="octo/hello", default_branch="trunk")
NIGHTLY = (".github/workflows/n.yml", "0 3 * * *", "UTC")
NOW = 1_767_323_400.0
"""2026-01-02 03:10 UTC."""


class Nightly:
    """One repository with one schedule."""

    async def of(self, repository):
        await trio.lowlevel.checkpoint()
        return {NIGHTLY}

    async def repositories(self):
        await trio.lowlevel.checkpoint()
        return [HELLO]


async def test_a_missed_start_is_one_stored_delivery_whoever_comes_after(tmp_path):
    """Two daemons after each other, hours late, make one delivery, which waits to be planned."""
    minute = int(NOW) // 60
    async with open_ledger(tmp_path) as ledger, trio.open_nursery() as nursery:
        await nursery.start(ledger.serve_writes)
        await ledger.keep_schedules(HELLO, {NIGHTLY}, minute - 600)
        parser = Mailbox(8)
        for _ in range(2):
            mailbox = Mailbox(8)
            actor = TimekeeperActor(
                mailbox, ledger=ledger, schedules=Nightly(), parser=parser, clock=lambda: NOW
            )
            await nursery.start(actor.run)
            with trio.fail_after(30):
                while (await ledger.schedules())[0].looked < minute:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            mailbox.close()
        ((delivery, repository),) = await ledger.backlog(10)
        record = await ledger.delivery(delivery)
        (row,) = await ledger.schedules()
        nursery.cancel_scope.cancel()
    assert repository == "octo/hello"
    assert (record.event, json.loads(record.body)["repository"]["default_branch"]) == ("schedule", "trunk")
    assert await parser.receive() == DeliveryAccepted(delivery)
    assert (parser.depth, row.fired) == (0, minute - 10)
