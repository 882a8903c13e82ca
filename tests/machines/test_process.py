"""The driver without isolation, with real processes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from runnerd.machines import sweep
from runnerd.machines.driver import Command, Driver, Exit, MachineLost, NoMachine, NotKept, Size
from runnerd.machines.journal import MachineNote
from runnerd.machines.process import ProcessDriver, open_process_driver

from .conftest import leased, run

ENV = {"PATH": os.environ["PATH"]}


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[ProcessDriver]:
    async with open_process_driver(root=tmp_path / "machines") as opened:
        yield opened


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_whole_life_of_a_machine(driver: ProcessDriver, tmp_path: Path) -> None:
    """Folders of its own, commands, files, an archive, and nothing left after the end."""
    as_driver: Driver = driver
    assert not as_driver.capabilities.isolated
    machine = await leased(driver)
    assert machine.image == "ubuntu"
    assert (await run(machine, "pwd; exit 3")) == (Exit(code=3), f"{machine.paths.work}\n")
    for path in (machine.paths.home, machine.paths.temp, machine.paths.tools):
        assert (await run(machine, f"touch {path}/mark"))[0].success
    await machine.put(f"{machine.paths.temp}/deep/file", b"data")
    assert await machine.get(f"{machine.paths.temp}/deep/file", limit=4) == b"data"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        info = tarfile.TarInfo("file")
        info.size = 3
        info.uid = 4242
        archive.addfile(info, io.BytesIO(b"abc"))
    (tmp_path / "a.tar").write_bytes(data.getvalue())
    await machine.unpack(tmp_path / "a.tar", f"{machine.paths.work}/R/R")
    file = trio.Path(f"{machine.paths.work}/R/R/file")
    assert (await file.read_bytes(), (await file.stat()).st_uid) == (b"abc", os.getuid())
    await machine.destroy()
    await machine.destroy()
    assert os.listdir(tmp_path / "machines") == ["agent.pyz"]
    assert (machine.lost.is_set(), machine.reason) == (True, "it was destroyed")
    with pytest.raises(MachineLost, match="it was destroyed"):
        await run(machine, "true")


async def test_identity_is_invented_and_the_hosts_is_kept(driver: ProcessDriver) -> None:
    """Each machine has names of its own; host name and clock of the host are as before."""
    name = os.uname().nodename
    machines = [await leased(driver) for _ in range(3)]
    identities = {machine.identity for machine in machines}
    assert len(identities) == 3
    assert None not in identities
    assert os.uname().nodename == name


async def test_nothing_of_the_daemons_environment_is_inherited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the agent nor a command sees the daemon's variables or descriptors."""
    monkeypatch.setenv("GITHUB_WEBHOOK_SECRET", "very-secret")
    async with open_process_driver(root=tmp_path / "machines") as driver:
        machine = await leased(driver)
        said = (await run(machine, "cat /proc/$PPID/environ /proc/self/environ; ls /proc/self/fd"))[1]
        assert "very-secret" not in said
        assert said.rpartition("\0")[2].split() == ["0", "1", "2", "3"]  # 3: ls looks


async def test_destroy_ends_every_process(driver: ProcessDriver) -> None:
    """What was left in the background, fled its session or ignores signals is gone."""
    machine = await leased(driver)
    script = (
        "sleep 60 & echo $!; setsid setsid sleep 60 >/dev/null 2>&1 & echo $!; "
        "nohup sh -c 'trap \"\" TERM INT; echo $$; touch up; while :; do sleep 1; done' 2>/dev/null & "
        "until test -e up; do sleep 0.02; done"
    )
    ended, said = await run(machine, script)
    assert ended.success
    assert len(said.split()) == 3
    below = sweep.processes_of(Path(machine.paths.work))
    assert len(below) >= 3
    started = time.monotonic()
    await machine.destroy()
    assert time.monotonic() - started < 60
    assert [pid for pid in below if alive(pid)] == []


async def test_job_that_kills_its_agent_does_not_escape(driver: ProcessDriver) -> None:
    """When the agent is gone, its processes are found by where they live and what they were given."""
    machine = await leased(driver)
    with pytest.raises(MachineLost, match="closed its channel"):
        await run(machine, "setsid setsid sleep 60 & sleep 0.2; kill -9 $PPID; sleep 60")
    await machine.lost.wait()
    below = sweep.processes_of(Path(machine.paths.work))
    assert below
    await machine.destroy()
    assert [pid for pid in below if alive(pid)] == []


async def test_stopped_agent_does_not_hold_up_the_end(driver: ProcessDriver) -> None:
    """An agent that does not answer is killed, with everything below it, in bounded time."""
    machine = await leased(driver)
    said = (await run(machine, "setsid sleep 60 >/dev/null 2>&1 & echo $PPID"))[1]
    agent = int(said)
    below = sweep.descendants(agent)
    assert below
    os.kill(agent, signal.SIGSTOP)
    started = time.monotonic()
    await machine.destroy()
    assert time.monotonic() - started < 60
    assert [pid for pid in (agent, *below) if alive(pid)] == []


async def test_leaving_the_driver_destroys_its_machines(tmp_path: Path) -> None:
    """No machine, process or folder outlives the driver, also when it is left by an error."""
    pids: list[int] = []

    async def fail() -> None:
        async with open_process_driver(root=tmp_path / "machines") as driver:
            for _ in range(3):
                machine = await leased(driver)
                pids.append(int((await run(machine, "setsid sleep 60 >/dev/null 2>&1 & echo $!"))[1]))
            raise KeyError("a bug")

    with pytest.raises(ExceptionGroup) as caught:
        await fail()
    assert caught.group_contains(KeyError)
    assert len(pids) == 3
    assert [pid for pid in pids if alive(pid)] == []
    assert os.listdir(tmp_path / "machines") == ["agent.pyz"]


async def test_cancelling_a_command_climbs_the_ladder(driver: ProcessDriver) -> None:
    """The process hears SIGINT, and Cancelled leaves only when it has ended."""
    machine = await leased(driver)
    heard: list[bytes] = []
    ready_to_go = trio.Event()

    async def hear(_kind: str, data: bytes) -> None:
        heard.append(data)
        ready_to_go.set()

    script = "trap 'echo stopped; exit 1' INT; echo ready; while :; do sleep 0.05; done"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(machine.exec, Command(argv=("sh", "-c", script), env=ENV), hear)
            await ready_to_go.wait()
            scope.cancel()
    assert b"".join(heard) == b"ready\nstopped\n"
    assert (await run(machine, "true"))[0].success


async def test_machines_of_a_killed_daemon_are_reaped(driver: ProcessDriver, tmp_path: Path) -> None:
    """Folders and processes of an earlier daemon go; machines that live now stay."""
    machine = await leased(driver)
    left = tmp_path / "machines" / "process-0123456789abcdef"
    (left / "work").mkdir(parents=True)
    orphan = await trio.lowlevel.open_process(["sleep", "60"], cwd=str(left / "work"), env={})
    for _ in range(500):
        if orphan.pid in sweep.processes_of(left):
            break
        await trio.sleep(0.01)
    assert await driver.adopt_or_reap() == 1
    with trio.fail_after(30):
        assert await orphan.wait() == -signal.SIGKILL
    assert not left.exists()
    assert await driver.adopt_or_reap() == 0
    assert (await run(machine, "true"))[0].success


DAEMON = """
import sys, trio
from pathlib import Path
from runnerd.machines.driver import Command, Size
from runnerd.machines.process import open_process_driver

async def show(_kind, data):
    print(data.decode(), flush=True)

async def main():
    async with open_process_driver(root=Path(sys.argv[1])) as driver:
        machine = await driver.clone(await driver.build_template("x", Size()))
        await machine.thaw()
        script = "setsid sleep 60 & echo $! $PPID; wait"
        await machine.exec(Command(argv=("sh", "-c", script), env={"PATH": sys.argv[2]}), show)

trio.run(main)
"""


async def test_end_of_the_daemon_ends_its_machines(tmp_path: Path) -> None:
    """When the daemon is killed, its agents end themselves and everything below them."""
    daemon = await trio.lowlevel.open_process(
        [sys.executable, "-c", DAEMON, str(tmp_path / "machines"), ENV["PATH"]], stdout=subprocess.PIPE
    )
    assert daemon.stdout
    pids = [int(word) for word in (await daemon.stdout.receive_some()).split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    daemon.kill()
    await daemon.wait()
    for _ in range(500):
        if not any(alive(pid) for pid in pids):
            return
        await trio.sleep(0.01)
    raise AssertionError(f"of {pids} some are still there")


async def test_machine_that_cannot_start_is_no_machine(tmp_path: Path) -> None:
    """Without its interpreter there is no machine, and no folder of one."""
    async with open_process_driver(root=tmp_path / "machines", python="/nonesuch/python") as driver:
        with pytest.raises(NoMachine, match="cannot start a machine in"):
            await driver.clone(await driver.build_template("x", Size()))
        assert os.listdir(tmp_path / "machines") == ["agent.pyz"]


async def test_agent_that_does_not_come_up_is_lost(tmp_path: Path) -> None:
    """An interpreter that ends at once is a lost machine that says so, and is destroyed."""
    async with open_process_driver(root=tmp_path / "machines", python="/bin/false") as driver:
        machine = await driver.clone(await driver.build_template("x", Size()))
        with pytest.raises(MachineLost, match=r"closed its channel|channel broke"):
            await machine.thaw()
        assert os.listdir(tmp_path / "machines") == ["agent.pyz"]


async def test_nothing_is_kept(driver: ProcessDriver, tmp_path: Path) -> None:
    """A process of the host has no state that could be kept, and says so; it has a terminal."""
    machine = await leased(driver)
    assert not driver.capabilities.snapshot
    with pytest.raises(NotKept, match="keeps no snapshots"):
        await machine.snapshot(tmp_path / "kept", key=None, limit=1 << 30)
    with pytest.raises(NoMachine, match="none to go back to"):
        await driver.restore(tmp_path / "kept", key=None)
    assert (await run(machine, "true"))[0].success


async def test_the_journal_hears_of_each_machine(tmp_path: Path) -> None:
    """Before there is anything of it, and when nothing is left, also of one that did not start."""
    noted = []
    root = tmp_path / "machines"

    async def journal(note: MachineNote) -> None:
        noted.append((note.id, note.state, (root / note.id).exists()))

    async with open_process_driver(root=root, journal=journal) as driver:
        machine = await driver.clone(await driver.build_template("x", Size()))
        await machine.destroy()
        await machine.destroy()
    assert noted == [(machine.id, "starting", False), (machine.id, "gone", False)]
    noted.clear()
    async with open_process_driver(root=root, python="/nonesuch/python", journal=journal) as driver:
        with pytest.raises(NoMachine):
            await driver.clone(await driver.build_template("x", Size()))
    assert [state for _, state, _ in noted] == ["starting", "gone"]


async def test_a_journal_that_fails_at_the_end_keeps_no_machine(tmp_path: Path) -> None:
    """That its end cannot be written down is logged, and its end is the same."""

    async def journal(note: MachineNote) -> None:
        if note.state == "gone":
            raise OSError("the disk is full")

    root = tmp_path / "machines"
    async with open_process_driver(root=root, journal=journal) as driver:
        machine = await driver.clone(await driver.build_template("x", Size()))
        await machine.destroy()
        assert os.listdir(root) == ["agent.pyz"]
