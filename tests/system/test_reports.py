"""The whole daemon and a GitHub beside it: what is reported, once, in order, and without the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerd.cli import checkout

from ..forge.fake_github import Fault
from .conftest import PROCESSES, REPOSITORY, Daemon, Sample, wait_for
from .forge_side import Forge, GitServer

pytestmark = pytest.mark.system

HASTY = (sys.executable, str(Path(__file__).with_name("hasty.py")), "serve")
TOKEN = "ghp_0nlyTheForgeMayEverSeeThis"
OTHER_REPOSITORY = 4711

ONE_JOB = """\
name: CI
on: [push, pull_request]
jobs:
  only:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - run: echo "built $(git rev-parse HEAD) as $GITHUB_REF with $GITHUB_SHA"
"""

Make = Callable[..., Daemon]


@pytest.fixture
def forge() -> Iterator[Forge]:
    """A GitHub that knows the token, and in the end had nothing to object to."""
    with Forge(TOKEN).running() as forge:
        yield forge
    assert forge.problems == []


def reporting(make: Make, forge: Forge, *, server: str = "", more: str = "") -> Daemon:
    """A daemon, ready, that reports to this forge."""
    lines = [f"server = {json.dumps(server)}"] if server else []
    settings = "\n".join(
        ["", "[forge]", *lines, f"api = {json.dumps(forge.url)}", f"token = {json.dumps(TOKEN)}", more, ""]
    )
    return make(PROCESSES, command=HASTY, settings=settings).start().wait_ready()


def push(sha: str, repository: str = REPOSITORY) -> bytes:
    """The body of a push."""
    facts = checkout.Checkout(full_name=repository, ref="refs/heads/main", sha=sha, message="a change")
    return json.dumps(checkout.payload("push", facts)).encode()


def pull(number: int, head: str, base: str, *, action: str = "opened", fork: bool = False) -> bytes:
    """The body of a pull request's event."""
    facts = checkout.Checkout(full_name=REPOSITORY, ref="refs/heads/topic", sha=head, message="a change")
    payload = checkout.payload("pull_request", facts, number=number)
    payload["action"] = action
    payload["pull_request"]["base"] |= {"ref": "main", "sha": base}
    if fork:
        theirs = {"id": OTHER_REPOSITORY, "full_name": "stranger/repo", "fork": True}
        payload["pull_request"]["head"]["repo"] = theirs
        # Of somebody whom the repository knows: nobody has to approve it.
        payload["pull_request"]["user"] = payload["sender"]
        payload["pull_request"]["author_association"] = "MEMBER"
    return json.dumps(payload).encode()


def told(daemon: Daemon, body: bytes, *, event: str = "push") -> dict[str, Any]:
    """Post a delivery, wait until the forge was told all about it, and return its one run."""
    delivery = str(uuid.uuid4())
    status, answer = daemon.post(body, event=event, delivery=delivery)
    assert status == 202, answer
    daemon.wait_settled()
    (run,) = daemon.runs_of(delivery)
    return run


def said(daemon: Daemon, run: dict[str, Any]) -> str:
    """What the one job of a run wrote."""
    (job,) = daemon.jobs_of(run["id"])
    return "\n".join(daemon.log_of(job))


def git(sample: Sample, *arguments: str) -> str:
    """Do something to the sample that a forge does."""
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(sample.folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "octo" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run(
        ["git", *arguments], cwd=sample.folder, env=environ, capture_output=True, check=True, text=True
    )
    return done.stdout.strip()


# --- what is said ---


def test_a_push_is_reported_job_by_job(make_daemon: Make, forge: Forge, sample: Sample) -> None:
    """Each job is pending first and ends as it ended, legs under their own names, needed jobs first."""
    daemon = reporting(make_daemon, forge)
    sha = sample.workflow(
        """\
name: Build
on: push
jobs:
  compile: {runs-on: ubuntu-latest, steps: [run: sleep 1]}
  test:
    needs: compile
    runs-on: ubuntu-latest
    strategy: {matrix: {flavour: [plain, spicy]}}
    steps: [run: echo]
  broken: {needs: compile, runs-on: ubuntu-latest, steps: [run: "true", {name: The bad one, run: exit 3}]}
  after: {needs: broken, runs-on: ubuntu-latest, steps: [run: echo]}
"""
    )
    told(daemon, push(sha))
    history = forge.history(REPOSITORY, sha)
    ends = {context: states[-1] for context, states in history.items()}
    assert {context: state for context, (state, _) in ends.items()} == {
        "runnerd / Build / compile": "success",
        "runnerd / Build / test (plain)": "success",
        "runnerd / Build / test (spicy)": "success",
        "runnerd / Build / broken": "failure",
        "runnerd / Build / after": "success",  # skipped, which holds no merge up at GitHub either
    }
    assert ends["runnerd / Build / broken"][1].startswith("Failed after ")
    assert "'The bad one'" in ends["runnerd / Build / broken"][1]
    assert "exit code 3" in ends["runnerd / Build / broken"][1]
    assert ends["runnerd / Build / after"][1].startswith("Skipped")
    for context, states in history.items():
        words = [state for state, _ in states]
        assert words[:-1] == ["pending"] * (len(words) - 1), context
    assert [words for _, words in history["runnerd / Build / compile"]][-2:-1] == ["Running"]

    order = [(s["context"], s["state"]) for s in reversed(forge.statuses[REPOSITORY, sha])]
    compiled = order.index(("runnerd / Build / compile", "success"))
    for leg in ("plain", "spicy"):
        assert order.index((f"runnerd / Build / test ({leg})", "success")) > compiled
    assert not forge.comments


def test_what_cannot_run_is_a_failure_on_the_commit(make_daemon: Make, forge: Forge, sample: Sample) -> None:
    """A file that is no workflow, one that needs what is not there yet: a failure, and the reason."""
    daemon = reporting(make_daemon, forge)
    later = "name: Later\non: push\njobs:\n  all:\n    runs-on: ubuntu-latest\n"
    (sample.folder / ".github" / "workflows").mkdir(parents=True)
    (sample.folder / ".github" / "workflows" / "link.yml").symlink_to("part.yml")
    sha = sample.commit(
        {
            ".github/workflows/broken.yml": "on: push\njobs: [\n",
            ".github/workflows/whole.yml": later + "    container: debian\n    steps: [run: echo]\n",
            ".github/workflows/part.yml": later + "    steps: [run: echo, uses: actions/setup-node@v4]\n",
        }
    )
    delivery = daemon.deliver(sha)
    wait_for(lambda: len(daemon.runs_of(delivery)) == 4 and daemon.settled(), "four reports")
    newest = forge.newest(REPOSITORY, sha)
    reasons = {
        "runnerd / .github/workflows/broken.yml": "Could not start: Invalid workflow file",
        "runnerd / .github/workflows": "link.yml: it is a symbolic link",
        "runnerd / Later": "Could not start: This version of runnerd cannot run this workflow yet",
        "runnerd / Later / all": "actions/setup-node@v4",
    }
    assert {context: state for context, (state, _) in newest.items()} == dict.fromkeys(reasons, "failure")
    for context, reason in reasons.items():
        assert reason in newest[context][1], newest[context]


def test_a_pull_request_is_built_merged_and_has_one_comment(
    make_daemon: Make, forge: Forge, sample: Sample
) -> None:
    """The merge ref is built, the head hears of it, and one comment is kept up to date over two runs."""
    daemon = reporting(make_daemon, forge)
    base = sample.workflow(ONE_JOB)
    heads, merges, texts = [], [], []
    for action in ("opened", "synchronize"):
        git(sample, "checkout", "-q", "-B", "topic", base)
        heads.append(sample.commit({"change": action}))
        git(sample, "checkout", "-q", "-B", "merged", "main")
        git(sample, "merge", "-q", "--no-ff", "-m", "merge", "topic")
        merges.append(git(sample, "rev-parse", "HEAD"))
        git(sample, "update-ref", "refs/pull/7/merge", merges[-1])
        run = told(daemon, pull(7, heads[-1], base, action=action), event="pull_request")
        assert f"built {merges[-1]} as refs/pull/7/merge with {merges[-1]}" in said(daemon, run)
        (comment,) = forge.comments[REPOSITORY, 7]
        texts.append(comment["body"])
    for head, merge in zip(heads, merges, strict=True):
        assert {c: s for c, (s, _) in forge.newest(REPOSITORY, head).items()} == {
            "runnerd / CI / only": "success"
        }
        assert (REPOSITORY, merge) not in forge.statuses
    for head, text in zip(heads, texts, strict=True):
        assert head[:12] in text
        assert "runnerd: successful" in text
    assert heads[0][:12] not in texts[1]
    posts = [r for r in forge.writes() if r.path.endswith("/issues/7/comments")]
    edits = [r for r in forge.writes() if "/issues/comments/" in r.path]
    assert len(posts) == 1
    assert edits, "the second run's comment is an edit of the first"


def test_a_pull_request_without_a_merge_ref_is_built_as_it_is(
    make_daemon: Make, forge: Forge, sample: Sample
) -> None:
    """Where the remote has no merge commit (a conflict, another forge) the head itself is built."""
    daemon = reporting(make_daemon, forge)
    base = sample.workflow(ONE_JOB)
    git(sample, "checkout", "-q", "-b", "topic")
    head = sample.commit({"change": "new"})
    run = told(daemon, pull(8, head, base), event="pull_request")
    assert f"built {head} as" in said(daemon, run)
    assert f"with {head}" in said(daemon, run)
    assert forge.newest(REPOSITORY, head)["runnerd / CI / only"][0] == "success"
    assert len(forge.comments[REPOSITORY, 8]) == 1


def test_a_fork_is_refused_where_machines_are_no_boundary(
    make_daemon: Make, forge: Forge, sample: Sample
) -> None:
    """A stranger's code does not run as a plain process, and the pull request says why."""
    daemon = reporting(make_daemon, forge)
    base = sample.workflow(ONE_JOB)
    proof = daemon.folder / "it-ran"
    git(sample, "checkout", "-q", "-b", "topic")
    head = sample.workflow(ONE_JOB + f"      - run: touch {proof}\n")
    told(daemon, pull(9, head, base, fork=True), event="pull_request")
    state, words = forge.newest(REPOSITORY, head)["runnerd / CI / only"]
    assert state == "failure"
    assert "Could not start" in words
    assert "fork" in words
    (comment,) = forge.comments[REPOSITORY, 9]
    assert (
        "a pull request from a fork is not run on machines that are no security boundary" in comment["body"]
    )
    assert not proof.exists()


# --- said once ---


@pytest.mark.parametrize("kind", ["after", "hangup"])
def test_a_write_whose_answer_was_lost_is_not_repeated(
    make_daemon: Make, forge: Forge, sample: Sample, kind: str
) -> None:
    """A 5xx or a broken answer after the write was done makes no second status and no second comment."""
    daemon = reporting(make_daemon, forge)
    base = sample.workflow(ONE_JOB)
    git(sample, "checkout", "-q", "-b", "topic")
    head = sample.commit({"change": "new"})
    forge.faults += [
        Fault(kind, method="POST", path="/statuses/", times=1),
        Fault(kind, method="POST", path="/issues/", times=1),
        Fault(kind, method="PATCH", path="/issues/", times=1),
    ]
    told(daemon, pull(5, head, base), event="pull_request")
    states = forge.history(REPOSITORY, head)["runnerd / CI / only"]
    assert states[-1][0] == "success"
    assert len(states) == len(set(states))
    (comment,) = forge.comments[REPOSITORY, 5]
    assert "runnerd: successful" in comment["body"]
    assert [fault.times for fault in forge.faults[:2]] == [0, 0]


def test_a_rate_limit_is_waited_for(make_daemon: Make, forge: Forge, sample: Sample) -> None:
    """After a 429 or a 403 with `retry-after` the forge is left alone for so long, and then hears all."""
    daemon = reporting(make_daemon, forge)
    waits = {429: 2.0, 403: 1.0}
    for status, seconds in waits.items():
        header = {"retry-after": f"{seconds:g}"}
        fault = Fault("answer", method="POST", status=status, headers=header, message="secondary rate limit")
        forge.faults.append(fault)
    sha = sample.workflow(ONE_JOB)
    told(daemon, push(sha))
    assert [fault.times for fault in forge.faults] == [0, 0]
    refused = [n for n, request in enumerate(forge.requests) if request.method == "POST"][:2]
    for number, seconds in zip(refused, waits.values(), strict=True):
        assert forge.times[number + 1] - forge.times[number] >= seconds - 0.05
    assert forge.history(REPOSITORY, sha)["runnerd / CI / only"][-1][0] == "success"


@pytest.mark.parametrize("heard", [False, True])
def test_a_report_outlives_the_daemon(make_daemon: Make, forge: Forge, sample: Sample, heard: bool) -> None:
    """Killed between the end of a job and its report, or between report and answer: told, and once."""
    daemon = reporting(make_daemon, forge)
    sha = sample.workflow(ONE_JOB)
    if heard:
        forge.silent = lambda request: request.method == "POST" and request.body["state"] == "success"
    else:
        forge.faults.append(Fault("before", method="POST", status=503, times=1_000_000))
    delivery = daemon.deliver(sha)

    def ended() -> bool:
        runs = daemon.runs_of(delivery)
        return bool(runs) and runs[0]["phase"] == "done" and (not heard or forge.kept_back > 0)

    wait_for(ended, "the run has ended, unreported")
    daemon.kill()
    assert not daemon.settled()
    forge.faults.clear()
    forge.speak()
    daemon.start().wait_ready().wait_settled()
    (run,) = daemon.runs_of(delivery)
    assert run["outcome"] == "success"
    states = [state for state, _ in forge.history(REPOSITORY, sha)["runnerd / CI / only"]]
    assert states[-1] == "success"
    assert states.count("success") == 1


# --- and to nobody else ---


def test_the_token_goes_to_the_forge_alone(
    make_daemon: Make, forge: Forge, sample: Sample, tmp_path: Path
) -> None:
    """It opens the forge's git, and is in no log, ledger, report, mirror, argument or environment."""
    (tmp_path / "octo").mkdir()
    (tmp_path / "octo" / "repo.git").symlink_to(sample.folder / ".git")
    sha = sample.workflow(ONE_JOB + "      - run: env; git config --list --show-origin; cat .git/config\n")
    seen = threading.Event()
    ours = GitServer(tmp_path, token=TOKEN, held=seen)
    other = GitServer(tmp_path, token="another")
    with ours.running(), other.running():
        elsewhere = f'\n[repositories."octo/elsewhere"]\nremote = "{other.url}/octo/repo.git"\n'
        daemon = reporting(make_daemon, forge, server=ours.url, more=elsewhere)
        # A forge, or somebody between, may say the token back to us.
        echo = f"bad header: Bearer {TOKEN}"
        forge.faults.append(Fault("answer", method="POST", status=422, message=echo, times=1_000))
        for repository in ("octo/repo", "octo/elsewhere"):
            status, answer = daemon.post(push(sha, repository), delivery=repository)
            assert status == 202, answer

        fetches = 0
        leaks: list[str] = []

        def ended() -> bool:
            nonlocal fetches
            for path in Path("/proc").glob("[0-9]*"):
                try:
                    about = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
                except OSError:
                    continue
                if about.startswith(b"git\0fetch\0") and ours.url.encode() in about:
                    fetches += 1
                    seen.set()
                if TOKEN.encode() in about:
                    leaks.append(about.replace(b"\0", b" ").decode(errors="replace")[:300])
            runs = daemon.runs_of("octo/repo")
            return bool(runs) and runs[0]["phase"] == "done" and bool(other.requests)

        wait_for(ended, "the run, and the other server asked", pause=0.0)
        refused = "SELECT error FROM outbox WHERE error LIKE '%bad header%'"
        wait_for(lambda: daemon.rows(refused), "the refusal, kept")
        assert fetches, "no fetch from the forge was seen: nothing was checked"
        assert leaks == []
        assert [run["outcome"] for run in daemon.runs_of("octo/repo")] == ["success"]
        assert set(ours.logins) == {f"x-access-token:{TOKEN}"}
        assert other.logins == [], "a remote that is not the forge's asked for a login, and got the forge's"
        assert daemon.stop() == 0
    checked = 0
    for path in daemon.folder.rglob("*"):
        if path.is_file() and path.name != "config.toml":
            assert TOKEN.encode() not in path.read_bytes(), path
            checked += 1
    assert checked > 10


def test_a_redirect_does_not_take_the_token_along(
    make_daemon: Make, forge: Forge, sample: Sample, tmp_path: Path
) -> None:
    """The forge's git sends us elsewhere: that server hears no token, though it asks for a login."""
    (tmp_path / "octo").mkdir()
    (tmp_path / "octo" / "repo.git").symlink_to(sample.folder / ".git")
    sha = sample.workflow(ONE_JOB)
    with (
        GitServer(tmp_path, token=TOKEN).running() as thief,
        GitServer(tmp_path, redirect=thief.url).running() as ours,
    ):
        daemon = reporting(make_daemon, forge, server=ours.url)
        status, answer = daemon.post(push(sha, "octo/repo"), delivery="moved")
        assert status == 202, answer
        wait_for(lambda: len(thief.requests) > 1, "git followed the redirect, more than once")
        assert ours.requests
        assert thief.logins == []
        assert daemon.runs_of("moved") == []
