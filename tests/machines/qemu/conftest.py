"""Machines without QEMU: a process that says what a version of it was recorded to say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runnerd.machines.images import Image, Part
from runnerd.machines.qemu import freezing
from runnerd.machines.qemu.box import QemuBox

NAMED = "SIGKILL|channel"
"""What a machine whose QEMU was killed is lost by: the signal, or, on a host too busy to bury the process
within a moment, the end of its channel."""
FILES = ("kernel", "initrd", "agent", "rootfs")


@pytest.fixture
def stand_in(agent_file: Path, tmp_path: Path) -> Callable[[str], str]:
    """Makes the program that takes QEMU's place, of a recorded version."""

    def made(version: str) -> str:
        program = tmp_path / "qemu"
        script = Path(__file__).with_name("stand_in.py")
        words = [sys.executable, str(script), version, str(agent_file), str(tmp_path)]
        program.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        program.chmod(0o755)
        return str(program)

    return made


@pytest.fixture
def played_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of four bytes a file, whose machines need no root put together."""
    folder = tmp_path / "image"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(b"file")
    parts = {name: Part(size=4, sha256=name * 10, inputs="") for name in FILES}
    image = Image(name="default", digest="d" * 64, path=folder, parts=parts)
    monkeypatch.setattr("runnerd.machines.images.current", lambda images, name: image)
    monkeypatch.setattr(QemuBox, "layout", None)
    monkeypatch.setattr(freezing, "_WARM", (("/bin/sh", "-c", "exit"),))
