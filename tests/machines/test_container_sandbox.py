"""Packages and scripts in container images for real: apt-get in Debian's, and a sandbox without root."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import trio

from runnerd.machines import container, images
from runnerd.machines.distribution import BuildFailed, Debian
from runnerd.machines.driver import Command, Size
from runnerd.machines.pyz import pack
from runnerd.machines.recipe import Recipe

from .oci_layout import tarred, write
from .test_container import busybox
from .test_oci import zstd

pytestmark = pytest.mark.vm

UNREACHED = ("Could not resolve", "Failed to fetch", "Unable to connect", "Temporary failure")


def debian(image, folder: Path) -> Path:
    """A container image of Debian, with one layer of zstd: the root file system of an image that is there."""
    root, tar = folder / "debian", folder / "debian.tar"
    subprocess.run(
        ["unsquashfs", "-q", "-n", "-d", root, image.file("rootfs")], check=True, capture_output=True
    )
    subprocess.run(["tar", "--numeric-owner", "-C", root, "-cf", tar, "."], check=True)
    shutil.rmtree(root)
    layout = write(
        folder / "layout", [tar.read_bytes()], form="zstd", pack=lambda data: zstd.compress(data, 1)
    )
    tar.unlink()
    return layout


async def test_apt_installs_packages_and_a_script_is_run(vm_image, vm_driver, state_directory, tmp_path):
    """A package of the image's own archive and what the script did are there for a job in a machine of it."""
    script = b"hello >/etc/provisioned\nuseradd -m -u 2000 extra\nchown extra /srv\n"
    recipe = Recipe(
        name="apt", preset="minimal", oci=debian(vm_image, tmp_path), packages=("hello",), provision=script
    )
    home = state_directory / "images"
    try:
        await images.build(home, recipe, pack_agent=pack, packages=Debian(environ=os.environ))
    except BuildFailed as failed:
        if any(word in str(failed) for word in UNREACHED):
            pytest.skip(f"no archive of Debian packages is reached from here: {failed}")
        raise
    machine = await vm_driver.clone(
        await vm_driver.build_template("apt", Size(vcpus=1, memory=256, disk=512))
    )
    said = bytearray()

    async def hear(stream, data):
        said.extend(data)

    script = (
        "hello; cat /etc/provisioned; stat -c %U /srv; dpkg -s hello | grep ^Status; ls /var/lib/apt/lists"
    )
    try:
        with trio.fail_after(300):
            await machine.thaw()
            await machine.lease()
            command = Command(argv=("/bin/bash", "-ec", script), env={"PATH": "/usr/bin:/bin"})
            ended = await machine.exec(command, hear)
    finally:
        await machine.destroy()
        shutil.rmtree(home / "apt")
    assert said.decode().splitlines() == [
        "Hello, world!", "Hello, world!", "extra", "Status: install ok installed",
    ]  # fmt: skip
    assert ended.success


AS_ANOTHER = """
import os, sys, trio
from pathlib import Path
from runnerd.machines import container, leftovers
work, script = Path(sys.argv[1]), sys.argv[2].encode()
os.setgroups([])
os.setresgid(4321, 4321, 4321)
os.setresuid(4321, 4321, 4321)
async def main():
    try:
        await container.alter(work / "in.tar", (), script, work / "sandbox", work / "out.tar")
    except container.BuildFailed as failed:
        print(failed)
    await leftovers.remove(work / "sandbox")
trio.run(main)
"""


@pytest.fixture
def unprivileged(tmp_path, vm_image):
    """Runs a script in a sandbox that a user makes who is not root; returns what was said, and the folder."""
    lacks = [name for name in ("newuidmap", "unshare") if shutil.which(name) is None]
    if os.geteuid() != 0 or lacks:
        pytest.skip(f"no user with subordinate ids can be played here: root and {lacks} are wanted")
    folder = Path(tmp_path, "user")
    folder.mkdir()
    program = busybox(vm_image)
    (folder / "in.tar").write_bytes(
        tarred({"bin/sh": (0o755, program), "bin/busybox": (0o755, program), "etc/x": (0o644, b"")})
    )
    with tarfile.open(folder / "in.tar", "a") as tar:
        for name in ("dev", "proc"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
    for path in (folder, folder / "in.tar"):
        os.chown(path, 4321, 4321)
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:4321:4321::/:/bin/sh\n")
    (tmp_path / "subid").write_text("user:200000:65536\n")
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)

    def run(script: str) -> str:
        mounts = "".join(
            f"mount --bind {tmp_path}/{source} /etc/{target}; "
            for source, target in (("passwd", "passwd"), ("subid", "subuid"), ("subid", "subgid"))
        )
        code = [sys.executable, "-B", "-c", AS_ANOTHER, str(folder), script]
        done = subprocess.run(
            ["unshare", "--mount", "/bin/sh", "-ec", mounts + 'exec "$@"', "sh", *code],
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        if "Operation not permitted" in done.stdout and "unshare" in done.stdout:
            pytest.skip(f"this host lets nobody else make a user namespace: {done.stdout}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run, folder


OTHERS = """
/bin/busybox mkdir -p /home/runner/work
/bin/busybox chown -R 1001:1001 /home/runner
/bin/busybox chmod 700 /home/runner
"""


def test_a_sandbox_without_root(unprivileged):
    """Files belong to any user of the image, nothing can be mounted, and nothing of the tree is left."""
    run, folder = unprivileged
    script = OTHERS + "/bin/busybox id -u >/etc/x\n! /bin/busybox mount -t tmpfs x /proc 2>/dev/null\n"
    assert run(script) == ""
    with tarfile.open(folder / "out.tar") as tar:
        assert tar.extractfile("./etc/x").read() == b"0\n"
        owner = {member.name: (member.uid, member.gid) for member in tar}
    assert owner["./home/runner/work"] == (1001, 1001)
    assert owner["./bin/sh"] == (0, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["in.tar", "out.tar"]


def test_a_sandbox_that_fails_leaves_nothing(unprivileged):
    """Folders of users that its maker is not are removed too."""
    run, folder = unprivileged
    assert "ended with status 7: oh no" in run(OTHERS + "echo oh no >&2; exit 7\n")
    assert [path.name for path in folder.iterdir()] == ["in.tar"]


@pytest.mark.parametrize("name", [".provision", "etc/resolv.conf"])
async def test_a_sandbox_writes_through_no_link_of_the_image(vm_image, tmp_path, name):
    """A container image that has a link where the sandbox puts a file of its own changes nothing outside."""
    if os.geteuid() != 0:
        pytest.skip("whoever is not root has the sandbox of another test")
    outside, program = tmp_path / "outside", busybox(vm_image)
    outside.write_text("as it was")
    programs = dict.fromkeys(("bin/sh", "bin/busybox"), (0o755, program))
    (tmp_path / "in.tar").write_bytes(tarred(programs))
    with tarfile.open(tmp_path / "in.tar", "a") as tar:
        for folder in ("dev", "proc", "etc"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(info)
    script = b"/bin/busybox echo made >/etc/made\n/bin/busybox ln -s /bin/busybox /bin/rm\n"
    await container.alter(tmp_path / "in.tar", (), script, tmp_path / "sandbox", tmp_path / "out.tar")
    assert outside.read_text() == "as it was"
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.extractfile("./etc/made").read() == b"made\n"
        assert "./.provision" not in tar.getnames()
