"""What one attempt of a job gets, and how it is made, repeated, refused and recorded."""

import pytest

from runnerd.actors import attempt
from runnerd.machines.driver import Capabilities, Size
from runnerd.machines.fake import Hangs, Succeeds, open_fake_driver
from runnerd.messages import LeaseMachine, PoolRestarted
from runnerd.model import Outcome, Phase

from .conftest import ONE_JOB, flow, push_event


async def test_strangers_code_is_refused_by_machines_that_do_not_hold_it(world):
    """A fork's pull request on an emulated machine is not run, and says what would help."""
    await world.machines(capabilities=Capabilities(isolated=True, emulated=True))
    await world.executor()
    fork = push_event(name="pull_request", number=3, fork=True, ref="refs/pull/3/merge")
    run, jobs = await world.go(ONE_JOB, event=fork)
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["build"].reason == attempt.WEAK
    assert jobs["build"].steps == ()
    world.host.allow_emulated_forks = True
    run, _ = await world.go(ONE_JOB, event=fork)
    assert run.outcome is Outcome.SUCCESS


async def test_the_journal_of_machines_says_what_a_job_had(world):
    """Which attempt had the machine, and that it ended with the job, with the outcome."""
    await world.machines()
    await world.executor()
    _, jobs = await world.go(ONE_JOB)
    await world.no_machine_left()
    seen = await world.until(
        lambda: world.ledger.machine_history(9), lambda rows: rows and rows[0].stage == "gone"
    )
    [machine] = seen
    assert (machine.id, machine.job, machine.epoch) == (jobs["build"].machine, jobs["build"].id, 1)
    assert machine.why == "its job ended: success"
    assert machine.warm <= machine.leased <= machine.ended


async def test_a_job_asks_for_the_secrets_it_can_name(world):
    """And for its environment; what it is given reaches the step that names it."""
    await world.machines()
    world.host.secrets = {"TOKEN": "open sesame"}
    await world.executor()
    text = flow(
        build='environment: {name: "${{ github.ref_name }}"}, '
        "steps: [{run: x, env: {T: '<${{ secrets.TOKEN }}>'}}]"
    )
    seen = []
    real = Succeeds.exec

    async def exec(self, machine, command, output):
        seen.append(command.env.get("T"))
        return await real(self, machine, command, output)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Succeeds, "exec", exec)
        await world.go(text)
    assert [each for each in seen if each is not None] == ["<open sesame>"]
    assert world.host.asked == [("push", frozenset({"TOKEN"}), "main")]


async def test_a_host_without_its_secrets_runs_no_job(world, monkeypatch):
    """That is our fault, never a job that runs without them."""

    async def refused(run, named, environment):
        raise attempt.NoSecrets("/x may be read by others")

    await world.machines()
    monkeypatch.setattr(world.host, "secrets_for", refused)
    await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.INFRA_ERROR
    assert "may be read by others" in jobs["build"].reason


@pytest.mark.parametrize(
    ("fork", "permissions"), [(False, {"issues": "write"}), (True, {"issues": "read"})], ids=["own", "fork"]
)
async def test_a_job_has_a_token_of_its_own_while_it_runs(world, fork, permissions):
    """As narrow as its `permissions`, for a fork to read; both names give it, and it is hidden in the log."""
    await world.machines()
    world.host.token = "ghs_1234_anything.of-any-length"
    await world.executor()
    text = flow(
        build="permissions: {issues: write}, "
        "steps: [{run: x, env: {T: '${{ github.token }} ${{ secrets.GITHUB_TOKEN }}'}}]"
    )
    seen = []
    real = Succeeds.exec

    async def exec(self, machine, command, output):
        seen.append((command.env.get("T"), list(world.host.tokens)))
        return await real(self, machine, command, output)

    event = push_event(name="pull_request", number=3, fork=True) if fork else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Succeeds, "exec", exec)
        run, _ = await world.go(text, event=event)
    assert run.outcome is Outcome.SUCCESS
    while_it_ran = [("made", permissions)]
    assert (f"{world.host.token} {world.host.token}", while_it_ran) in seen
    assert world.host.tokens == [*while_it_ran, ("revoked", permissions)]
    assert world.host.token not in "".join(world.host.logs["build"].lines)


async def test_a_pool_that_went_down_is_asked_again(world):
    """The wait for a machine survives the pool's restart."""
    run = await world.plan(ONE_JOB)
    await world.executor()
    lease = await world.pool.receive()
    assert isinstance(lease, LeaseMachine)
    assert lease.reply.refuse(PoolRestarted("the machine pool stopped"))
    await world.machines()
    record, _ = await world.finished(run)
    assert record.outcome is Outcome.SUCCESS


async def test_a_machine_that_comes_too_late_is_destroyed(world, monkeypatch):
    """Handed over in the moment the wait is called off, it serves nobody and is not leaked."""
    await world.executor()
    run = await world.begin(ONE_JOB)
    lease = await world.pool.receive()
    async with open_fake_driver() as world.driver:
        machine = await world.driver.clone(await world.driver.build_template("default", Size(memory=128)))
        stop_waiting, taken = attempt.Attempt.stop_waiting, []

        def too_late(late):
            stop_waiting(late)
            taken.append(lease.reply.give(machine))

        monkeypatch.setattr(attempt.Attempt, "stop_waiting", too_late)
        await world.cancel(run)
        record, _ = await world.finished(run)
        assert (record.outcome, taken) == (Outcome.CANCELLED, [True])
        await world.no_machine_left()


async def test_a_stale_attempt_ends_without_a_word(world):
    """When another attempt took the job over, the old one stops, writes nothing and crashes nobody."""
    await world.machines(Hangs())
    _, ended = await world.executor()
    run = await world.begin(ONE_JOB)
    (machine,) = await world.in_step()
    job = await world.job(run, Phase.RUNNING)
    await world.ledger.retry_job(job.id, job.epoch, "taken over")
    assert await world.ledger.claim_job(job.id, "elsewhere") == 2
    await machine.signal(15)
    await world.no_machine_left()
    now = await world.ledger.job(job.id)
    assert (now.phase, now.epoch, now.machine, now.steps) == (Phase.RUNNING, 2, "elsewhere", ())
    assert not ended.is_set()


async def test_a_fault_within_a_job_is_its_infrastructure_error(world, monkeypatch):
    """It is tried again only while no step had started, and never crashes the actor."""

    async def faulty(spec, machine, *, observer, **others):
        await observer.step_started(1, "a step")
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(attempt, "run_job", faulty)
    await world.machines()
    _, ended = await world.executor()
    run, jobs = await world.go(ONE_JOB)
    assert run.outcome is Outcome.INFRA_ERROR
    assert (jobs["build"].epoch, jobs["build"].reason) == (
        1,
        "a fault of runnerd itself (KeyError): its log says where",
    )
    assert not ended.is_set()
    await world.no_machine_left()


async def test_a_strategy_that_fails_only_for_its_job_ends_that_job(world):
    """An expression that holds while planning and fails for the running job is a startup failure."""
    await world.machines()
    _, ended = await world.executor()
    run, jobs = await world.go(
        flow(
            build="strategy: {matrix: {v: [1]}, "
            """fail-fast: "${{ github.job == '' || fromJSON(github.job) }}"}"""
        )
    )
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert jobs["build (1)"].reason.startswith("`strategy` of job 'build'")
    assert not ended.is_set()
