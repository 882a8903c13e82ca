"""A running QEMU and its end: a shell plays QEMU, so that every end can be had."""

import os
import signal
from contextlib import asynccontextmanager

import trio

from runnerd.machines.launcher import Order, open_launcher
from runnerd.machines.qemu import vm
from runnerd.machines.qemu.vm import Vm


@asynccontextmanager
async def playing(script: str):
    """A started machine whose QEMU is a shell script."""
    async with open_launcher() as launcher, trio.open_nursery() as nursery:
        machine = await vm.start(
            launcher,
            order=Order(name="runnerd-test-vm", argv=("/bin/bash", "-c", script), descriptors={}, memory=64),
            files={},
        )
        nursery.start_soon(machine.run)
        try:
            yield machine
        finally:
            await machine.stop()
            await machine.stop()
            assert machine.ended.is_set()


async def ended(machine: Vm) -> str:
    """Wait for the end of a machine; why it ended."""
    with trio.fail_after(30):
        await machine.ended.wait()
    return machine.reason()


async def test_its_status_and_its_last_words_are_the_reason():
    """A QEMU that gives up tells why on its standard error."""
    async with playing("echo qemu-system-x86_64: cannot set up guest memory >&2; exit 1") as machine:
        reason = await ended(machine)
    expected = (
        "QEMU ended with status 1; its console ended with: qemu-system-x86_64: cannot set up guest memory"
    )
    assert reason == expected


async def test_an_event_tells_more_than_a_status():
    """A panic that QEMU announced is the reason, whatever QEMU's status."""
    said = '{"timestamp": {}, "event": "GUEST_PANICKED", "data": {"action": "poweroff"}}'
    async with playing(f"echo '{said}' >&@qmp@; exit 0") as machine:
        assert await ended(machine) == "its kernel panicked"


async def test_a_signal_is_named(eventually):
    """A QEMU that was killed from outside tells which signal it was, at once."""
    async with playing("sleep 60") as machine:
        os.kill(machine.process.pid, signal.SIGSEGV)
        await eventually(lambda: "SIGSEGV" in machine.reason())


async def test_what_was_stopped_from_here_needs_no_reason():
    """Stopping is no failure; it ends the process and is safe twice."""
    async with playing("echo noise; sleep 60") as machine:
        assert machine.reason() in ("", "its console ended with: noise")
        await machine.stop()
        assert machine.reason() == ""


async def test_the_agents_stream_is_the_machines():
    """Bytes go both ways between the agent's stream and the process's end of it."""
    async with playing("head -c 5 <&@agent@ >&@agent@; sleep 60") as machine:
        await machine.agent.send_all(b"hello")
        with trio.fail_after(30):
            assert await machine.agent.receive_some(5) == b"hello"


async def test_cancelling_its_task_ends_the_process():
    """A machine never outlives the nursery it runs in."""
    async with open_launcher() as launcher:
        order = Order(name="n", argv=("/bin/sleep", "60"), descriptors={}, memory=64)
        machine = await vm.start(launcher, order=order, files={})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.run)
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert machine.status == -signal.SIGKILL
        await machine.stop()
