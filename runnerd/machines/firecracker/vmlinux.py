"""The uncompressed kernel that Firecracker boots, taken out of the compressed one that distributions ship.

The layout is that of the kernel's `Documentation/arch/x86/boot.rst`: a header says where the payload lies. It
is undone by the programs that the kernel's own `scripts/extract-vmlinux` uses.
"""

from __future__ import annotations

import struct
import subprocess

from runnerd.machines import host

_MAGIC = b"HdrS"
_ELF = b"\x7fELF"
_PAYLOAD = struct.Struct("<II")
_PROGRAMS: dict[bytes, tuple[str, ...]] = {
    b"\x1f\x8b": ("gzip", "-dc"),
    b"\xfd7zXZ\0": ("xz", "-dc"),
    b"]\0\0": ("xz", "-dc", "--format=lzma"),
    b"\x02!L\x18": ("lz4", "-dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dc"),
}
"""How a payload begins -> the program that undoes it, of the package of its name (xz: xz-utils)."""


def extract(kernel: bytes) -> bytes:
    """Return the ELF image in a bzImage, or the kernel itself when it is one.

    Blocks for a second: call it in a thread. Raises ValueError for what is no kernel, and FileNotFoundError
    with the cure when the host lacks the program for its compression.
    """
    if kernel.startswith(_ELF):
        return kernel
    payload = _payload(kernel)
    command = next((words for magic, words in _PROGRAMS.items() if payload.startswith(magic)), None)
    if command is None:
        raise ValueError(f"the kernel is compressed in a way that is not known: {payload[:4].hex()}")
    program = host.find(command[0])
    if program is None:
        raise FileNotFoundError(
            f"this host lacks {command[0]}, which unpacks the image's kernel for Firecracker: install it"
        )
    # Behind the stream stands its size, which some of these programs complain of; the image is what counts.
    done = subprocess.run(
        [program, *command[1:]], input=payload, capture_output=True, check=False, timeout=60
    )
    if not done.stdout.startswith(_ELF):
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise ValueError(f"the kernel's {command[0]} payload is no ELF file: {said}")
    return done.stdout


def _payload(kernel: bytes) -> bytes:
    if kernel[0x202:0x206] != _MAGIC or len(kernel) < 0x250:
        raise ValueError("the image's kernel is neither an ELF file nor a bzImage")
    sectors = kernel[0x1F1] or 4
    offset, length = _PAYLOAD.unpack_from(kernel, 0x248)
    start = (sectors + 1) * 512 + offset
    return kernel[start : start + length]
