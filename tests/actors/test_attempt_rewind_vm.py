"""A step that goes back to before itself, on a real machine."""

from contextlib import asynccontextmanager

import pytest

from runnerd.actors.pool import PoolActor
from runnerd.jobs.standing import decode
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


@pytest.fixture
async def real(world, vm_driver, monkeypatch):
    """A world whose machines are real, one at a time."""

    @asynccontextmanager
    async def open_driver():
        yield vm_driver

    monkeypatch.setattr(conftest, "PATIENCE", 300.0)
    size = Size(vcpus=1, memory=256, disk=512)
    rules = PoolRules(min_idle=0, max_total=1, memory=1 << 20)
    actor = PoolActor(world.pool, open_driver, {"default": Kind(size=size)}, rules)
    await world.background(actor.run)
    await world.executor()
    return world


async def test_the_second_try_begins_as_the_first_did(real, tmp_path):
    """Files of earlier steps are there, those of the failed try are not, and the identity is new."""
    real.host.rewinds = Rules(steps=("*/flaky*",))
    remember = "cat /proc/sys/kernel/random/boot_id >/var/tmp/boot; echo kept >note"
    text = flow(build=STEPS).replace("echo kept >note", remember)
    run, jobs = await real.go(text)
    said = "\n".join(real.host.logs["build"].lines)
    assert run.outcome is Outcome.SUCCESS, (jobs, said)
    assert said.count("kept") >= 2
    assert "try 2 of 2" in said
    assert not list(tmp_path.glob("kept/*/*"))


FAILS = "steps: [{run: echo one >a}, {run: echo two >a}, {name: third, run: 'cat a; exit 1'}, {run: never}]"


async def test_what_is_kept_of_a_job_is_by_mode_and_end(real, tmp_path):
    """Of a failed job the newest, of one that succeeded none, with each-step all; each is small."""
    kept = real.host.kept
    for mode, text, steps in (
        ("on-failure", FAILS, [3]),
        ("on-failure", FAILS.replace("exit 1", "true"), []),
        ("each-step", FAILS.replace("exit 1", "true"), [2, 3, 4]),
    ):
        real.host.rewinds = Rules(mode=mode)
        _, jobs = await real.go(flow(build=text.replace("run: never", "run: 'true'")))
        found = kept.of(jobs["build"].id)
        assert [each.step for each in found] == steps, real.host.logs["build"].lines
        assert [each.bytes < 64 << 20 for each in found] == [True] * len(steps)
        standings = [decode(kept.standing(each)) for each in found]
        assert [len(standing.results) for standing in standings] == [step - 1 for step in steps]
