"""The journal tells each machine's life: what may exist, and for a day what is gone and why."""

import pytest

from runnerd.store import jobs, machines
from runnerd.store.records import MachineNews, MachineRow, Stage


def tell(desk, stage, id="m1", **fields):
    news = MachineNews(id=id, driver="qemu", image="default", stage=stage, **fields)
    machines.note(desk.connection, news, desk.now)
    desk.now += 1.0


def life(desk):
    """Every machine of the journal, the newest first."""
    return machines.history(desk.connection, 100)


def test_a_machine_is_known_before_it_has_a_process(desk):
    """The first note needs no pid; later ones add what is known by then, and when each stage began."""
    tell(desk, Stage.BUILDING)
    assert machines.alive(desk.connection) == [
        MachineRow(id="m1", driver="qemu", image="default", stage=Stage.BUILDING, made=100.0)
    ]
    tell(desk, Stage.BUILDING, pid=77, uid=5001, started=2.0)
    tell(desk, Stage.WARM)
    tell(desk, Stage.LEASED, job=3, waited=0.5)
    tell(desk, Stage.LEAVING, why="its job ended")
    tell(desk, Stage.GONE)
    assert machines.alive(desk.connection) == []
    assert life(desk) == [
        MachineRow(
            id="m1", driver="qemu", image="default", stage=Stage.GONE, pid=77, uid=5001, started=2.0, job=3,
            made=100.0, warm=102.0, leased=103.0, asked=102.5, ended=105.0, why="its job ended",
        )
    ]  # fmt: skip


def test_a_stage_only_moves_on(desk):
    """What comes late changes no stage and no time, and still says why if nothing did."""
    tell(desk, Stage.BUILDING)
    tell(desk, Stage.WARM)
    tell(desk, Stage.GONE)
    tell(desk, Stage.LEAVING, why="it was destroyed")
    tell(desk, Stage.LEAVING, why="a second word")
    tell(desk, Stage.GONE)
    [row] = life(desk)
    assert (row.stage, row.ended, row.why) == (Stage.GONE, 102.0, "it was destroyed")


def test_one_that_never_was_warm_says_so(desk):
    """A start that failed without a word of the driver's still has a reason; so has one without a pool."""
    tell(desk, Stage.BUILDING)
    tell(desk, Stage.GONE)
    tell(desk, Stage.BUILDING, id="t", why="it was started to make a template")
    tell(desk, Stage.GONE, id="t")
    tell(desk, Stage.GONE, id="unheard of")
    assert [(row.id, row.why) for row in life(desk)] == [
        ("t", "it was started to make a template"),
        ("m1", "it did not come up"),
    ]


def test_a_name_is_used_again(desk):
    """A machine that begins anew has nothing of the one that is gone."""
    tell(desk, Stage.WARM)
    tell(desk, Stage.LEASED, job=3)
    tell(desk, Stage.GONE, why="it died")
    tell(desk, Stage.BUILDING)
    [row] = life(desk)
    assert (row.stage, row.made, row.warm, row.job, row.ended, row.why) == (
        "building",
        103.0,
        None,
        None,
        None,
        "",
    )


def test_the_attempt_that_has_a_machine(desk):
    """The claim gives it job and epoch; a machine that takes its place has them from the running job."""
    run = desk.run_with(desk.new_job())
    tell(desk, Stage.WARM)
    job, epoch = desk.claimed(run)
    assert machines.of_attempt(desk.connection, job, epoch).id == "m1"
    tell(desk, Stage.GONE)
    tell(desk, Stage.BUILDING, id="m2")
    tell(desk, Stage.LEASED, id="m2", job=job)
    assert machines.of_attempt(desk.connection, job, epoch).id == "m2"
    assert machines.of_attempt(desk.connection, job, epoch + 1) is None


def test_why_it_is_about_to_leave(desk):
    """Who had it says why, unless it is known; a machine that no journal has is none of its business."""
    tell(desk, Stage.WARM)
    machines.leave(desk.connection, "m1", "its job ended: success")
    machines.leave(desk.connection, "m1", "another")
    machines.leave(desk.connection, "m2", "another")
    assert [(row.id, row.stage, row.why) for row in life(desk)] == [
        ("m1", "leaving", "its job ended: success")
    ]


def test_leases_of_the_last_hours(desk):
    """Told by when the machine was asked for, oldest first."""
    for id, waited in (("m1", 50.0), ("m2", 0.0), ("m3", 0.0)):
        tell(desk, Stage.WARM, id=id)
        tell(desk, Stage.LEASED, id=id, job=1, waited=waited)
    tell(desk, Stage.WARM, id="m4")
    assert machines.leases(desk.connection, 60.0) == [("default", 103.0), ("default", 105.0)]
    assert machines.leases(desk.connection, 0.0)[0] == ("default", 51.0)


def test_the_journal_is_bounded(desk, monkeypatch):
    """As one begins, those that are gone are struck by age and by number; those that may exist never."""
    monkeypatch.setattr(machines, "MOST", 3)
    tell(desk, Stage.WARM, id="alive")
    for number in range(6):
        tell(desk, Stage.BUILDING, id=f"m{number}")
        tell(desk, Stage.GONE, id=f"m{number}")
    tell(desk, Stage.BUILDING, id="next")
    assert [row.id for row in life(desk)] == ["next", "m5", "m4", "m3", "alive"]
    desk.now += machines.KEPT
    tell(desk, Stage.BUILDING, id="last")
    assert [row.id for row in life(desk)] == ["last", "next", "alive"]


@pytest.mark.parametrize("why", ["", "it was left behind"])
def test_a_lost_job_names_its_machine(desk, why):
    """With what the journal says of its end, if it does."""
    from runnerd.store import recovery

    run = desk.run_with(desk.new_job())
    tell(desk, Stage.WARM, id="m1")
    job, epoch = desk.claimed(run)
    jobs.begin_step(desk.connection, job, epoch)
    tell(desk, Stage.GONE, why=why)
    recovery.recover(desk.connection, 200.0)
    said = f"m1 ({why})" if why else "m1"
    assert f"while this job ran on machine {said}, and it is not" in jobs.find(desk.connection, job).reason
