"""Jobs that are stood down before a step and gone on with in a machine as it was kept."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.jobs.runner import run_job
from runnerd.jobs.standing import BadStanding, Standing, decode, encode
from runnerd.jobs.state import Shown
from runnerd.machines.driver import NotKept
from runnerd.model import JobResult, Outcome, StepResult

from .conftest import Bench, LocalMachine


class CopiesFolders:
    """Keeps the machine's folder and the standing before every step from `first` on."""

    def __init__(self, root: Path, first: int = 1) -> None:
        self.root = root
        self.first = first
        self.kept: dict[int, bytes] = {}
        self.refuses = ""
        self.asked = True
        self.given = False
        self.concealed: list[tuple[int, bool]] = []
        """How many were kept each time that the job had masked something, and whether the step still ran."""

    def tries(self, step: str) -> int:
        return 1

    def wants(self, number: int, status: str) -> bool:
        return number >= self.first

    async def keep(self, number: int, name: str, standing: bytes, *, masked: bool, wanted: bool) -> None:
        if self.refuses:
            raise NotKept(self.refuses)
        self.kept[number] = standing
        shutil.copytree(self.root, self.place(number), symlinks=True)

    async def conceal(self, *, again: bool = False) -> None:
        self.concealed.append((len(self.kept), again))

    async def back(self) -> str:
        raise AssertionError("nothing is tried again")

    def place(self, number: int) -> Path:
        return self.root.with_name(f"before-{number}")

    def restore(self, number: int) -> None:
        """Have the machine's folder as it was."""
        shutil.rmtree(self.root)
        shutil.copytree(self.place(number), self.root, symlinks=True)


SECRET = "open sesame"


async def go(folder: Path, text: str, standing: Standing | None = None, rewind: CopiesFolders | None = None):
    """Run a job in the machine of a folder; return the bench and the result."""
    bench = Bench(LocalMachine(folder / "machine"))
    spec = bench.spec(text)
    if standing is not None:
        spec = msgspec.structs.replace(spec, record=msgspec.structs.replace(spec.record, id=2))
    result = await run_job(
        spec,
        bench.machine,
        checkout=bench.checkout,
        log=bench.log,
        observer=bench.observer,
        secrets={"KEY": SECRET},
        cancel=trio.Event(),
        clock=lambda: 5.0,
        rewind=rewind,
        standing=standing,
    )
    return bench, result


def comparable(result: JobResult) -> JobResult:
    """What it was before that has nothing to do with which of two equal errors came first."""
    return msgspec.structs.replace(result, annotations=tuple(sorted(result.annotations, key=repr)))


async def same_from_every_step(folder: Path, text: str, only: int | None = None) -> None:
    """Run a job whole, and again from every step before which its machine could be kept."""
    keeper = CopiesFolders(folder / "machine")
    keeper.asked = False
    whole, expected = await go(folder, text, rewind=keeper)
    for number in [only] if only in keeper.kept else keeper.kept:
        standing = decode(keeper.kept[number])
        assert SECRET.encode() not in keeper.kept[number]
        keeper.restore(number)
        bench, result = await go(folder, text, standing)
        assert comparable(result) == comparable(expected)
        for later in range(number, len(result.steps) + 1):
            assert bench.log.steps.get(later) == whole.log.steps.get(later)
        ended = [told[1] for told in bench.observer.told if told[0] == "ended"]
        assert sorted(ended) == [step.number for step in result.steps]
        assert not [told for told in bench.observer.told if told[0] == "started" and told[1] < number]


HEAD = """\
on: push
env: {WHO: "${{ secrets.KEY }}", COLOUR: green}
jobs:
  one:
    runs-on: x
    outputs: {all: "${{ steps.last.outputs.all }}"}
    steps:
"""
LAST = """\
    - id: last
      if: always()
      run: |
        echo "all=$COLOUR $SHAPE ${PATH%%:/*} ${{ job.status }} $(ls | tr '\\n' ' ')" >>$GITHUB_OUTPUT
        echo '${{ toJSON(steps) }}'; echo "hidden value; problem: here it is; $WHO"
"""
MATCHER = '{"problemMatcher":[{"owner":"o","pattern":[{"regexp":"^problem: (.*)$","message":1}]}]}'
KINDS = {
    "output": "id: ID\n      run: echo made=ID >>$GITHUB_OUTPUT",
    "variable": "run: echo COLOUR=ID >>$GITHUB_ENV; echo SHAPE=ID >>$GITHUB_ENV",
    "path": "run: echo ID >>$GITHUB_PATH",
    "mask": "run: echo ::add-mask::hidden value",
    "note": "run: |\n        echo '::warning::a hidden value'\n        echo 'problem: found'",
    "summary": "run: echo 'told by ID, hidden value' >>$GITHUB_STEP_SUMMARY",
    "forgiven": "id: ID\n      continue-on-error: true\n      run: exit 3",
    "failure": "run: exit 4",
    "matcher": f"run: |\n        echo '{MATCHER}' >m; echo ::add-matcher::m",
    "file": "run: test ! -e ID; touch ID",
    "cleanup": "if: failure()\n      run: echo cleaned >>$GITHUB_STEP_SUMMARY",
    "beside": (
        "id: ID\n      background: true\n"
        "      run: echo made=ID >>$GITHUB_OUTPUT; echo SHAPE=ID >>$GITHUB_ENV\n"
        "    - wait: ID"
    ),
    "stopped": "id: ID\n      background: true\n      run: sleep 60\n    - cancel: ID",
    "failed beside": (
        "id: ID\n      background: true\n      run: exit 1\n    - continue-on-error: true\n      wait: ID"
    ),
}


def written(kinds) -> str:
    """A job of such steps, and the one that tells what became of all."""
    steps = (f"    - {KINDS[kind].replace('ID', f'n{at}')}\n" for at, kind in enumerate(kinds))
    return HEAD + "".join(steps) + LAST


async def test_a_job_goes_on_as_if_it_had_never_stood_still(tmp_path):
    """From every step of a job that uses all that a job can have: the same result, the same log."""
    await same_from_every_step(tmp_path, written(KINDS))


@settings(max_examples=8)
@given(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4), st.integers(1, 5))
async def test_no_order_of_steps_makes_a_difference(kinds, number):
    """Whatever the steps are, and whichever of them is the first of the second run."""
    with tempfile.TemporaryDirectory() as folder:
        await same_from_every_step(Path(folder), written(kinds), number)


async def test_what_a_job_masks_is_told_at_once(tmp_path):
    """And after each step from then on: its machine may have held the value before."""
    keeper = CopiesFolders(tmp_path / "machine")
    await go(tmp_path, written(["file", "mask", "file"]), rewind=keeper)
    assert keeper.concealed == [(2, True), (2, False), (3, False), (4, False)]


async def test_who_goes_on_masks_what_the_job_was_given(tmp_path):
    """Its secrets may be others by then, and those of before are in the machine still."""
    keeper = CopiesFolders(tmp_path / "machine", first=2)
    keeper.given = True
    await go(tmp_path, written(["file"]), rewind=keeper)
    assert SECRET in decode(keeper.kept[2]).masks


async def test_the_log_says_how_earlier_steps_ended(tmp_path):
    """In their own parts, naming the job that ran them."""
    keeper = CopiesFolders(tmp_path / "machine", first=3)
    text = written(["output", "forgiven"])
    await go(tmp_path, text, rewind=keeper)
    bench, _ = await go(tmp_path, text, decode(keeper.kept[3]))
    assert bench.log.steps[1] == ["Run echo made=n0 >>$GITHUB_OUTPUT: success, as it was in job 1"]
    assert bench.log.steps[2] == ["Run exit 3: success, as it was in job 1"]


async def test_nothing_is_kept_while_steps_run_in_the_background(tmp_path):
    """The log says so once, where somebody asked; it is kept again when they ended."""
    keeper = CopiesFolders(tmp_path / "machine")
    text = HEAD + (
        "    - {id: a, background: true, run: 'until test -e go; do sleep 0.02; done'}\n"
        "    - run: 'true'\n"
        "    - run: touch go\n"
        "    - wait: a\n"
        "    - run: 'true'\n"
    )
    bench, _ = await go(tmp_path, text, rewind=keeper)
    assert sorted(keeper.kept)[-1] == 5
    assert not {1, 2, 3} & set(keeper.kept)  # before the wait it may have ended already
    said = [line for line in bench.log.text().splitlines() if "is not kept" in line]
    assert len(said) == 1
    assert "in the background" in said[0]


async def test_that_nothing_can_be_kept_harms_no_job(tmp_path):
    """It is a line of the log."""
    keeper = CopiesFolders(tmp_path / "machine")
    keeper.refuses = "the disk is full"
    bench, result = await go(tmp_path, written(["file"]), rewind=keeper)
    assert result.outcome is Outcome.SUCCESS
    assert bench.log.text().count("the disk is full") == 1


def standing(**changes) -> Standing:
    step = StepResult(number=1, id="", name="x", outcome=Outcome.SUCCESS, conclusion=Outcome.SUCCESS)
    given = {"run": 3, "job": 1, "before": 2, "shown": Shown(status="success"), "results": (step,)}
    return Standing(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"before": 0}, "before step 0"),
        ({"before": 9}, "before step 9"),
        ({"results": ()}, "every step"),
        ({"shown": Shown(status="cancelled")}, "'cancelled'"),
    ],
)
async def test_what_does_not_fit_the_job_is_not_gone_on_with(tmp_path, changes, said):
    """Nothing runs, and the job's result says what is wrong."""
    bench, result = await go(tmp_path, written(["file", "file"]), standing(**changes))
    assert result.outcome is Outcome.INFRA_ERROR
    assert said in result.reason
    assert not bench.machine.calls


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        encode(standing()).replace(b'"success"', b'"fine"'),
        encode(standing()).replace(b'"format":1', b'"format":2'),
        encode(standing())[:-1],
    ],
)
def test_harmed_bytes_are_no_standing(data):
    """Whatever is wrong with them."""
    with pytest.raises(BadStanding):
        decode(data)


def test_a_standing_is_read_as_it_was_written():
    """All of it."""
    assert decode(encode(standing())) == standing()
