"""Which machines of a job are kept, for how long, and which steps are tried again."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from runnerd.machines import rewind as rewinds
from runnerd.machines.driver import Capabilities, NotKept, Size
from runnerd.machines.fake import FakeMachine, Replies, open_fake_driver
from runnerd.machines.kept import KeptMachines, make_key
from runnerd.machines.quota import Limits
from runnerd.machines.rewind import JobRewind, Rules
from runnerd.machines.rewinding import RewindingMachine


def test_patterns_name_file_job_and_step():
    """Steps that no pattern names have one try."""
    rules = Rules(steps=("ci.yml/test/Install*",), times=3)
    assert rules.tries("ci.yml/test/Install all/of it") == 4
    assert rules.tries("ci.yml/lint/Install") == 1


@pytest.mark.parametrize(
    ("mode", "steps", "idle"), [("off", (), True), ("off", ("x",), False), ("each-step", (), False)]
)
def test_rules_are_idle_where_nobody_wants_anything(mode, steps, idle):
    """Jobs then run on the machine itself."""
    assert Rules(mode=mode, steps=steps).idle is idle


@pytest.fixture
def went():
    """The folders that machines were gone back to."""
    return []


@pytest.fixture
async def job(tmp_path, went):
    """Makes what keeps the machines of a job, by default of job 1."""
    options = {"capabilities": Capabilities(isolated=True, snapshot=True)}
    async with open_fake_driver(Replies([]), **options) as driver:
        machine = await driver.clone(await driver.build_template("default", Size()))

        async def swap(machine, kept):
            assert (kept / "snapshot.json").exists()
            went.append(kept)
            return machine

        def make(mode="on-failure", *, number=1, limits=None, seals=False, capabilities=None, **more):
            key = tmp_path / "key"
            make_key(key)
            store = KeptMachines(
                tmp_path / "kept", limits or Limits(), clock=time.time, key_file=key, seals=seals
            )
            if capabilities is not None:
                machine.capabilities = capabilities
            known = {"run": 7, "job": number, "repository": "o/r", "prefix": "ci.yml/test"}
            known |= {"denied": "", "given": False}
            rules = Rules(mode=mode, steps=("*/flaky",))
            return JobRewind(rules, store, RewindingMachine(machine, swap), **{**known, **more}), store

        yield make


async def keep(rewind, number, status="success", **more):
    """As a turn does."""
    wanted = rewind.wants(number, status)
    await rewind.keep(number, f"Step {number}", b"stood", **{"masked": False, "wanted": wanted, **more})


def steps(store):
    return [each.step for each in store.of(1)]


@pytest.mark.parametrize(
    ("mode", "running", "useful", "useless"),
    [("on-failure", [4], [4], []), ("each-step", [2, 3, 4], [2, 3, 4], [2, 3, 4]), ("off", [4], [], [])],
)
async def test_what_stays_is_by_the_mode(job, mode, running, useful, useless):
    """While the job runs, when it failed, and when it succeeded or was cancelled."""
    for ends, left in ((True, useful), (False, useless)):
        rewind, store = job(mode)
        async with rewind:
            for number in (2, 3, 4):
                await keep(rewind, number)
            assert steps(store) == running
            stays = await rewind.finish(useful=ends)
        assert [each.step for each in stays] == steps(store) == left


async def test_an_earlier_attempts_machines_go_when_the_next_begins(job):
    """They are not of this attempt."""
    rewind, store = job()
    async with rewind:
        await keep(rewind, 2)
        await rewind.finish(useful=True)
    async with job()[0]:
        assert steps(store) == []


async def test_only_the_mode_wants_more_than_tries_need(job):
    """Not before the first step, and on-failure not after a failure: what came before that is looked at."""
    cases = {
        "off": (False, False, False),
        "on-failure": (False, True, False),
        "each-step": (False, True, True),
    }
    for mode, wanted in cases.items():
        rewind, _ = job(mode)
        asked = ((1, "success"), (2, "success"), (3, "failure"))
        assert tuple(rewind.wants(*each) for each in asked) == wanted


async def test_keeping_takes_a_bounded_share_of_a_jobs_time(job, mock_clock, monkeypatch):
    """What would take more is left out until the job has run for longer; who asked for each step has each."""
    slow = FakeMachine.snapshot

    async def slowly(self, *arguments, **named):
        mock_clock.jump(3.0)
        await slow(self, *arguments, **named)

    monkeypatch.setattr(FakeMachine, "snapshot", slowly)
    rewind, _ = job()
    assert rewind.wants(2, "success")
    await keep(rewind, 2)  # 3 s after 0 s
    assert not rewind.wants(3, "success")
    mock_clock.jump(36.9)
    assert not rewind.wants(3, "success")
    mock_clock.jump(0.2)  # 6 s of 40 s and 2 s
    assert rewind.wants(3, "success")
    rewind, _ = job("each-step")
    await keep(rewind, 2)
    assert rewind.wants(3, "success")


async def test_what_is_kept_by_itself_is_no_larger_than_its_time_allows(job, mock_clock, monkeypatch):
    """Where there is much to keep it is given up in time, but not for tries and for who asked."""
    limits = []
    real = FakeMachine.snapshot

    async def notes(self, into, *, key, limit):
        limits.append(limit)
        await real(self, into, key=key, limit=limit)

    monkeypatch.setattr(FakeMachine, "snapshot", notes)
    monkeypatch.setattr(rewinds, "PACE", 1000)
    most = Limits(limit=1 << 20)
    rewind, _ = job(limits=most)
    await keep(rewind, 2)
    mock_clock.jump(30.0)
    await keep(rewind, 3)
    await rewind.keep(4, "flaky", b"", masked=False, wanted=True)
    await keep(job("each-step", limits=most)[0], 2)
    assert limits == [2000, 5000, 1 << 20, 1 << 20]


async def test_why_there_is_none_from_before_the_step_that_failed(job, mock_clock, monkeypatch):
    """Where an earlier one is kept: for want of time before it was begun, and while it was made."""
    real = FakeMachine.snapshot

    async def slowly(self, into, *, key, limit):
        mock_clock.jump(3.0)
        await real(self, into, key=key, limit=limit)

    monkeypatch.setattr(FakeMachine, "snapshot", slowly)
    rewind, _ = job()
    async with rewind:
        await keep(rewind, 2)
        assert not rewind.wants(3, "success")
        assert [each.step for each in await rewind.finish(useful=True, failed=3)] == [2]
    assert rewind.why_none == rewind.missed[3] == rewinds.TOO_LONG
    monkeypatch.setattr(FakeMachine, "snapshot", real)
    rewind, _ = job()
    async with rewind:
        await keep(rewind, 2)
        monkeypatch.setattr(rewinds, "PACE", 1)
        with pytest.raises(NotKept, match="a tenth of a job's time"):
            await keep(rewind, 3)
        await rewind.finish(useful=True, failed=2)
        assert rewind.why_none == ""
        await rewind.finish(useful=True, failed=3)
    assert rewind.why_none == rewinds.TOO_LONG


async def test_what_is_kept_for_tries_alone_takes_nothing_elses_place(job):
    """A step of the clean-up that is tried again does not cost the machine of before the failure."""
    rewind, store = job()
    async with rewind:
        await keep(rewind, 2)
        await keep(rewind, 4, status="failure")
        assert steps(store) == [2, 4]
        await rewind.finish(useful=True)
    assert steps(store) == [2]


@pytest.mark.parametrize("mode", ["on-failure", "each-step"])
async def test_what_was_kept_before_a_value_was_masked_goes(job, mode):
    """The machine may have held the value already; what is encrypted stays."""
    rewind, store = job(mode, seals=True)
    async with rewind:
        await keep(rewind, 2)
        await rewind.conceal()
        assert steps(store) == []
        await keep(rewind, 3, masked=True)
        await rewind.conceal()
        assert [each.step for each in await rewind.finish(useful=True)] == [3]
    rewind, store = job(mode)
    async with rewind:
        await keep(rewind, 2)
        await rewind.conceal()
        assert await rewind.finish(useful=True) == ()
    assert "masked a value" in rewind.why_none


async def test_what_a_step_may_be_tried_again_from_is_found_by_nobody_else(job, went):
    """From the moment that the job masks a value; it is gone after the step, or at the next start."""
    rewind, store = job("each-step")
    async with rewind:
        await keep(rewind, 2)
        await rewind.keep(3, "flaky", b"", masked=False, wanted=True)
        await rewind.conceal(again=True)
        assert steps(store) == []
        assert [path.name for path in store.folder.glob("*/*")] == [".plain-step-03"]
        await rewind.back()
        assert went == [store.folder / "job-1/.plain-step-03"]
        await rewind.conceal(again=True)
        await rewind.back()
        KeptMachines(store.folder, Limits(), clock=time.time).tidy()
        assert not store.folder.exists() or not list(store.folder.iterdir())


@pytest.mark.parametrize("ends", ["step", "job"])
async def test_what_no_step_is_tried_again_from_any_more_goes(job, ends):
    """With the step, at the latest with the job; nor is it there for a step that has no more tries."""
    rewind, store = job("each-step")
    async with rewind:
        await rewind.keep(2, "flaky", b"", masked=False, wanted=True)
        await rewind.conceal(again=True)
        assert list(store.folder.glob("*/*"))
        if ends == "step":
            await rewind.conceal()
            assert not list(store.folder.glob("*/*"))
    assert not list(store.folder.glob("*/*"))
    rewind, store = job("each-step")
    async with rewind:
        await keep(rewind, 2)
        await rewind.conceal(again=True)
        assert not list(store.folder.glob("*/*"))


async def test_steps_may_mask_values_side_by_side(job, monkeypatch):
    """Each goes on only when nobody finds the machine any more, whoever was the first."""
    rewind, store = job("each-step")
    async with rewind:
        await keep(rewind, 2)
        real, waits = store.conceal, trio.Event()

        def slowly(number):
            trio.from_thread.run(waits.wait)
            return real(number)

        monkeypatch.setattr(store, "conceal", slowly)
        found = []

        async def mask():
            await rewind.conceal(again=True)
            found.append(steps(store))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mask)
            nursery.start_soon(mask)
            await trio.testing.wait_all_tasks_blocked()
            assert found == []
            waits.set()
        assert found == [[], []]


async def test_a_machine_that_a_job_went_on_from_goes_as_well(job):
    """It was the same machine, and may have held the value then."""
    rewind, store = job()
    async with rewind:
        await keep(rewind, 2)
        await rewind.finish(useful=True)
    (new := store.place(2, 2)).mkdir()
    store.put(new, b"", run=7, job=2, step=2, name="of another job", encrypted=False)
    rewind, store = job(number=3, source=1)
    async with rewind:
        await rewind.conceal()
        assert await rewind.finish(useful=True) == ()
    assert [each.job for each in store.all()] == [2]
    assert "masked a value" in rewind.why_none


async def test_a_running_jobs_newest_is_not_swept_away(job):
    """Its step may have to go back to it."""
    rewind, store = job(limits=Limits(age=1e-9))
    async with rewind:
        await keep(rewind, 2)
        assert store.sweep() == ()
    assert [each.step for each in store.all()] == [2]


async def test_it_is_not_swept_away_in_its_first_moment(job, monkeypatch):
    """Other jobs keep theirs meanwhile, and the limits with it."""
    rewind, store = job()
    real = store.put

    def put(*arguments, **named):
        kept = real(*arguments, **named)
        store.limits = Limits(age=-1.0)
        assert store.sweep() == ()
        return kept

    monkeypatch.setattr(store, "put", put)
    async with rewind:
        await keep(rewind, 2)
        assert store.sweep() == ()
        assert steps(store) == [2]
    assert [each.step for each in store.sweep()] == [2]


@pytest.mark.parametrize(
    ("changes", "masked", "said"),
    [
        ({"denied": "the run is a fork's", "seals": True}, False, "fork"),
        ({"given": True}, False, "was given a secret"),
        ({}, True, "has masked a value"),
        ({"capabilities": Capabilities(isolated=True)}, False, "keep no snapshots"),
        (
            {"capabilities": Capabilities(isolated=True, snapshot=True, snapshot_outlives=False)},
            False,
            "end with their machine",
        ),
        ({"limits": Limits(limit=1)}, False, "larger than there is room"),
    ],
)
async def test_what_may_not_be_kept_is_not(job, changes, masked, said):
    """The reason is known afterwards; nothing half done is left, and what was kept before stays."""
    rewind, store = job(**changes)
    async with rewind:
        with pytest.raises(NotKept, match=said):
            await keep(rewind, 2, masked=masked)
        assert await rewind.finish(useful=True) == ()
    assert said in rewind.why_none
    assert not list(store.folder.glob("*/*"))
    assert not list(store.folder.glob("*/.*"))


@pytest.mark.parametrize(("given", "masked"), [(True, False), (False, True)])
async def test_with_the_key_a_job_that_has_secrets_is_kept_encrypted(job, given, masked):
    """And one that has none is not encrypted."""
    rewind, store = job(seals=True, given=given)
    async with rewind:
        await keep(rewind, 2, masked=masked)
        assert [each.encrypted for each in store.of(1)] == [True]
    rewind, store = job(seals=True)
    async with rewind:
        await keep(rewind, 2)
        assert [each.encrypted for each in store.of(1)] == [False]


async def test_where_it_is_denied_nobody_is_bothered_unless_he_asked(job):
    """With each-step the log is to say why."""
    assert not job(denied="the run is a fork's")[0].wants(2, "success")
    assert job("each-step", denied="the run is a fork's")[0].wants(2, "success")
