"""What a machine does before its first job."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from runnerd.machines.driver import Size
from runnerd.machines.fake import FakeMachine, open_fake_driver
from runnerd.machines.rehearsal import rehearse


@pytest.fixture
async def machine() -> AsyncIterator[FakeMachine]:
    async with open_fake_driver() as driver:
        made = await driver.clone(await driver.build_template("image", Size()))
        assert isinstance(made, FakeMachine)
        yield made


async def test_an_empty_script_is_run_as_the_jobs_user(machine: FakeMachine) -> None:
    """With the shell that jobs get; no file is written."""
    await rehearse(machine)
    (command,) = machine.commands
    assert (command.argv, command.user) == (("/usr/bin/bash", "-e", "/dev/null"), 1001)
    assert machine.files == {}


async def test_sh_does_where_there_is_no_bash(machine: FakeMachine) -> None:
    """As for a job; an image without any shell has nothing to rehearse."""
    machine.programs = ()
    await rehearse(machine)
    assert machine.commands == []
    machine.programs = ("sh",)
    await rehearse(machine)
    assert machine.commands[0].argv[0] == "/usr/bin/sh"
