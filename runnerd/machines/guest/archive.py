"""Unpacking a tar, from the host or from the job disk, as the job's user inside the job's root."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any, BinaryIO

from . import system
from .agent import Agent
from .process import Process
from .spawn import PATH, Program
from .wire import ERRORS

_FLUSH = 0x1261  # BLKFLSBUF: the host wrote behind the guest's cache
_TAIL = 2000


class Unpack(Process):
    """A tar that runs; what it complains of becomes the answer's error."""

    _outputs = (ERRORS,)
    _complaint = b""

    def _deliver(self, kind: int, data: bytes) -> None:
        self._complaint = (self._complaint + data)[-_TAIL:]

    def _report(self) -> None:
        code = os.waitstatus_to_exitcode(self._status)
        if code == 0:
            return self.answer({})
        said = self._complaint.decode(errors="replace").strip() or f"tar ended with {code}"
        self.refuse(OSError(errno.EIO, f"cannot unpack: {said}"))


def unpack(agent: Agent, stream: int, request: dict[str, Any]) -> None:
    """Operation `unpack`: into, user, device (None: the host sends the tar on the stream)."""
    user = request.get("user") if agent.init else None
    into = str(request["into"])
    os.close(agent.files.folder(into, user))
    device = system.device(request["device"]) if request.get("device") else None
    source = None if device is None else os.open(device, os.O_RDONLY)
    try:
        if source is not None:
            fcntl.ioctl(source, _FLUSH)
        env = {"PATH": PATH, "LC_ALL": "C"}
        # -o: files belong to whoever unpacks, also when that is root
        argv = ["tar", "-x", "-o", "-f", "-"]
        try:
            Unpack(agent, stream, Program(argv, env, into, root=agent.job_root, user=user), source)
        except FileNotFoundError:
            program = Program(argv, env, into, root=agent.job_root, user=user, body=_body())
            Unpack(agent, stream, program, source)
    finally:
        if source is not None:
            os.close(source)


def _body() -> Any:
    """Our own extraction, for an image without tar; loaded before the child leaves this root."""
    import tarfile
    import traceback

    def extract_stdin() -> int:
        try:
            with os.fdopen(0, "rb") as stream:
                extract(stream, tarfile)
        except Exception as error:
            os.write(2, traceback.format_exception_only(error)[-1].encode())
            return 2
        return 0

    return extract_stdin


def extract(stream: BinaryIO, tarfile: Any) -> None:
    """Unpack into the current folder: files, folders and links, nothing that lies or leads outside.

    Symbolic links are made last, so that no member is written through one.
    """
    links: list[tuple[str, str]] = []
    folders: list[Any] = []
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = _inside(member.name)
            if member.isdir():
                os.makedirs(name, exist_ok=True)
                folders.append(member)
                continue
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            if member.isreg():
                _write(name, member, archive.extractfile(member))
            elif member.issym():
                links.append((member.linkname, name))
            elif member.islnk():
                os.link(_inside(member.linkname), name, follow_symlinks=False)
            else:
                raise ValueError(f"{member.name!r} is not a file, a folder or a link")
    for target, name in links:
        os.symlink(target, name)
    for member in folders:
        os.chmod(os.path.normpath(member.name), member.mode & 0o777 | 0o700)


def _inside(name: str) -> str:
    """The relative path that a member names; raises ValueError when it leaves the archive."""
    path = os.path.normpath(name)
    if path.startswith(("/", "../")) or path == "..":
        raise ValueError(f"{name!r} is outside of the archive")
    return path


def _write(name: str, member: Any, content: Any) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, member.mode & 0o777)
    with os.fdopen(fd, "wb") as file:
        while block := content.read(1 << 16):
            file.write(block)
    os.utime(name, (member.mtime, member.mtime))
