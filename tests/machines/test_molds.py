"""What clones start from: a key that changes with everything that matters, and files that are let go."""

import os

import msgspec
import pytest

from runnerd.machines import molds
from runnerd.machines.disks import MIB, Golden
from runnerd.machines.driver import Size
from runnerd.machines.images import Image
from runnerd.machines.molds import Mold
from runnerd.machines.qemu import vmm
from runnerd.machines.template import Frozen, memory_file

SPEC = vmm.Spec(qemu="/usr/bin/qemu", accelerator="tcg", size=Size(memory=64), tsc_khz=2_596_120)
EMPTY = Golden(size=MIB, extents=((0, b"empty"),))
USED = Golden(size=MIB, extents=((0, b"used"),))


@pytest.fixture
def image(tmp_path):
    """An image of small files."""
    for name in ("kernel", "initrd", "agent", "rootfs"):
        (tmp_path / name).write_bytes(name.encode() * 20_000)
    return Image(name="default", digest="d" * 64, path=tmp_path, parts={})


def test_the_key_changes_with_all_that_a_clone_depends_on(image):
    """Another size, QEMU, image, host clock or (under KVM) processor is another template."""
    change = msgspec.structs.replace
    keys = [
        molds.key(spec, version=version, image=change(image, digest=digest), processor=processor)
        for spec, version, digest, processor in (
            (SPEC, "7.2", "a", "epyc"),
            (change(SPEC, size=Size(memory=128)), "7.2", "a", "epyc"),
            (change(SPEC, size=Size(memory=64, vcpus=1)), "7.2", "a", "epyc"),
            (change(SPEC, size=Size(memory=64, disk=1)), "7.2", "a", "epyc"),
            (change(SPEC, tsc_khz=2_000_000), "7.2", "a", "epyc"),
            (SPEC, "9.0", "a", "epyc"),
            (SPEC, "7.2", "b", "epyc"),
            (change(SPEC, accelerator="kvm"), "7.2", "a", "epyc"),
            (change(SPEC, accelerator="kvm"), "7.2", "a", "xeon"),
        )
    ]
    assert len(set(keys)) == len(keys)


def test_the_key_is_the_same_for_what_is_the_same(image):
    """A rate measured a few kHz off, and under emulation another processor, change nothing."""
    near = msgspec.structs.replace(SPEC, tsc_khz=SPEC.tsc_khz + 3)
    assert molds.key(SPEC, version="7.2", image=image, processor="epyc") == molds.key(
        near, version="7.2", image=image, processor="xeon"
    )


def test_a_template_gets_all_and_a_clone_the_beginnings(image, tmp_path):
    """A template gets kernel, initrd and an empty disk; a clone gets stubs and the template's disk."""
    mold = Mold("k", image, SPEC, EMPTY, tmp_path)
    memory = memory_file("memory", MIB)
    with mold.machine_files(memory) as files:
        assert os.pread(files["kernel"], 10**6, 0) == b"kernel" * 20_000
        assert os.pread(files["upper"], 5, 0) == b"empty"
        assert set(files) == {*vmm.descriptors()} - {"agent", "qmp", "console"}
    mold.frozen = Frozen("k", memory, b"state", USED)
    with mold.machine_files(mold.frozen.memory) as files:
        stub = os.pread(files["kernel"], 10**6, 0)
        assert stub == (b"kernel" * 20_000)[:65536]
        assert os.pread(files["upper"], 4, 0) == b"used"
        assert os.pread(files["image"], 6, 0) == b"rootfs"
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(files["upper"])
    mold.close()
    mold.close()


def test_a_mold_in_use_is_closed_later(image, tmp_path):
    """Closing waits for a start that is under way, so that no descriptor changes its meaning."""
    mold = Mold("k", image, SPEC, EMPTY, tmp_path)
    memory = memory_file("memory", MIB)
    mold.frozen = Frozen("k", memory, b"state", USED)
    with mold.in_use():
        mold.close()
        assert os.pread(mold.files["image"], 6, 0) == b"rootfs"
        assert mold.frozen.state
    assert mold.files == {}
    assert mold.frozen is None
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(memory)


def test_nothing_is_held_after_the_end(image, tmp_path):
    """Closing gives every descriptor back; an image with a missing file gives back those already open."""
    before = set(os.listdir("/proc/self/fd"))
    mold = Mold("k", image, SPEC, EMPTY, tmp_path)
    mold.frozen = Frozen("k", memory_file("memory", MIB), b"state", USED)
    mold.close()
    image.file("rootfs").unlink()
    with pytest.raises(FileNotFoundError):
        Mold("k", image, SPEC, EMPTY, tmp_path)
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_processor_is_told_by_model_and_abilities(tmp_path):
    """The momentary frequency does not tell one processor from another; model and flags do."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: EPYC\ncpu MHz\t\t: 2596\nflags\t\t: sse\n\nprocessor\t: 1\n"
    )
    assert molds.processor(cpuinfo) == "model name\t: EPYC\nflags\t\t: sse"
