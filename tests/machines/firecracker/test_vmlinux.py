"""The kernel inside the kernel."""

from __future__ import annotations

import gzip
import lzma
import shutil
import struct
import subprocess

import pytest

from runnerd.machines import images
from runnerd.machines.firecracker.vmlinux import extract

ELF = b"\x7fELF" + bytes(range(256)) * 1000


def bzimage(payload: bytes) -> bytes:
    """A compressed kernel: boot sector, set-up, and the payload with its size behind it."""
    head = bytearray(0x400)
    head[0x1F1] = 3
    head[0x202:0x206] = b"HdrS"
    payload += struct.pack("<I", len(ELF))
    head[0x248:0x250] = struct.pack("<II", 100, len(payload))
    return bytes(head).ljust(4 * 512, b"\0") + bytes(100) + payload + b"the end"


@pytest.mark.parametrize("form", ["gzip", "xz", "lzma", "lz4", "zstd"])
def test_payload_is_taken_out(form: str) -> None:
    """Whatever a distribution compresses its kernel with, the ELF image comes out whole."""
    match form:
        case "gzip":
            payload = gzip.compress(ELF)
        case "xz" | "lzma":
            payload = lzma.compress(ELF, lzma.FORMAT_XZ if form == "xz" else lzma.FORMAT_ALONE)
        case _:
            if shutil.which(form) is None:
                pytest.skip(f"{form} is not installed")
            words = [form, "-c", *(["-l"] if form == "lz4" else [])]
            payload = subprocess.run(words, input=ELF, capture_output=True, check=True).stdout
    assert extract(bzimage(payload)) == ELF
    assert extract(ELF) == ELF


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (b"", "neither an ELF file nor a bzImage"),
        (b"x" * 2000, "neither an ELF file nor a bzImage"),
        (bzimage(b"\xde\xad\xbe\xef"), "not known: deadbeef"),
        (bzimage(gzip.compress(b"no kernel")), "is no ELF file"),
        (bzimage(gzip.compress(ELF)[:50]), "is no ELF file"),
    ],
)
def test_what_holds_no_kernel_is_refused(kernel: bytes, sentence: str) -> None:
    """Each way of being no kernel has its sentence."""
    with pytest.raises(ValueError, match=sentence):
        extract(kernel)


@pytest.mark.vm
def test_kernel_of_the_image(vm_image: images.Image) -> None:
    """The distribution's own kernel can be taken out."""
    if shutil.which("lz4") is None:
        pytest.skip("lz4 is not installed")
    assert extract(vm_image.file("kernel").read_bytes()).startswith(b"\x7fELF")
