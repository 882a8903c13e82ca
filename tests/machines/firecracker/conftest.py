"""A strict fake Firecracker of a chosen version, made from Firecracker's own API files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from runnerd.machines.driver import Paths
from runnerd.machines.firecracker.driver import FirecrackerDriver, open_firecracker_driver
from runnerd.machines.images import Image, Part

FILES = Path(__file__).parents[4] / "shared/data/firecracker-api"
VERSIONS = {"1.10.1": "v1.10.1", "1.12.1": "v1.12.1", "1.14.4": "v1.14.4", "1.16.1": "v1.16.1"}


@pytest.fixture
def programs(short: Path, agent_file: Path) -> Callable[[str], tuple[str, str]]:
    """Makes a firecracker and a jailer of a version."""

    def make(version: str) -> tuple[str, str]:
        source = FILES / f"{VERSIONS.get(version, 'main')}.yaml"
        if not source.exists():
            pytest.skip("Firecracker's API files are not beside this checkout")
        api = short / "api.json"
        api.write_text(json.dumps(YAML(typ="safe").load(source)))
        firecracker, jailer = short / "firecracker", short / "jailer"
        firecracker.write_text(f"#!/bin/sh\necho 'Firecracker v{version}'\n")
        fake = Path(__file__).with_name("fake_jailer.py")
        words = [sys.executable, str(fake), version, str(api), str(agent_file)]
        jailer.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        for program in (firecracker, jailer):
            program.chmod(0o755)
        return str(firecracker), str(jailer)

    return make


@pytest.fixture
def images(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one image, whose kernel is an ELF file of four bytes."""
    folder = short / "images" / "default"
    folder.mkdir(parents=True)
    for name in ("kernel", "initrd", "agent", "rootfs"):
        (folder / name).write_bytes(b"\x7fELF" if name == "kernel" else name.encode())
    parts = {
        name: Part(size=4, sha256=name * 10, inputs="") for name in ("kernel", "initrd", "agent", "rootfs")
    }
    image = Image(name="default", digest="d" * 64, path=folder, parts=parts)
    monkeypatch.setattr(
        "runnerd.machines.images.current",
        lambda images, name: image if name == "default" else None,
    )
    return short / "images"


@pytest.fixture
def opened(
    short: Path, images: Path, programs: Callable[[str], tuple[str, str]]
) -> Callable[..., AbstractAsyncContextManager[FirecrackerDriver]]:
    """Opens a driver for the fake; agents run as processes of this host."""

    def open_(version: str = "1.16.1", **options: Any) -> AbstractAsyncContextManager[FirecrackerDriver]:
        given = {
            "state": short / "s",
            "images": images,
            "programs": programs(version),
            "obstacles": lambda: "",
            "layout": None,
            "paths": lambda id: Paths(tools="/home/tools"),
            "ready_timeout": 20.0,
            "build_timeout": 20.0,
            **options,
        }
        return open_firecracker_driver(**given)

    return open_
