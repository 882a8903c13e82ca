"""Each trap of the service's interface, by the number that its callers' experience gives it.

 1 a working directory that is asked for is ignored: below
 2 two spellings of the time a command has: `test_service.test_life_of_a_machine`
 3 `running` is said before anything in the machine answers: below
 4 the status in any case, and a machine that failed: below, `test_machine.test_failed_start_is_seen_at_once`
 5 a start that times out or is not answered leaks a machine: `test_machine.test_start_that_does_not_end…`,
   `test_driver.test_unanswered_request…` and `test_cancelled_request…`
 6 a client that gives up before the command has: below
 7 no exit status, an `error` beside one, a page for an answer: `test_service`, `test_execution`, below
 8 a snapshot without a name: `test_service.test_snapshot_without_a_name_is_refused`
 9 a release that fails unseen: `test_driver.test_machine_that_is_not_released_is_swept`
10 machines that nobody can find after a crash: `test_driver.test_machines_of_a_killed_daemon_are_given_back`
11 the user who is logged in, and the folder, are the service's choice: below
12 the name that is asked for is ignored, as by the fake; `test_driver.test_unanswered_request_without_names…`
13 the machine's name is `id` or `vm_id`: below
14 commands with secrets in the caller's own log: below
15 a token that runs out with no way to renew it: `test_driver.test_token…`
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from runnerd import log
from runnerd.machines.driver import Command, Exit, Machine, MachineLost, Size
from runnerd.machines.fcctl import service as service_module
from runnerd.machines.fcctl.driver import FcctlDriver
from runnerd.machines.fcctl.service import Service, ServiceTrouble

Opened = Callable[..., AbstractAsyncContextManager[FcctlDriver]]
Ready = Callable[[], Awaitable[Machine]]


async def run(machine: Machine, script: str, **options: Any) -> tuple[Exit, str]:
    said = bytearray()

    async def hear(stream: str, data: bytes) -> None:
        said.extend(data)

    environment = {"PATH": "/usr/bin:/bin", **options.pop("env", {})}
    with trio.fail_after(30):
        command = Command(argv=("bash", "-c", script), env=environment, **options)
        return await machine.exec(command, hear), said.decode()


async def test_1_working_directory_is_entered(ready: Ready, fake: Any) -> None:
    """The service runs everything in a folder of its own: the text itself goes where the command belongs."""
    machine = await ready()
    await machine.put(f"{machine.paths.work}/repository/file", b"")
    ended, said = await run(machine, "pwd; ls", cwd=f"{machine.paths.work}/repository")
    assert (ended.success, said.split()[1]) == (True, "file")
    assert said.split()[0].endswith("/home/runner/work/repository")


async def test_3_machine_that_runs_is_waited_for(ready: Ready, fake: Any) -> None:
    """An ssh that does not arrive is status 255 of nobody: the machine is asked again, and no step fails."""
    fake.refused_connections = 6
    machine = await ready()
    next(iter(fake.vms.values())).refusals = 2
    assert (await run(machine, "exit 255"))[0] == Exit(code=255)  # the command's own is the command's own


@pytest.mark.parametrize("status", ["running", "Running", "READY"])
async def test_4_status_in_any_case(ready: Ready, fake: Any, status: str) -> None:
    """A machine is ready in every spelling that was met."""
    fake.ends_in = status
    assert not (await ready()).lost.is_set()


async def test_6_answer_is_awaited_longer_than_the_command_may_take(
    service: Service, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's own word about a command counts; a service that says nothing at all is trouble."""
    made = await service.create("focal", "mine")
    fake.vms[made.name].refusals = 0
    assert (await service.run(made.name, "sleep 0.5; exit 4", seconds=0.1)).exit_code == 4
    monkeypatch.setattr(service_module, "MARGIN", 0.1)
    with pytest.raises(ServiceTrouble, match=r"no answer within 0\.2 s"):
        await service.run(made.name, "sleep 1", seconds=0.1)


async def test_7_statuses_that_never_come_lose_the_machine(opened: Opened, fake: Any) -> None:
    """A service that goes on leaving the status out is named; no command of it was ever green."""
    async with opened(patience=0.3) as driver:
        machine = await driver.clone(await driver.build_template("ubuntu", Size()))
        await machine.thaw()
        await machine.lease()
        fake.fault, fake.faults["POST /api/llm/execute"] = "no status", 1000
        with pytest.raises(MachineLost, match="did not say how a command ended"):
            await run(machine, "true")
        fake.faults.clear()


async def test_11_user_and_folder_are_read_not_assumed(ready: Ready, fake: Any) -> None:
    """HOME points elsewhere, sudo is refused and texts start anywhere: paths are whole."""
    machine = await ready()
    ended, said = await run(machine, "echo $HOME", env={"HOME": machine.paths.home})
    assert (ended.success, said.strip().endswith("/home/runner")) == (True, True)
    folder = next(iter(fake.vms.values())).folder
    assert sorted(path.name for path in folder.iterdir()) == ["bin", "boot_id", "home", "opt"]


async def test_13_name_in_either_spelling(ready: Ready, fake: Any) -> None:
    """A machine that is called `vm_id` is asked for and released by that name."""
    fake.name_key = "vm_id"
    machine = await ready()
    assert (await run(machine, "true"))[0].success
    await machine.destroy()
    assert fake.vms == {}


async def test_14_commands_are_not_logged(
    ready: Ready, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither text nor environment stands in the daemon's log, even where the service is in trouble."""
    log.configure(level="debug")
    try:
        machine = await ready()
        fake.fault, fake.faults["POST /api/llm/execute"] = "refuse", 3
        await run(machine, "echo word-in-the-text", env={"TOKEN": "word-in-the-environment"})
        await machine.destroy()
    finally:
        log.configure(level="info")
    said = capsys.readouterr()
    assert "word-in" not in said.out + said.err
