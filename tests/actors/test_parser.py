"""The parser: real ledger, real repositories behind real mirrors, payloads as bytes."""

import json
import shutil
import sys

from runnerd.actors import parser
from runnerd.messages import DeliveryAccepted, RunCreated
from runnerd.model import Outcome, Phase
from runnerd.reading import process
from runnerd.store.ledger import Delivery

from .conftest import CI, CI_OF_PULLS, pull, repository


async def test_a_push_starts_the_workflows_that_match(planning):
    """Each matching file becomes a run with its jobs waiting, told to the executor; the others are noted."""
    sha = planning.origin.commit(
        {"ci.yml": CI, "docs.yml": CI.replace("on: push", "on: {push: {branches: [docs]}}"), "notes.txt": "x"}
    )
    await planning.start()
    record, (run,), notes = await planning.push(sha)
    assert record.state == "planned"
    assert (run.workflow_name, run.title, run.number) == ("CI", "a change", 1)
    assert (run.event.sha, run.event.ref, run.event.payload) == (sha, "refs/heads/main", {})
    assert [(job.key, job.phase) for job in await planning.ledger.jobs(run.id)] == [("build", Phase.WAITING)]
    assert await planning.ledger.source(run.source) == CI
    assert await planning.told(1) == [RunCreated(run.id)]
    assert planning.reporter.depth == 1
    assert (notes["ci.yml"].matched, notes["docs.yml"].matched) == (True, False)
    assert notes["docs.yml"].reason == "branch 'main' does not match `branches` [docs]"
    assert set(notes) == {"ci.yml", "docs.yml"}


async def test_a_push_that_starts_nothing_is_ignored_with_reasons(planning):
    """No run, a reason, and a note for each file."""
    sha = planning.origin.commit({"ci.yml": CI.replace("on: push", "on: pull_request")})
    await planning.start()
    record, runs, notes = await planning.push(sha)
    assert (record.state, record.reason, runs) == ("ignored", "no workflow is started by this event", [])
    assert notes["ci.yml"].reason.startswith("push is not among its events")
    assert await planning.told(0) == []


async def test_an_invalid_file_is_a_failed_run_with_its_problems(planning):
    """It is never silent and never green: the run has ended, and says line and column."""
    sha = planning.origin.commit({"ci.yml": CI.replace("runs-on", "run-on"), "good.yml": CI})
    await planning.start()
    record, (bad, good), _ = await planning.push(sha)
    assert record.state == "planned"
    assert (bad.phase, bad.outcome) == (Phase.DONE, Outcome.STARTUP_FAILURE)
    assert bad.reason.startswith("Invalid workflow file\n.github/workflows/ci.yml:3:")
    assert (bad.workflow_name, await planning.ledger.jobs(bad.id)) == (".github/workflows/ci.yml", [])
    assert good.phase is Phase.QUEUED
    due = await planning.ledger.outbox_due(2e9 * 2, 100)
    assert ("run", "completed") in [(row.kind.value, row.state.value) for row in due if row.run == bad.id]


async def test_files_that_are_not_read_are_one_failed_run(planning):
    """A link, or a file that is too large, is no silence either; many of them are one failure."""
    folder = planning.origin.folder / ".github" / "workflows"
    folder.mkdir(parents=True)
    for number in range(12):
        (folder / f"link{number:02}.yml").symlink_to("/etc/passwd")
    sha = planning.origin.commit({"ci.yml": CI})
    await planning.start()
    record, (good, refused), notes = await planning.push(sha)
    assert (record.state, good.phase, refused.phase) == ("planned", Phase.QUEUED, Phase.DONE)
    assert (refused.workflow_name, refused.outcome) == (".github/workflows", Outcome.STARTUP_FAILURE)
    first = "Workflow files that are not read\n.github/workflows/link00.yml: it is a symbolic link"
    assert refused.reason.startswith(first)
    assert refused.reason.endswith("and 2 more")
    assert notes["link11.yml"].reason.startswith("it is a symbolic link")


async def test_a_reading_that_hangs_ends_in_a_recorded_state(planning):
    """It is killed, the file's run has failed with the reason, and the other files are planned."""
    large = CI + "#" * process.SMALL
    sha = planning.origin.commit({"ci.yml": CI, "large.yml": large})
    hangs = (sys.executable, "-c", "import time; time.sleep(600)")
    await planning.start(reader=process.Reader(timeout=0.3, command=hangs))
    record, (good, bad), notes = await planning.push(sha)
    assert (record.state, good.phase) == ("planned", Phase.QUEUED)
    assert (bad.phase, bad.outcome) == (Phase.DONE, Outcome.STARTUP_FAILURE)
    assert "took longer than 0.3 s and was stopped" in bad.reason
    assert notes["large.yml"].reason == "the file is not valid"


async def test_an_invalid_file_is_not_blamed_on_a_manual_start(planning):
    """Somebody who starts one workflow does not get failed runs of others."""
    planning.origin.commit({"bad.yml": "on: push\njobs: nothing\n", "ci.yml": CI})
    await planning.start()
    body = {"ref": "main", "workflow": "ci.yml", "inputs": None, "repository": repository()}
    record, runs, notes = await planning.plan("workflow_dispatch", body)
    assert (record.state, runs) == ("ignored", [])
    assert notes["bad.yml"].reason == "the file is not valid"


async def test_what_is_not_supported_yet_is_never_green(planning):
    """A workflow that uses more than this version can do is a startup failure that names it."""
    sha = planning.origin.commit(
        {
            "ci.yml": CI.replace(
                "jobs: {", "jobs: {boxed: {runs-on: x, container: debian, steps: [{run: x}]}, "
            )
        }
    )
    await planning.start()
    _, (run,), notes = await planning.push(sha)
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert run.reason.startswith("This version of runnerd cannot run this workflow yet\n")
    assert ".github/workflows/ci.yml:3:" in run.reason
    assert notes["ci.yml"].matched


async def test_foreign_jobs_and_what_needs_them_are_left_out(planning):
    """A job that no image claims is noted as not ours, with everything behind it, and not planned."""
    sha = planning.origin.commit(
        {
            "ci.yml": """
on: push
jobs:
  ours: {runs-on: ubuntu-latest, steps: [{run: x}]}
  theirs: {runs-on: windows-latest, steps: [{run: x}]}
  after: {needs: theirs, runs-on: ubuntu-latest, steps: [{run: x}]}
  last: {needs: [ours, after], runs-on: ubuntu-latest, steps: [{run: x}]}
  partly:
    strategy: {matrix: {os: [ubuntu-latest, macos-latest]}}
    runs-on: "${{ matrix.os }}"
    steps: [{run: x}]
  behind: {needs: partly, runs-on: ubuntu-latest, steps: [{run: x}]}
  later:
    needs: ours
    runs-on: "${{ needs.ours.outputs.os || 'windows-latest' }}"
    steps: [{run: x}]
"""
        }
    )
    await planning.start()
    _, (run,), notes = await planning.push(sha)
    assert [job.key for job in await planning.ledger.jobs(run.id)] == ["ours", "partly", "later"]
    assert "job theirs is not ours: no image claims windows-latest" in notes["ci.yml"].reason
    assert "job after is not ours: it needs theirs, which is not ours" in notes["ci.yml"].reason
    assert "job behind is not ours: it needs partly, which is not ours" in notes["ci.yml"].reason


async def test_a_workflow_of_foreign_jobs_alone_is_nobodys_run(planning):
    """Nothing is planned or reported, and the note says why."""
    sha = planning.origin.commit({"ci.yml": CI.replace("ubuntu-latest", "windows-latest")})
    await planning.start()
    record, runs, notes = await planning.push(sha)
    assert (record.state, runs) == ("ignored", [])
    assert notes["ci.yml"].matched
    assert "job build is not ours" in notes["ci.yml"].reason


async def test_where_all_jobs_are_ours_foreign_ones_are_planned(planning):
    """With `mode = "all"` somebody has to say that no image claims the labels: the executor does."""
    planning.site.foreign_is_failure = True
    sha = planning.origin.commit({"ci.yml": CI.replace("ubuntu-latest", "windows-latest")})
    await planning.start()
    _, (run,), _ = await planning.push(sha)
    assert [job.key for job in await planning.ledger.jobs(run.id)] == ["build"]


DISPATCH = """
on:
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [low, high], required: true}
      count: {type: number, default: 3}
      dry: {type: boolean}
jobs: {build: {runs-on: ubuntu-latest, steps: [{run: x}]}}
"""


async def test_inputs_of_a_manual_start_are_typed(planning):
    """They reach the run with their types and defaults, for the named workflow alone."""
    planning.origin.commit({"go.yml": DISPATCH, "other.yml": DISPATCH})
    await planning.start()
    body = {
        "ref": "main",
        "workflow": ".github/workflows/go.yml",
        "inputs": {"level": "high", "dry": "true"},
        "repository": repository(),
    }
    _, (run,), notes = await planning.plan("workflow_dispatch", body)
    assert run.event.inputs == {"level": "high", "count": 3, "dry": True}
    assert run.event.sha == planning.origin.git("rev-parse", "main")
    assert not notes["other.yml"].matched


async def test_inputs_that_are_not_allowed_fail_the_run(planning):
    """Every problem is in the reason, and nothing runs."""
    planning.origin.commit({"go.yml": DISPATCH})
    await planning.start()
    body = {
        "ref": "refs/heads/main",
        "workflow": "go.yml",
        "inputs": {"level": "huge", "what": 1},
        "repository": repository(),
    }
    _, (run,), _ = await planning.plan("workflow_dispatch", body)
    assert (run.phase, run.outcome) == (Phase.DONE, Outcome.STARTUP_FAILURE)
    assert "'what' is not declared" in run.reason
    assert "'level' must be one of" in run.reason


def pull_request(planning, text=CI_OF_PULLS):
    """A branch that is one commit ahead of main; returns (head, base)."""
    base = planning.origin.commit({"ci.yml": text})
    planning.origin.git("checkout", "--quiet", "-b", "topic")
    head = planning.origin.commit({"src/new.c": "int x;"}, message="topic")
    planning.origin.git("update-ref", "refs/pull/7/head", head)
    return head, base


async def test_a_pull_request_builds_its_merge_commit(planning):
    """The commit is that of refs/pull/N/merge, reports go to the head."""
    head, base = pull_request(planning)
    planning.origin.git("checkout", "--quiet", "main")
    planning.origin.git("merge", "--quiet", "--no-ff", "-m", "merged", "topic")
    merge = planning.origin.git("rev-parse", "HEAD")
    planning.origin.git("update-ref", "refs/pull/7/merge", merge)
    planning.origin.git("reset", "--quiet", "--hard", base)
    await planning.start()
    _, (run,), _ = await planning.plan("pull_request", pull(head, base))
    assert (run.event.sha, run.event.report_sha, run.event.ref) == (merge, head, "refs/pull/7/merge")
    assert (run.title, run.event.number, run.event.fork) == ("Improve it", 7, False)


async def test_a_pull_request_without_a_merge_ref_builds_its_head(planning):
    """Where the remote makes no merge commits the head is built; path filters know what it changes."""
    text = CI.replace("on: push", "on: {pull_request: {paths: ['src/**']}}")
    pull_request(planning, text)
    head = planning.origin.commit({"docs.yml": text.replace("src/**", "docs/**")})
    planning.origin.git("update-ref", "refs/pull/7/head", head)
    planning.origin.git("checkout", "--quiet", "main")
    base = planning.origin.commit({"docs/news.md": "the base went on"})
    await planning.start()
    _, (run,), notes = await planning.plan("pull_request", pull(head, base))
    assert (run.event.sha, run.event.report_sha) == (head, head)
    assert run.workflow_path == ".github/workflows/ci.yml"
    assert not notes["docs.yml"].matched


async def test_a_pull_request_made_by_hand_finds_its_head(planning):
    """Without commits in the payload the remote's ref says what the head is; it counts as a fork's."""
    head, _ = pull_request(planning)
    await planning.start()
    body = {"action": "opened", "number": 7, "repository": repository()}
    text = json.dumps(body).encode()
    record = Delivery(id=f"body-{parser.events._identity(text)[5:]}", event="", body=text, received=1.0)
    await planning.ledger.accept_delivery(record)
    planning.mailbox.offer(DeliveryAccepted(record.id))
    settled = await planning.settled(record.id)
    (run,) = await planning.ledger.runs(10)
    assert settled.state == "planned"
    assert (run.event.sha, run.event.report_sha, run.event.fork) == (head, head, True)


async def test_a_repeated_body_is_remarked_on_its_run(planning):
    """A body that came before, under an id that nobody could confirm, runs and says so on its run."""
    sha = planning.origin.commit({".github/workflows/ci.yml": CI})
    await planning.start()
    _, (first,), _ = await planning.push(sha)
    _, (second,), notes = await planning.push(sha)
    assert first.event.remark == ""
    assert second.event.remark.startswith("its body came before, as delivery d1")
    assert notes["(the delivery)"].reason == second.event.remark


async def test_a_merged_pull_request_builds_what_was_merged(planning):
    """The commit is the one the payload names, wherever the base branch has gone since."""
    text = CI.replace("on: push", "on: {pull_request: {types: [closed]}}")
    head, base = pull_request(planning, text)
    planning.origin.git("checkout", "--quiet", "main")
    planning.origin.git("merge", "--quiet", "--no-ff", "-m", "merged", "topic")
    merged = planning.origin.git("rev-parse", "HEAD")
    planning.origin.commit({"later.txt/x": "1"})
    await planning.start()
    body = pull(head, base, action="closed", merged=True, merge_commit_sha=merged)
    _, (run,), _ = await planning.plan("pull_request", body)
    assert (run.event.sha, run.event.ref, run.event.report_sha) == (merged, "refs/heads/main", head)


async def test_path_filters_compare_with_the_commit_before(planning):
    """Only a push that changed a listed file starts the workflow."""
    text = CI.replace("on: push", "on: {push: {paths: ['src/**']}}")
    first = planning.origin.commit({"ci.yml": text})
    second = planning.origin.commit({"docs/a.md": "a"})
    third = planning.origin.commit({"src/a.c": "a"})
    await planning.start()
    record, _, notes = await planning.push(second, before=first)
    assert record.state == "ignored"
    assert notes["ci.yml"].reason == "no changed file matches `paths` [src/**]"
    record, _, _ = await planning.push(third, before=second)
    assert record.state == "planned"


async def test_a_deleted_branch_is_ignored(planning):
    """There is no commit to build, and the remote is not asked."""
    shutil.rmtree(planning.origin.folder)
    await planning.start()
    record, runs, _ = await planning.push("0" * 40, deleted=True, before="a" * 40, head_commit=None)
    assert (record.state, runs) == ("ignored", [])
    assert record.reason == "refs/heads/main was deleted: there is no commit to build"


async def test_a_body_that_is_malformed_is_rejected(planning):
    """What reached the ledger and cannot be read ends with the sentence that says where."""
    await planning.start()
    record = await planning.settled(await planning.accept("push", b'{"ref": 1}'))
    assert record.state == "rejected"
    assert "the body is not as this event's should be" in record.reason
