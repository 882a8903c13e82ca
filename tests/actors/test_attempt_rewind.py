"""Steps that go back to before themselves: which, how often, and when not."""

import pytest
import trio

from runnerd.machines.driver import Capabilities
from runnerd.machines.fake import Replies, Reply
from runnerd.machines.rewind import Rules
from runnerd.model import Outcome

from .conftest import flow, push_event

KEEPS = Capabilities(isolated=True, snapshot=True)


class FailsOnce(Replies):
    """Its first `flaky` fails and leaves a file; remembers what files each try began with."""

    def __init__(self, failures=1):
        super().__init__([])
        self.failures = failures
        self.began = []

    async def exec(self, machine, command, output):
        scripts = [machine.files.get(word, b"") for word in command.argv]
        if not any(b"flaky" in script for script in scripts):
            return await super().exec(machine, command, output)
        await trio.lowlevel.checkpoint()
        self.began.append("/left" in machine.files)
        machine.files["/left"] = b"half done"
        failed = len(self.began) <= self.failures
        return await Replies([], otherwise=Reply(code=int(failed))).exec(machine, command, output)


async def go(world, tmp_path, behaviour, text, *, capabilities=KEEPS, times=1, event=None):
    world.host.retries = Rules(folder=tmp_path / "kept", steps=("*/build/flaky*",), times=times)
    await world.machines(behaviour, capabilities=capabilities)
    await world.executor()
    return await world.go(text, event=event or push_event())


FLAKY = flow(build="steps: [{run: make}, {name: flaky one, run: flaky}, {run: after}]")


async def test_a_step_that_fails_is_tried_again_from_before_it(world, tmp_path):
    """What the failed try left is gone, the job goes on, and a warning tells of it."""
    behaviour = FailsOnce()
    run, jobs = await go(world, tmp_path, behaviour, FLAKY)
    assert run.outcome is Outcome.SUCCESS
    assert behaviour.began == [False, False]
    said = "\n".join(world.host.logs["build"].lines)
    assert "try 2 of 2" in said
    assert [step.outcome for step in jobs["build"].steps] == [Outcome.SUCCESS] * 3
    assert not list((tmp_path / "kept").iterdir())


async def test_a_step_fails_after_its_last_try(world, tmp_path):
    """It is tried as often as is configured, and no more."""
    behaviour = FailsOnce(failures=9)
    run, _ = await go(world, tmp_path, behaviour, FLAKY, times=2)
    assert run.outcome is Outcome.FAILURE
    assert behaviour.began == [False, False, False]


@pytest.mark.parametrize("why", ["secret", "token", "driver", "ends", "mask", "fork"])
async def test_a_step_is_not_tried_again_where_nothing_may_be_kept(world, tmp_path, why):
    """The log says so, and the failure stands."""
    event, capabilities, text = None, KEEPS, FLAKY
    if why == "secret":
        world.host.secrets = {"A": "open sesame"}
    elif why == "token":
        world.host.token = "ghs_abc"
    elif why == "driver":
        capabilities = Capabilities(isolated=True)
    elif why == "ends":
        capabilities = Capabilities(isolated=True, snapshot=True, snapshot_outlives=False)
    elif why == "fork":
        event = push_event(name="pull_request", number=3, fork=True, ref="refs/pull/3/merge")
    behaviour = FailsOnce()
    if why == "mask":
        behaviour._replies = (("hide", Reply(stdout=b"::add-mask::open sesame\n")),)
        text = text.replace("run: make", "run: hide")
    run, _ = await go(world, tmp_path, behaviour, text, capabilities=capabilities, event=event)
    assert run.outcome is Outcome.FAILURE
    assert behaviour.began == [False]
    assert any("not tried again if it fails" in line for line in world.host.logs["build"].lines)


async def test_a_machine_that_cannot_be_gone_back_to_is_lost(world, tmp_path, monkeypatch):
    """The job is lost with the reason, never green."""
    real = FailsOnce.exec

    async def harms(self, machine, command, output):
        for each in tmp_path.glob("kept/*/snapshot.json"):
            each.write_bytes(b"{}")
        return await real(self, machine, command, output)

    monkeypatch.setattr(FailsOnce, "exec", harms)
    run, jobs = await go(world, tmp_path, FailsOnce(), FLAKY)
    assert run.outcome is not Outcome.SUCCESS
    assert jobs["build"].outcome is Outcome.LOST
    assert "gone back to" in jobs["build"].reason
