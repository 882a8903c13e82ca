"""What a template does before it is frozen: a list that goes on over what an image has not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runnerd.machines.driver import Command, Exit, MachineLost
from runnerd.machines.qemu.freezing import patience, warm


class Sparse:
    """A machine with a shell and nothing else, that writes down what it was asked."""

    def __init__(self) -> None:
        self.did: list[str] = []

    async def thaw(self) -> None:
        self.did.append("thaw")

    async def exec(self, command: Command, output: Any) -> Exit:
        if not command.argv[0].endswith("sh"):
            raise FileNotFoundError(command.argv[0])
        await output("stdout", b"noise")
        self.did.append(command.argv[0])
        return Exit(code=0)

    async def call(self, name: str, deadline: float) -> None:
        self.did.append(f"{name} within {deadline:g}")


async def test_programs_that_are_not_there_are_left_out():
    """An image without git or Python is warmed with what it has, between two rehearsals of the thaw."""
    machine: Any = Sparse()
    await warm(machine, machine, machine, timeout=9)
    assert machine.did == ["thaw", "/bin/bash", "/bin/sh", "thaw", "quiesce within 9"]


async def test_a_machine_that_does_not_rest_is_told_with_its_end():
    """The loss says what the machine ended with."""

    class Restless(Sparse):
        async def call(self, name: str, deadline: float) -> None:
            raise MachineLost("no answer")

    machine: Any = Restless()
    box: Any = SimpleNamespace(postmortem=lambda: "its kernel panicked")
    with pytest.raises(MachineLost, match=r"no answer \(its kernel panicked\)"):
        await warm(machine, box, machine, timeout=9)


def test_an_emulated_template_is_given_longer():
    """Three times, as config.toml says of `build_timeout`: on a busy host it takes a minute and more."""
    assert [patience(60.0, emulated=emulated) for emulated in (False, True)] == [60.0, 180.0]
