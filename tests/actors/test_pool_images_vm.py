"""A running pool of real microVMs takes up what was built, and goes back from what does not boot."""

import zipfile

import pytest
import trio

from runnerd.actors.pool import PoolActor
from runnerd.machines import generation_trial
from runnerd.machines.generations import Records, standing
from runnerd.machines.kinds import Kind, Rules
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.messages import ImagesChanged, LeaseMachine
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.reply import Reply

from ..conftest import PATIENT, VM_SIZE, with_a_note

pytestmark = pytest.mark.vm


def that_ends_at_once(path):
    """An agent with which no machine comes up."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__main__.py", "raise SystemExit(1)")


async def test_a_generation_is_taken_up_and_a_broken_one_goes_back(
    vm_image, generations, own_template, tmp_path, monkeypatch, nursery, eventually
):
    """A good one stays, one with which no machine comes up is left again; one good lease is enough here."""
    monkeypatch.setattr(generation_trial, "RETRY", 0.1)
    shelf = generations.folder
    folders = {"images": shelf, "snapshots": own_template.parent}

    async def build(agent):
        digest = await generations.build(agent)
        await mailbox.send(ImagesChanged())
        return digest

    async def lease():
        reply = Reply()
        await mailbox.send(LeaseMachine("default", 1, reply))
        return await reply.wait()

    mailbox = Mailbox(16)
    pool = PoolActor(
        mailbox,
        lambda: open_qemu_driver(state=tmp_path / "state", **folders, **PATIENT),
        {"default": Kind(size=VM_SIZE)},
        Rules(min_idle=0, memory=2048, builders=1, canary_leases=1),
        records=Records(shelf),
    )
    await nursery.start(pool.run)
    await (await lease()).destroy()
    second = await build(with_a_note)
    assert standing(shelf, "default").trial.before == vm_image.digest

    async def serve_until(holds):
        with trio.fail_after(600):
            while not holds():
                machine = await lease()
                await machine.destroy()
                await trio.sleep(0.2)

    await serve_until(lambda: standing(shelf, "default").trial is None)
    assert standing(shelf, "default").current == second
    broken = await build(that_ends_at_once)
    await eventually(lambda: standing(shelf, "default").failed, 600)
    now = standing(shelf, "default")
    assert (now.current, now.failed.digest, now.failed.bad) == (second, broken, generation_trial.TOO_MANY)
    await (await lease()).destroy()
    nursery.cancel_scope.cancel()
