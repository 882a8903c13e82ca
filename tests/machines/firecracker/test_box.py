"""The body of a Firecracker machine; the rest is shown by whole machines in `test_driver.py`."""

from __future__ import annotations

from runnerd.machines.firecracker.box import CAPABILITIES, LAYOUT


def test_disks_are_where_they_were_made() -> None:
    """The scratch disk is the third that was made, and a machine's only way out is its offered ports."""
    assert LAYOUT.upper == "/dev/vdc"
    assert (CAPABILITIES.isolated, CAPABILITIES.egress, CAPABILITIES.snapshot) == (True, True, True)
