"""The agent's own root: Python and its libraries, and nothing else."""

import io
import tarfile

import pytest

from runnerd.machines import agentroot

FILES = {
    "./usr/bin/python3.11": b"python",
    "./usr/lib/python3.11/json/__init__.py": b"json",
    "./usr/lib/python3.11/idlelib/run.py": b"idle",
    "./usr/lib/python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so": b"ssl",
    "./usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so": b"ctypes",
    "./lib/x86_64-linux-gnu/libc.so.6": b"libc",
    "./lib/x86_64-linux-gnu/libsystemd.so.0": b"systemd",
    "./bin/busybox": b"busybox",
    "./etc/passwd": b"root",
}
LINKS = {
    "./usr/bin/python3": "python3.11",
    "./lib64/ld-linux-x86-64.so.2": "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
}


def packed(path, *, without=(), reverse=False):
    """A tar of unpacked packages."""
    with tarfile.open(path, "w") as tar:
        for name, data in sorted(FILES.items(), reverse=reverse):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_600_000_000 + reverse
            tar.addfile(info, io.BytesIO(data))
        for name, target in LINKS.items():
            if name not in without:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                tar.addfile(info)
    return path


def test_only_what_the_agent_needs_is_kept(tmp_path):
    """Python, its C library and the mount points are there, under a merged /usr; the rest is not."""
    agentroot.compose(packed(tmp_path / "in.tar"), tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        files = {info.name for info in tar if info.isfile()}
        links = {info.name: info.linkname for info in tar if info.issym()}
        folders = {info.name for info in tar if info.isdir()}
    assert files == {
        "usr/bin/python3.11",
        "usr/lib/python3.11/json/__init__.py",
        "usr/lib/python3.11/lib-dynload/_ctypes.cpython-311-x86_64-linux-gnu.so",
        "usr/lib/x86_64-linux-gnu/libc.so.6",
    }
    assert links["bin"] == "usr/bin"
    assert links["lib64"] == "usr/lib64"
    assert links["usr/bin/python3"] == "python3.11"
    assert "usr/lib64/ld-linux-x86-64.so.2" in links
    assert set(agentroot.FOLDERS) < folders


def test_the_same_packages_give_the_same_bytes(tmp_path):
    """Neither the order nor the times of the packages' files show in the result."""
    for name, reverse in (("a", False), ("b", True)):
        agentroot.compose(packed(tmp_path / f"{name}.in", reverse=reverse), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_packages_without_python_are_refused(tmp_path):
    """What holds no Python cannot become the agent's root."""
    with pytest.raises(ValueError, match="hold no Python"):
        agentroot.compose(packed(tmp_path / "in.tar", without=["./usr/bin/python3"]), tmp_path / "out.tar")
