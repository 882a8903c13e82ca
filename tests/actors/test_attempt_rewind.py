"""Steps that go back to before themselves: which, how often, and when not."""

import time

import pytest
import trio

from runnerd.machines import rewind
from runnerd.machines.driver import Capabilities
from runnerd.machines.fake import Replies, Reply
from runnerd.machines.kept import KeptMachines, make_key
from runnerd.machines.quota import Limits
from runnerd.machines.rewind import Rules
from runnerd.model import Outcome

from .conftest import flow, push_event, trio_value

KEEPS = Capabilities(isolated=True, snapshot=True)
ENDS = Capabilities(isolated=True, snapshot=True, snapshot_outlives=False)
"""Those of a remote service, whose snapshots end with their machine."""


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


async def go(world, tmp_path, behaviour, text, *, capabilities=KEEPS, times=1, event=None, mode="off"):
    world.host.rewinds = Rules(mode=mode, steps=("*/build/flaky*",), times=times)
    await world.machines(behaviour, capabilities=capabilities)
    await world.executor()
    return await world.go(text, event=event or push_event())


def kept(tmp_path):
    return sorted(path.name for path in tmp_path.glob("kept/*/*"))


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
    assert kept(tmp_path) == []


async def test_the_journal_has_both_machines_of_a_job_that_went_back(world, tmp_path):
    """Each with the attempt that had it, and with why it ended; the job's row and log name the last one."""
    _, jobs = await go(world, tmp_path, FailsOnce(), FLAKY)
    await world.no_machine_left()
    rows = await world.until(
        lambda: world.ledger.machine_history(9),
        lambda rows: len(rows) == 2 and all(row.stage == "gone" for row in rows),
    )
    assert {(row.job, row.epoch) for row in rows} == {(jobs["build"].id, 1)}
    assert sorted(row.why for row in rows) == [
        "its job ended: success",
        "its job went back to an earlier step",
    ]
    [last] = [row.id for row in rows if row.why == "its job ended: success"]
    assert jobs["build"].machine == last
    assert any(f"Machine: {last}, as the one before" in line for line in world.host.logs["build"].lines)


async def test_a_step_fails_after_its_last_try(world, tmp_path):
    """It is tried as often as is configured, and no more."""
    behaviour = FailsOnce(failures=9)
    run, _ = await go(world, tmp_path, behaviour, FLAKY, times=2)
    assert run.outcome is Outcome.FAILURE
    assert behaviour.began == [False, False, False]


async def test_a_token_that_the_job_cannot_name_is_not_in_the_way(world, tmp_path):
    """It never enters the machine."""
    world.host.token = "ghs_abc"
    run, _ = await go(world, tmp_path, FailsOnce(), FLAKY)
    assert run.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("secret", [True, False])
async def test_with_a_key_a_step_with_secrets_is_tried_again(world, tmp_path, secret):
    """Its machine is kept encrypted, and restored with the key; any other is not encrypted."""
    key = tmp_path / "key"
    make_key(key)
    world.host.kept = KeptMachines(tmp_path / "kept", Limits(), clock=time.time, key_file=key, seals=True)
    seen = []
    if secret:
        world.host.secrets = {"A": "open sesame"}

    class Looks(FailsOnce):
        async def exec(self, machine, command, output):
            seen.extend(each.encrypted for each in world.host.kept.all())
            return await super().exec(machine, command, output)

    run, _ = await go(world, tmp_path, Looks(), FLAKY, mode="each-step")
    assert run.outcome is Outcome.SUCCESS
    assert set(seen) == {secret}


@pytest.mark.parametrize(
    ("mode", "succeeds", "left"),
    [
        ("off", False, []),
        ("on-failure", False, ["step-02"]),
        ("on-failure", True, []),
        ("each-step", False, ["step-02", "step-03"]),
        ("each-step", True, ["step-02", "step-03"]),
    ],
)
async def test_what_stays_of_a_job_is_by_its_end(world, tmp_path, mode, succeeds, left):
    """Only the newest of a failed job, or all of any; the log of a failed one ends with how to go back to
    before the step that failed."""
    text = flow(build="steps: [{run: make}, {name: flaky one, run: flaky}, {if: always(), run: after}]")
    run, jobs = await go(world, tmp_path, FailsOnce(1 if succeeds else 9), text, mode=mode)
    assert (run.outcome is Outcome.SUCCESS) == succeeds
    assert kept(tmp_path) == left
    last = world.host.logs["build"].lines[-1]
    if left and not succeeds:
        assert f"`runnerd rerun {run.id} --job {jobs['build'].id} --from 2`" in last
        assert world.host.kept.find(jobs["build"].id, 2).run == run.id
    else:
        assert "is kept" not in last


async def test_a_cancelled_job_leaves_nothing(world, tmp_path):
    """As one that succeeded."""

    class Hangs(FailsOnce):
        async def exec(self, machine, command, output):
            if any(b"hang" in machine.files.get(word, b"") for word in command.argv):
                self.began.append(kept(tmp_path))
                await trio.sleep_forever()
            return await super().exec(machine, command, output)

    world.host.rewinds = Rules(mode="on-failure")
    behaviour = Hangs()
    await world.machines(behaviour, capabilities=KEEPS)
    await world.executor()
    run = await world.begin(flow(build="steps: [{run: make}, {run: hang}]"))
    await world.until(trio_value(lambda: behaviour.began), bool)
    await world.cancel(run)
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.CANCELLED
    assert behaviour.began == [["step-02"]]
    assert kept(tmp_path) == []


@pytest.mark.parametrize("mode", ["on-failure", "each-step"])
async def test_only_who_asked_is_told_that_nothing_is_kept(world, tmp_path, mode):
    """Once, as a line of the log."""
    event = push_event(name="pull_request", number=3, fork=True, ref="refs/pull/3/merge")
    text = flow(build="steps: [{run: make}, {run: make}, {run: make}]")
    run, _ = await go(world, tmp_path, FailsOnce(), text, mode=mode, event=event)
    assert run.outcome is Outcome.SUCCESS
    said = [line for line in world.host.logs["build"].lines if "not kept" in line]
    assert len(said) == (mode == "each-step")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("why", ["secret", "token", "driver", "mask", "fork", "beside"])
async def test_a_step_is_not_tried_again_where_nothing_may_be_kept(world, tmp_path, why, ends):
    """The log says so, and the failure stands."""
    event, capabilities, text = None, ENDS if ends else KEEPS, FLAKY
    if why == "secret":
        world.host.secrets = {"A": "open sesame"}
    elif why == "token":
        world.host.token = "ghs_abc"
        text = text.replace("run: make", "run: 'make ${{ github.token }}'")
    elif why == "driver":
        capabilities = Capabilities(isolated=True)
    elif why == "fork":
        event = push_event(name="pull_request", number=3, fork=True, ref="refs/pull/3/merge")
    elif why == "beside":
        text = text.replace("name: flaky one,", "name: flaky one, background: true,")
    behaviour = FailsOnce()
    if why == "mask":
        behaviour._replies = (("hide", Reply(stdout=b"::add-mask::open sesame\n")),)
        text = text.replace("run: make", "run: hide")
    run, _ = await go(world, tmp_path, behaviour, text, capabilities=capabilities, event=event)
    assert run.outcome is Outcome.FAILURE
    assert behaviour.began == [False]
    assert any("not tried again if it fails" in line for line in world.host.logs["build"].lines)


@pytest.mark.parametrize("mode", ["off", "on-failure", "each-step"])
async def test_a_machine_whose_snapshots_end_with_it_is_rolled_back(world, tmp_path, mode, capsys):
    """Its step is tried again, nobody is told of anything that is kept, and nothing stays; where people want
    machines kept that is said, once for all jobs, and in the log of each to who asked for each step."""
    behaviour = FailsOnce()
    run, jobs = await go(world, tmp_path, behaviour, FLAKY, capabilities=ENDS, mode=mode)
    assert run.outcome is Outcome.SUCCESS
    assert behaviour.began == [False, False]
    assert kept(tmp_path) == []
    assert list(tmp_path.glob("kept/*")) == []
    told = [line for line in world.host.logs["build"].lines if "not kept" in line]
    assert len(told) == (mode == "each-step")
    behaviour.began.clear()
    behaviour.failures = 9
    run, jobs = await world.go(FLAKY, event=push_event())
    assert run.outcome is Outcome.FAILURE
    assert behaviour.began == [False, False]
    said = capsys.readouterr()
    assert (said.out + said.err).count("[snapshots] keeps no machine here") == (mode != "off")
    assert ("end with their machine" in jobs["build"].not_kept) == (mode != "off")
    assert list(tmp_path.glob("kept/*")) == []


async def test_the_journal_has_both_names_of_a_machine_that_was_rolled_back(world, tmp_path):
    """The first has gone because of that, the second is the job's, and its place is its own."""
    _, jobs = await go(world, tmp_path, FailsOnce(), FLAKY, capabilities=ENDS)
    await world.no_machine_left()
    rows = await world.until(
        lambda: world.ledger.machine_history(9),
        lambda rows: len(rows) == 2 and all(row.stage == "gone" for row in rows),
    )
    assert {(row.job, row.epoch) for row in rows} == {(jobs["build"].id, 1)}
    assert {row.id: row.why for row in rows} == {
        "fake-1": "rolled back: its job went back to an earlier step",
        "fake-2": "its job ended: success",
    }
    assert jobs["build"].machine == "fake-2"


@pytest.mark.parametrize("capabilities", [KEEPS, ENDS])
async def test_a_machine_that_cannot_be_gone_back_to_is_lost(world, tmp_path, monkeypatch, capabilities):
    """The job is lost with the reason, never green."""
    real = FailsOnce.exec

    async def harms(self, machine, command, output):
        for each in (*tmp_path.glob("kept/*/*/snapshot.json"), *tmp_path.glob("kept/*/.*/snapshot.json")):
            each.write_bytes(b"{}")
        return await real(self, machine, command, output)

    monkeypatch.setattr(FailsOnce, "exec", harms)
    run, jobs = await go(world, tmp_path, FailsOnce(), FLAKY, capabilities=capabilities)
    assert run.outcome is not Outcome.SUCCESS
    assert jobs["build"].outcome is Outcome.LOST
    assert "gone back to" in jobs["build"].reason
    await world.no_machine_left()
    await world.until(
        lambda: world.ledger.machine_history(9), lambda rows: {row.stage for row in rows} == {"gone"}
    )


class Masks(FailsOnce):
    """Its `flaky` masks a value first, and then sees what anybody would find of its job's machines."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.found = []

    async def exec(self, machine, command, output):
        if any(b"flaky" in machine.files.get(word, b"") for word in command.argv):
            await output("stdout", b"::add-mask::open sesame\n")
            self.found.append(self.seen())
        return await super().exec(machine, command, output)


async def test_what_is_not_encrypted_is_found_by_nobody_once_a_value_is_masked(world, tmp_path):
    """Whenever the daemon were killed from then on; the step that did it is tried again all the same."""
    behaviour = Masks(lambda: world.host.kept.all())
    run, _ = await go(world, tmp_path, behaviour, FLAKY, mode="each-step")
    assert run.outcome is Outcome.SUCCESS
    assert behaviour.began == [False, False]
    assert behaviour.found == [(), ()]
    assert kept(tmp_path) == []


async def test_the_log_says_why_there_is_none_from_before_the_failure(world, tmp_path, monkeypatch):
    """After how the earlier one can be used."""
    monkeypatch.setattr(rewind.JobRewind, "_left", lambda self: -1.0 if self._newest else 1.0)
    text = flow(build="steps: [{run: make}, {run: make}, {name: flaky one, run: flaky}]")
    world.host.rewinds = Rules(mode="on-failure")
    await world.machines(FailsOnce(9), capabilities=KEEPS)
    await world.executor()
    run, jobs = await world.go(text)
    assert run.outcome is Outcome.FAILURE
    assert kept(tmp_path) == ["step-02"]
    assert "--from 2`" in world.host.logs["build"].lines[-2]
    assert world.host.logs["build"].lines[-1] == f"None is kept from before step 3: {rewind.TOO_LONG}."
    assert jobs["build"].not_kept == rewind.TOO_LONG
