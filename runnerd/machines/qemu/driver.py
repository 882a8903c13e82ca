"""Every machine is a QEMU of its own, cloned from a template that was booted once.

Uses KVM where that really works and software emulation otherwise, which is no security boundary and says
so in its capabilities.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from runnerd import log
from runnerd.machines import accelerator as accelerators
from runnerd.machines import cgroups, disks, generations, host, molds, reaper, snapshots, template, tsc
from runnerd.machines.channel import Channel
from runnerd.machines.cloning import tried_twice
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Capabilities, MachineLost, NoMachine, Size, Template
from runnerd.machines.images import Image, wanted
from runnerd.machines.journal import Journal, unwritten
from runnerd.machines.launch_client import open_launch_client
from runnerd.machines.launcher import Launcher, LaunchFailed, open_launcher
from runnerd.machines.molds import Mold
from runnerd.machines.qemu import devices, migration, vmm
from runnerd.machines.qemu.abilities import Abilities, Unusable, probe
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.freezing import patience, warm
from runnerd.machines.qemu.qmp import QmpError
from runnerd.machines.qemu.starter import DRIVER, Starter, explained
from runnerd.machines.rehearsal import rehearse
from runnerd.machines.remote import AgentMachine
from runnerd.machines.sealed import Unsealed
from runnerd.machines.snapshots import Snapshot
from runnerd.machines.template import Frozen

_log = log.get(__name__)

_AWAKE = 5.0
"""Seconds in which a machine that was kept in the middle of its work answers again."""

_ELSE = "the image, its template, QEMU or the host is not what the machine was made with"
_TROUBLE = (QmpError, LaunchFailed, MachineLost, OSError, ValueError)
"""What starting a machine may fail with; anything else is a fault of this program."""


@asynccontextmanager
async def open_qemu_driver(
    *,
    state: Path,
    program: str = "qemu-system-x86_64",
    images: Path | None = None,
    snapshots: Path | None = None,
    accelerator: str = "auto",
    board: str = "auto",
    launcher: Launcher | None = None,
    launcher_socket: Path | None = None,
    cgroup: str = "auto",
    journal: Journal = unwritten,
    clock: Callable[[], float] = time.time,
    random: Callable[[int], bytes] = os.urandom,
    ready_timeout: float = 2.0,
    build_timeout: float = 60.0,
) -> AsyncIterator[QemuDriver]:
    """Open the driver; leaving ends every machine it made and removes all they held.

    `state` is the daemon's state directory: no two drivers share one. `program` is QEMU, by name or path.
    `images` and `snapshots` are the folders of images and of frozen templates, by default inside it; these
    may be shared.
    `launcher_socket` is where a launcher of its own listens; without one it runs in this process, and
    `cgroup` says which control group its machines have, as `cgroups.usable` reads it.
    `accelerator` is `auto`, `kvm` or `tcg`, `board` is `auto`, `microvm` or `q35`. `journal` hears of a
    machine before its process is started and when it is gone. A clone that does not answer within
    `ready_timeout` seconds is killed and tried once more; a template must come up within `build_timeout`, or
    longer where it is emulated (`freezing.patience`).
    Raises `NoMachine` with the cure when the host lacks a program, QEMU is one that cannot be used, or the
    launcher is not there, ValueError for an unknown accelerator.
    """
    if accelerator not in ("auto", "kvm", "tcg"):
        raise ValueError(f"{accelerator!r} is no accelerator: use auto, kvm or tcg")
    try:
        qemu, *_ = host.require(program, "mke2fs", "choom", "prlimit", "setpriv")
    except FileNotFoundError as error:
        raise NoMachine(str(error)) from error
    try:
        abilities = await probe(qemu)
        board_ = abilities.board(board)
    except Unusable as error:
        raise NoMachine(str(error)) from error
    failed: BaseException | None = None
    async with AsyncExitStack() as stack:
        if launcher is None:
            try:
                opening: AbstractAsyncContextManager[Launcher] = (
                    open_launch_client(launcher_socket)
                    if launcher_socket
                    else open_launcher(groups=cgroups.usable(cgroup))
                )
                launcher = await stack.enter_async_context(opening)
            except LaunchFailed as error:
                raise NoMachine(str(error)) from error
            except OSError as error:
                raise NoMachine(f"machines cannot have the control group {cgroup!r}: {error}") from error
        nursery = await stack.enter_async_context(trio.open_nursery())
        driver = QemuDriver(
            nursery,
            qemu=qemu,
            abilities=abilities,
            board=board_,
            state=state,
            images=images or state / "images",
            snapshots=snapshots or state / "snapshots",
            wanted=accelerator,
            launcher=launcher,
            journal=journal,
            clock=clock,
            random=random,
            ready_timeout=ready_timeout,
            build_timeout=build_timeout,
        )
        try:
            yield driver
        except BaseException as error:
            # The user's error leaves as it is, not wrapped in a group by our nursery.
            failed = error
        finally:
            with trio.CancelScope(shield=True):
                await driver.close()
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


class QemuDriver:
    """See `open_qemu_driver` and `driver.Driver`."""

    name = DRIVER

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        qemu: str,
        abilities: Abilities,
        board: vmm.Board,
        state: Path,
        images: Path,
        snapshots: Path,
        wanted: str,
        launcher: Launcher,
        journal: Journal,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
        ready_timeout: float,
        build_timeout: float,
    ) -> None:
        self._nursery = nursery
        self._qemu = qemu
        self._version = abilities.version
        self._board = board
        self._keeps = abilities.snapshots
        self._images = images
        self._snapshots = snapshots
        self._launcher = launcher
        self._clock = clock
        self._random = random
        self._ready_timeout = ready_timeout
        self._build_timeout = build_timeout
        self._mark = reaper.mark(state)
        self._disks = state / "machines"
        self._building = trio.Lock()
        self._molds: dict[str, Mold] = {}
        self._given: set[str] = set()
        """The keys of templates that somebody has; any other is there for a machine that is brought back."""
        self._machines = Starter(
            nursery,
            qemu=qemu,
            channels=abilities.channels,
            launcher=launcher,
            mark=self._mark,
            journal=journal,
            random=random,
        )
        self._probes: set[str] = set()
        self._accelerator: vmm.Accelerator | None = None
        if wanted != "auto":
            self._accelerator = "kvm" if wanted == "kvm" else "tcg"
        elif accelerators.obvious():
            self._accelerator = "tcg"

    @property
    def capabilities(self) -> Capabilities:
        """What these machines can do. Until KVM was seen to work they count as emulated."""
        emulated = self._accelerator != "kvm"
        separate = self._launcher.separate
        return Capabilities(
            isolated=True, emulated=emulated, separate=separate, snapshot=self._keeps, egress=True
        )

    @property
    def overhead(self) -> int:
        """MiB a machine costs beside its guest memory."""
        return vmm.OVERHEAD[self._accelerator or "tcg"]

    @property
    def shared(self) -> int:
        """MiB of the memory that clones share."""
        return sum(mold.frozen.held for mold in self._molds.values() if mold.frozen is not None) >> 20

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """See `Driver.build_template`."""
        template = await self._made(image, size, generation)
        self._given.add(template.key)
        return template

    async def drop_template(self, template: Template) -> None:
        """See `Driver.drop_template`."""
        self._given.discard(template.key)
        self._let_go(template.key)

    async def clone(self, template: Template) -> AgentMachine:
        """See `Driver.clone`. One that is not ready in time is destroyed, and one more is tried."""
        mold = self._molds.get(template.key)
        if mold is None or mold.frozen is None:
            raise NoMachine(f"the template {template.key} is not loaded: build it first")
        with mold.in_use():
            clone = partial(self._clone, mold, mold.frozen)
            return await tried_twice(clone, image=mold.image.name, trouble=_TROUBLE)

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> AgentMachine:
        """See `Driver.restore`."""
        try:
            kept = await trio.to_thread.run_sync(snapshots.load, snapshot, size)
            if kept.driver != self.name:
                raise Unsealed(f"it was made by the driver {kept.driver}")
            if kept.encrypted and key is None:
                raise Unsealed("it is encrypted, and its key is not there")
            if kept.template not in self._molds:
                await self._made(kept.image, kept.size, await self._generation_of(kept))
            mold = self._molds.get(kept.template)
            if mold is None or mold.frozen is None:
                raise Unsealed(_ELSE)
            try:
                with mold.in_use():
                    if mold.frozen.cast != kept.cast:
                        raise Unsealed("the template that it is a change of is gone: another was made since")
                    key = key if kept.encrypted else None
                    return await self._restore(mold, mold.frozen, snapshot, kept, key)
            finally:
                self._let_go(kept.template)
        except (Unsealed, *_TROUBLE) as error:
            raise NoMachine(f"the snapshot {snapshot.name} cannot be gone back to: {error}") from error

    async def adopt_or_reap(self) -> int:
        """See `Driver.adopt_or_reap`. A machine is cheap to make and hard to trust again: all are ended."""
        names = await trio.to_thread.run_sync(
            lambda: reaper.reap(
                self._mark, spare=self._machines.names.__contains__, groups=self._launcher.groups
            )
        )
        for name in names:
            _log.warning("ended a machine that an earlier daemon left", machine=name)
        return len(names)

    async def close(self) -> None:
        """End every machine and let go of every template; safe to call twice."""
        await self._machines.close()
        for mold in self._molds.values():
            mold.close()
        self._molds.clear()

    def _let_go(self, key: str) -> None:
        """Drop a template that nobody was given; who restores a machine of it at the moment keeps it."""
        if key not in self._given and (mold := self._molds.pop(key, None)) is not None:
            mold.close()

    async def _generation_of(self, kept: Snapshot) -> str:
        """The generation of its image that a kept machine was made with. Raises Unsealed when it is gone.

        So is its template: a new one would be another than the machine changed.
        """
        if await trio.to_thread.run_sync(template.is_saved, self._snapshots, kept.template):
            for each in await trio.to_thread.run_sync(generations.all_of, self._images, kept.image):
                try:
                    image = await trio.to_thread.run_sync(wanted, self._images, kept.image, each.digest)
                except NoMachine:
                    continue  # this one is damaged; another may be it
                if (await self._spec(image, kept.size))[1] == kept.template:
                    return each.digest
        raise Unsealed(_ELSE)

    async def _spec(self, image: Image, size: Size) -> tuple[vmm.Spec, str]:
        """What machines of an image and size have in common, and the key of their template."""
        if self._accelerator is None:
            self._accelerator = await self._try_kvm(image)
        khz = await trio.to_thread.run_sync(tsc.khz)
        spec = vmm.Spec(
            qemu=self._qemu, board=self._board, accelerator=self._accelerator, size=size, tsc_khz=khz
        )
        return spec, molds.key(spec, version=self._version, image=image, processor=molds.processor())

    async def _made(self, image: str, size: Size, generation: str) -> Template:
        async with self._building:
            try:
                return await self._build_template(image, size, generation)
            except _TROUBLE as error:
                raise NoMachine(f"no template of the image {image!r} could be made: {error}") from error

    async def _build_template(self, name: str, size: Size, generation: str) -> Template:
        image = await trio.to_thread.run_sync(wanted, self._images, name, generation)
        for folder in (self._disks, self._snapshots):
            await trio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True, exist_ok=True))
        spec, key = await self._spec(image, size)
        if key not in self._molds:
            golden = await trio.to_thread.run_sync(disks.golden, size.disk)
            mold = Mold(key, image, spec, golden, self._disks)
            try:
                mold.frozen = await trio.to_thread.run_sync(template.load, self._snapshots, key)
                if mold.frozen is None:
                    mold.frozen = await self._freeze(mold, key)
                    await trio.to_thread.run_sync(template.save, self._snapshots, mold.frozen)
            except BaseException:
                mold.close()
                raise
            self._molds[key] = mold
        path = self._snapshots / f"template-{key}"
        return Template(key=key, image=name, size=size, generation=image.digest, path=path)

    async def _try_kvm(self, image: Image) -> vmm.Accelerator:
        files = {name: os.open(image.file(name), os.O_RDONLY | os.O_CLOEXEC) for name in ("kernel", "initrd")}
        try:
            verdict = await accelerators.verdict(
                self._launcher,
                qemu=self._qemu,
                board=self._board,
                key=f"{self._version} as {self._board} on {platform.release()} with"
                f" {image.parts['kernel'].sha256}",
                files=files,
                cache=self._snapshots / "kvm.json",
            )
        finally:
            for descriptor in files.values():
                os.close(descriptor)
        if not verdict.works:
            _log.info("machines are emulated", reason=verdict.why)
        return "kvm" if verdict.works else "tcg"

    async def _freeze(self, mold: Mold, key: str) -> Frozen:
        """Boot an image, let it do once what every job does, and take its memory, state and disk."""
        memory = template.memory_file("runnerd-template", mold.spec.size.memory * MIB)
        try:
            with mold.machine_files(memory) as files:
                box = await self._start(mold, vmm.Purpose.TEMPLATE, files)
                try:
                    timeout = patience(self._build_timeout, emulated=self.capabilities.emulated)
                    machine, channel = self._inhabited(box, hello_deadline=timeout)
                    await warm(machine, box, channel, timeout=timeout)
                    await box.vm.qmp.negotiate(deadline=5.0)
                    await box.vm.qmp.command("stop")
                    # Only now: an agent whose port was closed naps between its looks at it.
                    channel.close("its machine was frozen")
                    state = await migration.save(box.vm.qmp)
                    upper = await trio.to_thread.run_sync(disks.content, files["upper"])
                finally:
                    # Kills it: what QEMU would do on `quit` beyond that concerns disks nobody reads again.
                    await box.destroy()
            return Frozen(key, memory, state, upper)
        except BaseException:
            os.close(memory)
            raise

    async def _clone(self, mold: Mold, frozen: Frozen) -> AgentMachine:
        with mold.machine_files(frozen.memory) as files:
            box = await self._start(mold, vmm.Purpose.CLONE, files)
        try:
            machine, channel = self._inhabited(
                box, rehearsal=rehearse if self.capabilities.emulated else None
            )
            await explained(box, box.vm.qmp.negotiate(deadline=self._ready_timeout))
            await explained(box, migration.load(box.vm.qmp, frozen.state, deadline=self._ready_timeout))
            await box.vm.qmp.command("cont", deadline=self._ready_timeout)
            await explained(box, channel.connect(self._ready_timeout))
        except BaseException:
            await box.destroy()
            raise
        return machine

    async def _restore(
        self, mold: Mold, frozen: Frozen, folder: Path, kept: Snapshot, key: bytes | None
    ) -> AgentMachine:
        """A clone that is given what the kept one had changed, before it runs."""
        state = await trio.to_thread.run_sync(devices.load, frozen.state, folder, key, kept.state)
        disk = await trio.to_thread.run_sync(snapshots.read_disk, folder, key, kept.disk, self._disks)
        try:
            with mold.machine_files(frozen.memory) as files:
                box = await self._start(mold, vmm.Purpose.CLONE, {**files, "upper": disk})
        finally:
            os.close(disk)
        try:
            machine, channel = self._inhabited(box)
            await explained(box, box.vm.qmp.negotiate(deadline=self._ready_timeout))
            await box.load_memory(folder, key, kept.memory)
            await explained(box, migration.load(box.vm.qmp, state))
            await box.vm.qmp.command("cont", deadline=self._ready_timeout)
            await explained(box, channel.connect(max(self._ready_timeout, _AWAKE)))
        except BaseException:
            await box.destroy()
            raise
        return machine

    async def _start(self, mold: Mold, purpose: vmm.Purpose, files: Mapping[str, int]) -> QemuBox:
        return await self._machines.start(mold, purpose, files, self.capabilities)

    def _inhabited(self, box: QemuBox, **fields: Any) -> tuple[AgentMachine, Channel]:
        """The machine behind a box's agent, whose channel is served until it ends."""
        channel = Channel(box.vm.agent)
        self._nursery.start_soon(channel.run)
        machine = AgentMachine(
            box, channel, entropy=self._random, now=self._clock, probes=self._probes, **fields
        )
        return machine, channel
