"""The writer as an actor: supervised, restarted without losing a write, drained by closing the ledger."""

import trio
from trio.testing import wait_all_tasks_blocked

from runnerd.actors.writer import WriterActor
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.supervisor import Child, supervise


def delivery(id: str) -> Delivery:
    """A delivery that was just received."""
    return Delivery(id=id, event="push", body=b"{}", received=1.0)


async def test_it_drains_when_the_ledger_is_closed(tmp_path):
    """Writes that wait when the daemon stops are durable before the actor ends."""
    stop, answers = trio.Event(), []
    async with open_ledger(tmp_path) as ledger:

        async def accept(id: str) -> None:
            answers.append(await ledger.accept_delivery(delivery(id)))

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(accept, f"d{number}")
            await wait_all_tasks_blocked()
            assert answers == []
            child = Child(name="writer", make=lambda: WriterActor(ledger), close=ledger.close)
            await nursery.start(lambda task_status: supervise([child], stop=stop, task_status=task_status))
            stop.set()
        assert answers == ["accepted"] * 10
    async with open_ledger(tmp_path) as ledger:
        assert len(await ledger.pending_deliveries(100)) == 10


async def test_a_restart_loses_no_write(tmp_path):
    """Writes that come while the actor is down are answered by the next one."""
    async with open_ledger(tmp_path) as ledger:
        async with trio.open_nursery() as life:
            await life.start(lambda task_status: WriterActor(ledger).run(task_status=task_status))
            assert await ledger.accept_delivery(delivery("a")) == "accepted"
            life.cancel_scope.cancel()
        async with trio.open_nursery() as life:
            life.start_soon(ledger.accept_delivery, delivery("b"))
            await wait_all_tasks_blocked()
            await life.start(lambda task_status: WriterActor(ledger).run(task_status=task_status))
            assert await ledger.accept_delivery(delivery("b")) == "duplicate"
            ledger.close()
