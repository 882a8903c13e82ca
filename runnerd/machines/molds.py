"""What clones are cast from: one image's files held open, a template's memory, and an empty scratch disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runnerd.machines import disks, vmm
from runnerd.machines.disks import MIB, Golden
from runnerd.machines.images import Image
from runnerd.machines.template import Frozen

_FILES = {"kernel": "kernel", "initrd": "initrd", "agent_root": "agent", "image": "rootfs"}
"""Descriptor name -> file of the image."""

OWNED = ("upper", "job")
"""The files that are a machine's own, and so belong to its user."""


class Mold:
    """Everything a machine of one image and size starts from. Holds the image's files open until closed."""

    def __init__(self, image: Image, spec: vmm.Spec, golden: Golden, folder: Path) -> None:
        """Open the image's files: a newer image may replace it on disk at any time. Raises OSError.

        `golden` is the scratch disk of every machine; disks have their space in `folder`.
        """
        self.image = image
        self.spec = spec
        self.files: dict[str, int] = {}
        """The descriptors that all machines share."""
        self.frozen: Frozen | None = None
        """Set once the template was booted or loaded."""
        self._golden = golden
        self._folder = folder
        try:
            for name, part in _FILES.items():
                self.files[name] = os.open(image.file(part), os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    @property
    def memory_bound(self) -> int:
        """MiB that QEMU may use for one machine."""
        return self.spec.size.memory + vmm.OVERHEAD[self.spec.accelerator]

    @contextmanager
    def machine_files(self, memory: int) -> Iterator[dict[str, int]]:
        """The descriptors a new machine gets, with disks of its own (`OWNED`) that are closed at the end.

        Blocks for less than a millisecond. Raises OSError.
        """
        own: dict[str, int] = {}
        try:
            own["upper"] = self._golden.copy(self._folder)
            own["job"] = disks.empty(self._folder, disks.JOB_SLOT * MIB)
            yield {**self.files, **own, "memory": memory}
        finally:
            for descriptor in own.values():
                os.close(descriptor)

    def close(self) -> None:
        """Let go of everything; machines keep what they use. Safe to call twice."""
        while self.files:
            os.close(self.files.popitem()[1])
        if self.frozen is not None:
            self.frozen.close()
            self.frozen = None


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that a clone must have in common with its template; another one loads and silently hangs."""

    command: tuple[str, ...]
    version: str
    image: str
    processor: str
    tsc_mhz: int
    job_slot: int


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what tells this host's processor from another: model and abilities."""
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines()
    wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
    return "\n".join(line for line in lines if line.partition(":")[0].strip() in wanted)


def key(spec: vmm.Spec, *, version: str, image: Image, processor: str) -> str:
    """Return the key of a template: `version` is QEMU's, `processor` names the host's (used under KVM)."""
    # The measured rate differs by a few kHz from start to start; what must not differ is the host.
    alike = msgspec.structs.replace(spec, tsc_khz=0)
    parts = _Key(
        command=vmm.command(alike, "", vmm.Purpose.TEMPLATE),
        version=version,
        image=image.digest,
        processor=processor if spec.accelerator == "kvm" else "",
        tsc_mhz=round(spec.tsc_khz / 1000),
        job_slot=disks.JOB_SLOT,
    )
    return hashlib.sha256(msgspec.json.encode([parts, spec.size])).hexdigest()[:32]
