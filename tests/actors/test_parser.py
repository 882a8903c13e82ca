"""The parser: real ledger, real repositories behind real mirrors, payloads as bytes."""

import json
import os
import shutil
import subprocess

import pytest
import trio

from runnerd.actors import parser
from runnerd.actors.parser import ParserActor, choose
from runnerd.git.mirror import Mirrors
from runnerd.messages import DeliveryAccepted, RunCreated
from runnerd.model import Outcome, Phase
from runnerd.store.ledger import Delivery, open_ledger
from runnerd.supervise.mailbox import Mailbox

PATIENCE = 20.0
CI = "name: CI\non: push\njobs: {build: {runs-on: ubuntu-latest, steps: [{run: make}]}}\n"
CI_OF_PULLS = CI.replace("on: push", "on: pull_request")
FULL_NAME = "octo/hello"


class Origin:
    """A repository on disk that plays a remote."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main", ".")

    def git(self, *arguments):
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{who}_{what}": "octo" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        done = subprocess.run(["git", *arguments], cwd=self.folder, env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def commit(self, files=(), *, message="a change"):
        """Write files (a workflow where the name has no slash), commit, and return the commit."""
        for name, text in dict(files).items():
            path = self.folder / (name if "/" in name else f".github/workflows/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")


class Site:
    """A host with one image, for ubuntu-latest."""

    server_url = "https://forge.example"
    api_url = "https://api.forge.example"
    foreign_is_failure = False

    def __init__(self):
        self.variables = {}

    def image_for(self, labels):
        return "default" if labels == ("ubuntu-latest",) else None


class World:
    """A ledger, mirrors, the parser's mailboxes, and one repository."""

    def __init__(self, ledger, mirrors, nursery, folder):
        self.ledger, self.mirrors, self.nursery = ledger, mirrors, nursery
        self.site = Site()
        self.mailbox, self.executor, self.reporter = Mailbox(64), Mailbox(64), Mailbox(64)
        self.folder = folder
        self.origin = Origin(folder / "hello")
        self.count = 0

    async def start(self, workers=2):
        """Start a parser; returns the scope that kills it and the event that says it ended."""
        actor = ParserActor(
            self.mailbox,
            ledger=self.ledger,
            mirrors=self.mirrors,
            executor=self.executor,
            reporter=self.reporter,
            site=self.site,
            workers=workers,
        )
        scope, ended = trio.CancelScope(), trio.Event()

        async def within(*, task_status):
            with scope:
                await actor.run(task_status=task_status)
            ended.set()

        await self.nursery.start(within)
        return scope, ended

    async def accept(self, event, payload, *, hint=True, repository=FULL_NAME):
        """Store a delivery as the receiver does; returns its id."""
        self.count += 1
        id = f"d{self.count}"
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        delivery = Delivery(id=id, event=event, body=body, received=float(self.count), repository=repository)
        assert await self.ledger.accept_delivery(delivery) == "accepted"
        if hint:
            self.mailbox.offer(DeliveryAccepted(id))
        return id

    async def settled(self, id):
        """Wait until a delivery is no longer pending."""
        with trio.fail_after(PATIENCE):
            while True:
                record = await self.ledger.delivery(id)
                if record.state != "pending":
                    return record
                await trio.sleep(0.005)

    async def plan(self, event, payload):
        """Deliver, wait, and return the record with its runs, newest last, and its notes by file."""
        record = await self.settled(await self.accept(event, payload))
        runs = [run for run in reversed(await self.ledger.runs(100)) if run.delivery == record.id]
        notes = {note.path.rpartition("/")[2]: note for note in await self.ledger.notes(record.id)}
        return record, runs, notes

    async def push(self, sha, ref="refs/heads/main", **fields):
        return await self.plan("push", push(sha, ref, **fields))

    def told(self):
        """The runs the executor was told of."""
        found = []
        while self.executor.depth:
            found.append(self.executor._take.receive_nowait())
        return found


def repository(full_name=FULL_NAME, number=5):
    return {"id": number, "full_name": full_name}


def push(sha, ref="refs/heads/main", *, before="0" * 40, full_name=FULL_NAME, **fields):
    return {
        "ref": ref,
        "before": before,
        "after": sha,
        "repository": repository(full_name),
        "sender": {"id": 1, "login": "ada"},
        "head_commit": {"id": sha, "message": "a change\n\nwith a body"},
        **fields,
    }


def pull(head, base, *, action="opened", **fields):
    side = {"repo": {"id": 5}}
    return {
        "action": action,
        "number": 7,
        "pull_request": {
            "number": 7,
            "title": "Improve it",
            "head": {"ref": "topic", "sha": head, **side},
            "base": {"ref": "main", "sha": base, **side},
            **fields,
        },
        "repository": repository(),
        "sender": {"id": 1, "login": "ada"},
    }


@pytest.fixture
async def world(tmp_path, nursery):
    def remote_of(full_name):
        return str(tmp_path / full_name.partition("/")[2])

    async with (
        open_ledger(tmp_path) as ledger,
        Mirrors(tmp_path / "mirrors", remote_of=remote_of, timeout=20.0) as mirrors,
    ):
        await nursery.start(ledger.serve_writes)
        yield World(ledger, mirrors, nursery, tmp_path)
        nursery.cancel_scope.cancel()


async def test_a_push_starts_the_workflows_that_match(world):
    """Each matching file becomes a run with its jobs waiting, told to the executor; the others are noted."""
    sha = world.origin.commit(
        {"ci.yml": CI, "docs.yml": CI.replace("on: push", "on: {push: {branches: [docs]}}"), "notes.txt": "x"}
    )
    await world.start()
    record, (run,), notes = await world.push(sha)
    assert record.state == "planned"
    assert (run.workflow_name, run.title, run.number) == ("CI", "a change", 1)
    assert (run.event.sha, run.event.ref, run.event.payload) == (sha, "refs/heads/main", {})
    assert [(job.key, job.phase) for job in await world.ledger.jobs(run.id)] == [("build", Phase.WAITING)]
    assert await world.ledger.source(run.source) == CI
    assert world.told() == [RunCreated(run.id)]
    assert world.reporter.depth == 1
    assert (notes["ci.yml"].matched, notes["docs.yml"].matched) == (True, False)
    assert notes["docs.yml"].reason == "branch 'main' does not match `branches` [docs]"
    assert set(notes) == {"ci.yml", "docs.yml"}


async def test_a_push_that_starts_nothing_is_ignored_with_reasons(world):
    """No run, a reason, and a note for each file."""
    sha = world.origin.commit({"ci.yml": CI.replace("on: push", "on: pull_request")})
    await world.start()
    record, runs, notes = await world.push(sha)
    assert (record.state, record.reason, runs) == ("ignored", "no workflow is started by this event", [])
    assert notes["ci.yml"].reason.startswith("push is not among its events")
    assert world.told() == []


async def test_an_invalid_file_is_a_failed_run_with_its_problems(world):
    """It is never silent and never green: the run has ended, and says line and column."""
    sha = world.origin.commit({"ci.yml": CI.replace("runs-on", "run-on"), "good.yml": CI})
    await world.start()
    record, (bad, good), _ = await world.push(sha)
    assert record.state == "planned"
    assert (bad.phase, bad.outcome) == (Phase.DONE, Outcome.STARTUP_FAILURE)
    assert bad.reason.startswith("Invalid workflow file\n.github/workflows/ci.yml:3:")
    assert (bad.workflow_name, await world.ledger.jobs(bad.id)) == (".github/workflows/ci.yml", [])
    assert good.phase is Phase.QUEUED
    due = await world.ledger.outbox_due(2e9 * 2, 100)
    assert ("run", "completed") in [(row.kind.value, row.state.value) for row in due if row.run == bad.id]


async def test_an_invalid_file_is_not_blamed_on_a_manual_start(world):
    """Somebody who starts one workflow does not get failed runs of others."""
    world.origin.commit({"bad.yml": "on: push\njobs: nothing\n", "ci.yml": CI})
    await world.start()
    body = {"ref": "main", "workflow": "ci.yml", "inputs": None, "repository": repository()}
    record, runs, notes = await world.plan("workflow_dispatch", body)
    assert (record.state, runs) == ("ignored", [])
    assert notes["bad.yml"].reason == "the file is not valid"


async def test_what_is_not_supported_yet_is_never_green(world):
    """A workflow that uses more than this version can do is a startup failure that names it."""
    sha = world.origin.commit(
        {"ci.yml": CI.replace("jobs: {", "jobs: {call: {uses: ./.github/workflows/x.yml}, ")}
    )
    await world.start()
    _, (run,), notes = await world.push(sha)
    assert run.outcome is Outcome.STARTUP_FAILURE
    assert run.reason.startswith("This version of runnerd cannot run this workflow yet\n")
    assert ".github/workflows/ci.yml:3:" in run.reason
    assert notes["ci.yml"].matched


async def test_foreign_jobs_and_what_needs_them_are_left_out(world):
    """A job that no image claims is noted as not ours, with everything behind it, and not planned."""
    sha = world.origin.commit(
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
    await world.start()
    _, (run,), notes = await world.push(sha)
    assert [job.key for job in await world.ledger.jobs(run.id)] == ["ours", "partly", "later"]
    assert "job theirs is not ours: no image claims windows-latest" in notes["ci.yml"].reason
    assert "job after is not ours: it needs theirs, which is not ours" in notes["ci.yml"].reason
    assert "job behind is not ours: it needs partly, which is not ours" in notes["ci.yml"].reason


async def test_a_workflow_of_foreign_jobs_alone_is_nobodys_run(world):
    """Nothing is planned or reported, and the note says why."""
    sha = world.origin.commit({"ci.yml": CI.replace("ubuntu-latest", "windows-latest")})
    await world.start()
    record, runs, notes = await world.push(sha)
    assert (record.state, runs) == ("ignored", [])
    assert notes["ci.yml"].matched
    assert "job build is not ours" in notes["ci.yml"].reason


async def test_where_all_jobs_are_ours_foreign_ones_are_planned(world):
    """With `mode = "all"` somebody has to say that no image claims the labels: the executor does."""
    world.site.foreign_is_failure = True
    sha = world.origin.commit({"ci.yml": CI.replace("ubuntu-latest", "windows-latest")})
    await world.start()
    _, (run,), _ = await world.push(sha)
    assert [job.key for job in await world.ledger.jobs(run.id)] == ["build"]


DISPATCH = """
on:
  workflow_dispatch:
    inputs:
      level: {type: choice, options: [low, high], required: true}
      count: {type: number, default: 3}
      dry: {type: boolean}
jobs: {build: {runs-on: ubuntu-latest, steps: [{run: x}]}}
"""


async def test_inputs_of_a_manual_start_are_typed(world):
    """They reach the run with their types and defaults, for the named workflow alone."""
    world.origin.commit({"go.yml": DISPATCH, "other.yml": DISPATCH})
    await world.start()
    body = {
        "ref": "main",
        "workflow": ".github/workflows/go.yml",
        "inputs": {"level": "high", "dry": "true"},
        "repository": repository(),
    }
    _, (run,), notes = await world.plan("workflow_dispatch", body)
    assert run.event.inputs == {"level": "high", "count": 3, "dry": True}
    assert run.event.sha == world.origin.git("rev-parse", "main")
    assert not notes["other.yml"].matched


async def test_inputs_that_are_not_allowed_fail_the_run(world):
    """Every problem is in the reason, and nothing runs."""
    world.origin.commit({"go.yml": DISPATCH})
    await world.start()
    body = {
        "ref": "refs/heads/main",
        "workflow": "go.yml",
        "inputs": {"level": "huge", "what": 1},
        "repository": repository(),
    }
    _, (run,), _ = await world.plan("workflow_dispatch", body)
    assert (run.phase, run.outcome) == (Phase.DONE, Outcome.STARTUP_FAILURE)
    assert "'what' is not declared" in run.reason
    assert "'level' must be one of" in run.reason


def pull_request(world, text=CI_OF_PULLS):
    """A branch that is one commit ahead of main; returns (head, base)."""
    base = world.origin.commit({"ci.yml": text})
    world.origin.git("checkout", "--quiet", "-b", "topic")
    head = world.origin.commit({"src/new.c": "int x;"}, message="topic")
    world.origin.git("update-ref", "refs/pull/7/head", head)
    return head, base


async def test_a_pull_request_builds_its_merge_commit(world):
    """The commit is that of refs/pull/N/merge, reports go to the head."""
    head, base = pull_request(world)
    world.origin.git("checkout", "--quiet", "main")
    world.origin.git("merge", "--quiet", "--no-ff", "-m", "merged", "topic")
    merge = world.origin.git("rev-parse", "HEAD")
    world.origin.git("update-ref", "refs/pull/7/merge", merge)
    world.origin.git("reset", "--quiet", "--hard", base)
    await world.start()
    _, (run,), _ = await world.plan("pull_request", pull(head, base))
    assert (run.event.sha, run.event.report_sha, run.event.ref) == (merge, head, "refs/pull/7/merge")
    assert (run.title, run.event.number, run.event.fork) == ("Improve it", 7, False)


async def test_a_pull_request_without_a_merge_ref_builds_its_head(world):
    """Where the remote makes no merge commits the head is built; path filters know what it changes."""
    text = CI.replace("on: push", "on: {pull_request: {paths: ['src/**']}}")
    pull_request(world, text)
    head = world.origin.commit({"docs.yml": text.replace("src/**", "docs/**")})
    world.origin.git("update-ref", "refs/pull/7/head", head)
    world.origin.git("checkout", "--quiet", "main")
    base = world.origin.commit({"docs/news.md": "the base went on"})
    await world.start()
    _, (run,), notes = await world.plan("pull_request", pull(head, base))
    assert (run.event.sha, run.event.report_sha) == (head, head)
    assert run.workflow_path == ".github/workflows/ci.yml"
    assert not notes["docs.yml"].matched


async def test_a_pull_request_made_by_hand_finds_its_head(world):
    """Without commits in the payload the remote's ref says what the head is; it counts as a fork's."""
    head, _ = pull_request(world)
    await world.start()
    body = {"action": "opened", "number": 7, "repository": repository()}
    text = json.dumps(body).encode()
    record = Delivery(id=f"body-{parser.events._identity(text)[5:]}", event="", body=text, received=1.0)
    await world.ledger.accept_delivery(record)
    world.mailbox.offer(DeliveryAccepted(record.id))
    settled = await world.settled(record.id)
    (run,) = await world.ledger.runs(10)
    assert settled.state == "planned"
    assert (run.event.sha, run.event.report_sha, run.event.fork) == (head, head, True)


async def test_a_merged_pull_request_builds_what_was_merged(world):
    """The commit is the one the payload names, wherever the base branch has gone since."""
    text = CI.replace("on: push", "on: {pull_request: {types: [closed]}}")
    head, base = pull_request(world, text)
    world.origin.git("checkout", "--quiet", "main")
    world.origin.git("merge", "--quiet", "--no-ff", "-m", "merged", "topic")
    merged = world.origin.git("rev-parse", "HEAD")
    world.origin.commit({"later.txt/x": "1"})
    await world.start()
    body = pull(head, base, action="closed", merged=True, merge_commit_sha=merged)
    _, (run,), _ = await world.plan("pull_request", body)
    assert (run.event.sha, run.event.ref, run.event.report_sha) == (merged, "refs/heads/main", head)


async def test_path_filters_compare_with_the_commit_before(world):
    """Only a push that changed a listed file starts the workflow."""
    text = CI.replace("on: push", "on: {push: {paths: ['src/**']}}")
    first = world.origin.commit({"ci.yml": text})
    second = world.origin.commit({"docs/a.md": "a"})
    third = world.origin.commit({"src/a.c": "a"})
    await world.start()
    record, _, notes = await world.push(second, before=first)
    assert record.state == "ignored"
    assert notes["ci.yml"].reason == "no changed file matches `paths` [src/**]"
    record, _, _ = await world.push(third, before=second)
    assert record.state == "planned"


async def test_a_deleted_branch_is_ignored(world):
    """There is no commit to build, and the remote is not asked."""
    shutil.rmtree(world.origin.folder)
    await world.start()
    record, runs, _ = await world.push("0" * 40, deleted=True, before="a" * 40, head_commit=None)
    assert (record.state, runs) == ("ignored", [])
    assert record.reason == "refs/heads/main was deleted: there is no commit to build"


async def test_a_body_that_is_malformed_is_rejected(world):
    """What reached the ledger and cannot be read ends with the sentence that says where."""
    await world.start()
    record = await world.settled(await world.accept("push", b'{"ref": 1}'))
    assert record.state == "rejected"
    assert "the body is not as this event's should be" in record.reason


async def test_a_remote_that_does_not_answer_is_tried_again_and_then_given_up(world, monkeypatch):
    """Meanwhile other repositories are planned; at last the delivery is rejected with git's sentence."""
    monkeypatch.setattr(parser, "PAUSE", 0.05)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = world.origin.commit({"ci.yml": CI})
    await world.start(workers=1)
    gone = await world.accept("push", push("b" * 40, full_name="octo/gone"), repository="octo/gone")
    record, _, _ = await world.push(sha)
    assert record.state == "planned"
    assert (await world.ledger.delivery(gone)).state == "pending"
    record = await world.settled(gone)
    assert record.state == "rejected"
    assert record.reason.startswith("the repository could not be read: ")
    assert record.reason.endswith("(tried 5 times)")


async def test_a_remote_that_comes_back_is_planned(world, monkeypatch):
    """A delivery outlives a forge that is down for a while."""
    monkeypatch.setattr(parser, "PAUSE", 0.1)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = world.origin.commit({"ci.yml": CI})
    away = world.folder / "away"
    world.origin.folder.rename(away)
    await world.start()
    id = await world.accept("push", push(sha))
    await trio.sleep(0.15)
    away.rename(world.origin.folder)
    assert (await world.settled(id)).state == "planned"
    assert len(world.told()) == 1


async def test_a_fault_of_ours_costs_one_delivery_alone(world, monkeypatch):
    """A delivery that makes us do wrong is rejected in the end; the parser and the others go on."""
    monkeypatch.setattr(parser, "PAUSE", 0.01)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.01)
    bad_sha, sha = world.origin.commit({"ci.yml": CI + "# bad\n"}), world.origin.commit({"ci.yml": CI})
    real = world.mirrors.workflow_files

    async def faulty(repository, commit):
        if commit == bad_sha:
            raise KeyError("nobody foresaw this")
        return await real(repository, commit)

    monkeypatch.setattr(world.mirrors, "workflow_files", faulty)
    _, ended = await world.start()
    bad = await world.accept("push", push(bad_sha))
    record, _, _ = await world.push(sha)
    assert record.state == "planned"
    record = await world.settled(bad)
    assert record.state == "rejected"
    assert record.reason == "a fault of runnerd itself (KeyError): its log says where (tried 5 times)"
    assert not ended.is_set()


async def test_a_repository_without_a_proper_name_is_rejected(world, monkeypatch):
    """A name that no folder may have never becomes one, and harms nobody else."""
    monkeypatch.setattr(parser, "PAUSE", 0.01)
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.01)
    await world.start()
    record = await world.settled(await world.accept("push", push("b" * 40, full_name="octo/-x")))
    assert record.state == "rejected"
    assert "'octo/-x' is not a repository name" in record.reason


async def test_what_an_earlier_parser_left_is_taken_up(world):
    """A start plans what is pending without a hint, in the order of arrival."""
    shas = [world.origin.commit({"ci.yml": CI + f"# {n}\n"}) for n in range(3)]
    ids = [await world.accept("push", push(sha), hint=False) for sha in shas]
    await world.start()
    for id in ids:
        assert (await world.settled(id)).state == "planned"
    runs = sorted(await world.ledger.runs(10), key=lambda run: run.number)
    assert [run.event.sha for run in runs] == shas


async def test_a_lost_hint_costs_a_moment(world, monkeypatch):
    """The ledger is looked at again and again."""
    monkeypatch.setattr(parser, "SWEEP_EVERY", 0.02)
    sha = world.origin.commit({"ci.yml": CI})
    await world.start()
    await trio.sleep(0.05)
    id = await world.accept("push", push(sha), hint=False)
    assert (await world.settled(id)).state == "planned"


async def test_a_delivery_that_is_hinted_twice_is_planned_once(world):
    """Hints are only a reason to look: one run, told once."""
    sha = world.origin.commit({"ci.yml": CI})
    await world.start()
    id = await world.accept("push", push(sha))
    for _ in range(3):
        world.mailbox.offer(DeliveryAccepted(id))
    await world.settled(id)
    world.mailbox.offer(DeliveryAccepted(id))
    other, _, _ = await world.push(sha)
    assert other.state == "planned"
    assert len([run for run in await world.ledger.runs(10) if run.delivery == id]) == 1
    assert len(world.told()) == 2


async def test_closing_finishes_what_is_in_hand_and_leaves_the_rest(world, monkeypatch):
    """The delivery being planned is planned, the next one stays pending for the next start."""
    sha = world.origin.commit({"ci.yml": CI})
    reached, go_on = trio.Event(), trio.Event()
    real = world.mirrors.workflow_files

    async def slow(repository, commit):
        reached.set()
        await go_on.wait()
        return await real(repository, commit)

    monkeypatch.setattr(world.mirrors, "workflow_files", slow)
    _, ended = await world.start(workers=1)
    first, second = await world.accept("push", push(sha)), await world.accept("push", push(sha))
    with trio.fail_after(PATIENCE):
        await reached.wait()
        world.mailbox.close()
        go_on.set()
        await ended.wait()
    assert (await world.ledger.delivery(first)).state == "planned"
    assert (await world.ledger.delivery(second)).state == "pending"


async def test_one_repository_does_not_hold_up_another(world, monkeypatch):
    """With its remote hanging and a pile of deliveries, other repositories are still planned."""
    hanging = trio.Event()
    real = world.mirrors.fetch

    async def fetch(repository, *wanted):
        if repository.full_name == "octo/slow":
            await hanging.wait()
        await real(repository, *wanted)

    monkeypatch.setattr(world.mirrors, "fetch", fetch)
    sha = world.origin.commit({"ci.yml": CI})
    await world.start(workers=2)
    slow = [
        await world.accept("push", push("b" * 40, full_name="octo/slow"), repository="octo/slow")
        for _ in range(10)
    ]
    for _ in range(3):
        record, _, _ = await world.push(sha)
        assert record.state == "planned"
    assert {(await world.ledger.delivery(id)).state for id in slow} == {"pending"}


async def test_a_parser_that_dies_between_plan_and_hint_loses_no_run(world):
    """Killed at any point, the next one plans what is pending and nothing twice."""
    sha = world.origin.commit({"ci.yml": CI})
    id = await world.accept("push", push(sha))
    for delay in (0.0, 0.01, 0.02, 0.05):
        scope, ended = await world.start()
        await trio.sleep(delay)
        scope.cancel()
        await ended.wait()
    await world.start()
    await world.settled(id)
    assert [run.delivery for run in await world.ledger.runs(10)] == [id]


async def test_a_delivery_that_ends_daemon_after_daemon_is_rejected(world, monkeypatch):
    """One that was being planned in every daemon that died is taken for the cause; its neighbour is not."""
    monkeypatch.setattr(parser, "LIVES", 3)
    reached = trio.Event()
    real = world.mirrors.workflow_files
    sha = world.origin.commit({"ci.yml": CI})
    deadly_sha = world.origin.commit({"ci.yml": CI + "# deadly\n"})

    async def deadly(repository, commit):
        if commit == deadly_sha:
            reached.set()
            await trio.sleep_forever()
        return await real(repository, commit)

    monkeypatch.setattr(world.mirrors, "workflow_files", deadly)
    bad, good = await world.accept("push", push(deadly_sha)), await world.accept("push", push(sha))
    for _ in range(3):
        reached = trio.Event()
        scope, ended = await world.start(workers=1)
        with trio.fail_after(PATIENCE):
            await reached.wait()
        scope.cancel()
        await ended.wait()
    assert (await world.ledger.delivery(bad)).state == "pending"
    await world.start(workers=1)
    record = await world.settled(bad)
    assert record.state == "rejected"
    assert record.reason.startswith("3 daemons ended while they planned it")
    assert (await world.settled(good)).state == "planned"


def test_choosing_what_to_plan():
    """The oldest of each repository, but of none that is busy, and nothing before its time."""
    backlog = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "z"), ("e", "w")]
    assert choose(backlog, set(), {}, 0.0, 9) == {"x": "a", "y": "c", "z": "d", "w": "e"}
    assert choose(backlog, set(), {}, 0.0, 2) == {"x": "a", "y": "c"}
    assert choose(backlog, {"x"}, {}, 0.0, 2) == {"y": "c", "z": "d"}
    assert choose(backlog, set(), {"a": 5.0, "c": 5.0}, 4.0, 2) == {"x": "b", "z": "d"}
    assert choose(backlog, set(), {"a": 5.0}, 5.0, 1) == {"x": "a"}
