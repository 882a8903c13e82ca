"""Moving a stopped machine's state out of QEMU and into it, through pipes: every version takes those."""

from __future__ import annotations

import os
from typing import Any

import trio

from runnerd.machines.qemu.qmp import Event, Qmp, QmpError

STATE_LIMIT = 64 << 20
"""Bytes of a state without memory; that of the largest board is under half a MiB."""

_NAME = "state"
"""What QEMU calls the descriptor between being given it and using it."""


def address(*, channels: bool) -> dict[str, Any]:
    """Arguments of `migrate` and `migrate-incoming` that mean the descriptor which `getfd` gave."""
    if not channels:
        return {"uri": f"fd:{_NAME}"}
    end = {"transport": "socket", "type": "fd", "str": _NAME}
    return {"channels": [{"channel-type": "main", "addr": end}]}


async def save(monitor: Qmp, *, deadline: float = 10.0) -> bytes:
    """Return a stopped machine's state without its memory, which is a file of ours. Raises QmpError.

    The machine stays stopped.
    """
    reading, writing = os.pipe()
    state = bytearray()
    failed: QmpError | None = None
    async with trio.lowlevel.FdStream(reading) as stream, trio.open_nursery() as nursery:

        async def read() -> None:
            async for piece in stream:
                state.extend(piece)
                if len(state) > STATE_LIMIT:
                    return

        nursery.start_soon(read)
        try:
            await _migrate(monitor, writing, incoming=False, deadline=deadline)
        except QmpError as error:
            failed = error
        finally:
            os.close(writing)
            if failed is not None:
                nursery.cancel_scope.cancel()
            # The end comes when QEMU lets go of its side, which it does when it is done.
            nursery.cancel_scope.deadline = trio.current_time() + deadline
    if failed is None and (nursery.cancel_scope.cancelled_caught or len(state) > STATE_LIMIT):
        failed = QmpError("QEMU did not end the machine's state where it should")
    if failed is not None:
        raise failed
    return bytes(state)


async def load(monitor: Qmp, state: bytes, *, deadline: float = 10.0) -> None:
    """Give a waiting machine the state of another; its memory it has already. Raises QmpError.

    It needs `cont` afterwards.
    """
    reading, writing = os.pipe()
    failed: QmpError | None = None
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            async with trio.lowlevel.FdStream(writing) as stream:
                try:
                    await stream.send_all(state)
                except trio.BrokenResourceError:
                    pass  # QEMU has ended, or read as much as it wanted: its monitor says which

        nursery.start_soon(write)
        try:
            await _migrate(monitor, reading, incoming=True, deadline=deadline)
        except QmpError as error:
            failed = error
        finally:
            os.close(reading)
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


async def _migrate(monitor: Qmp, descriptor: int, *, incoming: bool, deadline: float) -> None:
    """Write a stopped machine's state to a pipe, or read it from one; afterwards it is stopped either way."""
    wanted = {"x-ignore-shared": True, "events": True}
    capabilities = [{"capability": name, "state": state} for name, state in wanted.items()]
    await monitor.command("migrate-set-capabilities", {"capabilities": capabilities}, deadline=deadline)
    monitor.forget_events()
    await monitor.command("getfd", {"fdname": _NAME}, descriptor=descriptor, deadline=deadline)
    await monitor.command(
        "migrate-incoming" if incoming else "migrate", address(channels=monitor.channels), deadline=deadline
    )

    def over(event: Event) -> bool:
        return event.name == "MIGRATION" and event.data.get("status") in ("completed", "failed")

    end = await monitor.wait(over, deadline=deadline)
    if end.data["status"] == "failed":
        why = (await _asked(monitor, "query-migrate", deadline)).get("error-desc", "no reason given")
        raise QmpError(f"QEMU could not move the machine's state: {why}")
    if not incoming:
        # The event comes before the last bytes are written; this state comes after.
        for _ in range(max(1, round(deadline / 0.002))):
            if (await _asked(monitor, "query-status", deadline)).get("status") == "postmigrate":
                return
            await trio.sleep(0.002)
        raise QmpError(f"QEMU did not finish writing the machine's state within {deadline:g} s")


async def _asked(monitor: Qmp, question: str, deadline: float) -> dict[str, Any]:
    """What QEMU says to a question, which may be anything once a machine has taken it over."""
    answer = await monitor.command(question, deadline=deadline)
    if not isinstance(answer, dict):
        raise QmpError(f"{question}: QEMU's answer says nothing")
    return answer
