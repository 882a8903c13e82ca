"""What Firecracker is asked. That its versions accept it is shown by the strict fake, in `test_driver.py`."""

from __future__ import annotations

import pytest

from runnerd.machines.driver import Size
from runnerd.machines.firecracker import requests
from runnerd.machines.firecracker.versions import Version

OLD, NEW = Version(1, 14, 4), Version(1, 16, 1)


def test_order_of_a_boot() -> None:
    """Disks come in the order in which the guest is told of them, and the start comes last."""
    asked = requests.cold_boot(Size(vcpus=2, memory=512, disk=64), NEW)
    drives = [each.body["drive_id"] for each in asked if each.path.startswith("/drives/")]
    assert tuple(drives) == requests.DISKS
    assert f"runnerd.disks={','.join(drives)}" in requests.kernel_command_line()
    assert asked[-1].path == "/actions"
    assert [each.body["is_read_only"] for each in asked if "drive_id" in each.body] == [
        True,
        True,
        False,
        True,
    ]


def test_console_is_bounded_where_it_can_be() -> None:
    """Only a version that knows the limiter is given one."""
    assert "rate_limiter" not in requests.console(OLD).body
    assert requests.console(NEW).body["rate_limiter"]["size"] == requests.SERIAL_BYTES


def test_load_does_not_run_before_it_is_told() -> None:
    """A machine is loaded at rest, and nothing of the deprecated fields is sent."""
    console, load, resume = requests.load(NEW)
    assert console.path == "/serial"
    assert load.body["resume_vm"] is False
    assert not {"mem_file_path", "enable_diff_snapshots"} & set(load.body)
    assert resume.body == {"state": "Resumed"}


def test_overrides_follow_the_version() -> None:
    """Only a version that knows it is told where the socket lies; nobody is told of a network."""
    for version, overrides in ((OLD, set()), (NEW, {"vsock_override"})):
        asked = requests.load(version)[1].body
        assert {name for name in asked if "override" in name} == overrides


def test_a_used_machine_is_written_beside_what_it_was_loaded_from() -> None:
    """Those names are taken in its jail, by files that it shares with others."""
    paths = [requests.MEMORY, requests.STATE, requests.RAM, requests.DEVICES]
    assert len(set(paths)) == 4
    kept = requests.freeze(requests.RAM, requests.DEVICES)[1].body
    assert (kept["mem_file_path"], kept["snapshot_path"]) == (requests.RAM, requests.DEVICES)


@pytest.mark.parametrize(("wanted", "given"), [(1, 1), (2, 2), (3, 4), (7, 8), (33, 32), (64, 32)])
def test_processors_are_one_or_even(wanted: int, given: int) -> None:
    """Firecracker takes no other number."""
    assert requests.vcpus(Size(vcpus=wanted)) == given
