"""Machines in memory that do what a test or a benchmark tells them: no process and no file behind them."""

from __future__ import annotations

import tarfile
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec
import trio
import trio.testing

from runnerd.machines.driver import (
    DESTROYED,
    Capabilities,
    Command,
    Connection,
    Exit,
    Identity,
    Machine,
    MachineLost,
    NoMachine,
    NotKept,
    Output,
    Paths,
    Size,
    Template,
    Terminal,
)
from runnerd.machines.sealed import TooLarge


class Behaviour(Protocol):
    """What a machine does when it is asked to."""

    async def thaw(self, machine: FakeMachine) -> None:
        """Return to let the thaw succeed."""
        ...

    async def lay_out(self, machine: FakeMachine) -> None:
        """Return to let the folders and files be made."""
        ...

    async def exec(self, machine: FakeMachine, command: Command, output: Output) -> Exit:
        """Run a command."""
        ...


class Succeeds:
    """Thaws, and ends every command at once with exit status 0 and no output."""

    async def thaw(self, machine: FakeMachine) -> None:
        """At once."""
        await trio.lowlevel.checkpoint()

    async def lay_out(self, machine: FakeMachine) -> None:
        """At once."""
        await trio.lowlevel.checkpoint()

    async def exec(self, machine: FakeMachine, command: Command, output: Output) -> Exit:
        """At once."""
        await trio.lowlevel.checkpoint()
        return Exit(code=0)


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What one command does."""

    stdout: bytes = b""
    stderr: bytes = b""
    code: int | None = 0
    signal: int | None = None
    out_of_memory: bool = False
    seconds: float = 0.0
    """How long it runs before it ends."""
    writes: dict[str, bytes] = msgspec.field(default_factory=dict)
    """Appended to files: an absolute path, or a variable of the environment that holds one."""


class Replies(Succeeds):
    """Answers each command by the first pair whose text occurs in its words or in a script it names."""

    def __init__(self, replies: Sequence[tuple[str, Reply]], *, otherwise: Reply | None = None) -> None:
        self._replies = tuple(replies)
        self._otherwise = otherwise or Reply()

    async def exec(self, machine: FakeMachine, command: Command, output: Output) -> Exit:
        """As the reply says."""
        reply = self._reply(machine, command)
        await trio.sleep(reply.seconds)
        for name, data in reply.writes.items():
            path = name if name.startswith("/") else command.env.get(name, "")
            if path:
                machine.files[path] = machine.files.get(path, b"") + data
        for kind, data in (("stdout", reply.stdout), ("stderr", reply.stderr)):
            if data:
                await output(kind, data)
        return Exit(code=reply.code, signal=reply.signal, out_of_memory=reply.out_of_memory)

    def _reply(self, machine: FakeMachine, command: Command) -> Reply:
        scripts = (machine.files.get(word, b"").decode(errors="replace") for word in command.argv)
        text = "\n".join((*command.argv, *scripts))
        return next((reply for needle, reply in self._replies if needle in text), self._otherwise)


class DiesAtExec(Succeeds):
    """Is lost when it is asked for its command number `at` (from 1)."""

    def __init__(self, reason: str = "its kernel panicked", *, at: int = 1) -> None:
        self._reason = reason
        self._at = at

    async def exec(self, machine: FakeMachine, command: Command, output: Output) -> Exit:
        """Die, or succeed before that."""
        if len(machine.commands) >= self._at:
            machine.lose(self._reason)
        return await super().exec(machine, command, output)


class DiesAtLayOut(Succeeds):
    """Is lost before a job can do anything in it: when its folders are made."""

    def __init__(self, reason: str = "its kernel panicked") -> None:
        self._reason = reason

    async def lay_out(self, machine: FakeMachine) -> None:
        """Die."""
        machine.lose(self._reason)


class NeverThaws(Succeeds):
    """Does not answer a thaw within `seconds`, which is when the gate gives it up."""

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds

    async def thaw(self, machine: FakeMachine) -> None:
        """Be lost after a while."""
        await trio.sleep(self._seconds)
        machine.lose(f"the agent did not answer within {self._seconds:g} s")


class Hangs(Succeeds):
    """Runs every command until it gets a signal, is cancelled or is destroyed."""

    async def exec(self, machine: FakeMachine, command: Command, output: Output) -> Exit:
        """Wait for a signal."""
        heard = len(machine.signals)
        while len(machine.signals) == heard:
            await machine.signalled.park()
        return Exit(signal=machine.signals[-1])


class FakeMachine:
    """A `Machine` in memory; everything it was asked is kept for whoever looks."""

    def __init__(self, number: int, image: str, capabilities: Capabilities, driver: FakeDriver) -> None:
        self.id = f"fake-{number}"
        self.image = image
        self.paths = Paths()
        self.capabilities = capabilities
        self.identity: Identity | None = None
        self.lost = trio.Event()
        self.reason = ""
        self.console: tuple[str, ...] = ()
        self.number = number
        self.leased = False
        self.files: dict[str, bytes] = {}
        self.programs = ("bash", "sh")
        """Those it has, all in `/usr/bin`."""
        self.commands: list[Command] = []
        self.signals: list[int] = []
        self.signalled = trio.lowlevel.ParkingLot()
        self.offers: dict[int, Connection] = {}
        self._driver = driver
        self._running: set[trio.CancelScope] = set()

    def lose(self, reason: str) -> None:
        """End the machine as if it had died by itself."""
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
            for scope in self._running:
                scope.cancel()

    async def thaw(self) -> Identity:
        """Take an identity, if its behaviour lets it."""
        try:
            self._check()
            await self._driver.behaviour(self.number).thaw(self)
            self._check()
        except BaseException:
            await self.destroy()
            raise
        self.identity = Identity(
            hostname=self.id,
            boot_id=str(uuid.UUID(int=self.number + (1 << 64))),
            machine_id=uuid.UUID(int=self.number).hex,
        )
        return self.identity

    async def lease(self) -> None:
        """Note that it was leased."""
        await self._checkpoint()
        self.leased = True

    async def exec(self, command: Command, output: Output) -> Exit:
        """As its behaviour says; MachineLost when it is lost meanwhile."""
        await self._checkpoint()
        self.commands.append(command)
        with trio.CancelScope() as scope:
            self._running.add(scope)
            try:
                ended = await self._driver.behaviour(self.number).exec(self, command, output)
                self._check()
                return ended
            finally:
                self._running.discard(scope)
        raise MachineLost(f"machine {self.id}: {self.reason}")

    async def signal(self, number: int) -> None:
        """Keep the number in `signals` and wake what waits for one."""
        await self._checkpoint()
        self.signals.append(number)
        self.signalled.unpark_all()

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        """Keep the file in `files`."""
        await self._checkpoint()
        self.files[path] = bytes(data)

    async def get(self, path: str, *, limit: int) -> bytes:
        """Return it from `files`."""
        await self._checkpoint()
        if path not in self.files:
            raise FileNotFoundError(2, "No such file or directory", path)
        if len(self.files[path]) > limit:
            raise ValueError(f"{len(self.files[path])} bytes, {limit} are allowed")
        return self.files[path]

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """Return them from `files`."""
        await self._checkpoint()
        found: dict[str, bytes | OSError | ValueError] = {}
        for path, limit in limits.items():
            try:
                found[path] = await self.get(path, limit=limit)
            except (OSError, ValueError) as error:
                found[path] = error
        return found

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        """Keep the files in `files`; all programs are found in one place."""
        await self._checkpoint()
        await self._driver.behaviour(self.number).lay_out(self)
        self._check()
        self.files |= dict.fromkeys(files, b"")
        return {name: f"/usr/bin/{name}" for name in programs if name in self.programs}

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """Keep the archive's regular files in `files`; reads it at once, so let it be small."""
        await self._checkpoint()
        with tarfile.open(archive) as members:
            for member in members:
                if content := members.extractfile(member):
                    self.files[f"{into}/{member.name.removeprefix('./')}"] = content.read()

    async def listen(self, port: int, handler: Connection) -> None:
        """Keep the handler for `connect`."""
        await self._checkpoint()
        self.offers[port] = handler

    async def connect(self, port: int) -> trio.abc.HalfCloseableStream:
        """Connect to an offered port as a process in the machine would. Raises ConnectionRefusedError."""
        await self._checkpoint()
        if port not in self.offers:
            raise ConnectionRefusedError(111, "Connection refused")
        inside, outside = trio.testing.memory_stream_pair()
        self._driver.nursery.start_soon(self.offers[port], outside)
        return inside

    async def shell(self, command: Command, terminal: Terminal) -> Exit:
        """Show back what is typed, until the person has gone."""
        await self._checkpoint()
        self.commands.append(command)
        while typed := await terminal.keys():
            self._check()
            if isinstance(typed, bytes):
                await terminal.show(typed)
        return Exit(code=0)

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Write down its files; raises NotKept where its capabilities say so."""
        await self._checkpoint()
        if not self.capabilities.snapshot:
            raise NotKept("these machines keep no snapshots")
        kept = msgspec.json.encode({"image": self.image, "files": self.files, "number": self.number})
        if len(kept) > limit:
            too_large = TooLarge("it is larger than there is room for")
            raise NotKept(f"no snapshot was kept: {too_large}") from too_large
        await trio.Path(into).mkdir(parents=True)
        await trio.Path(into, "snapshot.json").write_bytes(kept)

    def console_end(self) -> tuple[str, ...]:
        """What `console` holds."""
        return self.console

    async def destroy(self) -> None:
        """Be gone."""
        self.lose(DESTROYED)
        self._driver.machines.pop(self.id, None)
        await trio.lowlevel.checkpoint()

    async def _checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check()

    def _check(self) -> None:
        if self.lost.is_set():
            raise MachineLost(f"machine {self.id}: {self.reason}")


class _Kept(msgspec.Struct):
    image: str
    files: dict[str, bytes]


class FakeDriver:
    """Makes `FakeMachine`s; see `open_fake_driver`."""

    name = "fake"
    overhead = 0
    shared = 0

    def __init__(
        self,
        behaviours: Sequence[Behaviour],
        capabilities: Capabilities,
        clone_seconds: float,
        no_machine: str,
        nursery: trio.Nursery,
    ) -> None:
        self.capabilities = capabilities
        self.nursery = nursery
        self.machines: dict[str, FakeMachine] = {}
        """Those that live, by id."""
        self.templates: set[str] = set()
        """The keys of those that are held."""
        self.made = 0
        self.clone_seconds = clone_seconds
        self.no_machine = no_machine
        """While it is not empty, every clone fails with it."""
        self._behaviours = tuple(behaviours) or (Succeeds(),)

    def behaviour(self, number: int) -> Behaviour:
        """What machine `number` (from 1) does."""
        return self._behaviours[min(number, len(self._behaviours)) - 1]

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """At once."""
        await trio.lowlevel.checkpoint()
        key = f"fake-{image}-{size.vcpus}-{size.memory}-{generation}"
        self.templates.add(key)
        return Template(key=key, image=image, size=size, generation=generation)

    async def drop_template(self, template: Template) -> None:
        """Strike it from `templates`."""
        await trio.lowlevel.checkpoint()
        self.templates.discard(template.key)

    async def clone(self, template: Template) -> Machine:
        """After `clone_seconds`; raises NoMachine while `no_machine` says why."""
        await trio.sleep(self.clone_seconds)
        if self.no_machine:
            raise NoMachine(self.no_machine)
        self.made += 1
        machine = FakeMachine(self.made, template.image, self.capabilities, self)
        self.machines[machine.id] = machine
        return machine

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> Machine:
        """A machine with the files that were written down; it has no size of its own."""
        await trio.lowlevel.checkpoint()
        try:
            kept = msgspec.json.decode((snapshot / "snapshot.json").read_bytes(), type=_Kept)
        except (OSError, msgspec.MsgspecError) as error:
            raise NoMachine(f"the snapshot {snapshot.name} cannot be gone back to: {error}") from error
        template = await self.build_template(kept.image, Size())
        machine = await self.clone(template)
        assert isinstance(machine, FakeMachine)
        machine.files = dict(kept.files)
        return machine

    async def adopt_or_reap(self) -> int:
        """Nothing of it outlives its daemon."""
        await trio.lowlevel.checkpoint()
        return 0


class FakeRemoteDriver(FakeDriver):
    """One whose snapshots end with their machine; see `driver.RollsBack`."""

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> Machine:
        """Refused."""
        raise NoMachine("only the machine itself goes back")

    async def roll_back(self, machine: Machine, snapshot: Path) -> Machine:
        """As the other driver's `restore`, if the machine lives."""
        if self.machines.get(machine.id) is not machine:
            raise NoMachine(f"the snapshot {snapshot.name} cannot be gone back to: its machine has ended")
        after = await super().restore(snapshot, key=None)
        self.machines.pop(machine.id).lose("it was rolled back")
        return after


@asynccontextmanager
async def open_fake_driver(
    *behaviours: Behaviour,
    capabilities: Capabilities | None = None,
    clone_seconds: float = 0.0,
    no_machine: str = "",
) -> AsyncIterator[FakeDriver]:
    """A driver whose first machine has the first behaviour, and so on; the last is that of all later ones.

    Without any, machines succeed at once. They call themselves isolated unless `capabilities` says else.
    """
    async with trio.open_nursery() as nursery:
        kinds = capabilities or Capabilities(isolated=True)
        driver_kind = FakeDriver if kinds.snapshot_outlives else FakeRemoteDriver
        driver = driver_kind(behaviours, kinds, clone_seconds, no_machine, nursery)
        try:
            yield driver
        finally:
            for machine in tuple(driver.machines.values()):
                machine.lose(DESTROYED)
            driver.machines.clear()
            nursery.cancel_scope.cancel()
