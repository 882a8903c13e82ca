"""A machine behind an agent: the thaw gate, its reasons and its end."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.channel import Channel
from runnerd.machines.driver import Capabilities, Command, Machine, MachineLost, NotKept, Paths
from runnerd.machines.frames import EXIT, MORE, RES
from runnerd.machines.remote import AgentMachine, Box, Layout, invent_identity

from .conftest import Peer


class NotedBox:
    """A box that keeps what it was asked."""

    id = "machine-1"
    image = "image"
    paths = Paths()
    capabilities = Capabilities(isolated=True)

    def __init__(self, layout: Layout | None = None, device: str | None = None, known: str = "") -> None:
        self.layout = layout
        self.device = device
        self.known = known
        self.destroyed = 0

    async def fill(self, archive: Path) -> str | None:
        await trio.lowlevel.checkpoint()
        return self.device

    def postmortem(self) -> str:
        return self.known

    def console_end(self) -> tuple[str, ...]:
        return ("said last",)

    async def destroy(self) -> None:
        await trio.lowlevel.checkpoint()
        self.destroyed += 1


class Agent:
    """Plays an agent that grants everything, except what a test says."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, dict[str, Any] | None] = {"thaw": {"probe": "a" * 64}}

    async def run(self) -> None:
        await self.peer.greet()
        while True:
            try:
                frame = await self.peer.receive()
            except (trio.EndOfChannel, trio.ClosedResourceError):
                return
            if frame.kind != frames.REQ:
                continue
            request = json.loads(frame.payload)
            self.asked.append(request)
            answer = self.answers.get(request["op"], {})
            if answer is not None:
                await self.peer.send(RES, frame.stream, json.dumps(answer).encode())

    def operations(self) -> list[str]:
        return [request["op"] for request in self.asked]


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    ours, theirs = trio.testing.memory_stream_pair()
    channel = Channel(ours)
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        played = Agent(Peer(channel, theirs))
        nursery.start_soon(played.run)
        yield played
        nursery.cancel_scope.cancel()


def counting() -> Callable[[int], bytes]:
    """Entropy that never repeats, and is known."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(size, "big")

    return draw


def machine_of(agent: Agent, box: Box, **options: Any) -> AgentMachine:
    options.setdefault("probes", set())
    return AgentMachine(box, agent.peer.channel, entropy=counting(), now=lambda: 1234.5, **options)


async def test_thaw_gives_seed_clock_and_identity(agent: Agent) -> None:
    """One request carries 64 fresh bytes, time and the invented names; then the root is mounted."""
    machine = machine_of(agent, NotedBox(Layout(upper="serial:upper")))
    identity = await machine.thaw()
    thaw, mount = agent.asked
    assert thaw["op"] == "thaw"
    assert bytes.fromhex(thaw["seed"]) == (4).to_bytes(64, "big")
    assert thaw["now"] == 1234.5
    assert {name: thaw[name] for name in ("hostname", "machine_id", "boot_id")} == {
        "hostname": identity.hostname,
        "machine_id": identity.machine_id,
        "boot_id": identity.boot_id,
    }
    assert mount == {
        "op": "mount_root",
        "lower": "/lower",
        "upper": "serial:upper",
        "into": "/job",
        "folders": ["/home/runner", "/home/runner/work", "/home/runner/work/_temp", "/opt/hostedtoolcache"],
        "user": 1001,
    }
    assert machine.identity == identity
    await machine.lease()
    assert agent.asked[-1] == {"op": "clock", "now": 1234.5}


def test_identities_are_well_formed_and_never_the_same() -> None:
    """The boot id looks as the kernel's does, the machine id as systemd's."""
    first, second = invent_identity(counting()), invent_identity(lambda size: b"\xff" * size)
    assert uuid.UUID(first.boot_id).version == 4
    assert len(first.machine_id) == 32
    assert uuid.UUID(first.machine_id).version == 4
    assert {first.hostname, first.boot_id, first.machine_id}.isdisjoint(
        {second.hostname, second.boot_id, second.machine_id}
    )


async def test_shared_randomness_is_refused(agent: Agent) -> None:
    """A probe that another machine of the driver gave ends this one before it is used."""
    box = NotedBox()
    with pytest.raises(MachineLost, match="the same randomness as another machine"):
        await machine_of(agent, box, probes={"a" * 64}).thaw()
    assert box.destroyed == 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"thaw": {}}, "same randomness"),
        ({"thaw": {"probe": 7}}, "same randomness"),
        ({"thaw": {"error": "Operation not permitted", "errno": 1}}, "its thaw failed: .*not permitted"),
        ({"mount_root": {"error": "cannot mount", "errno": 5}}, "its mount_root failed: .*cannot mount"),
        ({"thaw": None}, "did not answer 'thaw' within 10 s"),
    ],
)
async def test_machine_that_fails_its_thaw_is_destroyed(
    agent: Agent, answers: dict[str, Any], said: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever goes wrong in the gate, the box is destroyed before MachineLost says why."""
    agent.answers |= answers
    box = NotedBox(Layout())
    machine = machine_of(agent, box)
    with pytest.raises(MachineLost, match=f"machine machine-1: .*{said}"):
        await machine.thaw()
    assert box.destroyed == 1
    assert machine.lost.is_set()
    assert machine.identity is None
    assert machine.console_end() == ("said last",)


async def test_agent_that_never_greets_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """Without an answer to HELLO in time the machine is destroyed."""
    ours, _theirs = trio.testing.memory_stream_pair()
    channel = Channel(ours)
    box = NotedBox()
    async with trio.open_nursery() as nursery:
        await nursery.start(channel.run)
        machine = AgentMachine(box, channel, probes=set(), hello_deadline=2.0)
        started = trio.current_time()
        with pytest.raises(MachineLost, match="did not answer within 2 s"):
            await machine.thaw()
        assert trio.current_time() - started == 2
        assert box.destroyed == 1


async def test_greeted_agent_is_not_greeted_again(agent: Agent) -> None:
    """A driver that has made sure that its clone answers saves the gate a round trip."""
    await agent.peer.channel.connect(5)
    await machine_of(agent, NotedBox(), hello_deadline=0.0).thaw()
    assert agent.operations() == ["thaw"]


class Rehearsal:
    """Takes a second, and may fail at its end."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.begun = 0

    async def __call__(self, machine: AgentMachine) -> None:
        self.begun += 1
        await trio.sleep(1)
        if self.error is not None:
            raise self.error


async def test_idle_machine_rehearses(agent: Agent, autojump_clock: trio.testing.MockClock) -> None:
    """Once, soon after its thaw; a lease meanwhile waits for its end, one after it for nothing."""
    rehearsal = Rehearsal()
    machine = machine_of(agent, NotedBox(), rehearsal=rehearsal)
    await machine.thaw()
    started = trio.current_time()
    await trio.sleep(0.5)
    assert rehearsal.begun == 1
    await machine.lease()
    assert trio.current_time() - started == pytest.approx(1.1)
    await trio.sleep(5)
    assert rehearsal.begun == 1


async def test_machine_that_is_leased_at_once_does_not_rehearse(
    agent: Agent, autojump_clock: trio.testing.MockClock
) -> None:
    """A job that waits for its machine does not wait for that too."""
    rehearsal = Rehearsal()
    machine = machine_of(agent, NotedBox(), rehearsal=rehearsal)
    await machine.thaw()
    started = trio.current_time()
    await machine.lease()
    assert trio.current_time() == started
    await trio.sleep(5)
    assert rehearsal.begun == 0


@pytest.mark.parametrize("error", [OSError(2, "no rm"), ValueError("odd"), MachineLost("gone")])
async def test_rehearsal_that_fails_is_not_the_machines_end(
    agent: Agent, autojump_clock: trio.testing.MockClock, error: Exception
) -> None:
    """Whether the machine is of use the job will tell."""
    machine = machine_of(agent, NotedBox(), rehearsal=Rehearsal(error))
    await machine.thaw()
    await trio.sleep(5)
    assert not machine.lost.is_set()
    await machine.lease()


async def test_rehearsal_has_its_time(agent: Agent, autojump_clock: trio.testing.MockClock) -> None:
    """One that hangs is given up, and one whose machine is destroyed ends with it."""

    async def hang(machine: AgentMachine) -> None:
        await trio.sleep_forever()

    machine = machine_of(agent, NotedBox(), rehearsal=hang)
    await machine.thaw()
    started = trio.current_time()
    await trio.sleep(0.2)
    await machine.lease()
    assert trio.current_time() - started == pytest.approx(3.1)
    other = machine_of(agent, NotedBox(), rehearsal=hang, probes={"b"})
    await other.thaw()
    await trio.sleep(0.2)
    await other.destroy()
    with pytest.raises(MachineLost):
        await other.lease()


async def test_cancelled_thaw_leaves_nothing(agent: Agent) -> None:
    """A gate that is cancelled destroys its machine too."""
    agent.answers["thaw"] = None
    box = NotedBox()
    with trio.move_on_after(0.05) as scope:
        await machine_of(agent, box).thaw()
    assert scope.cancelled_caught
    assert box.destroyed == 1


async def test_reason_joins_what_channel_and_driver_know(agent: Agent) -> None:
    """When the machine ends by itself, the driver's knowledge is in the reason and in every error."""
    machine = machine_of(agent, NotedBox(known="qemu ended with status 1"))
    await machine.thaw()
    assert machine.reason == ""
    await agent.peer.stream.aclose()
    await machine.lost.wait()
    assert machine.reason == "it closed its channel (qemu ended with status 1)"
    for call in (
        machine.lease(),
        machine.signal(2),
        machine.exec(Command(argv=("a",)), _nothing),
        machine.put("/a", b""),
        machine.get("/a", limit=1),
        machine.unpack(Path("/nonesuch"), "/a"),
        machine.listen(1, trio.aclose_forcefully),
        machine.thaw(),
    ):
        if call.__name__ == "signal":  # nothing runs, so nobody is asked
            await call
            continue
        with pytest.raises(
            MachineLost, match=r"machine-1: it closed its channel \(qemu ended with status 1\)"
        ):
            await call


async def _nothing(_kind: str, _data: bytes) -> None:
    raise AssertionError("no output was expected")


async def test_destroyed_machine_says_so(agent: Agent) -> None:
    """Destroying is safe twice, keeps the first reason, and ends what runs."""
    box = NotedBox(known="killed by signal 9")
    machine = machine_of(agent, box)
    await machine.thaw()

    async def run() -> None:
        with pytest.raises(MachineLost, match="it was destroyed"):
            await machine.exec(Command(argv=("sleep",)), _nothing)

    agent.answers["exec"] = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        await machine.destroy()
        await machine.destroy()
    assert machine.reason == "it was destroyed"
    assert machine.lost.is_set()


@pytest.mark.parametrize("problem", [None, NotKept("no snapshot was kept: it is too large")])
async def test_the_clock_is_set_by_the_time_that_was_missed(
    agent: Agent, tmp_path: Path, problem: NotKept | None
) -> None:
    """A machine stands still while it is kept, also where nothing comes of it."""

    class KeepingBox(NotedBox):
        async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
            await trio.lowlevel.checkpoint()
            if problem is not None:
                raise problem

    machine = machine_of(agent, KeepingBox())
    await agent.peer.channel.connect(5.0)
    with nullcontext() if problem is None else pytest.raises(NotKept, match="too large"):
        await machine.snapshot(tmp_path, key=None, limit=1)
    assert next(request for request in agent.asked if request["op"] == "clock")["now"] == 1234.5


@pytest.mark.parametrize("refusal", [{"error": "no"}, {"error": "no", "errno": 1}])
@pytest.mark.parametrize("asked", ["lease", "snapshot"])
async def test_an_agent_that_keeps_its_own_time_is_of_no_use(
    agent: Agent, tmp_path: Path, refusal: dict[str, Any], asked: str
) -> None:
    """Whatever it says instead of setting its clock, the machine is lost: one that was a job's is hostile."""

    class KeepingBox(NotedBox):
        async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
            await trio.lowlevel.checkpoint()

    agent.answers["clock"] = refusal
    machine = machine_of(agent, KeepingBox())
    await machine.thaw()
    with pytest.raises(MachineLost, match="its clock failed"):
        await (machine.lease() if asked == "lease" else machine.snapshot(tmp_path, key=None, limit=1))
    assert machine.lost.is_set()


async def test_archive_goes_by_the_job_disk_where_there_is_one(agent: Agent, tmp_path: Path) -> None:
    """With a device nothing of the archive goes through the channel."""
    (tmp_path / "a.tar").write_bytes(bytes(100_000))
    machine = machine_of(agent, NotedBox(device="serial:job"))
    await machine.thaw()
    await machine.unpack(tmp_path / "a.tar", "/w")
    assert agent.asked[-1] == {"op": "unpack", "into": "/w", "user": 1001, "device": "serial:job"}


async def test_signal_reaches_every_running_exec(agent: Agent) -> None:
    """Each running command's stream is named in a request of its own; ended ones are not."""
    machine = machine_of(agent, NotedBox())
    await machine.thaw()
    agent.answers["exec"] = None
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(machine.exec, Command(argv=("sleep",)), _nothing)
        await trio.testing.wait_all_tasks_blocked()
        streams = sorted(agent.peer.channel._exchanges)
        await machine.signal(15)
        sent = [request for request in agent.asked if request["op"] == "signal"]
        assert sorted((request["to"], request["signal"]) for request in sent) == [
            (stream, 15) for stream in streams
        ]
        for stream in streams:
            await agent.peer.send(RES, stream, b'{"pid": 1}', MORE)
            await agent.peer.send(EXIT, stream, b'{"code": 0}')
    await machine.signal(15)
    assert agent.operations().count("signal") == 2


async def test_it_is_a_machine(agent: Agent) -> None:
    """The class keeps the driver's protocol; mypy holds this."""
    machine: Machine = machine_of(agent, NotedBox())
    assert machine.id == "machine-1"
