"""Writing and reading files of the job's, whatever links and kinds of file the job prepared there."""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from typing import Any

from .agent import CHUNK, Agent, Exchange, refusal
from .tree import regular
from .wire import DATA, FROM_GUEST, WINDOW_SIZE

MANY = 64
"""Files that one request may read."""


class Put(Exchange):
    """A `put` under way: the bytes go to a new file that takes its name only when it is whole."""

    def __init__(self, agent: Agent, stream: int, path: str, mode: int, user: int | None) -> None:
        folder, self._name = os.path.split(path)
        if self._name in ("", ".", ".."):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._folder = agent.files.folder(folder, user)
        self._temporary = f".runnerd-{stream:x}"
        self._fd = -1
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._fd = os.open(self._temporary, flags, 0o600, dir_fd=self._folder)
            if user is not None:
                os.fchown(self._fd, user, user)
            os.fchmod(self._fd, mode & 0o7777)
        except BaseException:
            self._close()
            raise
        super().__init__(agent, stream)

    def data(self, payload: bytes) -> None:
        """Write the bytes to the new file."""
        try:
            left = memoryview(payload)
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError as error:
            return self._fail(error)
        self.took(len(payload))

    def eof(self) -> None:
        """The file is whole: give it its name."""
        try:
            os.rename(self._temporary, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            return self._fail(error)
        self._temporary = ""
        self._close()
        self.answer({})

    def reset(self) -> None:
        """Remove the half file."""
        self._fail(InterruptedError(errno.EINTR, "the request was taken back"))

    def _fail(self, error: OSError) -> None:
        self._close()
        self.refuse(error)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            if self._temporary:
                try:
                    os.unlink(self._temporary, dir_fd=self._folder)
                except OSError:  # the job was faster
                    pass
        os.close(self._folder)


class Get(Exchange):
    """A `get` under way: sends the bytes the files had when they were opened, one file after the other,

    then EXIT with what became of each.
    """

    def __init__(
        self, agent: Agent, stream: int, files: list[dict[str, Any]], opened: deque[tuple[int, int]]
    ) -> None:
        """`files` are the answer's entries; `opened` the place there and the descriptor of those that

        hold something.
        """
        super().__init__(agent, stream)
        self._files = files
        self._opened = opened
        self._left = 0
        self._credit = WINDOW_SIZE
        agent.answer(stream, {"files": files}, more=True)
        self._begin()

    def window(self, kind: int, count: int) -> None:
        """Read on."""
        self._credit += count
        self.agent.watch(self._opened[0][1], select.POLLIN, self._pump)

    def reset(self) -> None:
        """Stop reading."""
        self.agent.watch(self._opened[0][1], 0, self._pump)
        while self._opened:
            os.close(self._opened.popleft()[1])
        self.end({"files": self._files})

    def _begin(self) -> None:
        place, fd = self._opened[0]
        self._left = self._files[place]["size"]
        self.agent.watch(fd, select.POLLIN, self._pump)

    def _pump(self, _: int) -> None:
        place, fd = self._opened[0]
        if self._credit <= 0:
            return self.agent.watch(fd, 0, self._pump)
        data = b""
        try:
            data = os.read(fd, min(CHUNK, self._credit, self._left))
        except OSError as error:
            self._files[place] |= refusal(error)
        if data:
            self._left -= len(data)
            self._credit -= len(data)
            self.agent.send_in_order(DATA, self.stream | FROM_GUEST, data)
        if not data or not self._left:
            self._finish(place, fd)

    def _finish(self, place: int, fd: int) -> None:
        """Go on to the next file, or end."""
        self._files[place]["size"] -= self._left  # it may have shrunk
        self.agent.watch(fd, 0, self._pump)
        os.close(fd)
        self._opened.popleft()
        if self._opened:
            self._begin()
        else:
            self.end({"files": self._files})


def put(agent: Agent, stream: int, request: dict[str, Any]) -> None:
    """Operation `put`: path, mode, user; the content is what the host sends on the stream."""
    user = int(request["user"]) if agent.init else None
    Put(agent, stream, str(request["path"]), int(request["mode"]), user)


def get(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any] | None:
    """Operation `get`: files, each a path and a limit in bytes; answers a size or an error for each."""
    if len(request["files"]) > MANY:
        raise ValueError(f"{len(request['files'])} files, {MANY} are allowed at once")
    files: list[dict[str, Any]] = []
    opened: deque[tuple[int, int]] = deque()
    for path, limit in request["files"]:
        try:
            fd, size = _open(agent, str(path), int(limit))
        except (OSError, ValueError) as error:
            files.append(refusal(error))
            continue
        if size:
            opened.append((len(files), fd))
        else:
            os.close(fd)
        files.append({"size": size})
    if not opened:
        return {"files": files}
    Get(agent, stream, files, opened)
    return None


def _open(agent: Agent, path: str, limit: int) -> tuple[int, int]:
    """A regular file's descriptor and size. O_NONBLOCK: a fifo must not hold up the agent."""
    try:
        fd = agent.files.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket or a fifo without its other end
            raise ValueError("not a regular file") from error
        raise
    try:
        return fd, regular(fd, limit)
    except BaseException:
        os.close(fd)
        raise
