"""A run of a real ledger explained: notes, legs, and conditions with the values of their operands."""

from runnerd.model import Actor, Event, JobResult, Outcome, Phase, Repository
from runnerd.planning.explain import explain_run
from runnerd.reading.process import Reader
from runnerd.store.changes import EndJob, NewJob, NewRun, QueueJob, WorkflowNote

SOURCE = """
name: CI
on: push
jobs:
  build: {runs-on: ubuntu-latest, steps: [{run: x}]}
  theirs: {runs-on: windows-latest, steps: [{run: x}]}
  deploy: {needs: build, if: github.ref == 'refs/heads/main', runs-on: ubuntu-latest, steps: [{run: x}]}
"""
EVENT = Event(
    delivery="d", name="push", repository=Repository(id=1, full_name="o/r"), sender=Actor(id=1, login="o"),
    sha="b" * 40, ref="refs/heads/topic", report_sha="b" * 40,
)  # fmt: skip


async def planned(ledger, source=SOURCE):
    run = NewRun(
        workflow_path="ci.yml", workflow_name="CI", title="t", source_text=source, event=EVENT,
        jobs=(NewJob(key="build", name="build"), NewJob(key="deploy", name="deploy")),
    )  # fmt: skip
    notes = [WorkflowNote(path="ci.yml", matched=True, reason="on push; job theirs is not ours")]
    [id] = await ledger.plan_delivery("d", [run], notes)
    return id


async def test_a_job_that_waits_and_one_whose_condition_is_false(ledger, site):
    """First it waits for what it needs; then its `if` is shown with what it compared."""
    id = await planned(ledger)
    found = await explain_run(await ledger.run(id), ledger=ledger, reader=Reader(), site=site)
    assert found.notes[0].reason == "on push; job theirs is not ours"
    assert [each.explanation.key for each in found.jobs] == ["build", "deploy"]
    assert found.jobs[1].explanation.reason == "it waits for build"
    build = (await ledger.jobs(id))[0]
    result = JobResult(outcome=Outcome.SUCCESS)
    await ledger.apply(id, [QueueJob(job=build.id, now=1.0)])
    epoch = await ledger.claim_job(build.id, "m")
    await ledger.apply(id, [EndJob(job=build.id, epoch=epoch, result=result)])
    found = await explain_run(await ledger.run(id), ledger=ledger, reader=Reader(), site=site)
    deploy = found.jobs[1]
    assert (deploy.explanation.needs, deploy.explanation.implied) == ({"build": "success"}, "true")
    assert deploy.explanation.operands.value == "false"
    assert deploy.explanation.operands.operands[0].value == "'refs/heads/topic'"
    assert [(leg.name, leg.phase) for leg in deploy.legs] == [("deploy", Phase.WAITING)]


async def test_a_run_whose_file_cannot_be_read_has_its_notes(ledger, site):
    """What the run says itself is all there is to say."""
    id = await planned(ledger, source="on: nothing")
    found = await explain_run(await ledger.run(id), ledger=ledger, reader=Reader(), site=site)
    assert (found.run.id, len(found.notes), found.jobs) == (id, 1, ())
