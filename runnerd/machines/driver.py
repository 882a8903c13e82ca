"""What a machine is to everybody above it, and what a driver must do to offer machines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec
import trio

DESTROYED = "it was destroyed"
"""The reason of a machine that its user ended; any other says how it was lost."""


class MachineLost(Exception):
    """The machine ended under its user: it died, broke the protocol or was destroyed. Says which."""


class NotKept(Exception):
    """A machine could not be kept as it is, and why; it goes on."""


class NoMachine(Exception):
    """No machine can be had, and why: the sentence is shown to the user."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver can do; callers ask this, never the driver's name."""

    isolated: bool
    """False only for `process`: code runs as the daemon's user, or nearly."""
    emulated: bool = False
    """Software emulation: no security boundary by QEMU's own word; for trusted code and tests."""
    separate: bool = True
    """What runs a machine is a user of its own on this host, which owns nothing else."""
    stream: bool = True
    kill: bool = True
    snapshot: bool = False
    snapshot_outlives: bool = True
    """A machine can be gone back to after it ended. Where it cannot, its driver is one that `RollsBack`."""
    remote: bool = False
    """Its machines are on another host, so that they take nothing of this one's memory and processors."""
    egress: bool = False
    """The machine reaches nothing but the ports it was offered, so the host decides what it reaches."""

    @property
    def notice(self) -> str:
        """What these machines lack in isolation, for people; empty when nothing."""
        if not self.isolated:
            return (
                "jobs run as processes of this host, with nothing between them and it: for your own code only"
            )
        said = []
        if self.emulated:
            said.append(
                "machines are emulated in software, which is no security boundary: for trusted code only"
            )
        if not self.separate:
            said.append(
                "machines run as the daemon's own user: code that broke out could do all the daemon can"
            )
        return "; ".join(said)


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """A machine's size as configured."""

    vcpus: int = 2
    memory: int = 4096
    """MiB of guest memory."""
    disk: int = 10240
    """MiB the job may write, before the guest sees a full disk."""


class Paths(msgspec.Struct, frozen=True, kw_only=True):
    """Where things lie inside the machine; absolute, without a trailing slash."""

    home: str = "/home/runner"
    work: str = "/home/runner/work"
    temp: str = "/home/runner/work/_temp"
    tools: str = "/opt/hostedtoolcache"


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes this machine itself, set fresh by the thaw gate."""

    hostname: str
    boot_id: str
    machine_id: str


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A process to start in the job's root."""

    argv: tuple[str, ...]
    env: dict[str, str] = msgspec.field(default_factory=dict)
    """The whole environment, nothing is added or inherited."""
    cwd: str = "/"
    user: int = 1001
    """uid and gid; 0 is root inside the machine. A driver without isolation ignores it."""
    stdin: bytes = b""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended, as the guest's kernel said. Exactly one of `code` and `signal` is set."""

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """The guest's kernel killed something for lack of memory while this process ran."""
    disk_full: bool = False
    """When it ended, the machine's disk had no room left for the job's user."""

    @property
    def success(self) -> bool:
        """Only a received exit status 0."""
        return self.code == 0 and self.signal is None


Output = Callable[[str, bytes], Awaitable[None]]
"""Receives ("stdout" | "stderr", bytes) as they arrive; while it waits, the process is held back."""

Connection = Callable[[trio.abc.Stream], Awaitable[None]]
"""Serves one connection that a process in the machine made to an offered port."""


class Machine(Protocol):
    """One machine, for one job. Every method raises `MachineLost` once the machine is gone."""

    id: str
    image: str
    paths: Paths
    capabilities: Capabilities
    identity: Identity | None
    lost: trio.Event
    """Set when the machine ended, whoever ended it; `reason` says why, `DESTROYED` when `destroy` did."""
    reason: str

    async def thaw(self) -> Identity:
        """Make a clone its own machine: entropy reseeded by force, clock, hostname, machine id, boot id.

        A machine that fails this is destroyed before the error is raised.
        """
        ...

    async def lease(self) -> None:
        """Set the clock again and mount what is the job's; called once, when a job gets the machine."""
        ...

    async def exec(self, command: Command, output: Output) -> Exit:
        """Run a process to its end and stream its output.

        Returns when the process itself has ended and its output was drained for a short bounded time;
        what it left running lives on. Cancelling runs the kill ladder on its process group, shielded
        and bounded, before `Cancelled` leaves.
        """
        ...

    async def signal(self, number: int) -> None:
        """Send a signal to the process group of every running `exec`."""
        ...

    async def put(self, path: str, data: bytes, *, mode: int = 0o644, user: int = 1001) -> None:
        """Write one file, making its folders; replaces what was there."""
        ...

    async def get(self, path: str, *, limit: int) -> bytes:
        """Read one regular file of at most `limit` bytes.

        Raises FileNotFoundError, and ValueError when it is larger or not a regular file.
        """
        ...

    async def get_all(self, limits: Mapping[str, int]) -> dict[str, bytes | OSError | ValueError]:
        """Read up to 64 regular files at once; `limits` gives the most bytes of each, by its path.

        A file that `get` would raise for has that error as its value.
        """
        ...

    async def lay_out(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        programs: Sequence[str] = (),
        search: str = "",
        user: int = 1001,
    ) -> dict[str, str]:
        """Make folders and empty files that belong to `user`, with their parents, and find programs.

        Folders that are there stay as they are; what has a file's name is replaced. Returns the path of
        each program that is in a folder of `search`, which is written as PATH is. Raises OSError.
        """
        ...

    async def unpack(self, archive: Path, into: str, *, user: int = 1001) -> None:
        """Unpack a tar file of the host's into a folder, which is made; files belong to `user`."""
        ...

    async def listen(self, port: int, handler: Connection) -> None:
        """Offer a port on the machine's loopback that leads to `handler` on the host."""
        ...

    async def shell(self, command: Command, terminal: Terminal) -> Exit:
        """Run a process on a terminal of its own, whose other end is `terminal`; ends with the process.

        Raises OSError or ValueError when it cannot be started. Cancelling hangs up.
        """
        ...

    async def snapshot(self, into: Path, *, key: bytes | None, limit: int) -> None:
        """Keep the machine as it is in the folder `into`, which appears whole or not at all; it goes on.

        `key` (32 bytes) encrypts what is kept, `limit` bounds its bytes. The machine stands still meanwhile.
        Raises `NotKept`, also while a process of `exec` runs or a connection to the host is open.
        """
        ...

    def console_end(self) -> tuple[str, ...]:
        """The last lines its console said, bounded and printable: to be asked before `destroy`.

        None where there is no console. The guest wrote them: they may hold anything, secrets as well.
        """
        ...

    async def destroy(self) -> None:
        """End the machine and remove all it held; bounded, safe to call twice, never raises."""
        ...


class Window(msgspec.Struct, frozen=True):
    """The size of a terminal."""

    rows: int = 24
    columns: int = 80


class Terminal(Protocol):
    """A person's end of a terminal."""

    window: Window
    """Its size at the start."""

    async def keys(self) -> bytes | Window:
        """What was typed, or the new size; b"" when the person has gone."""
        ...

    async def show(self, data: bytes) -> None:
        """Put bytes on the screen."""
        ...


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A machine booted once and frozen, from which clones start."""

    key: str
    """Hash of everything a clone depends on: image, size, driver and its version, CPU model, devices."""
    image: str
    size: Size
    generation: str = ""
    """The digest of the image it was made from; empty where images have none."""
    path: Path | None = None


class Driver(Protocol):
    """One way of making machines. Opened as a context: leaving it destroys every machine it made."""

    name: str

    @property
    def capabilities(self) -> Capabilities:
        """What its machines can do; known for good once a template was built."""
        ...

    @property
    def overhead(self) -> int:
        """MiB of host memory a machine costs beside its guest memory."""
        ...

    @property
    def shared(self) -> int:
        """MiB of host memory that templates hold now, whatever machines there are; it may grow."""
        ...

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """Boot the image once and freeze it, or find the frozen one.

        `generation` is the digest of the one that is wanted; without it, and where images have none, it is
        the current one. Raises `NoMachine` with the cure when the image is absent or does not come up.
        """
        ...

    async def drop_template(self, template: Template) -> None:
        """Let go of a template that nothing will be cloned from; machines made from it live on."""
        ...

    async def clone(self, template: Template) -> Machine:
        """Start a machine from a template; it is not usable before its `thaw`."""
        ...

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> Machine:
        """Start a machine as another was when it was kept; it is not usable before its `thaw`.

        `size`, where it is given, is what the machine must have: what was admitted is what is started. Raises
        `NoMachine` with the reason: the snapshot is harmed, of another key or size, or its image has changed.
        """
        ...

    async def adopt_or_reap(self) -> int:
        """End every machine an earlier daemon left behind; returns how many there were."""
        ...


@runtime_checkable
class RollsBack(Protocol):
    """A driver whose snapshots end with their machine: only that machine itself goes back to one."""

    async def roll_back(self, machine: Machine, snapshot: Path) -> Machine:
        """Make a machine what it was when it was kept, under another id; it is not usable before its `thaw`.

        The one that it was until now is lost, and ending it does nothing any more. Raises `NoMachine`; then
        nobody knows what it is, and it is to be destroyed.
        """
        ...


OpenDriver = Callable[[], AbstractAsyncContextManager[Driver]]
"""How a driver is had; see `daemon.open_driver`."""
