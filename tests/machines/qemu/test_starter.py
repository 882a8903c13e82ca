"""Starting QEMU: nothing runs that was not written down, and nothing is forgotten before it is gone."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from runnerd.machines.driver import Capabilities, MachineLost, Size
from runnerd.machines.journal import MachineNote
from runnerd.machines.launcher import Launcher, LaunchFailed, born, open_launcher
from runnerd.machines.qemu import vmm
from runnerd.machines.qemu.qmp import QmpError
from runnerd.machines.qemu.starter import Starter, explained

CAPABILITIES = Capabilities(isolated=True, snapshot=True, egress=True)
FILES = ("kernel", "initrd", "memory", "agent_root", "image", "upper", "job")


class Refusing:
    """A launcher that starts nothing."""

    separate = False
    groups = None

    async def start(self, order: Any) -> Any:
        raise LaunchFailed("no more users")


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """A program that takes any command line and sleeps."""
    path = tmp_path / "qemu"
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    path.chmod(0o755)
    return str(path)


async def one(program: str, launcher: Launcher, failing: str = "") -> tuple[list[MachineNote], Starter, Any]:
    """What starting a machine and ending it writes down, and what came of it."""
    notes: list[MachineNote] = []

    async def journal(note: MachineNote) -> None:
        if note.state == failing:
            raise OSError("disk full")
        notes.append(note)

    spec = vmm.Spec(qemu=program, accelerator="tcg", size=Size(vcpus=1, memory=64, disk=1), tsc_khz=1)
    mold: Any = SimpleNamespace(frozen=None, spec=spec, key="key", image=SimpleNamespace(name="plain"))
    files = {name: os.memfd_create(name) for name in FILES}
    came: Any = None
    async with trio.open_nursery() as nursery:
        starter = Starter(
            nursery,
            qemu=program,
            channels=False,
            launcher=launcher,
            mark="runnerd-t-",
            journal=journal,
            random=bytes,
        )
        try:
            box = await starter.start(mold, vmm.Purpose.CLONE, files, CAPABILITIES)
            came = box.vm.process
            assert starter.names == {"runnerd-t-plain-0000000000"}
            await starter.close()
            await starter.close()
        except (OSError, LaunchFailed) as error:
            came = error
    for descriptor in files.values():
        os.close(descriptor)
    return notes, starter, came


async def test_a_machine_is_written_down_before_it_starts_and_after_it_ends(sleeper):
    """Starting, running with its process, gone: in this order, and then nothing of it is left."""
    before = len(os.listdir("/proc/self/fd"))
    async with open_launcher(root=False) as launcher:
        notes, starter, process = await one(sleeper, launcher)
    assert [note.state for note in notes] == ["starting", "running", "gone"]
    assert notes[1].pid == process.pid
    assert born(process.pid) is None
    assert (starter.boxes, starter.names) == ({}, set())
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("failing", ["starting", "running"])
async def test_what_cannot_be_written_down_does_not_run(sleeper, failing):
    """A journal that fails ends the start with its own error, and the process with it."""
    async with open_launcher(root=False) as launcher:
        notes, starter, error = await one(sleeper, launcher, failing)
        assert launcher._running == {}
    assert str(error) == "disk full"
    assert notes[-1].state == "gone"
    assert (starter.boxes, starter.names) == ({}, set())


async def test_what_was_refused_is_gone(sleeper):
    """A launcher that starts nothing leaves no name, no open file, and a note that says gone."""
    before = len(os.listdir("/proc/self/fd"))
    notes, starter, error = await one(sleeper, Refusing())
    assert str(error) == "no more users"
    assert [note.state for note in notes] == ["starting", "gone"]
    assert starter.names == set()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("error", [MachineLost, QmpError])
async def test_a_loss_is_told_with_what_is_known_of_the_machine(error):
    """The channel's words come first, or the monitor's, and the box's in brackets where it has some."""

    async def lost() -> None:
        raise error("the channel ended")

    for known, said in (("its kernel panicked", "the channel ended (its kernel panicked)"), ("", "ended")):
        box: Any = SimpleNamespace(postmortem=lambda known=known: known)
        with pytest.raises(MachineLost, match=said.replace("(", r"\(").replace(")", r"\)")):
            await explained(box, lost())
