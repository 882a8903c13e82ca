"""The host's requirements: what is missing is named, with the command that cures it."""

import pytest

from runnerd.machines import host


def test_missing_names_only_what_is_not_there():
    """Programs that are found are not reported, those that are not keep their order."""
    there = {"mmdebstrap": "/usr/bin/mmdebstrap"}
    assert host.missing({"qemu": "q", "mmdebstrap": "m", "sqfstar": "s"}, found=there.get) == ("qemu", "sqfstar")


def test_install_command_is_exact_and_sorted():
    """The command names each package once, with sudo for an ordinary user only."""
    names = ["sqfstar", "mke2fs", "mmdebstrap"]
    assert host.install_command(names, root=True) == (
        "apt-get install --no-install-recommends -y e2fsprogs mmdebstrap squashfs-tools"
    )
    assert host.install_command(names, root=False).startswith("sudo apt-get install")
    assert host.install_command([], root=True) == ""


def test_find_knows_files_and_sbin(tmp_path):
    """An absolute name is a file to look for; the sbin folders are searched beyond PATH."""
    program = tmp_path / "frobnicate"
    assert host.find(str(program)) is None
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert host.find(str(program)) == str(program)
    assert host.find("frobnicate", environ={"PATH": str(tmp_path)}) == str(program)
    assert host.find("sh", environ={}) is not None


def test_require_raises_with_the_cure():
    """A missing program is an error that says which package to install and how."""
    with pytest.raises(FileNotFoundError, match=r"lacks sqfstar; install with: .*squashfs-tools"):
        host.require("sh", "sqfstar", environ=_nowhere())


def _nowhere():
    """An environment in which only sh is found, whatever the host has installed."""

    class Nowhere(dict):
        def get(self, key, default=None):
            return default

    return Nowhere()
