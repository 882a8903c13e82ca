"""What the agent asks of the kernel that Python has no function for: mounts, entropy, process trees."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time

READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, REMOUNT, NO_ATIME, BIND, RECURSIVE = 1, 2, 4, 8, 32, 1024, 4096, 16384
_SUBREAPER = 36
_CURRENT, _FUTURE, _ON_FAULT = 1, 2, 4
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_UP = 0x1

FULL = 1 << 20
"""Bytes that a disk has left at most when it is called full."""

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); raises OSError that names both ends."""
    done = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {source} on {target}: {os.strerror(number)}")


def become_subreaper() -> None:
    """Orphans below this process become its children, not init's."""
    if _libc.prctl(_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot become the reaper of orphans: {os.strerror(number)}")


def reseed(seed: bytes) -> None:
    """Mix the seed into the kernel's randomness and make it start from there at once.

    RNDADDENTROPY alone leaves clones of one memory with the same bytes until the next regular reseed.
    """
    fd = os.open("/dev/urandom", os.O_RDWR)
    try:
        fcntl.ioctl(fd, _RNDADDENTROPY, struct.pack(f"ii{len(seed)}s", len(seed) * 8, len(seed), seed))
        fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)


def set_clock(now: float) -> None:
    """Set the wall clock, in seconds since the epoch."""
    time.clock_settime(time.CLOCK_REALTIME, now)


def loopback_up() -> None:
    """Bring `lo` up; the kernel gives it 127.0.0.1 by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _UP))


def device(name: str) -> str:
    """The path of a block device: itself, or for `serial:X` the virtio disk with that serial number."""
    kind, _, serial = name.partition(":")
    if kind != "serial":
        return name
    for block in sorted(os.listdir("/sys/block")):
        if _text(f"/sys/block/{block}/serial") == serial:
            return f"/dev/{block}"
    raise FileNotFoundError(2, f"no disk with the serial number {serial}")


def virtio_port(name: str, seconds: float) -> str:
    """The path of the virtio port with this name, waiting for it to appear."""
    ports = "/sys/class/virtio-ports"
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for port in os.listdir(ports) if os.path.isdir(ports) else ():
            if _text(f"{ports}/{port}/name") == name:
                return f"/dev/{port}"
        time.sleep(0.01)
    raise FileNotFoundError(2, f"no virtio port named {name} after {seconds:g} s")


def vsock_listener(port: int) -> socket.socket:
    """Listen where the host connects to this machine's own address (AF_VSOCK)."""
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen(4)
    listener.setblocking(False)
    return listener


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    listed = _text(f"/proc/{pid}/task/{pid}/children")
    if listed is not None:
        return [int(child) for child in listed.split()]
    found = []
    for entry in os.listdir("/proc"):  # a kernel without that file
        status = _text(f"/proc/{entry}/stat") if entry.isdigit() else None
        if status and int(status.rpartition(")")[2].split()[1]) == pid:
            found.append(int(entry))
    return found


def oom_kills() -> int:
    """How many processes this kernel has killed for lack of memory."""
    try:
        fd = os.open("/proc/vmstat", os.O_RDONLY)
    except OSError:
        return 0
    try:
        counters = os.read(fd, 65536)
    finally:
        os.close(fd)
    at = counters.find(b"\noom_kill ")
    return int(counters[at + 10 :].split(b"\n", 1)[0]) if at >= 0 else 0


def memory(meminfo: int) -> tuple[int, int]:
    """Bytes of memory there are, and how many could still be had; raises OSError.

    Read from an open `/proc/meminfo`: opening it takes memory, and a job can put something else in its place.
    """
    said = os.pread(meminfo, 65536, 0).split()
    total, left = (int(said[said.index(name) + 1]) << 10 for name in (b"MemTotal:", b"MemAvailable:"))
    return total, left


def keep_in_memory() -> None:
    """What this process has used of its programs and data stays in memory, from now on; raises OSError."""
    if _libc.mlockall(_CURRENT | _FUTURE | _ON_FAULT):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot keep the agent in memory: {os.strerror(number)}")


def is_full(folder: str) -> bool:
    """Whether the file system of a folder has no room, or no inode, left for those who are not root.

    Less than `FULL` counts as none: programs that write in blocks leave a rest.
    """
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize < FULL or (there.f_files > 0 and there.f_favail == 0)


def write(path: str, text: str) -> None:
    """Replace what a small file holds."""
    with open(path, "w") as file:
        file.write(text)


def _text(path: str) -> str | None:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return None
