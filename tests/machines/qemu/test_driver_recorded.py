"""The whole life of machines, against each version of QEMU that was recorded, which is told the very same."""

from __future__ import annotations

import os

import pytest

from runnerd.machines.driver import Command, Exit, NoMachine, Size
from runnerd.machines.launcher import open_launcher
from runnerd.machines.qemu.driver import open_qemu_driver
from runnerd.machines.remote import AgentMachine

from .stand_in import CONVERSATIONS

SIZE = Size(vcpus=1, memory=64, disk=16)
VERSIONS = sorted(os.listdir(CONVERSATIONS))


async def run(machine: AgentMachine) -> Exit:
    """Let a command end with status 7 in a machine."""

    async def ignore(_stream: str, _data: bytes) -> None:
        pass

    return await machine.exec(Command(argv=("/bin/sh", "-c", "exit 7")), ignore)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.usefixtures("played_image")
async def test_a_recorded_version_is_told_what_it_was_told(version, stand_in, tmp_path):
    """Asked, frozen, cloned, kept twice, gone back to and kept again: every scene is played to its end."""
    (tmp_path / "machines").mkdir()
    async with (
        open_launcher(root=False) as launcher,
        open_qemu_driver(
            state=tmp_path,
            program=stand_in(version),
            accelerator="tcg",
            launcher=launcher,
            ready_timeout=60.0,
        ) as driver,
    ):
        assert driver.capabilities.snapshot
        template = await driver.build_template("default", SIZE)
        machine = await driver.clone(template)
        await machine.thaw()
        await machine.lease()
        for name in ("1", "2"):
            await machine.snapshot(tmp_path / "kept" / name, key=None, limit=1 << 30)
            assert await run(machine) == Exit(code=7)
        await machine.destroy()
        copy = await driver.restore(tmp_path / "kept/2", key=None)
        await copy.thaw()
        await copy.snapshot(tmp_path / "kept/3", key=None, limit=1 << 30)
        assert await run(copy) == Exit(code=7)
    played = (tmp_path / "played").read_text().split()
    assert played == ["freeze", "clone", "snapshot", "snapshot", "restore", "snapshot"]


@pytest.mark.usefixtures("played_image")
async def test_a_recorded_version_takes_nothing_else(stand_in, tmp_path, monkeypatch):
    """What takes QEMU's place is strict: one argument that differs, and there is no machine."""
    monkeypatch.setattr("runnerd.machines.qemu.migration._NAME", "other")
    async with (
        open_launcher(root=False) as launcher,
        open_qemu_driver(
            state=tmp_path, program=stand_in(VERSIONS[0]), accelerator="tcg", launcher=launcher
        ) as driver,
    ):
        with pytest.raises(NoMachine, match="getfd: "):
            await driver.build_template("default", SIZE)
    assert "played" not in os.listdir(tmp_path)
