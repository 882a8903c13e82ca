"""Processes run through a channel."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest
import trio
import trio.testing

from runnerd.machines import frames
from runnerd.machines.channel import Channel
from runnerd.machines.driver import Command, Exit, MachineLost
from runnerd.machines.execution import LADDER, Execution, Rung

from .conftest import Peer

ENV = {"PATH": os.environ["PATH"]}
QUICK = (Rung(signal.SIGINT, 0.5), Rung(signal.SIGTERM, 0.5), Rung(signal.SIGKILL, 3))


class Heard:
    """Collects output."""

    def __init__(self) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.something = trio.Event()

    async def __call__(self, kind: str, data: bytes) -> None:
        getattr(self, kind).extend(data)
        self.something.set()


def sh(script: str, stdin: bytes = b"") -> Command:
    return Command(argv=("sh", "-c", script), env=ENV, stdin=stdin)


async def run(channel: Channel, command: Command) -> tuple[Exit, bytes, bytes]:
    heard = Heard()
    ended = await Execution(channel, command, heard).run()
    return ended, bytes(heard.stdout), bytes(heard.stderr)


async def gone(pid: int) -> None:
    """Wait for a process to end."""
    for _ in range(3000):
        if not await trio.Path(f"/proc/{pid}").exists():
            return
        await trio.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


async def test_output_and_exit(agent_channel: Channel) -> None:
    """Outputs come apart, exits and signals as they were."""
    assert await run(agent_channel, sh("echo a; echo b >&2; exit 3")) == (Exit(code=3), b"a\n", b"b\n")
    assert (await run(agent_channel, sh("kill -TERM $$")))[0] == Exit(signal=15)


async def test_environment_is_exactly_the_given_one(agent_channel: Channel) -> None:
    """Nothing is inherited, and half a megabyte of variables gets there."""
    script = "import os, sys; print(sorted(os.environ), sum(map(len, os.environ.values())))"
    variables = {f"V{number}": "é" * 10_000 for number in range(50)}
    command = Command(
        argv=(sys.executable, "-S", "-c", script),
        env=variables | {"PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": "0"},
    )
    ended, out, _ = await run(agent_channel, command)
    assert ended.success
    assert out.decode().split("]")[1].split() == ["500002"]


async def test_stdin_of_megabytes(agent_channel: Channel) -> None:
    """Input far above a window reaches the process while its output is read."""
    data = os.urandom(2_000_000)
    assert await run(agent_channel, Command(argv=("cat",), env=ENV, stdin=data)) == (Exit(code=0), data, b"")
    assert (await run(agent_channel, Command(argv=("true",), env=ENV, stdin=data)))[0] == Exit(code=0)


async def test_true_costs_little(agent_channel: Channel) -> None:
    """The round trip of a command that does nothing takes a few milliseconds.

    A wait of ours would be in every one; what a busy host adds, it adds to the plain process as well.
    """
    took, plain = [], []
    for _ in range(30):
        started = time.perf_counter()
        await trio.run_process(["true"])
        plain.append(time.perf_counter() - started)
        await run(agent_channel, Command(argv=("true",), env=ENV))
        took.append(time.perf_counter() - started - plain[-1])
    assert min(took) < max(0.010, 10 * min(plain))


async def test_flood_with_a_slow_reader_stays_bounded(agent_channel: Channel) -> None:
    """100 MB come through complete; what waits on the host never exceeds the window."""
    counts = 0
    largest = 0

    async def slow(_kind: str, data: bytes) -> None:
        nonlocal counts, largest
        counts += len(data)
        exchange = next(iter(agent_channel._exchanges.values()), None)
        waiting = sum(len(item.data) for item in exchange._inbox if hasattr(item, "data")) if exchange else 0
        largest = max(largest, waiting + len(data))
        if counts % 50 == 0:
            await trio.sleep(0.0005)

    command = Command(argv=("head", "-c", "100000000", "/dev/zero"), env=ENV)
    assert await Execution(agent_channel, command, slow).run() == Exit(code=0)
    assert counts == 100_000_000
    assert largest <= frames.WINDOW_SIZE


async def test_reader_that_stands_still_holds_the_process_back(agent_channel: Channel) -> None:
    """While the callback waits, the process is blocked; nothing piles up anywhere."""
    go_on = trio.Event()
    got = 0

    async def stuck(_kind: str, data: bytes) -> None:
        nonlocal got
        got += len(data)
        await go_on.wait()

    async with trio.open_nursery() as nursery:
        execution = Execution(agent_channel, sh("head -c 5000000 /dev/zero; echo done >&2"), stuck)
        nursery.start_soon(execution.run)
        await trio.sleep(0.5)
        assert got <= frames.WINDOW_SIZE
        (exchange,) = agent_channel._exchanges.values()
        assert sum(len(getattr(item, "data", b"")) for item in exchange._inbox) <= frames.WINDOW_SIZE
        go_on.set()
    assert got == 5_000_000 + len("done\n")


@pytest.mark.parametrize(
    ("traps", "last", "bounds"),
    [
        ("trap 'echo int; exit 1' INT", b"int\n", (0.0, 0.5)),
        ("trap '' INT; trap 'echo term; exit 1' TERM", b"term\n", (0.5, 1.0)),
        ("trap '' INT TERM", b"", (1.0, 2.5)),
    ],
)
async def test_ladder_climbs_as_far_as_it_must(
    agent_channel: Channel, traps: str, last: bytes, bounds: tuple[float, float]
) -> None:
    """SIGINT, then SIGTERM, then SIGKILL, each with its time; last words are delivered; then Cancelled."""
    heard = Heard()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            script = traps + "; echo ready; while :; do sleep 0.05; done"
            nursery.start_soon(Execution(agent_channel, sh(script), heard).run, QUICK)
            await heard.something.wait()
            started = trio.current_time()
            scope.cancel()
    assert scope.cancelled_caught
    assert bounds[0] <= trio.current_time() - started < bounds[1] + 0.4
    assert bytes(heard.stdout) == b"ready\n" + last
    assert not agent_channel.ended
    assert (await run(agent_channel, sh("exit 0")))[0] == Exit(code=0)


def test_ladder_is_that_of_githubs_runner() -> None:
    """7.5 seconds for SIGINT, 2.5 for SIGTERM, then SIGKILL."""
    assert [(rung.signal, rung.patience) for rung in LADDER[:2]] == [(2, 7.5), (15, 2.5)]
    assert LADDER[2].signal == signal.SIGKILL


async def test_ladder_reaches_the_whole_group(agent_channel: Channel) -> None:
    """Children in the group die with the process."""
    heard = Heard()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                Execution(agent_channel, sh("sh -c 'echo $$; exec sleep 60'; exit 3"), heard).run, QUICK
            )
            await heard.something.wait()
            scope.cancel()
    await gone(int(heard.stdout))


async def test_ladder_with_a_callback_that_never_returns_is_bounded(agent_channel: Channel) -> None:
    """A stuck consumer does not hold up the end: the process is killed and the channel stays usable."""
    entered = trio.Event()

    async def stuck(_kind: str, _data: bytes) -> None:
        entered.set()
        await trio.sleep_forever()

    ladder = (Rung(signal.SIGINT, 0.1), Rung(signal.SIGTERM, 0.1), Rung(signal.SIGKILL, 0.2))
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Execution(agent_channel, sh("cat /dev/zero"), stuck).run, ladder)
            await entered.wait()
            started = trio.current_time()
            scope.cancel()
    assert trio.current_time() - started < 3
    assert (await run(agent_channel, sh("exit 0")))[0] == Exit(code=0)


async def test_failing_consumer_kills_the_process(agent_channel: Channel) -> None:
    """An error of the callback comes out as it is, and the process does not go on without it."""

    async def full(_kind: str, data: bytes) -> None:
        raise OSError(28, f"the disk is full at {int(data)}")

    with pytest.raises(OSError, match="the disk is full at") as caught:
        await Execution(agent_channel, sh("echo $$; exec sleep 60"), full).run()
    await gone(int(str(caught.value).rsplit(" ", 1)[1]))
    assert (await run(agent_channel, sh("exit 0")))[0] == Exit(code=0)


async def test_signal_goes_to_the_running_process(agent_channel: Channel) -> None:
    """`signal` before, during and after: only during it has an effect."""
    heard = Heard()
    execution = Execution(
        agent_channel, sh("trap 'echo usr; exit 9' USR1; echo on; while :; do sleep 0.05; done"), heard
    )
    await execution.signal(signal.SIGKILL)
    result: list[Exit] = []

    async def start() -> None:
        result.append(await execution.run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await heard.something.wait()
        await execution.signal(signal.SIGUSR1)
    await execution.signal(signal.SIGKILL)
    assert (result, bytes(heard.stdout)) == ([Exit(code=9)], b"on\nusr\n")


async def test_background_process_does_not_hold_the_exit(agent_channel: Channel) -> None:
    """`sleep 60 & echo started` is over at once."""
    started = time.monotonic()
    ended, out, _ = await run(agent_channel, sh("sleep 60 & echo started"))
    assert (ended, out) == (Exit(code=0), b"started\n")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"code": None, "signal": None},
        {"code": 0, "signal": 9},
        {"code": -1},
        {"code": 256},
        {"code": True},
        {"code": "0"},
        {"signal": 0},
        {"signal": 65},
        {"error": "no"},
    ],
)
async def test_only_a_real_exit_is_an_exit(peer: Peer, fields: dict[str, object]) -> None:
    """An EXIT without exactly one sensible code or signal never counts as any result."""

    async def agent() -> None:
        asked = await peer.receive()
        await peer.send(frames.RES, asked.stream, b'{"pid": 1}', frames.MORE)
        await peer.send(frames.EXIT, asked.stream, json.dumps(fields).encode())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent)
        with pytest.raises(MachineLost, match="EXIT"):
            await Execution(peer.channel, sh("true"), Heard()).run()


async def test_unkillable_process_costs_the_machine(
    peer: Peer, autojump_clock: trio.testing.MockClock
) -> None:
    """When even SIGKILL and a reset bring no EXIT, the machine is given up after a bounded time."""
    signals = []

    async def agent() -> None:
        while not peer.channel.ended:
            asked = await peer.receive()
            fields = json.loads(asked.payload or b"{}")
            if fields.get("op") == "signal":
                signals.append(fields["signal"])
                await peer.send(frames.RES, asked.stream, b'{"found": true}')
            elif fields.get("op") == "exec":
                await peer.send(frames.RES, asked.stream, b'{"pid": 1}', frames.MORE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent)
        started = trio.current_time()
        with trio.move_on_after(1):
            await Execution(peer.channel, sh("true"), Heard()).run()
        assert 16 <= trio.current_time() - started <= 19
        assert signals == [2, 15, 9]
        assert peer.channel.reason == "a killed process did not end"
        nursery.cancel_scope.cancel()
