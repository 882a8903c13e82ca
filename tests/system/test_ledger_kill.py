"""A process that accepts deliveries into a ledger dies by SIGKILL, and what it acknowledged is there."""

import random
import signal
import subprocess
import sys

import trio

from runnerd.store.ledger import open_ledger

ACCEPT_FOREVER = """
import sys, trio
from runnerd.store.ledger import Delivery, open_ledger

async def accept(ledger, name):
    number = 0
    while True:
        id = f"{name}-{number}"
        await ledger.accept_delivery(Delivery(id=id, event="push", body=id.encode() * 500, received=1.0))
        print(id, flush=True)
        number += 1

async def main():
    async with open_ledger(sys.argv[1]) as ledger, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: ledger.serve_writes(task_status=task_status))
        for task in range(4):
            nursery.start_soon(accept, ledger, f"{sys.argv[2]}-{task}")

trio.run(main)
"""


async def test_killed_at_any_moment_it_loses_nothing_acknowledged(tmp_path):
    """A process that accepts deliveries dies by SIGKILL; every id it had told is there, body and all (I1)."""
    told: list[str] = []

    def live_and_die(life: int) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", ACCEPT_FOREVER, str(tmp_path), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            lines = random.randint(1, 150)
            told.extend(child.stdout.readline().strip() for _ in range(lines))
            child.send_signal(signal.SIGKILL)
            told.extend(line.strip() for line in child.stdout if line.endswith("\n"))

    for life in range(8):
        await trio.to_thread.run_sync(live_and_die, life)
    assert len(told) > 8
    async with open_ledger(tmp_path) as ledger:
        for id in told:
            found = await ledger.delivery(id)
            assert found is not None, f"{id} was acknowledged and is gone"
            assert found.body == id.encode() * 500
        with ledger._reading.begin() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
