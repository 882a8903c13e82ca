"""Kernel, modules and busybox out of a tar of unpacked packages."""

import io
import lzma
import tarfile

import pytest

from runnerd.machines import kernel

ROOT = "./lib/modules/6.1.0-9-cloud-amd64"


def module(*needs: str) -> bytes:
    """The bytes of a module as far as they matter: it names what it needs in its .modinfo."""
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0retpoline=Y\0"


def packed(tmp_path, files):
    """A tar with the files, as a distribution's packages unpack."""
    path = tmp_path / "packages.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


FILES = {
    "./boot/vmlinuz-6.1.0-9-cloud-amd64": b"kernel",
    "./usr/share/initramfs-tools/conf.d/busybox": b"BUSYBOX=y",
    "./bin/busybox": b"busybox",
    f"{ROOT}/modules.builtin": b"kernel/fs/ext4/ext4.ko\n",
    f"{ROOT}/kernel/drivers/virtio/virtio_mmio.ko": module("virtio", "virtio-ring"),
    f"{ROOT}/kernel/drivers/virtio/virtio.ko": module("virtio_ring"),
    f"{ROOT}/kernel/drivers/virtio/virtio_ring.ko": module(),
    f"{ROOT}/kernel/fs/squashfs/squashfs.ko.xz": lzma.compress(module()),
}


def test_a_module_comes_after_what_it_needs(tmp_path):
    """Modules are found by name, unpacked, and ordered; a built-in one is no module to load."""
    boot = kernel.read(packed(tmp_path, FILES), ["virtio_mmio", "ext4", "squashfs"])
    assert [each.name for each in boot.modules] == ["virtio_ring", "virtio", "virtio_mmio", "squashfs"]
    assert boot.modules[-1].data == module()
    assert (boot.release, boot.kernel, boot.busybox) == ("6.1.0-9-cloud-amd64", b"kernel", b"busybox")


def test_what_is_not_in_the_packages_is_named(tmp_path):
    """Without kernel, busybox or a wanted module the error says which."""
    with pytest.raises(ValueError, match="no module 'floppy'"):
        kernel.read(packed(tmp_path, FILES), ["floppy"])
    for name, missing in (
        ("./bin/busybox", "no busybox"),
        ("./boot/vmlinuz-6.1.0-9-cloud-amd64", "no kernel"),
    ):
        with pytest.raises(ValueError, match=missing):
            kernel.read(packed(tmp_path, {key: data for key, data in FILES.items() if key != name}), [])


def test_modules_that_need_each_other_are_refused():
    """A circle among modules is an error that shows it, not an endless walk."""
    modules = {"a": module("b"), "b": module("a")}
    with pytest.raises(ValueError, match="a -> b -> a"):
        kernel.load_order(["a"], modules.get)


def test_a_missing_dependency_names_who_needs_it():
    """A module that is needed and absent is told together with the one that needs it."""
    with pytest.raises(ValueError, match="no module 'b', which a needs"):
        kernel.load_order(["a"], {"a": module("b")}.get)
