"""The command line of QEMU for one machine, as pure text: what a template and all its clones have in common.

Descriptors appear as `@NAME@`; no path of the host is named, so the process needs no right to any folder.
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

from runnerd.machines.driver import Size

PORT = "runnerd.agent"
"""Name of the serial port that the agent opens."""

CODE_BUFFER = 32
"""MiB of translated code that software emulation keeps."""

CPU = {
    "kvm": "host",
    # x86-64-v2. Not `max`: its emulated `rep movsb` halves the speed of every copy. With `arat` the timer can
    # stop, which halves what an idle machine costs.
    "tcg": "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+arat",
}

OVERHEAD = {"kvm": 48, "tcg": 96}
"""MiB of host memory beside the guest's own: QEMU's heap and code buffer, with some room.

Measured with 7.2 under emulation, in a machine that had done much: 71 MiB with one processor, 78 with two.
KVM has no code buffer.
"""

PROBED = Size(vcpus=1, memory=128, disk=0)
"""The size of a machine that shows whether KVM works."""

Accelerator = Literal["kvm", "tcg"]
Board = Literal["microvm", "q35"]

BOARDS: tuple[Board, ...] = ("microvm", "q35")
"""Machine types, the smallest first: what a board has not needs no start, and is no way out."""

_OPTIONS = {
    "microvm": "",
    # As little of a PC as can be left: no disk controller, no bus for sensors, nothing of another product.
    "q35": ",sata=off,smbus=off,vmport=off,usb=off",
}

_BUS = {"microvm": "device", "q35": "pci"}
"""How a board's virtio devices are called behind their kind."""

_PANIC = {"microvm": "pvpanic,ioport=0x505", "q35": "pvpanic-pci"}
"""The device by which a guest says that its kernel panicked."""

DEVICES: dict[Board, tuple[str, ...]] = {
    "microvm": ("virtio-blk-device", "virtio-serial-device", "virtserialport", "pvpanic"),
    "q35": ("virtio-blk-pci", "virtio-serial-pci", "virtserialport", "pvpanic-pci"),
}
"""What a machine of each board is made of."""


class Purpose(enum.Enum):
    """Why a machine is started."""

    TEMPLATE = "template"
    """To be frozen: its memory is the template's memory."""
    CLONE = "clone"
    """From a template: its memory is a private copy of the template's, taken page by page as it writes."""
    PROBE = "probe"
    """To show whether KVM works."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine as whoever starts QEMU must know it: enough for its command line, and nothing of a path."""

    board: Board = "microvm"
    accelerator: Accelerator
    size: Size
    tsc_khz: int
    purpose: Purpose

    @property
    def memory_bound(self) -> int:
        """MiB that QEMU may use, guest memory included."""
        return self.size.memory + OVERHEAD[self.accelerator]

    @property
    def memory_shared(self) -> int:
        """MiB of its template's memory that may be charged to it too, beside `memory_bound`.

        Where a clone writes to a page that its template never touched, the kernel first makes that page in
        the template's file, once for all clones, and charges it to the clone that was first.
        """
        return self.size.memory if self.purpose is Purpose.CLONE else 0

    @property
    def threads_bound(self) -> int:
        """Threads that QEMU may have: its processors', at most 64 for the disks, and some of its own."""
        return 128 + 2 * self.size.vcpus


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether a state saved by one process can be loaded by another."""

    qemu: str
    """Path of the program."""
    board: Board = "microvm"
    accelerator: Accelerator
    size: Size
    tsc_khz: int
    """Rate of the host's time-stamp counter; used under emulation only."""

    def recipe(self, purpose: Purpose) -> Recipe:
        """The same without the program."""
        return Recipe(
            board=self.board,
            accelerator=self.accelerator,
            size=self.size,
            tsc_khz=self.tsc_khz,
            purpose=purpose,
        )


OWNED = ("upper", "job")
"""Descriptors of the files that are a machine's own, and so belong to its user."""


def descriptors() -> tuple[str, ...]:
    """The names that stand in the command line, all of which a launcher must be given."""
    return ("kernel", "initrd", "memory", "agent_root", "image", "upper", "job", "agent", "qmp", "console")


def descriptors_of(purpose: Purpose) -> tuple[str, ...]:
    """The same for one purpose: a probe has neither memory nor disks of its own."""
    return ("kernel", "initrd", "console") if purpose is Purpose.PROBE else descriptors()


def command_of(recipe: Recipe, qemu: str, name: str) -> tuple[str, ...]:
    """Return the command line of a recipe's machine; `qemu` is the program's path."""
    if recipe.purpose is Purpose.PROBE:
        return probe(qemu, recipe.board)
    spec = Spec(
        qemu=qemu,
        board=recipe.board,
        accelerator=recipe.accelerator,
        size=recipe.size,
        tsc_khz=recipe.tsc_khz,
    )
    return command(spec, name, recipe.purpose)


def command(spec: Spec, name: str, purpose: Purpose) -> tuple[str, ...]:
    """Return the command line of a machine."""
    # A clone that shared the template's memory would write into every other clone.
    share = "on" if purpose is Purpose.TEMPLATE else "off"
    bus = _BUS[spec.board]
    memory = f"memory-backend-file,id=mem,size={spec.size.memory}M,mem-path={_open('memory')},share={share}"
    argv = [
        *(spec.qemu, "-name", name, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-object", memory),
        *("-M", f"{spec.board},memory-backend=mem,dump-guest-core=off{_OPTIONS[spec.board]}"),
        *("-accel", "kvm" if spec.accelerator == "kvm" else f"tcg,tb-size={CODE_BUFFER}"),
        *("-cpu", CPU[spec.accelerator]),
        *("-m", f"{spec.size.memory}M", "-smp", str(spec.size.vcpus)),
        *("-kernel", _open("kernel"), "-initrd", _open("initrd"), "-append", kernel_command_line(spec)),
        *("-chardev", "socket,id=console,fd=@console@", "-serial", "chardev:console"),
        *("-chardev", "socket,id=qmp,fd=@qmp@", "-qmp", "chardev:qmp"),
        *_disk(bus, "agent", "agent_root", readonly=True),
        *_disk(bus, "image", "image", readonly=True),
        *_disk(bus, "upper", "upper", readonly=False),
        *_disk(bus, "job", "job", readonly=True),
        *("-device", f"virtio-serial-{bus}", "-chardev", "socket,id=agent,fd=@agent@"),
        *("-device", f"virtserialport,chardev=agent,name={PORT}"),
        *("-device", _PANIC[spec.board]),
    ]
    if purpose is Purpose.CLONE:
        argv += ["-incoming", "defer"]
    return tuple(argv)


def probe(qemu: str, board: Board) -> tuple[str, ...]:
    """Return the command line of a machine that shows whether KVM works: it says so and powers off."""
    return (
        *(qemu, "-name", "probe", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-M", board, "-accel", "kvm", "-cpu", CPU["kvm"], "-m", f"{PROBED.memory}M"),
        *("-kernel", _open("kernel"), "-initrd", _open("initrd")),
        *("-append", "console=ttyS0 panic=-1 reboot=t quiet runnerd.probe"),
        *("-chardev", "socket,id=console,fd=@console@", "-serial", "chardev:console"),
    )


def kernel_command_line(spec: Spec) -> str:
    """Return what the guest's kernel is told."""
    words = ["console=ttyS0", "quiet", "panic=-1", "reboot=t"]
    # The job is root in its machine anyway, so the kernel's guards against its own users only cost time;
    # and mounts at thaw need not wait for idle processors.
    words += ["mitigations=off", "rcupdate.rcu_expedited=1"]
    if spec.accelerator == "tcg":
        # Without the rate some boots hang for ever: an emulated microvm has nothing to calibrate against.
        words += ["tsc=reliable", f"tsc_early_khz={spec.tsc_khz}"]
        # QEMU keeps translated code by its address: with random ones every process is translated anew, which
        # takes a third of a short step's time and fills the buffer every ten steps.
        words.append("norandmaps")
    return " ".join(words)


def _open(descriptor: str) -> str:
    return f"/proc/self/fd/@{descriptor}@"


def _disk(bus: str, serial: str, descriptor: str, *, readonly: bool) -> tuple[str, ...]:
    # Nothing on these disks outlives the machine, so nothing is ever flushed to the host's disk.
    drive = f"id={serial},file={_open(descriptor)},format=raw,if=none,cache=unsafe,file.locking=off"
    return (
        *("-drive", drive + (",readonly=on" if readonly else "")),
        *("-device", f"virtio-blk-{bus},drive={serial},serial={serial}"),
    )
