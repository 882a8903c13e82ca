"""Shell texts run in one remote machine until their answer can be believed, with what is built on them."""

from __future__ import annotations

import base64
import binascii
import gzip
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import trio

from runnerd.machines.driver import MachineLost
from runnerd.machines.fcctl import texts
from runnerd.machines.fcctl.service import NotThere, Service, ServiceDenied, ServiceTrouble

PATIENCE = 30.0
"""Seconds in which a lost answer is asked for again, before the machine counts as lost."""
PAUSE = 0.5
AT_ONCE = 4
"""Pieces of a file under way at the same time."""
FIRST_READ = 256 << 10
NEXT_READ = 4 << 20
_OUR_OWN = 127
"""The largest status with which a text of ours ends by itself; 255 is that of an ssh that did not arrive."""


class NoStatus(ServiceTrouble):
    """The service ran something and did not say how it ended."""


class Session:
    """The way into one machine. Its methods raise `OSError` for what the machine says, else `MachineLost`."""

    def __init__(
        self, service: Service, vm: str, folder: str, *, patience: float = PATIENCE, pause: float = PAUSE
    ) -> None:
        """`folder` in the machine was never this side's before: what lies there is taken for its own.

        A lost answer is asked for again after `pause` s.
        """
        self.vm = vm
        self.folder = folder
        self.ended = ""
        """Why nothing more may be asked: the machine has become another's."""
        self.patience = patience
        self._pause = pause
        self.lose: Callable[[str], object] = lambda reason: None
        """Told when the machine cannot be reached any more."""
        self._service = service
        self._numbers = itertools.count(1)

    async def once(self, text: str, *, seconds: float = 30.0) -> str:
        """Run a text one time.

        Raises `ServiceTrouble` without a status, OSError for one but 0, and MachineLost once it `ended`.
        """
        ran = None if self.ended else await self._service.run(self.vm, text, seconds=seconds)
        if ran is None or self.ended:
            raise MachineLost(self.ended)
        if ran.exit_code is None:
            raise NoStatus(f"the service at {self._service.address} did not say how a command ended")
        if not 0 <= ran.exit_code <= _OUR_OWN:
            said = ran.stderr.strip()[-300:]
            raise ServiceTrouble(f"a command was cut off with status {ran.exit_code}: {said}")
        if ran.exit_code != 0:
            raise OSError(ran.stderr.strip()[-1000:] or f"status {ran.exit_code}")
        return ran.stdout

    async def ask(self, text: str, *, seconds: float = 30.0) -> str:
        """Run a text whose repetition does no harm until its answer came, and return what it printed."""
        if len(text) > 2 * texts.PIECE:
            return await self._ask_by_file(text, seconds)
        start = trio.current_time()
        while True:
            try:
                return await self.once(text, seconds=seconds)
            except (NotThere, ServiceDenied) as final:
                raise self.lost(str(final)) from final
            except ServiceTrouble as trouble:
                if trio.current_time() - start >= self.patience:
                    raise self.lost(f"{trouble} (for {self.patience:g} s)") from trouble
                await trio.sleep(self._pause)

    def lost(self, reason: str) -> MachineLost:
        """Give the machine up, and return what to raise."""
        self.lose(reason)
        return MachineLost(reason)

    def name(self) -> str:
        """A path in this side's folder that was not used before."""
        return f"{self.folder}/{next(self._numbers)}"

    async def put(self, path: str, data: bytes, *, mode: int) -> None:
        """Write one file, whole or not at all."""
        await self._put(path, iter(_cut(data)), mode)

    async def put_archive(self, archive: Path) -> str:
        """Bring a tar file of the host's into the machine, compressed; returns its path there."""
        path = self.name()
        packed = archive.with_name(f"{archive.name}.gz")
        try:
            await trio.to_thread.run_sync(_compress, archive, packed)
            with packed.open("rb") as file:
                await self._put(path, _pieces(file), 0o600)
        finally:
            packed.unlink(missing_ok=True)
        return path

    async def _put(self, path: str, pieces: Iterator[bytes], mode: int) -> None:
        place = self.name()
        names: list[str] = []
        room = trio.Semaphore(AT_ONCE)
        failed: list[OSError | MachineLost] = []

        async def send(name: str, piece: bytes) -> None:
            try:
                await self.ask(texts.put_piece(name, piece))
            except (OSError, MachineLost) as error:
                failed.append(error)
                nursery.cancel_scope.cancel()
            finally:
                room.release()

        async with trio.open_nursery() as nursery:
            for piece in pieces:
                names.append(f"{place}.{len(names)}")
                await room.acquire()
                nursery.start_soon(send, names[-1], piece)
        if failed:
            raise failed[0]
        await self.ask(texts.join(names, path, mode), seconds=120.0)

    async def read(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """Read regular files; one that cannot be read has its error as its value."""
        lines = (await self.ask(texts.read(limits, FIRST_READ))).splitlines()
        if len(lines) != len(limits):
            raise self.lost("it answers for other files than was asked for")
        found: dict[str, bytes | OSError | ValueError] = {}
        for (path, limit), line in zip(limits.items(), lines, strict=True):
            found[path] = await self._read_on(path, limit, line.split(" "))
        return found

    async def _read_on(self, path: str, limit: int, words: Sequence[str]) -> bytes | OSError | ValueError:
        match words:
            case ["absent"]:
                return FileNotFoundError(f"{path} is not there")
            case ["irregular"]:
                return ValueError(f"{path} is no regular file")
            case ["large", size]:
                return ValueError(f"{path} has {size[:20]} bytes; at most {limit} are read")
            case ["data", size, first] if size.isdecimal() and int(size) <= limit:
                data = bytearray(self.decoded(first))
                while len(data) < int(size):
                    more = self.decoded(
                        (await self.ask(texts.read_on(path, len(data), NEXT_READ), seconds=60.0)).strip()
                    )
                    if not more:
                        break  # it has shrunk since
                    data += more
                return bytes(data[:limit])
        raise self.lost("its answer to a read cannot be understood")

    def decoded(self, text: str) -> bytes:
        """Bytes that the machine printed as base64."""
        try:
            return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise self.lost("what it says is not what was asked for") from None

    async def _ask_by_file(self, text: str, seconds: float) -> str:
        path = self.name()
        await self.put(path, text.encode(), mode=0o600)
        return await self.ask(f"bash {path}", seconds=seconds)


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[start : start + texts.PIECE] for start in range(0, max(1, len(data)), texts.PIECE))


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(texts.PIECE), b"")


def _compress(archive: Path, packed: Path) -> None:
    with archive.open("rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
        shutil.copyfileobj(source, target, 1 << 20)
