"""A pool of real machines that kills itself, with SIGKILL, when a machine is about to enter a stage.

Run as `python -m tests.daemon.dying STATE SHARED STAGE`.
"""

import os
import signal
import sys
from pathlib import Path

import trio

from runnerd.actors.pool import PoolActor
from runnerd.config import load
from runnerd.daemon import drivers
from runnerd.machines.driver import Size
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.messages import LeaseMachine
from runnerd.store.ledger import open_ledger
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

SIZE = Size(vcpus=1, memory=256, disk=512)


def opener(state, shared, ledger, heard):
    """The driver of real machines with the ledger as its journal; `heard` hears each note that is durable."""

    def open_(config, journal, own):
        async def noted(note):
            await journal(note)
            if not note.why:  # a template's machine is not meant
                heard(note.state)

        return open_qemu_driver(
            state=own,
            images=shared / "images",
            snapshots=shared / "snapshots",
            journal=noted,
            ready_timeout=60.0,
        )

    config = load(None, environ={"STATE_DIRECTORY": str(state), "HOME": str(state)})
    return drivers.opener(config, ledger, open_)


async def main(state, shared, stage):
    """Lease one machine, end it, and die on the way."""

    def heard(now):
        if now == stage:
            os.kill(os.getpid(), signal.SIGKILL)

    def journal(news):
        ledger.tell_machine(news)
        heard(news.stage.value)

    async with open_ledger(state) as ledger, trio.open_nursery() as nursery:
        await nursery.start(ledger.serve_writes)
        mailbox = Mailbox(4)
        pool = PoolActor(
            mailbox,
            opener(state, shared, ledger, heard),
            {"default": Kind(size=SIZE)},
            Rules(min_idle=0, memory=4096),
            journal=journal,
        )
        await nursery.start(pool.run)
        reply = Reply()
        await mailbox.send(LeaseMachine("default", 7, reply))
        machine = await reply.wait()
        await machine.destroy()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
