"""Real machines started by a launcher of its own."""

from __future__ import annotations

import os
import pwd
import signal
import sys

import pytest
import trio

from runnerd.machines.driver import Command, MachineLost, NoMachine
from runnerd.machines.launcher import born
from runnerd.machines.qemu.driver import open_qemu_driver

from ...conftest import PATIENT

pytestmark = [pytest.mark.vm, pytest.mark.skipif(os.geteuid() != 0, reason="the launcher is for root")]

SIZE = {"PATH": "/usr/bin:/bin"}


async def ignore(stream: str, data: bytes) -> None:
    """Output nobody looks at."""


async def test_machines_of_a_separate_launcher(vm_image, state_directory, vm_template, tmp_path, eventually):
    """They run jobs, their violent end is told with its signal, and none outlives the driver."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    words = ["-m", "runnerd", "launcher", "--user", user, "--socket", str(tmp_path / "l.sock")]
    launcher = await trio.lowlevel.open_process([sys.executable, *words], start_new_session=True)
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    try:
        await eventually((tmp_path / "l.sock").is_socket, 20.0)
        async with open_qemu_driver(
            state=tmp_path, **folders, launcher_socket=tmp_path / "l.sock", **PATIENT
        ) as driver:
            assert "own user" not in driver.capabilities.notice
            template = await driver.build_template(vm_template.image, vm_template.size)
            machines = [await driver.clone(template) for _ in range(2)]
            for machine in machines:
                await machine.thaw()
                await machine.lease()
                done = await machine.exec(Command(argv=("/bin/true",), env=SIZE), ignore)
                assert done.success
            processes = [driver._machines.boxes[machine.id].vm.process for machine in machines]
            assert len({process.uid for process in processes} - {0}) == 2
            os.kill(processes[0].pid, signal.SIGKILL)
            with trio.fail_after(30):
                await machines[0].lost.wait()
                assert await processes[0].wait() == -signal.SIGKILL
            with pytest.raises(MachineLost):
                await machines[0].lease()
            await machines[0].destroy()
            await machines[1].snapshot(tmp_path / "kept", key=None, limit=1 << 30)
            copy = await driver.restore(tmp_path / "kept", key=None)
            await copy.thaw()
        await eventually(lambda: not any(born(process.pid) for process in processes))
    finally:
        launcher.terminate()
        await launcher.wait()


async def test_absent_launcher_is_no_machine(vm_image, state_directory, tmp_path):
    """A launcher that is configured and not there keeps the daemon from starting, with the cure."""
    with pytest.raises(NoMachine, match=r"start runnerd-launcher\.service"):
        async with open_qemu_driver(state=tmp_path, launcher_socket=tmp_path / "none"):
            pass


async def test_a_named_control_group_that_cannot_be_had_is_no_machine(vm_image, tmp_path):
    """Who names one counts on it: the driver says what is wrong with it and does not open."""
    with pytest.raises(NoMachine, match=r"control group '\.\./\.\.': .* no control group below"):
        async with open_qemu_driver(state=tmp_path, cgroup="../.."):
            pass
