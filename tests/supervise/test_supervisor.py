"""Actors start in order, are restarted with back-off, drain in reverse, and end with their supervisor."""

from itertools import pairwise

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from runnerd import metrics
from runnerd.supervise.mailbox import Mailbox
from runnerd.supervise.supervisor import Child, GaveUp, RestartPolicy, StartFailed, backoff, sole, supervise


class Stage:
    """A place for actors that take numbers, write down what happens to them, and crash as told."""

    def __init__(self, name: str, diary: list[str], **policy: float) -> None:
        self.name = name
        self.diary = diary
        self.mailbox: Mailbox[int] = Mailbox(100)
        self.crash_at: dict[int, BaseException] = {}
        self.slow = 0.0
        self.starting = 0.0
        self.lives = 0
        self.policy = RestartPolicy(**policy)

    def close(self) -> None:
        self.diary.append(f"close {self.name}")
        self.mailbox.close()

    def make(self) -> "Number":
        self.lives += 1
        return Number(self)

    def child(self) -> Child:
        return Child(name=self.name, make=self.make, close=self.close, policy=self.policy)


class Number:
    """One life of an actor of a stage; `seen` is its own state."""

    def __init__(self, stage: Stage) -> None:
        self.name = stage.name
        self.stage = stage
        self.seen: list[int] = []

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(self.stage.starting)
        self.stage.diary.append(f"start {self.name}")
        task_status.started()
        async for number in self.stage.mailbox:
            await trio.sleep(self.stage.slow)
            if number in self.stage.crash_at:
                raise self.stage.crash_at[number]
            self.seen.append(number)
            self.stage.diary.append(f"{self.name} {self.seen}")
        self.stage.diary.append(f"end {self.name}")


def steady(low: float, high: float) -> float:
    """No jitter."""
    return 1.0


async def test_start_in_order_and_drain_in_reverse(autojump_clock, nursery):
    """Each actor serves before the next starts; at the end sources close and finish before sinks."""
    diary: list[str] = []
    stages = [Stage(name, diary) for name in ("sink", "middle", "source")]
    stages[0].starting = 5.0
    stop = trio.Event()
    await nursery.start(lambda task_status: run(stages, stop, task_status, diary))
    assert diary == ["start sink", "start middle", "start source", "serving"]
    diary.clear()
    stop.set()
    await wait_all_tasks_blocked()
    assert diary == [
        "close source",
        "end source",
        "close middle",
        "end middle",
        "close sink",
        "end sink",
        "over",
    ]


async def run(
    stages: list[Stage],
    stop: trio.Event,
    task_status: trio.TaskStatus[None],
    diary: list[str],
) -> None:
    """Supervise stages and write down when all serve and when all is over."""

    class Told:
        def started(self, value: None = None) -> None:
            diary.append("serving")
            task_status.started()

    await supervise([stage.child() for stage in stages], stop=stop, jitter=steady, task_status=Told())
    diary.append("over")


async def test_what_is_queued_is_served_before_the_end(autojump_clock, nursery):
    """Draining an actor means that it serves what its mailbox holds."""
    diary: list[str] = []
    stage, stop = Stage("a", diary), trio.Event()
    stage.slow = 1.0
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    for number in range(3):
        await stage.mailbox.send(number)
    stop.set()
    await trio.sleep(10)
    assert diary[-3:] == ["a [0, 1, 2]", "end a", "over"]


async def test_a_crash_is_followed_by_a_fresh_actor(autojump_clock, nursery):
    """The new actor has no state of the old one, and reads on where the mailbox stands."""
    diary: list[str] = []
    stage, stop = Stage("a", diary), trio.Event()
    stage.crash_at = {1: ValueError("one")}
    before = metrics.actor_restarts.labels(actor="a")._value.get()
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    with capture_logs() as lines:
        for number in range(4):
            await stage.mailbox.send(number)
        await trio.sleep(1)
        stop.set()
        await wait_all_tasks_blocked()
    assert [line for line in diary if line.startswith("a ")] == ["a [0]", "a [2]", "a [2, 3]"]
    assert stage.lives == 2
    assert metrics.actor_restarts.labels(actor="a")._value.get() == before + 1
    assert [(line["event"], line["actor"], line["restart_in"]) for line in lines] == [
        ("actor crashed", "a", 0.1)
    ]
    assert diary[-1] == "over"


async def test_neighbours_do_not_notice_a_crash(autojump_clock, nursery):
    """Only the crashed actor is made anew."""
    diary: list[str] = []
    stages, stop = [Stage("a", diary), Stage("b", diary)], trio.Event()
    stages[0].crash_at = {1: ValueError("one")}
    await nursery.start(lambda task_status: run(stages, stop, task_status, diary))
    await stages[0].mailbox.send(1)
    await trio.sleep(5)
    assert [stage.lives for stage in stages] == [2, 1]
    stop.set()


async def test_restarts_come_after_doubling_pauses(autojump_clock, nursery):
    """The pause before a restart doubles with each crash in the period, up to its maximum."""
    diary: list[str] = []
    stage, stop = Stage("a", diary, intensity=5, backoff_min=1.0, backoff_max=5.0), trio.Event()
    stage.crash_at = {1: ValueError("one")}
    times: list[float] = []
    make = stage.make

    def note() -> Number:
        times.append(trio.current_time())
        return make()

    stage.make = note  # type: ignore[method-assign]
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    for _ in range(5):
        await stage.mailbox.send(1)
    await trio.sleep(30)
    assert [round(after - before, 3) for before, after in pairwise(times)] == [
        1.0,
        2.0,
        4.0,
        5.0,
        5.0,
    ]
    stop.set()


def test_backoff_is_bounded_and_spread():
    """Ten thousand crashes do not overflow, and jitter moves the pause by its factor."""
    policy = RestartPolicy(backoff_min=0.1, backoff_max=10.0)
    assert backoff(1, policy, steady) == pytest.approx(0.1)
    assert backoff(3, policy, steady) == pytest.approx(0.4)
    assert backoff(10_000, policy, lambda low, high: high) == pytest.approx(12.0)
    assert backoff(10_000, policy, lambda low, high: low) == pytest.approx(8.0)


async def test_too_many_crashes_give_up(autojump_clock):
    """One crash more than the policy allows ends the supervisor, naming the actor and the last crash."""
    diary: list[str] = []
    stages = [Stage("a", diary), Stage("b", diary, intensity=2)]
    stages[1].crash_at = {1: ValueError("one")}
    for _ in range(3):
        await stages[1].mailbox.send(1)
    with pytest.raises(GaveUp, match=r"the b crashed 3 times within 60 s: one") as caught:
        await supervise([stage.child() for stage in stages], stop=trio.Event(), jitter=steady)
    assert caught.value.__cause__ is stages[1].crash_at[1]
    assert stages[1].lives == 3
    assert "end a" not in diary  # cancelled, not drained


async def test_old_crashes_are_forgiven(autojump_clock, nursery):
    """Crashes further apart than the period never add up."""
    diary: list[str] = []
    stage, stop = Stage("a", diary, intensity=1, period=10.0), trio.Event()
    stage.crash_at = {1: ValueError("one")}
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    for _ in range(20):
        await stage.mailbox.send(1)
        await trio.sleep(11)
    assert stage.lives == 21
    stop.set()
    await wait_all_tasks_blocked()
    assert diary[-1] == "over"


@pytest.mark.parametrize("when", ["make", "run", "late", "silent"])
async def test_a_failure_at_the_first_start_is_fatal(autojump_clock, when):
    """An actor that cannot be made, crashes, hangs or ends before it serves stops the daemon at once."""

    class Bad:
        name = "bad"

        def __init__(self) -> None:
            if when == "make":
                raise OSError("no such device")

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            if when == "run":
                raise OSError("no such device")
            if when == "late":
                await trio.sleep_forever()

    diary: list[str] = []
    first, last = Stage("first", diary), Stage("last", diary)
    bad = Child(name="bad", make=Bad, close=lambda: None, policy=RestartPolicy(start_timeout=7.0))
    reasons = {
        "make": "no such device",
        "run": "no such device",
        "late": "it could not serve within 7 s",
        "silent": "it ended before it could serve",
    }
    with pytest.raises(StartFailed, match=f"the bad did not start: {reasons[when]}"):
        await supervise([first.child(), bad, last.child()], stop=trio.Event())
    assert diary == ["start first"]


async def test_the_cause_of_a_failed_start_is_found_within_an_actors_own_nurseries():
    """An actor that fails inside nurseries says why as plainly as one that has none."""
    cause = OSError("the port is taken")

    class FailsAtOnce:
        name = "bad"

        async def run(self, *, task_status):
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [cause])])

    child = Child(name="bad", make=FailsAtOnce, close=lambda: None)
    with pytest.raises(StartFailed, match="the bad did not start: the port is taken") as failed:
        await supervise([child], stop=trio.Event())
    assert failed.value.__cause__ is cause


def test_only_an_error_that_is_alone_is_taken_out_of_its_group():
    """Groups of one are opened, at any depth; one with several errors, and a plain error, stay."""
    one, two = ValueError("one"), ValueError("two")
    both = ExceptionGroup("both", [one, two])
    assert sole(one) is one
    assert sole(ExceptionGroup("a", [ExceptionGroup("b", [one])])) is one
    assert sole(ExceptionGroup("a", [both])) is both


async def test_a_restart_that_hangs_counts_as_a_crash(autojump_clock, nursery):
    """The time limit for starting holds for every start, not only the first."""
    diary: list[str] = []
    stage, stop = Stage("a", diary, start_timeout=3.0), trio.Event()
    stage.crash_at = {1: ValueError("one")}
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    stage.starting = 1000.0
    await stage.mailbox.send(1)
    await trio.sleep(3.05)
    assert stage.lives == 2
    stage.starting = 0.0
    await trio.sleep(1)
    assert stage.lives == 3
    stop.set()


async def test_an_actor_that_ends_unasked_is_restarted(autojump_clock, nursery):
    """Returning while the mailbox is open is a crash like any other."""
    diary: list[str] = []
    stage, stop = Stage("a", diary), trio.Event()
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    with capture_logs() as lines:
        stage.mailbox.close()
        await trio.sleep(0.01)
    assert "nobody had closed its mailbox" in str(lines[0]["exc_info"])
    stop.set()
    await trio.sleep(1)
    assert diary[-1] == "over"


async def test_a_group_of_errors_is_one_crash(autojump_clock, nursery):
    """An actor whose own nursery raises a group is restarted as after a plain error."""
    diary: list[str] = []
    stage, stop = Stage("a", diary), trio.Event()
    stage.crash_at = {1: ExceptionGroup("handlers", [ValueError("x"), ExceptionGroup("y", [KeyError("z")])])}
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    await stage.mailbox.send(1)
    await stage.mailbox.send(2)
    await trio.sleep(1)
    assert diary[-1] == "a [2]"
    assert stage.lives == 2
    stop.set()


async def test_drain_timeout_cancels(autojump_clock):
    """An actor that does not end in time is cancelled, and those before it are still drained."""
    diary: list[str] = []
    stages, stop = [Stage("sink", diary), Stage("stuck", diary, drain_timeout=4.0)], trio.Event()
    stages[1].slow = 1e6
    await stages[1].mailbox.send(1)
    stop_at: list[float] = []

    async def stop_soon() -> None:
        await trio.sleep(1)
        stop_at.append(trio.current_time())
        stop.set()

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_soon)
            await supervise([stage.child() for stage in stages], stop=stop)
    assert trio.current_time() - stop_at[0] == pytest.approx(4.0)
    assert diary[-3:] == ["close stuck", "close sink", "end sink"]
    assert [line["actor"] for line in lines] == ["stuck"]


async def test_a_crash_while_being_cancelled_is_told_not_raised(autojump_clock):
    """An actor that fails at its cleanup does not disturb the drain of the others."""
    diary: list[str] = []

    class Dirty:
        name = "dirty"

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                try:
                    await trio.sleep_forever()
                finally:
                    raise OSError("cleanup")

    dirty = Child(name="dirty", make=Dirty, close=lambda: None, policy=RestartPolicy(drain_timeout=1.0))

    async def supervised(stop: trio.Event) -> None:
        await supervise([Stage("sink", diary).child(), dirty], stop=stop)

    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised, trio.Event())
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines] == ["actor crashed while it was cancelled"]

    stop = trio.Event()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised, stop)
            await wait_all_tasks_blocked()
            stop.set()
    assert [line["event"] for line in lines] == [
        "actor did not drain in time and is cancelled",
        "actor crashed while it was cancelled",
    ]
    assert diary[-1] == "end sink"


async def test_stop_during_the_start_drains_what_serves(autojump_clock):
    """A stop that comes while an actor starts cancels that start and drains the others."""
    diary: list[str] = []
    stages, stop = [Stage("sink", diary), Stage("slow", diary)], trio.Event()
    stages[1].starting = 20.0

    async def stop_soon() -> None:
        await trio.sleep(5)
        stop.set()

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_soon)
        await supervise([stage.child() for stage in stages], stop=stop)
    assert trio.current_time() - before == pytest.approx(5.0)
    assert diary == ["start sink", "close sink", "end sink"]


async def test_cancelling_the_supervisor_leaves_no_task(autojump_clock):
    """No handler that an actor started outlives a cancelled, crashed or drained supervisor."""
    alive: list[str] = []

    class Handlers:
        """An actor that hands each message to a task of its own."""

        name = "handlers"

        def __init__(self, mailbox: Mailbox[str]) -> None:
            self.mailbox = mailbox

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as nursery:
                task_status.started()
                async for message in self.mailbox:
                    if message == "crash":
                        raise ValueError("told to")
                    nursery.start_soon(self.handle, message)

        async def handle(self, message: str) -> None:
            alive.append(message)
            try:
                await trio.sleep_forever()
            finally:
                alive.remove(message)

    async def supervised(mailbox: Mailbox[str], stop: trio.Event) -> None:
        child = Child(
            name="handlers",
            make=lambda: Handlers(mailbox),
            close=mailbox.close,
            policy=RestartPolicy(drain_timeout=2.0),
        )
        await supervise([child], stop=stop)

    mailbox: Mailbox[str] = Mailbox(10)
    stop = trio.Event()
    with capture_logs():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised, mailbox, stop)
            await mailbox.send("a")
            await mailbox.send("b")
            await wait_all_tasks_blocked()
            assert alive == ["a", "b"]
            await mailbox.send("crash")
            await trio.sleep(1)
            assert alive == []
            await mailbox.send("c")
            await wait_all_tasks_blocked()
            assert alive == ["c"]
            stop.set()
        assert alive == []

        mailbox = Mailbox(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervised, mailbox, trio.Event())
            await mailbox.send("d")
            await wait_all_tasks_blocked()
            assert alive == ["d"]
            nursery.cancel_scope.cancel()
        assert alive == []


async def test_cancellation_during_the_start_leaves_no_task(autojump_clock):
    """A supervisor cancelled while a child starts takes the child's tasks with it."""
    ended: list[str] = []

    class Slow:
        name = "slow"

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            try:
                await trio.sleep_forever()
            finally:
                ended.append("slow")

    diary: list[str] = []
    with trio.move_on_after(3) as limit:
        await supervise(
            [Stage("sink", diary).child(), Child(name="slow", make=Slow, close=lambda: None)],
            stop=trio.Event(),
        )
    assert limit.cancelled_caught
    assert ended == ["slow"]


async def test_draining_a_crashed_actor_serves_the_rest(autojump_clock, nursery):
    """An actor that waits for its restart when the drain begins still serves what is queued."""
    diary: list[str] = []
    stage, stop = Stage("a", diary, backoff_min=3.0), trio.Event()
    stage.crash_at = {1: ValueError("one")}
    await nursery.start(lambda task_status: run([stage], stop, task_status, diary))
    await stage.mailbox.send(1)
    await stage.mailbox.send(2)
    await wait_all_tasks_blocked()
    stop.set()
    await trio.sleep(5)
    assert diary[-3:] == ["a [2]", "end a", "over"]
