"""The executor with reusable workflows and concurrency groups, also across a crash."""

from runnerd.machines.fake import Hangs, Replies, Reply, Succeeds
from runnerd.messages import RunCreated
from runnerd.model import Outcome, Phase
from runnerd.planning.again import Wish, part_of
from runnerd.reading.process import Reader
from runnerd.store.changes import NewCalled
from runnerd.workflow.concurrency import Standing

from .conftest import flow

NAME = "./.github/workflows/c.yml"
INNER = (
    "on: {workflow_call: {inputs: {who: {type: string}}, secrets: {key: {required: true}}}}\n"
    "env: {WHO: '${{ inputs.who }}', KEY: '${{ secrets.key }}'}\n"
    "jobs:\n  one: {runs-on: fast, steps: [{run: a, env: {FILE: '${{ job.workflow_ref }}'}}]}\n"
    "  two: {needs: one, runs-on: fast, steps: [{run: b}]}\n"
)
OUTER = (
    "on: push\nenv: {MINE: 'yes'}\njobs:\n"
    f"  call: {{uses: {NAME}, with: {{who: ada}}, secrets: {{key: 'k-${{{{ secrets.TOKEN }}}}'}}}}\n"
    "  after: {needs: call, runs-on: fast, steps: [{run: c}]}\n"
)
CALLED = (
    NewCalled(
        name=NAME, text=INNER, repository="octo/hello", path=NAME[2:], ref="refs/heads/main", sha="a" * 40
    ),
)
GROUP = flow(build="").replace("jobs:", "concurrency: {group: deploy}\njobs:")


async def test_a_called_workflow_runs_with_what_it_was_given(world, monkeypatch):
    """Its inputs, the secret that was mapped, its own `env` and not the caller's, and where it is from."""
    seen = []
    real = Succeeds.exec

    async def exec(self, machine, command, output):
        seen.append({name: command.env.get(name) for name in ("WHO", "KEY", "MINE", "FILE")})
        return await real(self, machine, command, output)

    monkeypatch.setattr(Succeeds, "exec", exec)
    world.host.secrets = {"TOKEN": "sesame"}
    await world.machines()
    await world.executor()
    run, jobs = await world.go(OUTER, called=CALLED)
    assert run.outcome is Outcome.SUCCESS
    assert set(jobs) == {"call / one", "call / two", "after"}
    file = f"octo/hello/{NAME[2:]}@refs/heads/main"
    assert {"WHO": "ada", "KEY": "k-sesame", "MINE": None, "FILE": file} in seen
    assert {"WHO": None, "KEY": None, "MINE": "yes", "FILE": None} in seen


async def test_a_run_goes_on_within_a_called_workflow_after_a_crash(world):
    """The next executor reads the same files and calls from the ledger, and finishes the inner jobs."""
    await world.machines(Hangs(), Succeeds())
    scope, ended = await world.executor()
    run = await world.begin(OUTER.replace("k-${{ secrets.TOKEN }}", "k"), called=CALLED)
    await world.in_step()
    assert [call.inputs for call in await world.ledger.calls(run)] == [{"who": "ada"}]
    scope.cancel()
    await world.wait(ended)
    await world.no_machine_left()
    await world.executor()
    record, jobs = await world.finished(run)
    assert record.outcome is not Outcome.SUCCESS
    assert jobs["call / one"].outcome is Outcome.LOST
    assert [jobs[name].outcome for name in ("call / two", "after")] == [Outcome.SKIPPED] * 2


async def test_a_second_run_of_a_group_waits_for_the_first(world):
    """It says for whom; it starts when the first has ended."""
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    first = await world.begin(GROUP)
    (machine,) = await world.in_step()
    second = await world.begin(GROUP)
    waiting = await world.until(lambda: world.ledger.run(second), lambda run: run.reason)
    assert waiting.reason.startswith(f"waits for run {first} ")
    await machine.signal(15)
    await world.finished(first)
    record, _ = await world.finished(second)
    assert (record.outcome, record.reason) == (Outcome.SUCCESS, "")


async def test_the_newest_takes_the_place_of_who_waits(world):
    """The older one is cancelled with the reason, and no machine is wasted on it."""
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    first = await world.begin(GROUP)
    (machine,) = await world.in_step()
    second = await world.begin(GROUP)
    await world.until(lambda: world.ledger.run(second), lambda run: run.reason)
    third = await world.begin(GROUP)
    record, jobs = await world.finished(second)
    assert record.outcome is Outcome.CANCELLED
    assert f"run {third} " in record.reason
    assert jobs["build"].machine == ""
    await machine.signal(15)
    await world.finished(first)
    assert (await world.finished(third))[0].outcome is Outcome.SUCCESS


async def test_cancel_in_progress_stops_who_runs(world):
    """The newcomer starts once the running one has stopped."""
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    first = await world.begin(GROUP)
    await world.in_step()
    second = await world.begin(GROUP.replace("deploy}", "Deploy, cancel-in-progress: true}"))
    members = await world.until(
        lambda: world.ledger.members(first), lambda all: all[0].standing is Standing.STOPPING
    )
    assert f"run {second} " in members[0].reason
    assert (await world.finished(first))[0].outcome is Outcome.CANCELLED
    assert (await world.finished(second))[0].outcome is Outcome.SUCCESS


async def test_who_waits_in_a_group_still_waits_after_a_crash(world):
    """The group is in the ledger: nothing overlaps, and the turn comes."""
    await world.machines(Hangs(), Hangs(), Succeeds())
    scope, ended = await world.executor()
    first = await world.begin(GROUP)
    await world.in_step()
    second = await world.begin(GROUP)
    await world.until(lambda: world.ledger.run(second), lambda run: run.reason)
    scope.cancel()
    await world.wait(ended)
    await world.no_machine_left()
    await world.executor()
    record, _ = await world.finished(first)
    assert record.outcome is Outcome.LOST
    (machine,) = await world.in_step()
    assert (await world.ledger.run(second)).phase is Phase.RUNNING
    await machine.signal(15)
    await world.finished(second)


async def test_jobs_of_one_group_do_not_overlap(world):
    """The second job's row says why it waits."""
    text = flow(build="concurrency: g", other="concurrency: {group: G, queue: max}")
    await world.machines(Hangs(), Succeeds())
    await world.executor()
    run = await world.begin(text)
    (machine,) = await world.in_step()
    waiting = await world.until(lambda: world.jobs(run), lambda jobs: jobs["other"].reason)
    assert waiting["other"].reason.startswith("waits for job 'build' of run")
    await machine.signal(15)
    _, jobs = await world.finished(run)
    assert jobs["other"].outcome is Outcome.SUCCESS


async def test_a_rerun_sees_the_files_that_were_pinned(world):
    """Another attempt calls what the first one called."""
    await world.machines()
    await world.executor()
    run, _ = await world.go(OUTER.replace("k-${{ secrets.TOKEN }}", "k"), called=CALLED)
    again = await world.ledger.rerun(run.id)
    await world.mailbox.send(RunCreated(again))
    record, jobs = await world.finished(again)
    assert (record.outcome, record.called) == (Outcome.SUCCESS, run.called)
    assert jobs["call / two"].outcome is Outcome.SUCCESS


async def test_a_called_job_runs_again_within_its_call(world):
    """The call and its other jobs stay as they were; who needs the caller runs again, with all outputs."""
    named = NAME.replace("c.yml", "d.yml")
    job = "runs-on: fast, outputs: {{o: '${{{{ steps.s.outputs.o }}}}'}}, steps: [{{id: s, run: {}}}]"
    inner = (
        "on: {workflow_call: {outputs: {a: {value: '${{ jobs.a.outputs.o }}'}, "
        "b: {value: '${{ jobs.b.outputs.o }}'}}}}\n"
        f"jobs:\n  a: {{{job.format('first')}}}\n  b: {{{job.format('flaky')}}}\n"
    )
    outer = (
        f"on: push\njobs:\n  call: {{uses: {named}}}\n"
        "  after: {needs: call, runs-on: fast, steps: [{run: 'see ${{ toJSON(needs.call.outputs) }}'}]}\n"
    )
    file = NewCalled(
        name=named, text=inner, repository="octo/hello", path=named[2:], ref="refs/heads/main", sha="a" * 40
    )
    first = Reply(writes={"GITHUB_OUTPUT": b"o=one\n"})
    end, ended = await world.machines(Replies([("first", first), ("flaky", Reply(code=1))]))
    await world.executor()
    run, old = await world.go(outer, called=(file,))
    assert old["call / b"].outcome is Outcome.FAILURE
    end.cancel()
    await world.wait(ended)
    await world.machines(
        Replies(
            [
                ("flaky", Reply(writes={"GITHUB_OUTPUT": b"o=two\n"})),
                ('"a": "one",\n  "b": "two"', Reply()),
            ],
            otherwise=Reply(code=9),
        )
    )
    wish = Wish(job="call / b")
    part = await part_of(run, wish, ledger=world.ledger, reader=Reader(), kept=lambda job: ())
    again = await world.ledger.rerun(run.id, part.again)
    await world.mailbox.send(RunCreated(again))
    record, jobs = await world.finished(again)
    assert {name: job.outcome for name, job in jobs.items()} == dict.fromkeys(jobs, Outcome.SUCCESS)
    assert record.outcome is Outcome.SUCCESS
    assert jobs["call / a"].carried == f"{run.id}/{old['call / a'].id}"
    assert (jobs["call / b"].carried, jobs["after"].carried) == ("", "")
