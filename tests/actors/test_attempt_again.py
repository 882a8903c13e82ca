"""A part of a run again: jobs that go on from a step, those carried over, and machines that are gone."""

import shutil

import pytest
import trio

from runnerd.machines import rewind
from runnerd.machines.driver import Capabilities
from runnerd.machines.fake import Replies, Reply
from runnerd.machines.kept import KeptMachines, make_key
from runnerd.machines.quota import Limits
from runnerd.messages import RunCreated
from runnerd.model import Outcome, Phase
from runnerd.planning.again import Wish, part_of
from runnerd.reading.process import Reader

from .conftest import flow

KEEPS = Capabilities(isolated=True, snapshot=True)
TEXT = flow(
    build="outputs: {tag: '${{ steps.made.outputs.tag }}'}, steps: [{id: made, run: first}, {run: second}, "
    "{name: The gate, run: third}]",
    aside="steps: [{run: aside}]",
    deploy="needs: build, steps: [{run: 'deploys ${{ needs.build.outputs.tag }}'}]",
)


class Remembers(Replies):
    """Remembers the scripts it ran, with what files and which variable they met."""

    def __init__(self, *replies):
        super().__init__(replies)
        self.ran = []

    async def exec(self, machine, command, output):
        for word in command.argv:
            script = machine.files.get(word, b"").decode()
            if script:
                self.ran.append((script.strip(), machine.files.get("/made"), command.env.get("KNOWN")))
        return await super().exec(machine, command, output)


FIRST = Reply(writes={"GITHUB_OUTPUT": b"tag=v7\n", "GITHUB_ENV": b"KNOWN=yes\n"})
SECOND = Reply(writes={"/made": b"by the second"})


async def began(world, behaviour):
    """Start a pool of such machines and an executor; returns how to end both."""
    world.host.rewinds = rewind.Rules(mode="on-failure")
    scopes = [await world.machines(behaviour, capabilities=KEEPS), await world.executor()]

    async def end():
        for scope, ended in reversed(scopes):
            scope.cancel()
            await ended.wait()

    return end


async def failed(world):
    """A run whose job `build` failed at its third step, with its machine kept, and nobody who serves."""
    end = await began(world, Remembers(("first", FIRST), ("second", SECOND), ("third", Reply(code=1))))
    run, jobs = await world.go(TEXT)
    await end()
    assert {name: job.outcome for name, job in jobs.items()} == {
        "build": Outcome.FAILURE, "aside": Outcome.SUCCESS, "deploy": Outcome.SKIPPED,
    }  # fmt: skip
    return run, jobs


async def again(world, run, job="", step=""):
    """Write the next attempt of a part of a run; returns it."""
    wish = Wish(job=job, step=step)
    part = await part_of(run, wish, ledger=world.ledger, reader=Reader(), kept=world.host.kept.of)
    return await world.ledger.rerun(run.id, part.again)


async def test_a_job_goes_on_from_its_step(world):
    """Other daemons take it up: what came before is there and does not run again, who needs it runs."""
    run, old = await failed(world)
    next_run = await again(world, run, "build", "The gate")
    behaviour = Remembers()
    await began(world, behaviour)
    record, jobs = await world.finished(next_run)
    assert record.outcome is Outcome.SUCCESS
    assert behaviour.ran == [("third", b"by the second", "yes"), ("deploys v7", None, None)]
    build = jobs["build"]
    assert build.steps[:2] == old["build"].steps[:2]
    assert [step.outcome for step in build.steps] == [Outcome.SUCCESS] * 3
    assert (build.outputs, build.resumes) == ({"tag": "v7"}, f"{old['build'].id}/3")
    assert jobs["aside"].carried == f"{run.id}/{old['aside'].id}"
    assert (jobs["aside"].outcome, jobs["aside"].ended) == (Outcome.SUCCESS, old["aside"].ended)
    said = "\n".join(world.host.logs["build"].lines)
    assert f"as it was in job {old['build'].id}" in said
    assert world.host.kept.all() == ()  # the job has succeeded: what it went on from is of no use any more


async def test_no_limit_removes_what_a_job_waits_to_go_on_from(world):
    """Neither at the start of a daemon nor later; when the job has ended the limits hold for it as well."""
    run, old = await failed(world)
    next_run = await again(world, run, "build", "3")
    world.host.kept.limits = Limits(age=-1.0)
    behaviour = HangsAt()
    await began(world, behaviour)
    build = await world.job(next_run, Phase.RUNNING)
    assert world.ledger.awaited_machines() == {f"{old['build'].id}/3"}
    assert world.host.kept.sweep() == ()
    await world.cancel(next_run)
    await world.finished(next_run)
    assert [(each.job, each.step) for each in world.host.kept.sweep()] == [(old["build"].id, 3)]
    assert build.resumes == f"{old['build'].id}/3"


async def test_a_job_that_fails_again_can_go_on_again(world):
    """The machine it went on from serves as often as it is asked."""
    run, _ = await failed(world)
    fails = Remembers(("third", Reply(code=1)))
    end = await began(world, fails)
    for attempt in (2, 3):
        next_run = await again(world, run, "build", "3")
        await world.mailbox.send(RunCreated(next_run))
        run, jobs = await world.finished(next_run)
        assert (run.attempt, jobs["build"].outcome) == (attempt, Outcome.FAILURE)
    await end()
    assert [script for script, _, _ in fails.ran] == ["third", "third"]


async def test_jobs_that_failed_run_again_from_their_start(world):
    """Each in a fresh machine; what succeeded is not run."""
    run, _ = await failed(world)
    next_run = await again(world, run)
    behaviour = Remembers(("first", FIRST), ("second", SECOND))
    await began(world, behaviour)
    record, _ = await world.finished(next_run)
    assert record.outcome is Outcome.SUCCESS
    assert behaviour.ran == [
        ("first", None, None),
        ("second", None, "yes"),
        ("third", b"by the second", "yes"),
        ("deploys v7", None, None),
    ]


class HangsAt(Remembers):
    """Stays for ever in the step whose script is `third`."""

    def __init__(self, *replies):
        super().__init__(*replies)
        self.there = trio.Event()

    async def exec(self, machine, command, output):
        ended = await super().exec(machine, command, output)
        if self.ran and self.ran[-1][0] == "third":
            self.there.set()
            await trio.sleep_forever()
        return ended


async def test_a_job_that_was_lost_goes_on_from_the_step_it_was_in(world):
    """Its daemon died within the third step; the machine as it was before that outlived both."""
    behaviour = HangsAt(("first", FIRST), ("second", SECOND))
    end = await began(world, behaviour)
    lost = await world.begin(TEXT)
    await world.until(lambda: world.jobs(lost), lambda jobs: jobs["aside"].phase is Phase.DONE)
    await world.wait(behaviour.there)
    await end()
    after = Remembers()
    await began(world, after)
    run, jobs = await world.finished(lost)
    assert jobs["build"].outcome is Outcome.LOST
    next_run = await again(world, run, "build", "3")
    await world.mailbox.send(RunCreated(next_run))
    record, _ = await world.finished(next_run)
    assert record.outcome is Outcome.SUCCESS
    assert after.ran == [("third", b"by the second", "yes"), ("deploys v7", None, None)]


@pytest.mark.parametrize("what", ["folder", "machine", "standing"])
async def test_a_machine_that_is_gone_ends_the_job(world, what):
    """It is our fault and said so, it is not tried again, and nothing of the job runs."""
    run, _ = await failed(world)
    next_run = await again(world, run, "build", "3")
    [kept] = world.host.kept.all()
    if what == "folder":
        shutil.rmtree(kept.folder)
    else:
        (kept.folder / ("snapshot.json" if what == "machine" else "standing")).write_bytes(b"{}")
    behaviour = Remembers()
    await began(world, behaviour)
    record, jobs = await world.finished(next_run)
    build = jobs["build"]
    assert (build.outcome, build.epoch, build.steps) == (Outcome.INFRA_ERROR, 0, ())
    assert {"folder": "not kept any more", "machine": "cannot be gone back to", "standing": "cannot be read"}[
        what
    ] in build.reason
    assert (record.outcome, jobs["deploy"].outcome) == (Outcome.INFRA_ERROR, Outcome.SKIPPED)
    assert behaviour.ran == []


async def test_secrets_and_the_token_are_given_anew(world, tmp_path):
    """The job sees those of today in every place, its log hides them, and how it stood holds none."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    world.host.kept = KeptMachines(tmp_path / "kept", Limits(), clock=lambda: 1.0, key_file=key, seals=True)
    world.host.secrets, world.host.token = {"A": "sesame of then"}, "ghs_of_then"
    text = flow(
        build="env: {ALL: '${{ secrets.A }}'}, steps: [{run: second}, "
        "{run: third, env: {HERE: '${{ secrets.A }}', TOKEN: '${{ github.token }}'}}]"
    )
    met = {}

    class Meets(Remembers):
        async def exec(self, machine, command, output):
            ended = await super().exec(machine, command, output)
            if self.ran and self.ran[-1][0] == "third":
                met.update({name: command.env[name] for name in ("ALL", "HERE", "TOKEN")})
                await output("stdout", b"sesame of then, sesame of now\n")
            return ended

    end = await began(world, Meets(("third", Reply(code=1))))
    run, _ = await world.go(text)
    assert met == {"ALL": "sesame of then", "HERE": "sesame of then", "TOKEN": "ghs_of_then"}
    [kept] = world.host.kept.all()
    assert kept.encrypted
    assert b"sesame" not in (kept.folder / "standing").read_bytes()
    await end()
    world.host.logs.clear()
    world.host.secrets, world.host.token = {"A": "sesame of now"}, "ghs_of_now"
    next_run = await again(world, run, "build", "2")
    await began(world, Meets())
    record, _ = await world.finished(next_run)
    assert record.outcome is Outcome.SUCCESS
    assert met == {"ALL": "sesame of now", "HERE": "sesame of now", "TOKEN": "ghs_of_now"}
    # Those of before are in the machine still.
    assert "sesame" not in "\n".join(world.host.logs["build"].lines)
    assert [what for what, _ in world.host.tokens] == ["made", "revoked"] * 2


async def test_a_machine_that_was_encrypted_is_so_again(world, tmp_path):
    """Whoever goes on in it, although there is no secret any more: it holds those of before."""
    key = tmp_path / "key"
    make_key(key)
    world.host.kept = KeptMachines(tmp_path / "kept", Limits(), clock=lambda: 1.0, key_file=key, seals=True)
    world.host.secrets = {"A": "open sesame"}
    fails = Remembers(("first", FIRST), ("third", Reply(code=1)))
    end = await began(world, fails)
    run, _ = await world.go(TEXT)
    world.host.secrets = {}
    next_run = await again(world, run, "build", "3")
    await world.mailbox.send(RunCreated(next_run))
    _, jobs = await world.finished(next_run)
    await end()
    assert [each.encrypted for each in world.host.kept.of(jobs["build"].id)] == [True]
