"""A machine of a remote Firecracker service."""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import trio

from runnerd import log
from runnerd.machines.driver import (
    DESTROYED,
    Capabilities,
    Command,
    Connection,
    Exit,
    Identity,
    MachineLost,
    NotKept,
    Output,
    Paths,
    Terminal,
)
from runnerd.machines.execution import LADDER, Rung
from runnerd.machines.fcctl import texts
from runnerd.machines.fcctl.execution import Execution
from runnerd.machines.fcctl.service import NotThere, Service, ServiceDenied, ServiceTrouble
from runnerd.machines.fcctl.session import PATIENCE, Session

CAPABILITIES = Capabilities(isolated=True, remote=True, snapshot=True, snapshot_outlives=False)
READY = 90.0
"""Seconds for a machine to come up; the service's own were measured at 15."""
POLL = 0.5
"""Seconds between two questions whether something is so yet."""
RELEASE = 10.0
"""Seconds for each try to release a machine."""
TRIES = 3
SYNC = 300.0
"""Seconds for a machine to write to its disk what it has only in memory."""
SKEW = 60.0
"""Seconds that a machine's clock may be wrong where it cannot be set."""

_log = log.get(__name__)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshot.json`: where the service keeps what."""

    driver: str = "fcctl"
    vm: str
    snapshot: str
    mark: str
    """What the machine had written down then, and wrote over at once: it tells whether it went back."""


class ServiceMachine:
    """One machine at the service, for one job. Commands run as the user the service logs in as.

    The network is the service's affair: a machine has what it is given there, and no policy of ours holds.
    """

    capabilities = CAPABILITIES

    def __init__(
        self,
        service: Service,
        name: str,
        vm: str,
        image: str,
        *,
        paths: Paths,
        seen: set[str],
        forget: Callable[[], Awaitable[object]],
        mark: str = "",
        entropy: Callable[[int], bytes] = os.urandom,
        now: Callable[[], float] = time.time,
        ladder: tuple[Rung, ...] = LADDER,
        patience: float = PATIENCE,
        ready: float = READY,
        poll: float = POLL,
    ) -> None:
        """`seen` holds the boot ids and random bytes of all machines of a driver: none may come twice.

        `mark` is of the snapshot that the service was told to go back to, where it was.
        """
        self.id = name
        self.vm = vm
        self.image = image
        self.paths = paths
        self.identity: Identity | None = None
        self.lost = trio.Event()
        self.reason = ""
        self._service = service
        # What an earlier one of ours asked in this machine lies in a folder of that one's.
        folder = f"{paths.home}/.runnerd/{entropy(8).hex()}"
        self._session = Session(service, vm, folder, patience=patience, pause=poll)
        self._session.lose = self._lose
        self._seen = seen
        self._forget = forget
        self._mark = mark
        self._mark_path = f"{paths.home}/.runnerd/mark"
        self._entropy = entropy
        self._now = now
        self._ladder = ladder
        self._ready = ready
        self._poll = poll
        self._running: set[Execution] = set()
        self._ending = trio.Lock()
        self._released = False

    async def thaw(self) -> Identity:
        """Wait until it runs a command, stir its randomness, set its clock, and see that it is no twin.

        The service starts the machine, so its names are its own: they are read, not given.
        """
        try:
            with trio.move_on_after(self._ready):
                await self._wait_until_ready()
                self.identity = self._judged(await self._first_answer())
                return self.identity
            what = "go back, which the service said it did," if self._mark else "come up"
            raise self._lost(f"machine {self.vm} did not {what} within {self._ready:g} s")
        except BaseException:
            await self.destroy()
            raise

    async def _wait_until_ready(self) -> None:
        while True:
            try:
                found = await self._service.machine(self.vm)
            except (NotThere, ServiceDenied) as final:
                raise self._lost(str(final)) from final
            except ServiceTrouble as trouble:
                _log.debug("the service does not say how a machine is", machine=self.id, problem=str(trouble))
            else:
                if found.ready:
                    return
                if found.failed:
                    raise self._lost(f"the service says that machine {self.vm} is {found.status!r}")
            await trio.sleep(self._poll)

    async def _first_answer(self) -> dict[str, str]:
        """A machine that is said to run, or to have gone back, may not have done so yet: ask until it has."""
        folders = [self.paths.home, self.paths.work, self.paths.temp, self.paths.tools]
        while True:
            try:
                said = await self._session.once(self._gate(folders))
            except (NotThere, ServiceDenied) as final:
                raise self._lost(str(final)) from final
            except ServiceTrouble as trouble:
                _log.debug("a machine does not answer yet", machine=self.id, problem=str(trouble))
                await trio.sleep(self._poll)
            except OSError as problem:
                raise self._lost(f"machine {self.vm} cannot be used: {problem}") from problem
            else:
                found = _pairs(said)
                if not self._mark or found.get("mark") == self._mark:
                    return found
                await trio.sleep(self._poll)

    def _gate(self, folders: Sequence[str]) -> str:
        return texts.gate(self._entropy(64), self._now(), folders, self._mark_path)

    def _judged(self, said: Mapping[str, str]) -> Identity:
        boot, probe, clock = said.get("boot", ""), said.get("probe", ""), said.get("clock", "")
        try:
            random = base64.b64decode(probe, validate=True)
        except (ValueError, binascii.Error):
            random = b""
        if len(random) != 32 or not boot or not clock.isdecimal():
            raise self._lost(f"machine {self.vm} does not say who it is")
        if {boot, probe} & self._seen:
            raise self._lost(
                f"machine {self.vm} is the twin of another: the service copied a running machine"
            )
        if (off := abs(int(clock) - self._now())) > SKEW:
            raise self._lost(f"the clock of machine {self.vm} is {off:.0f} s off and cannot be set")
        self._seen |= {boot, probe}
        return Identity(
            hostname=said.get("host", "")[:253], boot_id=boot[:64], machine_id=said.get("machine", "")[:64]
        )

    async def lease(self) -> None:
        """See that it still answers, and set its clock again."""
        self._check()
        await self._session.ask(self._gate([self.paths.temp]))

    async def exec(self, command: Command, output: Output) -> Exit:
        """Run a process; OSError, with a sentence, when it cannot be started. `user` is not looked at."""
        self._check()
        execution = Execution(self._session, command, output)
        self._running.add(execution)
        try:
            return await execution.run(self._ladder)
        finally:
            self._running.discard(execution)

    async def signal(self, number: int) -> None:
        """Send a signal to the process group of every running `exec`."""
        self._check()
        for execution in tuple(self._running):
            await execution.signal(number)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        """Write one file. Raises OSError."""
        self._check()
        await self._session.put(path, data, mode=mode)

    async def get(self, path: str, *, limit: int) -> bytes:
        """Read one regular file."""
        found = (await self.get_all({path: limit}))[path]
        if isinstance(found, Exception):
            raise found
        return found

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """Read regular files, small ones in one request."""
        self._check()
        return await self._session.read(limits)

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        """Make folders and empty files and find programs, in one request."""
        self._check()
        said = await self._session.ask(texts.lay_out(folders, files, programs, search))
        found = _pairs(said)
        return {name: found[name] for name in programs if name in found}

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """Unpack a tar; OSError says what tar could not do."""
        self._check()
        there = await self._session.put_archive(archive)
        await self._session.ask(texts.unpack(there, into), seconds=600.0)

    async def listen(self, port: int, handler: Connection) -> None:
        """Refused: the service has no way from a machine to this host."""
        raise OSError("a machine of a remote Firecracker service cannot reach this host's services")

    async def shell(self, command: Command, terminal: Terminal) -> Exit:
        """Refused: the service moves no bytes while something runs."""
        raise OSError("a machine of a remote Firecracker service has no terminal")

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Let the service keep it, for as long as it has the machine; `into` holds the name.

        No key of ours encrypts what is kept there, and no limit bounds it.
        """
        self._check()
        if self._running:
            raise NotKept("no snapshot was kept: a process runs in it")
        mark = self._entropy(16).hex()
        try:
            await self._session.ask(texts.set_mark(self._mark_path, mark), seconds=SYNC)
            name = await self._service.snapshot(self.vm, f"{self.id}-{mark[:8]}")
            await self._move_on()
            kept = Kept(vm=self.vm, snapshot=name, mark=mark)
            await trio.Path(into).mkdir(parents=True, exist_ok=True)
            await trio.Path(into, "snapshot.json").write_bytes(msgspec.json.encode(kept))
        except (OSError, ServiceTrouble) as trouble:
            raise NotKept(f"no snapshot was kept: {trouble}") from trouble

    async def _move_on(self) -> None:
        """Be told apart from what was just kept: by the mark, and by random bytes that may not come again."""
        text = f"{texts.set_mark(self._mark_path, 'later')} || exit 1\n{self._gate([self.paths.temp])}"
        self._seen.add(_pairs(await self._session.ask(text, seconds=SYNC)).get("probe", ""))

    def give_up(self, reason: str) -> None:
        """Be lost without being released: the machine at the service has become another of ours."""
        self._released = True
        self._session.ended = reason
        self._lose(reason)

    def console_end(self) -> tuple[str, ...]:
        """Nothing: the service shows no console."""
        return ()

    async def destroy(self) -> None:
        """Release the machine; one that could not be is released by the driver's next sweep."""
        self._lose(DESTROYED)
        with trio.CancelScope(shield=True):
            async with self._ending:
                if self._released:
                    return
                for attempt in range(TRIES):
                    try:
                        with trio.fail_after(RELEASE):
                            await self._service.remove(self.vm)
                    except (ServiceTrouble, trio.TooSlowError) as trouble:
                        _log.error(
                            "a machine was not released", machine=self.id, vm=self.vm, problem=str(trouble)
                        )
                        if isinstance(trouble, ServiceDenied):
                            return
                        await trio.sleep(self._poll * 2**attempt)
                    else:
                        self._released = True
                        await self._forget()
                        return

    def _check(self) -> None:
        if self.lost.is_set():
            raise MachineLost(f"machine {self.id}: {self.reason}")

    def _lost(self, reason: str) -> MachineLost:
        self._lose(reason)
        return MachineLost(reason)

    def _lose(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.lost.set()


def _pairs(said: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in said.splitlines() if " " in line)
