"""Decides whether machines run on KVM or are emulated: by booting one, never by the device file's existence.

There are hosts whose /dev/kvm opens and on which no kernel ever comes up, so the verdict is kept.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec
import trio

from runnerd.machines.console import Console
from runnerd.machines.launcher import Launcher, LaunchFailed, recipe_order
from runnerd.machines.qemu import vmm

ALIVE = b"runnerd-probe: alive"
"""What `init.sh` says when it was started as a probe."""

PATIENCE = 4.0
"""Seconds a probe may take; on a working KVM it takes well under one."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether KVM works here, and why not."""

    key: str
    """What the verdict was found with; with anything else it is found anew."""
    works: bool
    why: str = ""


def obvious(device: Path = Path("/dev/kvm")) -> str:
    """Why KVM cannot work here, as far as that shows without trying; empty when it has to be tried."""
    if not device.exists():
        return f"this host has no {device}"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"the daemon's user may not use {device}: add it to the group that owns it"
    return ""


async def verdict(
    launcher: Launcher,
    *,
    qemu: str,
    board: vmm.Board,
    key: str,
    files: Mapping[str, int],
    cache: Path,
    patience: float = PATIENCE,
) -> Verdict:
    """Return the kept verdict for `key`, or boot the kernel and initrd in `files` under KVM and see.

    A failed probe costs `patience` seconds, once: the verdict is written to `cache`.
    """
    if why := obvious():
        return Verdict(key=key, works=False, why=why)
    kept = _read(cache)
    if kept is not None and kept.key == key:
        return kept
    found = await _probe(launcher, qemu, board, key, files, patience)
    _write(cache, found)
    return found


async def _probe(
    launcher: Launcher,
    qemu: str,
    board: vmm.Board,
    key: str,
    files: Mapping[str, int],
    patience: float,
) -> Verdict:
    ours, theirs = socket.socketpair()
    console = Console(ours)
    try:
        descriptors = {name: files[name] for name in ("kernel", "initrd")} | {"console": theirs.fileno()}
        recipe = vmm.Recipe(
            board=board, accelerator="kvm", size=vmm.PROBED, tsc_khz=0, purpose=vmm.Purpose.PROBE
        )
        order = recipe_order(recipe, qemu, "runnerd-probe")
        process = await launcher.start(msgspec.structs.replace(order, descriptors=descriptors))
    except (LaunchFailed, OSError) as error:
        console.close()
        return Verdict(key=key, works=False, why=str(error))
    finally:
        theirs.close()
    try:
        with trio.move_on_after(patience):
            await console.run()
    finally:
        await process.stop()
        console.close()
    if ALIVE in console.text:
        return Verdict(key=key, works=True)
    said = console.tail()
    why = f"a machine did not come up under KVM within {patience:g} s" + (f" ({said})" if said else "")
    return Verdict(key=key, works=False, why=why)


def _read(cache: Path) -> Verdict | None:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=Verdict)
    except (OSError, msgspec.DecodeError):
        return None


def _write(cache: Path, verdict: Verdict) -> None:
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(verdict))
    temporary.replace(cache)
