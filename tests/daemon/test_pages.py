"""Behaviour of runnerd.daemon.pages: a run and its jobs as text, behind seals that fit."""

import stat

import msgspec
import pytest

from runnerd.daemon import pages
from runnerd.daemon.pages import Pages
from runnerd.forge.links import Links
from runnerd.model import (
    Actor,
    Event,
    JobRecord,
    Outcome,
    Phase,
    Repository,
    RunRecord,
    StepResult,
)
from runnerd.store import logs

LINKS = Links(public_url="https://ci.example", key=b"k" * 32)
EVENT = Event(
    delivery="d-1",
    name="push",
    repository=Repository(id=1, full_name="octo/hello"),
    sender=Actor(id=2, login="ada"),
    sha="a" * 40,
    ref="refs/heads/main",
)


class Remembers:
    """A ledger of one run with one job."""

    def __init__(self, run, job):
        self._run, self._job = run, job

    async def run(self, run):
        return self._run if run == self._run.id else None

    async def jobs(self, run):
        return [self._job]


@pytest.fixture
def known(tmp_path):
    step = StepResult(number=1, id="", name="Run make", outcome=Outcome.FAILURE, conclusion=Outcome.FAILURE)
    done = {"phase": Phase.DONE, "outcome": Outcome.FAILURE, "started": 100.0, "ended": 103.0}
    job = JobRecord(id=9, run=5, key="build", name="build", steps=(step,), reason="it broke", **done)
    run = RunRecord(
        id=5,
        repository="octo/hello",
        event=EVENT,
        workflow_name="CI",
        workflow_path=".github/workflows/ci.yml",
        title="Fix it",
        delivery="d-1",
        source="0" * 64,
        number=3,
        **done,
    )
    path = logs.log_path(tmp_path, 5, 9)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"2026-11-23T18:22:09.123456Z make: *** [all] Error 1\n")
    return Pages(Remembers(run, job), tmp_path, LINKS)


def seal(run, job):
    return LINKS.of(run, job).rpartition("/")[2]


async def test_a_run_lists_its_jobs_with_their_links(known):
    """What it is of, how it stands, and where each job is."""
    text = await known.page(5, None, seal(5, None))
    assert text.startswith("CI, run 5 of octo/hello, attempt 1\nFix it\npush on refs/heads/main at aaaa")
    assert f"build: failure: it broke, 3.0s\n{LINKS.of(5, 9)}\n" in text


async def test_a_job_shows_its_steps_and_its_log(known):
    """First what became of it, then all it printed."""
    text = await known.page(5, 9, seal(5, 9))
    assert "\nbuild: failure: it broke, 3.0s\n  1 Run make: failure" in text
    assert text.endswith("make: *** [all] Error 1\n")


async def test_a_carried_job_shows_where_it_ran_and_its_log(known, tmp_path):
    """Its result is of an earlier attempt, under whose numbers the log lies."""
    known._ledger._job = msgspec.structs.replace(known._ledger._job, id=20, carried="5/9")
    text = await known.page(5, 20, seal(5, 20))
    assert "\nbuild: failure: it broke, 3.0s (as it was in run 5)\n" in text
    assert text.endswith("make: *** [all] Error 1\n")


async def test_a_long_log_says_where_the_rest_is(known, monkeypatch):
    """A page is bounded."""
    monkeypatch.setattr(pages, "LOG", 10)
    text = await known.page(5, 9, seal(5, 9))
    assert "Error 1" not in text
    assert text.endswith("the rest is on the runner's host: runnerd logs 5 9\n")


async def test_only_a_fitting_seal_opens_what_is_there(known):
    """A seal of another page opens nothing, nor does a true one of what is gone."""
    assert await known.page(5, 9, seal(5, None)) is None
    assert await known.page(6, None, seal(6, None)) is None
    assert await known.page(5, 10, seal(5, 10)) is None


def test_the_key_is_made_once_and_is_its_owners_alone(tmp_path):
    """The next start finds the same one; what is no key is refused and not replaced."""
    made = pages.key(tmp_path)
    assert len(made) == pages.KEY
    assert pages.key(tmp_path) == made
    path = tmp_path / "links.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(OSError, match="is no key of 32 bytes"):
        pages.key(tmp_path)
