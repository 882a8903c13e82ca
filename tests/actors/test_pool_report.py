"""What the pool says of itself."""

from runnerd.actors.pool_report import describe
from runnerd.machines.demand import Demand
from runnerd.machines.driver import Capabilities
from runnerd.machines.pool import Failing, Rules, Shelf, Slot, Stage, State, Waiting
from runnerd.model import Pause


class Emulating:
    """What a report wants to know of a driver."""

    name = "emulating"
    capabilities = Capabilities(isolated=True, emulated=True)


RULES = Rules(shelves=(Shelf(image="a", memory=100), Shelf(image="b", memory=100, ready=2)), memory=300)
FAILING = Failing("a", 3, 25.0, "no kernel")


def report(pause=None, **state):
    return describe(
        Emulating(), State(**state), RULES, 20.0,
        jobs={"m1": 7, "restore-3": 4}, asked={1: 8, 2: 9}, there={"m1"},
        demand={"b": Demand().after(10.0).after(11.0)}, pause=pause,
        trouble=("image b went back",), trials=("image a is on trial",),
    )  # fmt: skip


def test_everything_is_said():
    """Machines with their jobs, who waits for what, and what fails."""
    said = report(
        slots=(Slot("m1", "b", Stage.LEASED, 5.0), Slot("x", "b", Stage.BUILDING, 19.0)),
        waiting=(Waiting(1, "a", 15.0), Waiting(2, "b", 18.0)),
        failing=(FAILING,),
    )
    assert (said.driver, said.isolated, said.emulated, said.capacity) == ("emulating", True, True, 3)
    assert [(m.machine, m.stage, m.age, m.job) for m in said.machines] == [
        ("m1", "leased", 15.0, 7),
        ("x", "building", 1.0, None),
    ]
    assert [(w.job, w.age, w.why) for w in said.waiting] == [
        (8, 5.0, "3 builds in a row of image a failed, the next is tried in 5 s: no kernel"),
        (9, 2.0, "its machine is being made"),
    ]
    assert said.trouble == (said.waiting[0].why, "image b went back")
    assert said.trials == ("image a is on trial",)
    assert said.keeps == (
        "image a: keeps 1 warm, as min_idle says; no jobs in the last hour",
        "image b: keeps 2 warm: 2 jobs in the last hour, and lately up to 2 within a minute",
    )


def test_a_job_whose_machine_is_brought_back_still_waits():
    """Its place is taken, and nobody has a machine in it yet."""
    said = report(slots=(Slot("restore-3", "b", Stage.LEASED, 18.0),))
    assert [(w.job, w.age, w.why) for w in said.waiting] == [
        (4, 2.0, "the machine it goes on in is being brought back")
    ]


def test_it_is_ready_while_one_image_works():
    """An image that fails or has no template yet counts for nothing, and a pause is no trouble."""
    assert report(failing=(FAILING,)).ready
    assert report(cold=("a",)).ready
    assert not report(cold=("a", "b")).ready
    assert not report(failing=(FAILING,), cold=("b",)).ready
    paused = report(
        pause=Pause(reason="a new disk", since=0.0), cold=("a", "b"), waiting=(Waiting(1, "a", 0.0),)
    )
    assert paused.ready
    assert paused.paused == paused.waiting[0].why
    assert "a new disk" in paused.paused
