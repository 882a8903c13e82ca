"""A machine that is reached through an agent: `AgentMachine` keeps the promises of `driver.Machine`
over a channel, and asks its `Box` for the little that differs between drivers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from runnerd.machines.driver import Capabilities, Paths


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent builds the job's root: the image, read-only, under a layer of the machine's own.

    A device is a path in the guest, or `serial:NAME` for the virtio disk with that serial number.
    """

    lower: str = "/lower"
    """Where the image is mounted in the agent's root."""
    upper: str | None = None
    """Device with an ext4 file system that takes what the job writes; None keeps it in memory."""
    into: str = "/job"
    """Where the job's root is put together, and what jobs are chrooted into."""


class Box(Protocol):
    """What a driver supplies beside the channel: the body around an agent."""

    id: str
    image: str
    paths: Paths
    capabilities: Capabilities
    layout: Layout | None
    """None: jobs run in the root the agent itself has."""

    async def fill(self, archive: Path) -> str | None:
        """Copy a tar file of the host's onto the job disk and return the disk's device in the guest.

        None says there is no job disk (or it is too small), and the archive goes through the channel.
        Called at most a few times per machine, never at the same time.
        """
        ...

    def postmortem(self) -> str:
        """What the driver knows about the machine's end, as half a sentence; empty when nothing."""
        ...

    async def destroy(self) -> None:
        """End the machine and remove what it held; bounded, safe to call twice, never raises."""
        ...
