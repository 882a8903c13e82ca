"""What a wish to run a part of a run again comes to: jobs, those that need them, and where one goes on."""

import msgspec
import pytest

from runnerd.model import Actor, Event, JobResult, Outcome, Repository, StepResult
from runnerd.planning.again import CannotRerun, NotYet, Wish, part_of
from runnerd.reading.process import Reader
from runnerd.store.changes import (
    UNEXPANDED,
    EndJob,
    EndRun,
    EnterCalls,
    ExpandJob,
    NewCalled,
    NewJob,
    NewRun,
    QueueJob,
    SkipJob,
)
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.workflow.model import Call

NAME = "./.github/workflows/c.yml"
SOURCE = f"""
on: push
jobs:
  build: {{runs-on: x, steps: [{{run: make}}, {{id: unit, name: Test it, run: t}}, {{uses: o/a@v1}}]}}
  m: {{strategy: {{matrix: {{n: [1, 2]}}}}, needs: build, runs-on: x, steps: [{{run: y}}]}}
  call: {{uses: {NAME}}}
  last: {{needs: [m, call], runs-on: x, steps: [{{run: y}}]}}
"""
CALLED = """
on: {workflow_call: {}}
jobs:
  inner: {runs-on: x, steps: [{run: y}]}
  after: {needs: inner, runs-on: x, steps: [{run: y}]}
"""
EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o")
)
FAILED = JobResult(
    outcome=Outcome.FAILURE,
    steps=tuple(
        StepResult(number=n, id=id, name=name, outcome=Outcome.SUCCESS, conclusion=Outcome.SUCCESS)
        for n, id, name in ((1, "", "Run make"), (2, "unit", "Test it"))
    ),
)


class Kept(msgspec.Struct, frozen=True):
    """A machine that is kept."""

    step: int
    name: str = "a step"
    job: int = 0


class Attempted:
    """A ledger with one run that has ended, and machines that are kept of its jobs."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.kept = {}

    async def plan(self):
        called = NewCalled(name=NAME, text=CALLED, repository="o/r", path=NAME[2:], ref="main", sha="c" * 40)
        new = NewRun(
            workflow_path="ci.yml", workflow_name="CI", title="t", source_text=SOURCE, event=EVENT,
            jobs=tuple(NewJob(key=key, leg=UNEXPANDED, name=key) for key in ("build", "m", "call", "last")),
            called=(called,),
        )  # fmt: skip
        [self.run] = await self.ledger.plan_delivery("d", [new], [])
        legs = tuple(NewJob(key="m", leg=n, legs=2, name=f"m ({n + 1})") for n in range(2))
        call = Call(key="call", leg=0, legs=1, name="call", matrix=None, inputs={})
        inner = tuple(
            NewJob(key=f"call.0/{id}", leg=UNEXPANDED, name=f"call / {id}") for id in ("inner", "after")
        )
        await self.ledger.apply(
            self.run,
            [
                ExpandJob(key="build", legs=(NewJob(key="build", name="build"),)),
                ExpandJob(key="m", legs=legs),
                EnterCalls(key="call", calls=(call,), jobs=inner),
                ExpandJob(key="call.0/inner", legs=(NewJob(key="call.0/inner", name="call / inner"),)),
            ],
        )

    async def end(self, run, **outcomes):
        """End a run: the jobs that are named so (with `_` for what is no letter), and skip all others."""
        for row in await self.ledger.jobs(run):
            result = outcomes.get("".join(c if c.isalnum() else "_" for c in row.name))
            if row.phase == "done":
                continue
            if result is None:
                await self.ledger.apply(run, [SkipJob(job=row.id, reason="it needs 'build', which failed")])
                continue
            await self.ledger.apply(run, [QueueJob(job=row.id, now=1.0)])
            epoch = await self.ledger.claim_job(row.id, "m-1")
            await self.ledger.apply(run, [EndJob(job=row.id, epoch=epoch, result=result)])
        await self.ledger.apply(run, [EndRun(outcome=Outcome.FAILURE)])

    async def ids(self, run=None):
        return {row.name: row.id for row in await self.ledger.jobs(run or self.run)}

    async def part(self, job="", step="", run=None, also=()):
        record = await self.ledger.run(run or self.run)
        return await part_of(
            record,
            Wish(job=job, step=step, also=tuple(also)),
            ledger=self.ledger,
            reader=Reader(),
            kept=lambda job: [msgspec.structs.replace(each, job=job) for each in self.kept.get(job, ())],
        )

    async def again(self, *wish, run=None):
        return await self.ledger.rerun(run or self.run, (await self.part(*wish, run=run)).again)


@pytest.fixture
async def attempted(tmp_path, nursery):
    async with open_ledger(tmp_path) as ledger:
        await nursery.start(ledger.serve_writes)
        await ledger.accept_delivery(Delivery(id="d", event="push", body=b"{}", received=1.0))
        found = Attempted(ledger)
        await found.plan()
        yield found
        nursery.cancel_scope.cancel()


GOOD = JobResult(outcome=Outcome.SUCCESS)


@pytest.fixture
async def failed(attempted):
    """`build` and one leg failed, the called `inner` succeeded, all others were skipped."""
    await attempted.end(attempted.run, build=FAILED, m__1_=FAILED, m__2_=GOOD, call___inner=GOOD)
    return attempted


async def test_a_job_runs_again_with_all_that_needs_it(failed):
    """By its name, its number or its key; those that need it are expanded anew, others are not touched."""
    ids = await failed.ids()
    for wanted in ("build", str(ids["build"])):
        part = await failed.part(wanted)
        assert part.again.jobs == {ids["build"]}
        assert [(job.key, job.leg, job.name) for job in part.again.anew] == [
            ("m", UNEXPANDED, "m"), ("last", UNEXPANDED, "last"),
        ]  # fmt: skip
        assert part.again.resumes == {}
        assert part.said == "build, and what needs it: m, last"


async def test_one_leg_or_all_of_them(failed):
    """A leg by its name, all legs by the job's key; they stay as they were expanded."""
    ids = await failed.ids()
    assert (await failed.part("m (2)")).again.jobs == {ids["m (2)"]}
    part = await failed.part("m")
    assert part.again.jobs == {ids["m (1)"], ids["m (2)"]}
    assert [job.key for job in part.again.anew] == ["last"]
    with pytest.raises(
        CannotRerun, match=r"'m' has 2 legs, each with steps of its own: choose of \d+ \(m \(1\)\)"
    ):
        await failed.part("m", "1")


async def test_a_called_job_runs_again_with_what_needs_its_caller(failed):
    """In its call, and outside; the caller itself makes its calls anew, or none of them."""
    ids = await failed.ids()
    part = await failed.part("call.0/inner")
    assert part.again.jobs == {ids["call / inner"]}
    assert [(job.key, job.name) for job in part.again.anew] == [
        ("call.0/after", "call / after"), ("last", "last"),
    ]  # fmt: skip
    part = await failed.part("call")
    assert (part.again.jobs, [job.key for job in part.again.anew]) == (frozenset(), ["last", "call"])
    with pytest.raises(CannotRerun, match="'call' calls a workflow and has no steps"):
        await failed.part("call", "1")


async def test_all_that_failed(failed):
    """Jobs that need one that runs again are made anew, whether they failed or not."""
    ids = await failed.ids()
    part = await failed.part()
    assert part.again.jobs == {ids["build"]}
    assert [job.key for job in part.again.anew] == ["m", "last"]
    run = await failed.again()
    rows = {row.name: row.carried for row in await failed.ledger.jobs(run)}
    assert rows == {
        "build": "",
        "m": "",
        "call / inner": f"{failed.run}/{ids['call / inner']}",
        "call / after": f"{failed.run}/{ids['call / after']}",
        "last": "",
    }


async def test_a_run_in_which_nothing_failed(attempted):
    """There is nothing to run again, and the sentence says what there is instead."""
    names = ("build", "m__1_", "m__2_", "call___inner")
    await attempted.end(attempted.run, **dict.fromkeys(names, GOOD))
    with pytest.raises(CannotRerun, match="no job of run 1 failed: `runnerd rerun 1`"):
        await attempted.part()


@pytest.mark.parametrize("step", ["2", "unit", "UNIT", "Test it"])
async def test_a_job_goes_on_from_a_step(failed, step):
    """A step's number, id or shown name; its row will say where the machine is kept."""
    build = (await failed.ids())["build"]
    failed.kept[build] = (Kept(2), Kept(3))
    part = await failed.part("build", step)
    assert part.again.resumes == {build: f"{build}/2"}
    assert part.said == "build from step 2 (Test it), and what needs it: m, last"


async def test_the_first_step_needs_no_machine(failed):
    """Before it a machine is as any other."""
    part = await failed.part("build", "1")
    assert (part.again.resumes, len(part.again.jobs)) == ({}, 1)


async def test_a_step_that_was_never_recorded_has_a_name_all_the_same(failed):
    """The job ended before it came to it."""
    build = (await failed.ids())["build"]
    failed.kept[build] = (Kept(3),)
    part = await failed.part("build", "3")
    assert part.said.startswith("build from step 3 (__o_a)")


async def test_what_cannot_be_run_again_says_what_there_is(failed):
    """An unknown job or step, one that was skipped, and a step from before which nothing is kept."""
    ids = await failed.ids()
    build = ids["build"]
    with pytest.raises(CannotRerun, match=r"'lint' means no job of run 1: there are \d+ \(build\)"):
        await failed.part("lint")
    with pytest.raises(
        CannotRerun, match=r"'9' means no step of job \d+ \(build\): there are 1 \(Run make\)"
    ):
        await failed.part("build", "9")
    with pytest.raises(CannotRerun, match=r"\(last\) was skipped, and would be again: it needs 'build'"):
        await failed.part("last")
    with pytest.raises(
        CannotRerun, match=r"before step 2 \(Test it\), nor from before any other: whether they are"
    ):
        await failed.part("build", "2")
    failed.kept[build] = (Kept(3, "Upload"),)
    with pytest.raises(
        CannotRerun, match=r"before step 2 \(Test it\): there are those from before 3 \(Upload\)"
    ):
        await failed.part("build", "2")


async def test_a_job_that_never_began_has_no_machine(attempted):
    """It can run again from its start alone."""
    cancelled = JobResult(outcome=Outcome.CANCELLED, reason="the run was cancelled")
    for row in await attempted.ledger.jobs(attempted.run):
        await attempted.ledger.apply(attempted.run, [EndJob(job=row.id, epoch=0, result=cancelled)])
    await attempted.ledger.apply(attempted.run, [EndRun(outcome=Outcome.CANCELLED)])
    with pytest.raises(CannotRerun, match="it never began, so it never had one"):
        await attempted.part("build", "2")
    assert (await attempted.part("last")).again.anew[0].key == "last"


async def test_a_job_that_went_on_has_the_machines_of_the_one_before(failed):
    """Those from before its own first step are the earlier job's; its own count before them."""
    first = (await failed.ids())["build"]
    failed.kept[first] = (Kept(2), Kept(3))
    run = await failed.again("build", "2")
    await failed.end(run, build=FAILED)
    second = (await failed.ids(run))["build"]
    assert (await failed.part("build", "2", run=run)).again.resumes == {second: f"{first}/2"}
    with pytest.raises(CannotRerun, match=r"from before step 3 .*: there are those from before 2 \(a step\)"):
        await failed.part("build", "3", run=run)
    failed.kept[second] = (Kept(2), Kept(3))
    assert (await failed.part("build", "2", run=run)).again.resumes == {second: f"{second}/2"}


async def test_a_carried_job_goes_on_from_where_it_ran(failed):
    """Its machines are kept under the number it had then."""
    build = (await failed.ids())["build"]
    failed.kept[build] = (Kept(2),)
    run = await failed.again("m (1)")
    await failed.end(run, m__1_=GOOD)
    carried = (await failed.ids(run))["build"]
    assert (await failed.part("build", "2", run=run)).again.resumes == {carried: f"{build}/2"}


async def test_who_names_an_earlier_attempt_means_the_newest(failed):
    """By the number that a job had then, or its name: as it was carried over, or as it ran again."""
    first = await failed.ids()
    run = await failed.again("build")
    await failed.end(run, build=FAILED)
    second = await failed.ids(run)
    for wanted in (str(first["build"]), "build"):
        part = await failed.part(wanted)
        assert (part.run, part.again.jobs) == (run, {second["build"]})
    part = await failed.part(str(first["call / inner"]))
    assert (part.run, part.again.jobs) == (run, {second["call / inner"]})
    assert (await failed.part("call")).run == run
    with pytest.raises(CannotRerun, match=f"of the newest one alone can be run again: that is run {run}, at"):
        await failed.part()
    with pytest.raises(CannotRerun, match=f"run {run}, attempt 2, has no job that is .* \\(m \\(2\\)\\)"):
        await failed.part(str(first["m (2)"]))


async def test_only_an_attempt_that_has_ended_is_run_again(failed):
    """The newest counts, whichever is named."""
    run = await failed.again("build")
    with pytest.raises(CannotRerun, match=f"run {run} is queued: jobs of it can run again when it has ended"):
        await failed.part("build")


async def test_a_job_that_ended_may_run_again_once_the_attempt_has(failed):
    """As it was carried over, or ended in the attempt itself; one that runs again already does not."""
    first = await failed.ids()
    run = await failed.again("build")
    for wanted, of in ((str(first["call / inner"]), failed.run), ("call / inner", run)):
        with pytest.raises(NotYet):
            await failed.part(wanted, run=of)
    for wanted in (str(first["build"]), str(first["m (1)"]), "last"):
        with pytest.raises(CannotRerun) as caught:
            await failed.part(wanted)
        assert not isinstance(caught.value, NotYet)


async def test_more_jobs_run_again_beside_one(failed):
    """Of whichever attempt they are; what cannot, and what is no job of this run, is left out."""
    ids = await failed.ids()
    part = await failed.part("build", also=[ids["call / inner"], ids["last"], ids["build"], 99])
    assert part.again.jobs == {ids["build"], ids["call / inner"]}
    assert part.also == {ids["call / inner"], ids["build"]}
    assert [job.key for job in part.again.anew] == ["m", "last", "call.0/after"]
    run = await failed.again("build")
    await failed.end(run, build=FAILED)
    now = await failed.ids(run)
    part = await failed.part("build", also=[ids["call / inner"]], run=run)
    assert part.again.jobs == {now["build"], now["call / inner"]}


async def test_the_line_that_a_log_ended_with_stays_true(failed):
    """Its machine is gone on from, although another attempt did so; another one's is not put in its place."""
    build = (await failed.ids())["build"]
    failed.kept[build] = (Kept(2), Kept(3))
    run = await failed.again("build", "2")
    await failed.end(run, build=FAILED)
    again = (await failed.ids(run))["build"]
    part = await failed.part(str(build), "2")
    assert (part.run, part.again.resumes) == (run, {again: f"{build}/2"})
    failed.kept[again] = (Kept(2), Kept(3))
    assert (await failed.part(str(build), "2")).again.resumes == {again: f"{again}/2"}
    with pytest.raises(
        CannotRerun, match=f"as job {again} of run {run}, .* `runnerd rerun {run} --job {again} "
    ):
        await failed.part(str(build), "3")
