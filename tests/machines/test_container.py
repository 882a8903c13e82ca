"""Root file systems of container images: what jobs need is in them, and jobs run where there is no Python."""

import os
import tarfile

import pytest
import trio

from runnerd.machines import container, images
from runnerd.machines.distribution import BuildFailed, Debian
from runnerd.machines.driver import Command, Size
from runnerd.machines.layers import Tree
from runnerd.machines.pyz import pack
from runnerd.machines.recipe import Recipe

from .oci_layout import tarred, write
from .test_layers import tree


def test_a_tree_gets_the_jobs_user():
    """User and group are added once, mount points are real folders, and nothing tells of a builder."""
    made = tree([("etc/passwd", b"root:x:0:0::/root:/bin/sh"), ("proc", "->/etc"), ("bin/bash", b"")])
    container.furnish(made)
    container.furnish(made)
    assert made.read("etc/passwd").splitlines() == [
        b"root:x:0:0::/root:/bin/sh", b"runner:x:1001:1001::/home/runner:/bin/bash",
    ]  # fmt: skip
    assert made.read("etc/group").splitlines()[-1] == b"runner:x:1001:"
    assert all(made.is_folder(name) for name in ("proc", "sys", "dev", "home/runner/work", "tmp"))
    assert made.read("etc/resolv.conf") == b""
    assert not made.has("etc/sudoers.d/runner")


def test_a_user_of_the_image_keeps_its_number():
    """An image with a user 1001 of its own is left as it is."""
    made = Tree()
    made.folder("etc")
    made.file("etc/passwd", b"ci:x:1001:1001::/home/ci:/bin/sh\n")
    container.furnish(made)
    assert made.read("etc/passwd") == b"ci:x:1001:1001::/home/ci:/bin/sh\n"


async def test_words_that_are_no_packages_are_refused(tmp_path):
    """Nothing an operator writes as a package becomes shell."""
    with pytest.raises(BuildFailed, match="not the name of a package"):
        await container.alter(tmp_path / "t", ["a;b"], b"", tmp_path / "w", tmp_path / "o")


def busybox(image):
    """The static busybox of the image's initial file system: a cpio archive in the `newc` format."""
    data, at = image.file("modules").read_bytes(), 0
    while True:
        name_size, size = int(data[at + 94 : at + 102], 16), int(data[at + 54 : at + 62], 16)
        name = data[at + 110 : at + 110 + name_size - 1]
        start = -(-(at + 110 + name_size) // 4) * 4
        if name == b"bin/busybox":
            return data[start : start + size]
        at = -(-(start + size) // 4) * 4


@pytest.mark.vm
async def test_an_image_without_python_runs_jobs(vm_image, vm_driver, state_directory, tmp_path):
    """A container image of one program gets a script run in it, boots, and runs a command as the job's user.

    The agent has a root of its own, so nothing of it is in the image.
    """
    program = busybox(vm_image)
    layout = write(
        tmp_path / "layout", [tarred({"bin/sh": (0o755, program), "bin/busybox": (0o755, program)})]
    )
    script = b"/bin/busybox echo made > /etc/provisioned\n! /bin/busybox mount -t tmpfs x /tmp 2>/dev/null\n"
    recipe = Recipe(name="shell-only", preset="minimal", oci=layout, provision=script)
    with pytest.raises(BuildFailed, match="ended with status 3: oh no"):
        await images.build(
            state_directory / "images",
            Recipe(name="broken", oci=layout, provision=b"echo oh no >&2; exit 3\n"),
            pack_agent=pack,
            packages=Debian(environ=os.environ),
        )
    for _ in range(2):
        image = await images.build(
            state_directory / "images", recipe, pack_agent=pack, packages=Debian(environ=os.environ)
        )
    template = await vm_driver.build_template("shell-only", Size(vcpus=1, memory=256, disk=512))
    machine = await vm_driver.clone(template)
    said = bytearray()

    async def hear(stream, data):
        said.extend(data)

    try:
        with trio.fail_after(300):
            await machine.thaw()
            await machine.lease()
            command = "cat /etc/provisioned; id -u; command -v python3 || echo none; ls /usr"
            ended = await machine.exec(Command(argv=("/bin/sh", "-c", command), env={"PATH": "/bin"}), hear)
    finally:
        await machine.destroy()
    assert bytes(said) == b"made\n1001\nnone\nlocal\n", bytes(said)
    assert ended.success
    assert image.parts["kernel"] == vm_image.parts["kernel"]


def test_compose_writes_a_tar(tmp_path):
    """The image's files and Node.js's, as a further layer, are in one tar."""
    layout = write(tmp_path / "layout", [tarred({"bin/sh": (0o755, b"sh")})])
    (tmp_path / "node.tar").write_bytes(tarred({"opt/runnerd/node24/bin/node": (0o755, b"node")}))
    container.compose(layout, tmp_path / "node.tar", tmp_path, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert {"bin/sh", "etc/passwd", "opt/runnerd/node24/bin/node"} <= set(archive.getnames())
