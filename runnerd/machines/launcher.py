"""Starts virtual machine monitors with as little privilege as the host allows, and ends them.

The inside launcher runs in the daemon, or in a root process that serves a daemon without rights
(`launch_server`, `launch_client`). An order names its descriptors: each process has its own numbers for them.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import random
import select
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import trio

from runnerd import log
from runnerd.machines import host, pages
from runnerd.machines.cgroups import Bounds, Groups
from runnerd.machines.qemu import vmm

FIRST_UID = 0x7F00_0000
UIDS = 0x10000
"""Monitors of a root daemon run under users from this range, which no distribution gives out."""

_MIB = 2**20
_SPACE = 2048
"""MiB of address space a monitor may map beside what it may use: libraries, stacks, spare heaps."""
_MOMENT = 0.05
"""Seconds in which a process that has closed its files is gone."""
_GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")
"""Waits for a line before it becomes the monitor, and ends with whoever would say it."""

_T = TypeVar("_T")
_log = log.get(__name__)


class LaunchFailed(Exception):
    """A monitor could not be started; says why."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to start: `@NAME@` in an argument stands for the number its descriptor gets in the process."""

    name: str
    """Letters, digits and dashes; unique among the machines of one daemon."""
    argv: tuple[str, ...]
    descriptors: dict[str, int]
    owned: tuple[str, ...] = ()
    """Descriptors of files that shall belong to the process's user."""
    output: str = ""
    """The descriptor that gets what the process prints."""
    memory: int
    """MiB the process may use at most, guest memory included."""
    shared: int = 0
    """MiB of files in memory that may be charged to it beside that, though others have them as well."""
    threads: int = 256
    """Threads it may have at most."""
    processors: int = 1
    """The guest's."""
    kvm: bool = False
    recipe: vmm.Recipe | None = None
    """The same for a launcher that makes the arguments itself, and runs nothing it was told."""


def recipe_order(recipe: vmm.Recipe, qemu: str, name: str) -> Order:
    """The order for a machine, without its descriptors; `qemu` is the program's path."""
    return Order(
        name=name,
        argv=vmm.command_of(recipe, qemu, name),
        descriptors={},
        owned=() if recipe.purpose is vmm.Purpose.PROBE else vmm.OWNED,
        output="console",
        memory=recipe.memory_bound,
        shared=recipe.memory_shared,
        threads=recipe.threads_bound,
        processors=recipe.size.vcpus,
        kvm=recipe.accelerator == "kvm",
        recipe=recipe,
    )


class Vmm(Protocol):
    """One started monitor."""

    pid: int
    uid: int
    born: int
    """The process's start time in clock ticks since boot: with the pid it names the process for ever."""

    async def wait(self) -> int:
        """Return the exit status once the process has ended; negative is the signal that ended it."""
        ...

    async def open_memory(self) -> tuple[int, int, int]:
        """Open the process's `maps`, `pagemap` and `mem`; the caller closes them. Raises OSError."""
        ...

    def ended(self) -> int | None:
        """Return the exit status if the process has ended; waits for a few milliseconds at most.

        For one whose sockets were just closed: its end follows at once.
        """
        ...

    async def stop(self) -> None:
        """Kill the process and wait for it (bounded), and free its user and group; safe to call twice."""
        ...


class Launcher(Protocol):
    """Starts monitors."""

    separate: bool
    """Whether monitors run under users of their own."""

    groups: Groups | None
    """The control groups of its monitors, where the host lends us some."""

    async def start(self, order: Order) -> Vmm:
        """Start a monitor; raises `LaunchFailed`. It dies with the launcher."""
        ...


@asynccontextmanager
async def open_launcher(
    *,
    root: bool | None = None,
    first_uid: int = FIRST_UID,
    groups: Groups | None = None,
    rng: random.Random | None = None,
) -> AsyncIterator[InsideLauncher]:
    """Open the launcher that runs in the daemon itself; leaving ends every monitor it started.

    As root every monitor gets a user of its own; otherwise it runs as the daemon's user.
    Raises FileNotFoundError with the cure when a program of util-linux is missing.
    """
    launcher = InsideLauncher(
        host.require("choom", "prlimit", "setpriv"),
        separate=os.geteuid() == 0 if root is None else root,
        first_uid=first_uid,
        groups=groups,
        rng=rng or random.SystemRandom(),
    )
    try:
        yield launcher
    finally:
        with trio.CancelScope(shield=True):
            await launcher.close()


class InsideLauncher:
    """See `open_launcher`."""

    def __init__(
        self,
        programs: tuple[str, ...],
        *,
        separate: bool,
        first_uid: int,
        groups: Groups | None,
        rng: random.Random,
    ) -> None:
        self.separate = separate
        self._programs = programs
        self._first_uid = first_uid
        self.groups = groups
        self._rng = rng
        self._running: dict[str, _Process] = {}
        self._turn = trio.Lock()
        # "Die with your parent" means the parent's thread: all are started from one that lives as we do.
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="launcher")

    async def start(self, order: Order) -> Vmm:
        """See `Launcher.start`."""
        with trio.CancelScope(shield=True):
            async with self._turn:  # names, users and groups are taken by one start at a time
                if order.name in self._running:
                    raise LaunchFailed(f"a machine named {order.name} is already running")
                process = await self._in_thread(lambda: self._spawn(order))
                self._running[order.name] = process
        return process

    async def close(self) -> None:
        """End every monitor; safe to call twice."""
        async with trio.open_nursery() as nursery:
            for process in tuple(self._running.values()):
                nursery.start_soon(process.stop)
        self._thread.shutdown(wait=False)

    def _spawn(self, order: Order) -> _Process:
        uid = self._free_uid() if self.separate else os.geteuid()
        gate = _GATE if self.groups is not None else ()
        output = order.descriptors[order.output] if order.output else subprocess.DEVNULL
        try:
            argv = [*gate, *self._prefix(uid, order), *order.argv]
            for name, number in order.descriptors.items():
                argv = [argument.replace(f"@{name}@", str(number)) for argument in argv]
            if self.separate:
                for name in order.owned:
                    os.fchown(order.descriptors[name], uid, uid)
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if gate else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(order.descriptors.values()),
                cwd="/",
                env={"PATH": host.SEARCH, "LC_ALL": "C.UTF-8"},
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise LaunchFailed(f"{Path(order.argv[0]).name} cannot be started: {error}") from error
        process = None
        try:
            with popen.stdin or contextlib.nullcontext() as waiting:
                process = _Process(popen, uid, order.name, self.groups, self._forget, separate=self.separate)
                if self.groups is not None and waiting is not None:
                    bounds = Bounds(
                        memory=(order.memory + order.shared) * _MIB,
                        processes=order.threads,
                        processors=order.processors,
                    )
                    # All that the monitor does and takes is counted there from the first.
                    self.groups.enter(order.name, popen.pid, bounds)
                    with contextlib.suppress(BrokenPipeError):  # it ended at once, and is found so
                        waiting.write(b"\n")
        except OSError as error:
            popen.kill()
            popen.wait()
            what = "cannot be watched"
            if process is not None:
                process.leave()
                process.release()
                what = "cannot get a control group"
            raise LaunchFailed(f"{order.name} {what}: {error}") from error
        return process

    def _prefix(self, uid: int, order: Order) -> list[str]:
        """The programs that bound the process and take its rights away, each of which becomes the next."""
        choom, prlimit, setpriv = self._programs
        # Address space, not memory: the bound of last resort where there are no control groups.
        limits = ["--core=0", "--nofile=256", f"--as={(order.memory + _SPACE) * _MIB}"]
        if self.separate:
            # Counts all of a user's threads, so only where the user is the machine's own.
            limits.append(f"--nproc={order.threads}")
        return [
            # Under memory pressure the kernel shall end a machine, not the daemon.
            *(choom, "-n", "500", "--"),
            *(prlimit, *limits, "--"),
            *(setpriv, *self._privileges(uid, order.kvm), "--"),
        ]

    def _privileges(self, uid: int, kvm: bool) -> list[str]:
        options = ["--no-new-privs", "--pdeathsig", "KILL"]
        if not self.separate:
            return options
        groups = ["--clear-groups"]
        if kvm:
            # The device belongs to a group; a monitor needs this one group and no other.
            groups = ["--groups", str(os.stat("/dev/kvm").st_gid)]
        return [
            *("--reuid", str(uid), "--regid", str(uid), *groups),
            *("--inh-caps", "-all", "--bounding-set", "-all", *options),
        ]

    def _free_uid(self) -> int:
        ours = (process.uid for process in self._running.values())
        return free_uid(ours, first=self._first_uid, rng=self._rng)

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        token, done = trio.lowlevel.current_trio_token(), trio.Event()
        future = self._thread.submit(work)

        def wake(_: Any) -> None:
            try:
                token.run_sync_soon(done.set)
            except trio.RunFinishedError:
                pass

        future.add_done_callback(wake)
        await done.wait()
        return future.result()


class _Process:
    """A monitor that the inside launcher started."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        uid: int,
        name: str,
        groups: Groups | None,
        forget: Callable[[str], None],
        *,
        separate: bool,
    ) -> None:
        self.pid = popen.pid
        self.uid = uid
        self.born = born(popen.pid) or 0
        self._popen = popen
        self._name = name
        self._groups = groups
        self._forget = forget
        self._separate = separate
        self._pidfd = os.pidfd_open(popen.pid)
        self._turn = trio.Lock()

    async def wait(self) -> int:
        """See `Vmm.wait`."""
        while (status := self._popen.poll()) is None:
            # Our own duplicate: `release` may close the other while we wait.
            watch = os.dup(self._pidfd)
            try:
                await trio.lowlevel.wait_readable(watch)
            finally:
                os.close(watch)
        return status

    async def open_memory(self) -> tuple[int, int, int]:
        """See `Vmm.open_memory`."""
        await trio.lowlevel.checkpoint()
        if self._popen.poll() is not None:
            raise OSError("the process has ended")
        # The number is ours until we have waited for it. What can be opened can be written to, by whoever
        # gets the descriptors: the programs before the monitor still have our rights.
        if self._separate and not _powerless(self.pid, self.uid):
            raise OSError("the process has not given up its rights yet")
        return pages.open_process(self.pid)

    def ended(self) -> int | None:
        """See `Vmm.ended`."""
        if self._pidfd >= 0:
            select.select([self._pidfd], [], [], _MOMENT)
        return self._popen.poll()

    async def stop(self) -> None:
        """See `Vmm.stop`."""
        with trio.CancelScope(shield=True):
            if self._popen.poll() is None:
                self._popen.send_signal(signal.SIGKILL)
                with trio.move_on_after(10.0):
                    await self.wait()
            async with self._turn:
                # Once, for its name may be another's afterwards.
                if self._pidfd >= 0:
                    if self._groups is not None:
                        await trio.to_thread.run_sync(self.leave)
                    self.release()

    def leave(self) -> None:
        """Remove its control group with whatever it left there. Blocks, bounded."""
        if self._groups is None:
            return
        if self._groups.outgrown(self._name):
            _log.warning("a machine was ended: its monitor took more memory than it may", machine=self._name)
        if not self._groups.end(self._name):
            _log.warning("processes of a machine that has ended live on in its group", machine=self._name)

    def release(self) -> None:
        """Give back its name and user."""
        self._forget(self._name)
        os.close(self._pidfd)
        self._pidfd = -1


def _powerless(pid: int, uid: int) -> bool:
    """Whether a process is this user's and has no rights beside. Raises OSError.

    The program that takes them away keeps some for itself until the next takes its place.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = {name: words.split() for name, _, words in (line.partition(":") for line in lines)}
    return fields["Uid"] == [str(uid)] * 4 and all(
        not int(fields[name][0], 16) for name in ("CapPrm", "CapEff", "CapBnd")
    )


def born(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot, or None when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def free_uid(ours: Iterable[int], *, first: int = FIRST_UID, rng: random.Random) -> int:
    """A user nobody has: none of ours, and not that of any process, be it of another daemon.

    Raises `LaunchFailed` when there is none left.
    """
    taken = {*ours, *_live_uids()}
    for _ in range(1000):
        uid = first + rng.randrange(UIDS)
        if uid not in taken:
            return uid
    raise LaunchFailed(f"no free user between {first} and {first + UIDS}")


def _live_uids() -> Iterable[int]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                yield entry.stat().st_uid
            except OSError:
                continue


def strays(marker: str, *, proc: Path = Path("/proc")) -> Mapping[int, str]:
    """Return pid -> `-name` value of every process that was started with a name that begins with `marker`."""
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-name" in words[:-1]:
                name = words[words.index(b"-name") + 1].decode("utf-8", "replace")
                if name.startswith(marker):
                    found[int(entry.name)] = name
    return found
