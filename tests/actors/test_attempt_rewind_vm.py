"""A step that goes back to before itself, on a real machine."""

from contextlib import asynccontextmanager

import pytest

from runnerd.actors.pool import PoolActor
from runnerd.machines.driver import Size
from runnerd.machines.kinds import Kind
from runnerd.machines.kinds import Rules as PoolRules
from runnerd.machines.rewind import Rules
from runnerd.model import Outcome

from . import conftest
from .conftest import flow

pytestmark = pytest.mark.vm

STEPS = (
    "steps: [{name: before, run: echo kept >note}, "
    "{name: flaky one, run: 'cat note; test ! -e left || exit 9; touch left; "
    'test "$(cat /proc/sys/kernel/random/boot_id)" != "$(cat /var/tmp/boot)"\'}]'
)


async def test_the_second_try_begins_as_the_first_did(world, vm_driver, tmp_path, monkeypatch):
    """Files of earlier steps are there, those of the failed try are not, and the identity is new."""

    @asynccontextmanager
    async def open_driver():
        yield vm_driver

    monkeypatch.setattr(conftest, "PATIENCE", 120.0)
    world.host.rewinds = Rules(steps=("*/flaky*",))
    size = Size(vcpus=1, memory=256, disk=512)
    rules = PoolRules(min_idle=0, max_total=1, memory=1 << 20)
    actor = PoolActor(world.pool, open_driver, {"default": Kind(size=size)}, rules)
    await world.background(actor.run)
    await world.executor()
    remember = "cat /proc/sys/kernel/random/boot_id >/var/tmp/boot; echo kept >note"
    text = flow(build=STEPS).replace("echo kept >note", remember)
    run, jobs = await world.go(text)
    said = "\n".join(world.host.logs["build"].lines)
    assert run.outcome is Outcome.SUCCESS, (jobs, said)
    assert said.count("kept") >= 2
    assert "try 2 of 2" in said
    assert not list(tmp_path.glob("kept/*/*"))
