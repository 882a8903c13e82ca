"""Control groups of version 2 of a real kernel, a machine's: there the launcher runs as on a host."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import trio

from runnerd.machines.driver import Command, Size
from runnerd.machines.qemu.driver import open_qemu_driver

from ..conftest import PATIENT

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(
        sys.version_info[:2] != (3, 11), reason="compiled packages are those of the guest's 3.11"
    ),
]

PACKAGES = (
    *("runnerd", "trio", "msgspec", "structlog"),
    *("attr", "attrs", "outcome", "sniffio", "sortedcontainers", "idna"),
)
SIZE = Size(vcpus=1, memory=256, disk=512)
PLACE = "/home/runner/work/code"


def pack(path: Path) -> None:
    """What the launcher is made of, and the scenes, in an archive."""

    def needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "/tests" in member.name or "/_tests" in member.name else member

    with tarfile.open(path, "w") as tar:
        for name in PACKAGES:
            spec = importlib.util.find_spec(name)
            assert spec is not None
            assert spec.origin is not None
            tar.add(Path(spec.origin).parent, name, filter=needed)
        tar.add(Path(__file__).with_name("bounded.py"), "bounded.py")


@pytest.fixture(scope="module")
def found(vm_image, state_directory, tmp_path_factory) -> dict[str, Any]:
    """What the scenes found, all in one machine."""
    state = tmp_path_factory.mktemp("unified")
    pack(state / "code.tar")
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    said = {"stdout": bytearray(), "stderr": bytearray()}

    async def keep(stream: str, data: bytes) -> None:
        said[stream].extend(data)

    async def play() -> bool:
        async with open_qemu_driver(state=state, **folders, **PATIENT) as driver:
            machine = await driver.clone(await driver.build_template("default", SIZE))
            await machine.thaw()
            await machine.lease()
            await machine.unpack(state / "code.tar", PLACE)
            path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
            command = Command(argv=("/usr/bin/python3", f"{PLACE}/bounded.py"), env=path, user=0)
            with trio.fail_after(300):
                return (await machine.exec(command, keep)).success

    assert trio.run(play), said["stderr"].decode()
    return json.loads(said["stdout"])


def test_a_unit_that_was_handed_over_shares_out_its_controllers(found):
    """The daemon and all in its unit's group leave it for a leaf, for else the kernel shares nothing out."""
    assert found["handed_over"] == {
        "version": 2,
        "path": "system.slice/handed_over.service",
        "again": "system.slice/handed_over.service",
        "controllers": ["memory", "pids", "cpu"],
        "shared": ["cpu", "memory", "pids"],
        "left in it": "",
        "daemon": "system.slice/handed_over.service/daemon",
        "in the leaf": 2,
    }


@pytest.mark.parametrize("scene", ["bounds", "unprivileged"])
def test_the_kernel_bounds_what_the_launcher_starts(found, scene):
    """Memory, processes and processors are what was ordered, for root and for a user; nothing is left."""
    assert found[scene] == {
        "status": 0,
        "said": [
            f"0::/system.slice/{scene}.service/first",
            *(str(72 << 20), "0", "1", "20", "300000 100000", "20"),
        ],
        # The child took too much, and what waited for it ended with it.
        "hungry": -signal.SIGKILL,
        "outgrown": [True, False],
        "refused": "/bin/bash: fork: retry: Resource temporarily unavailable\n",
        "many": 4,
        "children": [],
        "left": ["daemon"],
    }


def test_what_a_killed_daemon_left_is_reaped(found):
    """Its groups go with what lives in them and below them; spared ones and those of another mark stay."""
    assert found["crash"] == {
        "daemon": -signal.SIGKILL,
        "it left": ["runnerd-0-1"],
        "reaped": [],
        "groups": ["daemon", "other-1", "runnerd-0-spared"],
        "busy": -signal.SIGKILL,
        "spared": [None, None],
        "again": [],
    }


def test_a_named_group_is_taken_as_it_is_or_refused(found):
    """One without controllers or with processes of others is refused with the cure, and left as it was."""
    named = found["named"]
    assert "outer.slice/inner has no memory controller: the group above has to" in named.pop(
        "not handed down"
    )
    assert "busy.slice has processes of its own (PID)" in named.pop("busy")
    assert named == {
        "other": "busy.slice",
        "machines": "memory, pids, cpu",
        "made": [],
        "daemon": "system.slice/named.service",
        "mine": "memory, pids, cpu",
        "moved": "mine.slice/daemon",
    }
