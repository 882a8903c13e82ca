"""The host's requirements: what is missing is named, with the command that cures it."""

import pytest

from runnerd.machines import host


def test_missing_names_only_what_is_not_there():
    """Programs that are found are not reported, those that are not keep their order."""
    there = {"mmdebstrap": "/usr/bin/mmdebstrap"}
    required = {"qemu": "q", "mmdebstrap": "m", "sqfstar": "s"}
    assert host.missing(required, found=there.get) == ("qemu", "sqfstar")


def test_install_command_is_exact_and_sorted():
    """The command names each package once, with sudo for an ordinary user only."""
    names = ["sqfstar", "mke2fs", "mmdebstrap", "prlimit", "setpriv"]
    packages = "e2fsprogs mmdebstrap squashfs-tools util-linux"
    command = f"apt-get install --no-install-recommends -y {packages}"
    assert host.install_command(names, root=True) == command
    assert host.install_command(names, root=False) == f"sudo {command}"
    assert host.install_command([], root=True) == ""


def test_find_knows_files_and_the_sbin_folders(tmp_path, monkeypatch):
    """An absolute name is a file to look for; the sbin folders are searched after PATH."""
    first, later = tmp_path / "first", tmp_path / "later"
    monkeypatch.setattr(host, "SEARCH", str(later))
    for folder in (later, first):
        folder.mkdir()
        assert host.find(str(folder / "frobnicate"), environ={}) is None
        (folder / "frobnicate").write_text("#!/bin/sh\n")
        (folder / "frobnicate").chmod(0o755)
        assert host.find("frobnicate", environ={"PATH": str(first)}) == str(folder / "frobnicate")
        assert host.find(str(folder / "frobnicate"), environ={}) == str(folder / "frobnicate")


def test_require_raises_with_the_cure(tmp_path, monkeypatch):
    """A missing program is an error that says which package to install and how."""
    monkeypatch.setattr(host, "SEARCH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"lacks sqfstar; install with: .*squashfs-tools"):
        host.require("sqfstar", environ={"PATH": ""})
    (tmp_path / "sqfstar").write_text("#!/bin/sh\n")
    (tmp_path / "sqfstar").chmod(0o755)
    assert host.require("sqfstar", environ={"PATH": ""}) == (str(tmp_path / "sqfstar"),)
