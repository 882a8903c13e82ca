"""Initial RAM file systems: the kernel's cpio format, read back by a reader written from its description."""

import stat

from runnerd.machines import initrd
from runnerd.machines.kernel import Boot, Module

BOOT = Boot(
    release="6.1.0",
    kernel=b"kernel",
    modules=tuple(Module(name=f"m{number}", data=bytes([number]) * number) for number in range(12)),
    busybox=b"busybox",
)


def read(data: bytes):
    """The entries of one newc archive, name -> (mode, data, device), and what follows it."""
    entries, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        start = at + 110
        name = data[start : start + length - 1].decode()
        assert data[start + length - 1] == 0
        body = start + length + (-(start + length) % 4)
        at = body + size + (-(body + size) % 4)
        if name == "TRAILER!!!":
            return entries, data[at:]
        entries[name] = (mode, data[body : body + size], (fields[9], fields[10]))


def test_an_archive_reads_back_as_written():
    """Types, modes, contents of every length modulo 4, links and devices survive."""
    files = [initrd.file(f"f{n}", b"x" * n, 0o640) for n in range(6)]
    device = initrd.Entry(name="dev/console", mode=stat.S_IFCHR | 0o600, device=(5, 1))
    entries, rest = read(initrd.archive([initrd.folder("dev"), device, *files, initrd.link("l", "f1")]))
    assert entries["dev"] == (stat.S_IFDIR | 0o755, b"", (0, 0))
    assert entries["dev/console"] == (stat.S_IFCHR | 0o600, b"", (5, 1))
    assert entries["l"] == (stat.S_IFLNK | 0o777, b"f1", (0, 0))
    assert all(entries[f"f{n}"] == (stat.S_IFREG | 0o640, b"x" * n, (0, 0)) for n in range(6))
    assert rest == b""


def test_modules_sort_in_their_loading_order():
    """The shell's sorted glob meets the modules in the order in which they can be loaded."""
    entries, _ = read(initrd.base(BOOT))
    loaded = [entries[name][1] for name in sorted(entries) if name.startswith("modules/")]
    assert loaded == [module.data for module in BOOT.modules]
    assert entries["bin/sh"][1] == b"busybox"


def test_two_archives_in_one_file_are_two_archives():
    """The agent's archive follows the base on a boundary at which the kernel looks for it."""
    base = initrd.base(BOOT)
    assert len(base) % 4 == 0
    _, rest = read(base + initrd.overlay(b"#!/bin/sh\n", b"PK agent"))
    entries, _ = read(rest)
    assert entries["init"][0] == stat.S_IFREG | 0o755
    assert entries["agent.pyz"][1] == b"PK agent"


def test_the_first_program_uses_what_is_in_the_archive():
    """Every busybox program that init.sh calls is linked in the archive."""
    entries, _ = read(initrd.base(BOOT))
    applets = {name.removeprefix("bin/") for name in entries if name.startswith("bin/")}
    script = initrd.INIT.read_text()
    for word in ("mount", "insmod", "cp", "switch_root", "poweroff", "sleep", "cat"):
        assert word in script
        assert word in applets


def test_the_first_program_asks_the_kernel_before_it_moves_away():
    """What the command line says is read while /proc is there: how the agent is reached, and how to end."""
    script = initrd.INIT.read_text()
    before, moved, after = script.partition("mount --move")
    assert moved
    assert 'vsock="$(word runnerd.vsock)"' in before.partition("mount -t proc")[2]
    assert "/proc" not in after.replace("/newroot/proc", "")
    assert "$(word" not in after
    assert "/proc" not in script[script.index("end() {") : script.index("}", script.index("end() {"))]
