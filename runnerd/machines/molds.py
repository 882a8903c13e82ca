"""What clones are cast from: one image's files held open, a template's memory, and an empty scratch disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runnerd.machines import disks
from runnerd.machines.disks import MIB, Golden, write_all
from runnerd.machines.images import Image
from runnerd.machines.qemu import vmm
from runnerd.machines.template import Frozen, memory_file

_FILES = {"kernel": "kernel", "initrd": "initrd", "agent_root": "agent", "image": "rootfs"}
"""Descriptor name -> file of the image."""

PREPARATION = 2
"""Counts the ways in which a template was brought to rest: one that was saved in another way is made anew."""

_STUB = 65536
"""Bytes of kernel and initrd that a clone's QEMU is shown: the kernel's header, and something to load."""


class Mold:
    """Everything a machine of one image and size starts from. Holds the image's files open until closed."""

    def __init__(self, key: str, image: Image, spec: vmm.Spec, golden: Golden, folder: Path) -> None:
        """Open the image's files: a newer image may replace it on disk at any time. Raises OSError.

        `key` is the template's, see `key`. `golden` is an empty scratch disk; the disks of machines have
        their space in `folder`.
        """
        self.key = key
        self.image = image
        self.spec = spec
        self.files: dict[str, int] = {}
        """The descriptors that all machines share."""
        self.frozen: Frozen | None = None
        """Set once the template was booted or loaded."""
        self._users = 0
        self._closed = False
        self._golden = golden
        self._stubs: dict[str, int] = {}
        self._folder = folder
        try:
            for name, part in _FILES.items():
                self.files[name] = os.open(image.file(part), os.O_RDONLY | os.O_CLOEXEC)
            # What a clone boots from it has in memory already; QEMU only wants to see the files' beginnings.
            for name in ("kernel", "initrd"):
                self._stubs[name] = _beginning(self.files[name])
        except BaseException:
            self.close()
            raise

    @contextmanager
    def machine_files(self, memory: int) -> Iterator[dict[str, int]]:
        """The descriptors a new machine gets, with disks of its own (`vmm.OWNED`) that are closed at the end.

        Blocks for less than a millisecond. Raises OSError.
        """
        own: dict[str, int] = {}
        try:
            upper = self._golden if self.frozen is None else self.frozen.upper
            own["upper"] = upper.copy(self._folder)
            own["job"] = disks.empty(self._folder, disks.JOB_SLOT * MIB)
            stubs = {} if self.frozen is None else self._stubs
            yield {**self.files, **own, **stubs, "memory": memory}
        finally:
            for descriptor in own.values():
                os.close(descriptor)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the descriptors open while a machine is being started from them, whoever closes the mold."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._closed:
                self.close()

    def close(self) -> None:
        """Let go of everything once nobody uses it; machines keep what they have. Safe to call twice."""
        self._closed = True
        if self._users:
            return
        for files in (self.files, self._stubs):
            while files:
                os.close(files.popitem()[1])
        if self.frozen is not None:
            self.frozen.close()
            self.frozen = None


def _beginning(descriptor: int) -> int:
    """Return the descriptor of a file in memory with the first bytes of another."""
    data = os.pread(descriptor, _STUB, 0)
    beginning = memory_file("runnerd-stub", 0)
    try:
        write_all(beginning, data, 0)
    except BaseException:
        os.close(beginning)
        raise
    return beginning


class _Key(msgspec.Struct, frozen=True, kw_only=True):
    """All that a clone must have in common with its template; another one loads and silently hangs."""

    command: tuple[str, ...]
    version: str
    image: str
    processor: str
    tsc_mhz: int
    job_slot: int
    preparation: int


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
        preparation=PREPARATION,
    )
    return hashlib.sha256(msgspec.json.encode([parts, spec.size])).hexdigest()[:32]
