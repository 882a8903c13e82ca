"""`run_once`: a checkout's workflows as they stand, run by the daemon's own executor and pool."""

import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from runnerd.cli.event import happened
from runnerd.config import load
from runnerd.daemon import Nothing, Report, Request, drivers, once, run_once
from runnerd.machines.driver import NoMachine
from runnerd.machines.fake import open_fake_driver
from runnerd.model import Outcome, RunRecord

WORKFLOW = """
name: CI
on: push
env: {FROM_FILE: file, FROM_LINE: file}
jobs:
  first:
    runs-on: ubuntu-latest
    outputs: {said: "${{ steps.say.outputs.word }}"}
    steps:
      - run: test -z "$(ls -A)"
      - uses: actions/checkout@v4
      - run: cat new.txt
      - id: say
        run: echo "word=hello" >> "$GITHUB_OUTPUT"
  second:
    needs: first
    runs-on: ubuntu-latest
    steps:
      - run: echo "${{ needs.first.outputs.said }} ${{ vars.V }} $FROM_FILE $EXTRA ${{ secrets.TOKEN }}"
  other:
    runs-on: ubuntu-latest
    steps:
      - run: exit 3
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit, a changed workflow and an untracked file."""
    path = tmp_path / "repo"
    path.mkdir()
    git = ["git", "-C", path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    (path / ".github/workflows").mkdir(parents=True)
    (path / ".github/workflows/ci.yml").write_text(WORKFLOW)
    (path / "new.txt").write_text("not committed yet\n")
    return path


def run(path: Path, lines: list[str], open_driver=drivers.open_driver, settings=None, **options) -> Report:
    environ = {"STATE_DIRECTORY": str(path.parent / "state"), "HOME": str(path)}
    config = load(settings, environ=environ, flags={"machines.driver": "process", "machines.memory": 128})
    what = happened(path, "push", None, inputs={})
    request = Request(path=path, event=what.event, body=what.body, changed=what.changed, **options)
    return run_once(
        request,
        config=config,
        show=lambda job, line: lines.append(f"{job}|{line}"),
        note=lines.append,
        open_driver=open_driver,
    )


def test_the_working_tree_runs_as_it_is(checkout: Path) -> None:
    """Files that are not committed are there after checkout; outputs, env, vars and secrets arrive."""
    lines: list[str] = []
    given = {"variables": {"V": "var"}, "env": {"EXTRA": "more"}, "secrets": {"TOKEN": "s3cret-value"}}
    report = run(checkout, lines, job="second", **given)
    ((record, jobs),) = report.runs
    assert (record.outcome, report.green) == (Outcome.SUCCESS, True)
    assert [job.name for job in jobs] == ["first", "second"]
    assert "first|not committed yet" in lines
    assert "second|hello var file more ***" in lines
    assert not any("s3cret-value" in line for line in lines)


@pytest.mark.parametrize(("patience", "told"), [(0.0, True), (60.0, False)])
def test_who_waits_for_the_first_machine_is_told(checkout: Path, monkeypatch, patience, told) -> None:
    """Once, before the first line; nothing is said where that comes soon."""
    monkeypatch.setattr(once, "PATIENCE", patience)
    lines: list[str] = []
    run(checkout, lines, job="other")
    assert [line.startswith("waiting for the first machine") for line in lines[:2]] == [told, False]


def test_a_failing_job_is_not_green(checkout: Path) -> None:
    """One job that fails makes the report not green; the others still run."""
    report = run(checkout, [])
    ((record, jobs),) = report.runs
    assert (record.outcome, report.green) == (Outcome.FAILURE, False)
    assert {job.name: job.outcome for job in jobs} == {
        "first": Outcome.SUCCESS,
        "second": Outcome.SUCCESS,
        "other": Outcome.FAILURE,
    }


def test_nothing_of_the_run_is_left_behind(checkout: Path) -> None:
    """The checkout is only read, and no state is kept."""
    before = sorted(checkout.rglob("*"))
    run(checkout, [], job="first")
    assert sorted(checkout.rglob("*")) == before
    assert not (checkout.parent / "state" / "ledger.db").exists()


def test_an_unclaimed_label_is_a_startup_failure(checkout: Path) -> None:
    """Here every job is ours: one that no image claims fails and says so."""
    (checkout / ".github/workflows/ci.yml").write_text(WORKFLOW.replace("ubuntu-latest", "macos-14"))
    ((record, jobs),) = run(checkout, [], job="first").runs
    assert record.outcome is Outcome.STARTUP_FAILURE
    assert "no image claims the labels macos-14" in jobs[0].reason


def test_an_invalid_file_is_not_green(checkout: Path) -> None:
    """A file that cannot be read is a failed run with its problems, place by place."""
    (checkout / ".github/workflows/ci.yml").write_text("on: push\njobs: {a: {steps: []}}\n")
    report = run(checkout, [])
    ((record, _),) = report.runs
    assert (record.outcome, report.green) == (Outcome.STARTUP_FAILURE, False)
    assert ".github/workflows/ci.yml:2:" in record.reason


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workflow_files": ["absent.yml"]}, "there is no workflow file absent.yml"),
        ({"job": "absent"}, "it has no job 'absent'"),
    ],
)
def test_what_is_not_there_is_named(checkout: Path, options: dict, sentence: str) -> None:
    """Asking for a file or job that does not exist raises `Nothing` with its name."""
    with pytest.raises(Nothing, match=sentence):
        run(checkout, [], **options)


def test_an_event_that_matches_nothing_says_why(checkout: Path) -> None:
    """Each file's reason is in the sentence."""
    (checkout / ".github/workflows/ci.yml").write_text(WORKFLOW.replace("on: push", "on: pull_request"))
    with pytest.raises(Nothing, match="push is not among its events"):
        run(checkout, [])


def test_green_needs_a_success() -> None:
    """Skipped runs do not make a report green, nor do no runs at all."""
    assert not Report().green
    record = msgspec.convert(
        {
            "id": 1, "delivery": "d", "repository": "o/r", "workflow_path": "p", "workflow_name": "n",
            "title": "", "source": "", "number": 1, "outcome": "skipped",
            "event": {
                "delivery": "d", "name": "push", "repository": {"id": 1, "full_name": "o/r"},
                "sender": {"id": 1, "login": "o"},
            },
        },
        type=RunRecord,
    )  # fmt: skip
    assert not Report(runs=((record, ()),)).green
    green = msgspec.structs.replace(record, outcome=Outcome.SUCCESS)
    assert Report(runs=((record, ()), (green, ()))).green


def test_lines_of_steps_side_by_side_say_whose_they_are(checkout: Path) -> None:
    """On the terminal as in the log; a step in the foreground has no mark."""
    (checkout / ".github/workflows/ci.yml").write_text(
        "on: push\njobs: {beside: {runs-on: ubuntu-latest, steps: "
        "[{parallel: [{run: echo left}, {run: echo right}]}, {run: echo front}]}}"
    )
    lines: list[str] = []
    report = run(checkout, lines)
    assert report.green
    said = [line for line in lines if line.endswith(("left", "right", "front")) and "##[" not in line]
    assert {"beside|[step 1] left", "beside|[step 2] right", "beside|front"} <= set(said)


def test_no_machine_ends_it_at_once_in_the_words_of_the_driver(checkout: Path) -> None:
    """Where no image can be had nothing is run, waited for or tried again."""
    tried = []

    async def build_template(image, size, generation):
        tried.append(image)
        raise NoMachine(f"there is no image {image!r}: build it with `runnerd image build`")

    @asynccontextmanager
    async def open_driver(config, journal, own):
        async with open_fake_driver() as driver:
            driver.build_template = build_template
            yield driver

    with pytest.raises(NoMachine, match="there is no image 'default': build it"):
        run(checkout, [], open_driver=open_driver)
    assert tried == ["default"]


TWO_IMAGES = """
[pool]
min_idle = 3
[images.default]
labels = ["ubuntu-latest"]
[images.other]
labels = ["elsewhere"]
min_idle = 2
"""


@pytest.mark.parametrize(
    ("text", "templates", "machines"),
    [
        (
            "jobs: {a: {runs-on: ubuntu-latest, steps: [{run: x}]}, "
            "b: {runs-on: [ubuntu-latest], steps: [{run: x}]}}",
            {"default"},
            2,
        ),
        ("jobs: {a: {runs-on: nowhere, steps: [{run: x}]}}", set(), 0),
        (
            "jobs: {a: {strategy: {matrix: {os: [elsewhere]}}, "
            "runs-on: '${{ matrix.os }}', steps: [{run: x}]}}",
            {"default", "other"},
            1,
        ),
        ("jobs: {a: {uses: ./.github/workflows/called.yml}}", {"other"}, 1),
    ],
)
def test_nothing_is_made_that_no_job_needs(checkout: Path, text: str, templates: set, machines: int) -> None:
    """A machine for each job and none to spare, of the images that the jobs claim."""
    (checkout / ".github/workflows/ci.yml").write_text(f"on: push\n{text}\n")
    (checkout / ".github/workflows/called.yml").write_text(
        "on: workflow_call\njobs: {a: {runs-on: elsewhere, steps: [{run: x}]}}\n"
    )
    settings = checkout.parent / "config.toml"
    settings.write_text(TWO_IMAGES)
    made: set[str] = set()
    kept: list = []

    @asynccontextmanager
    async def open_driver(config, journal, own):
        async with open_fake_driver() as driver:
            build_template = driver.build_template

            async def counted(image, size, generation):
                made.add(image)
                return await build_template(image, size, generation)

            driver.build_template = counted
            kept.append(driver)
            yield driver

    run(checkout, [], open_driver=open_driver, settings=settings)
    assert made <= templates
    assert kept[0].made == machines


def test_a_size_in_the_label_is_the_size_of_the_machine(checkout: Path) -> None:
    """Of the image that has the label; a size that is not listed is claimed by none."""
    (checkout / ".github/workflows/ci.yml").write_text(
        "on: push\njobs:\n"
        "  large: {runs-on: [self-hosted, debian-12-2cpu-1gb], steps: [{run: x}]}\n"
        "  huge: {runs-on: debian-12-64cpu-512gb, steps: [{run: x}]}\n"
    )
    settings = checkout.parent / "config.toml"
    settings.write_text('[images.default]\nsizes = ["2cpu-1gb"]\n')
    made = []

    @asynccontextmanager
    async def open_driver(config, journal, own):
        async with open_fake_driver() as driver:
            build_template = driver.build_template

            async def noted(image, size, generation):
                made.append((image, size.vcpus, size.memory))
                return await build_template(image, size, generation)

            driver.build_template = noted
            yield driver

    ((_, jobs),) = run(checkout, [], open_driver=open_driver, settings=settings).runs
    assert {job.name: job.outcome for job in jobs} == {
        "large": Outcome.SUCCESS,
        "huge": Outcome.STARTUP_FAILURE,
    }
    assert made == [("default", 2, 1024)]
