"""Machines under Firecracker and its jailer: booted once and frozen, then loaded, each in a jail of its own.

For hosts with KVM, where the daemon is root: the jailer has to be. What cannot be had is said with its cure;
nothing falls back to less isolation.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio

from runnerd import log
from runnerd.machines import accelerator, disks, generations, host, molds, reaper, snapshots
from runnerd.machines.channel import Channel
from runnerd.machines.cloning import tried_twice
from runnerd.machines.disks import MIB
from runnerd.machines.driver import Command, MachineLost, NoMachine, Paths, Size, Template
from runnerd.machines.firecracker import jail, keeping, monitor, requests, template, versions, vmlinux
from runnerd.machines.firecracker.api import ApiError
from runnerd.machines.firecracker.box import AWAKE, CAPABILITIES, LAYOUT, FirecrackerBox
from runnerd.machines.firecracker.jail import Jail
from runnerd.machines.firecracker.monitor import JailFailed, Monitor
from runnerd.machines.firecracker.versions import Refused, Version
from runnerd.machines.images import Image, wanted
from runnerd.machines.journal import FOR_TEMPLATE, Journal, MachineNote, unwritten
from runnerd.machines.launcher import FIRST_UID, LaunchFailed, free_uid
from runnerd.machines.remote import AgentMachine, Layout
from runnerd.machines.sealed import Unsealed
from runnerd.machines.snapshots import Snapshot
from runnerd.machines.workfolder import work_folder

_log = log.get(__name__)

_TROUBLE = (ApiError, JailFailed, LaunchFailed, MachineLost, OSError, ValueError, trio.TooSlowError)
_SHARED_CLONE = ("memory", "state")
_WARM = (("/bin/bash", "-c", "ls / | cat; date"), ("/usr/bin/git", "--version"))
"""What a template does before it is frozen, so that its clones have these programs in memory at once."""


@asynccontextmanager
async def open_firecracker_driver(
    *,
    state: Path,
    images: Path | None = None,
    snapshots: Path | None = None,
    programs: tuple[str, str] = ("firecracker", "jailer"),
    cgroup: str | None = None,
    journal: Journal = unwritten,
    clock: Callable[[], float] = time.time,
    random_bytes: Callable[[int], bytes] = os.urandom,
    ready_timeout: float = 2.0,
    build_timeout: float = 60.0,
    obstacles: Callable[[], str] | None = None,
    layout: Layout | None = LAYOUT,
    paths: Callable[[str], Paths] = lambda id: Paths(),
) -> AsyncIterator[FirecrackerDriver]:
    """Open the driver; leaving ends every machine it made and removes all they held.

    `programs` are firecracker and its jailer, by name or path. `cgroup` is the parent of the machines'
    control groups (version 2), None for none. `obstacles` says why this host cannot run it. Raises
    `NoMachine` with the cure.
    """
    if why := (obstacles or partial(_obstacles, state / "jails"))():
        raise NoMachine(f"the firecracker driver cannot be used: {why}")
    found = []
    for name in programs:
        if (path := shutil.which(name)) is None:
            raise NoMachine(
                f"{name} is not there: install Firecracker 1.16.1 with its jailer, or say where it is with "
                "[machines] firecracker_folder"
            )
        # As the jailer does it: release files are called after their version, and links lead to them.
        found.append(str(await trio.Path(path).resolve()))
    version = await _version(found[0])
    failed: BaseException | None = None
    async with trio.open_nursery() as nursery:
        driver = FirecrackerDriver(
            nursery,
            firecracker=found[0],
            jailer=found[1],
            version=version,
            state=state,
            images=images or state / "images",
            snapshots=snapshots or state / "snapshots",
            cgroup=cgroup,
            journal=journal,
            clock=clock,
            random_bytes=random_bytes,
            ready_timeout=ready_timeout,
            build_timeout=build_timeout,
            layout=layout,
            paths=paths,
        )
        try:
            yield driver
        except BaseException as error:
            failed = error  # the user's error leaves as it is, in no group
        finally:
            with trio.CancelScope(shield=True):
                await driver.close()
            nursery.cancel_scope.cancel()
    if failed is not None:
        raise failed


def _obstacles(jails: Path) -> str:
    if os.geteuid() != 0:
        return "its jailer has to be started by root: run the daemon as root, or use the qemu driver"
    if why := accelerator.obvious():
        return f"it needs KVM, and {why}"
    if why := jail.unfit(jails):
        return f"{why}: mount it without, or move the state directory"
    return ""


async def _version(firecracker: str) -> Version:
    done = await trio.run_process([firecracker, "--version"], capture_stdout=True, check=False)
    try:
        return versions.judge(done.stdout.decode("utf-8", "replace").partition("\n")[0])
    except Refused as refused:
        raise NoMachine(str(refused)) from refused


class FirecrackerDriver:
    """See `open_firecracker_driver` and `driver.Driver`."""

    name = "firecracker"
    capabilities = CAPABILITIES
    overhead = 16
    shared = 0

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        firecracker: str,
        jailer: str,
        version: Version,
        state: Path,
        images: Path,
        snapshots: Path,
        cgroup: str | None,
        journal: Journal,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        ready_timeout: float,
        build_timeout: float,
        layout: Layout | None,
        paths: Callable[[str], Paths],
    ) -> None:
        self._nursery = nursery
        self._firecracker = firecracker
        self._jailer = jailer
        self._version = version
        self._images = images
        self._snapshots = snapshots
        self._jails = state / "jails"
        self._cgroup = cgroup
        self._journal = journal
        self._clock = clock
        self._random = random_bytes
        self._ready_timeout = ready_timeout
        self._build_timeout = build_timeout
        self._layout = layout
        self._paths = paths
        # Short: the paths of sockets are bounded.
        self._mark = reaper.mark(state).removeprefix("runnerd-")
        self._building = trio.Lock()
        self._images_of: dict[str, Image] = {}
        self._boxes: dict[str, FirecrackerBox] = {}
        self._names: set[str] = set()
        self._probes: set[str] = set()

    async def build_template(self, image: str, size: Size, generation: str = "") -> Template:
        """See `Driver.build_template`."""
        async with self._building:
            try:
                return await self._build_template(image, size, generation)
            except _TROUBLE as error:
                raise NoMachine(f"no template of the image {image!r} could be made: {error}") from error

    async def drop_template(self, template: Template) -> None:
        """See `Driver.drop_template`. What it is on disk stays for another start."""
        self._images_of.pop(template.key, None)

    async def clone(self, template: Template) -> AgentMachine:
        """See `Driver.clone`. One that is not ready in time is destroyed, and one more is tried."""
        image = self._images_of.get(template.key)
        if image is None or template.path is None:
            raise NoMachine(f"the template {template.key} is not loaded: build it first")
        clone = partial(self._clone, image, template.key, template.path, template.size)
        return await tried_twice(clone, image=image.name, trouble=_TROUBLE)

    async def restore(self, snapshot: Path, *, key: bytes | None, size: Size | None = None) -> AgentMachine:
        """See `Driver.restore`."""
        try:
            kept = await trio.to_thread.run_sync(snapshots.load, snapshot, size)
            image = await trio.to_thread.run_sync(self._image_of, kept)
            if kept.driver != self.name or kept.template != self._key(image, kept.size):
                raise Unsealed("the image, Firecracker or the host is not what the machine was made with")
            if kept.encrypted and key is None:
                raise Unsealed("it is encrypted, and its key is not there")
            if kept.encrypted and (why := await trio.to_thread.run_sync(keeping.why_plain, self._jails)):
                raise Unsealed(why)
            return await self._restore(image, snapshot, kept, key if kept.encrypted else None)
        except (Unsealed, *_TROUBLE) as error:
            raise NoMachine(f"the snapshot {snapshot.name} cannot be gone back to: {error}") from error

    async def adopt_or_reap(self) -> int:
        """See `Driver.adopt_or_reap`: jails that no machine of ours has, with what runs in them."""
        return await trio.to_thread.run_sync(self._reap)

    async def close(self) -> None:
        """End every machine; safe to call twice."""
        async with trio.open_nursery() as nursery:
            for box in tuple(self._boxes.values()):
                nursery.start_soon(box.destroy)

    async def _build_template(self, name: str, size: Size, generation: str) -> Template:
        image = await trio.to_thread.run_sync(wanted, self._images, name, generation)
        await trio.to_thread.run_sync(self._make_folders)
        key = self._key(image, size)
        path = self._snapshots / f"firecracker-{key}"
        if not await trio.to_thread.run_sync(template.load, path, key):
            await self._freeze(image, size, path, key)
        self._images_of[key] = image
        return Template(key=key, image=name, size=size, generation=image.digest, path=path)

    def _make_folders(self) -> None:
        for folder in (self._jails, self._snapshots):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _image_of(self, kept: Snapshot) -> Image:
        """The generation that the machine was made with, if it is on disk still; else the current one."""
        image = wanted(self._images, kept.image)
        for each in generations.all_of(self._images, kept.image):
            earlier = msgspec.structs.replace(image, digest=each.digest)
            if kept.template == self._key(earlier, kept.size):
                return wanted(self._images, kept.image, each.digest)
        return image

    def _key(self, image: Image, size: Size) -> str:
        return template.key(
            version=self._version,
            image=image.digest,
            size=size,
            processor=molds.processor(),
            kernel=platform.release(),
        )

    async def _freeze(self, image: Image, size: Size, path: Path, key: str) -> None:
        """Boot an image, let it do once what every job does, and take its memory, state and disk."""
        kernel = await trio.to_thread.run_sync(self._kernel, image)
        golden = await trio.to_thread.run_sync(disks.golden, size.disk)
        working = work_folder(self._snapshots)
        work = await trio.to_thread.run_sync(working.__enter__)
        try:
            upper = await trio.to_thread.run_sync(golden.copy, self._jails)
            try:
                shared = {"kernel": kernel, "initrd": image.file("initrd"), **_disks_of(image)}
                box = await self._start(image, size, key, shared, upper, why=FOR_TEMPLATE)
            finally:
                os.close(upper)
            try:
                await self._ask(box, requests.cold_boot(size, self._version), self._build_timeout)
                machine, channel = await self._meet(box, self._build_timeout)
                await machine.thaw()
                for argv in _WARM:
                    try:
                        await machine.exec(Command(argv=argv, env={"PATH": "/usr/bin:/bin"}), _ignored)
                    except (OSError, ValueError):
                        pass  # an image without this program
                await machine.thaw()
                await channel.call("quiesce", deadline=self._build_timeout)
                channel.close("its machine is being frozen")
                await self._ask(box, requests.freeze(), max(self._build_timeout, keeping.deadline(size)))
                await trio.to_thread.run_sync(template.take, box.monitor.jail.root, work)
            finally:
                await box.destroy()
            await trio.to_thread.run_sync(template.save, work, path, key)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(working.__exit__, None, None, None)

    async def _clone(self, image: Image, key: str, path: Path, size: Size) -> AgentMachine:
        shared = {name: path / name for name in _SHARED_CLONE} | _disks_of(image)
        upper = os.open(path / "upper", os.O_RDONLY | os.O_CLOEXEC)
        try:
            box = await self._start(image, size, key, shared, upper)
        finally:
            os.close(upper)
        return await self._load(box, self._ready_timeout)

    async def _restore(self, image: Image, folder: Path, kept: Snapshot, key: bytes | None) -> AgentMachine:
        await trio.to_thread.run_sync(self._make_folders)
        upper = await trio.to_thread.run_sync(snapshots.read_disk, folder, key, kept.disk, self._jails)
        try:
            put_back = partial(keeping.put_back, folder=folder, kept=kept, key=key)
            box = await self._start(image, kept.size, kept.template, _disks_of(image), upper, put_back)
        finally:
            os.close(upper)
        machine = await self._load(box, max(self._ready_timeout, AWAKE))
        await trio.to_thread.run_sync(partial(keeping.forget, box.monitor.jail, loaded=True))
        return machine

    async def _load(self, box: FirecrackerBox, deadline: float) -> AgentMachine:
        """Make a Firecracker the machine whose memory and state are in its jail."""
        try:
            await self._ask(box, requests.load(self._version), deadline)
            machine, _ = await self._meet(box, deadline)
        except BaseException:
            await box.destroy()
            raise
        return machine

    async def _ask(self, box: FirecrackerBox, asked: tuple[requests.Request, ...], deadline: float) -> None:
        """Make requests; a refusal by a Firecracker that died is told with what is known of its end."""
        try:
            await box.monitor.api.ask_all(asked, deadline=deadline)
        except ApiError as error:
            known = box.postmortem()
            raise ApiError(f"{error} ({known})" if known else str(error)) from error

    async def _meet(self, box: FirecrackerBox, deadline: float) -> tuple[AgentMachine, Channel]:
        """Connect to the agent in a machine that runs."""
        try:
            channel = await box.meet(lambda met: self._nursery.start_soon(met.run), deadline)
        except MachineLost as error:
            known = box.postmortem()
            raise MachineLost(f"{error} ({known})" if known else str(error)) from None
        machine = AgentMachine(
            box, channel, entropy=self._random, now=self._clock, probes=self._probes, hello_deadline=deadline
        )
        return machine, channel

    async def _start(
        self,
        image: Image,
        size: Size,
        key: str,
        shared: Mapping[str, Path],
        upper: int,
        fill: Callable[[Jail], None] = lambda prison: None,
        why: str = "",
    ) -> FirecrackerBox:
        """Start a Firecracker that waits for requests, in a jail with these files and disks of its own.

        `key` is its template's; `fill` puts more into the jail, in a thread.
        """
        id = f"{self._mark}{self._random(5).hex()}"
        note = MachineNote(id=id, driver=self.name, image=image.name, state="starting", why=why)
        self._names.add(id)
        try:
            await self._journal(note)
            job = disks.empty(self._jails, disks.JOB_SLOT * MIB)
            try:
                prison = Jail(self._jails, id, self._free_uid(), os.path.basename(self._firecracker))
                await trio.to_thread.run_sync(prison.prepare, shared, {"upper": upper, "job": job}, fill)
            finally:
                os.close(job)
            running = await self._start_in(prison, size)
            box = FirecrackerBox(
                id=id,
                image=image.name,
                monitor=running,
                template=key,
                size=size,
                gone=self._gone,
                layout=self._layout,
                paths=self._paths(id),
            )
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._gone(id)
            raise
        self._boxes[id] = box
        try:
            await self._journal(
                MachineNote(
                    id=id,
                    driver=self.name,
                    image=image.name,
                    state="running",
                    pid=running.pid,
                    uid=prison.uid,
                )
            )
        except BaseException:
            await box.destroy()
            raise
        return box

    async def _start_in(self, prison: Jail, size: Size) -> Monitor:
        memory = size.memory + self.overhead
        if await trio.to_thread.run_sync(disks.in_memory, self._jails):
            memory += size.disk + size.memory  # what it writes into its jail counts as well
        command = jail.command(
            self._jailer,
            self._firecracker,
            prison,
            base=self._jails,
            memory=memory,
            cgroup=self._cgroup,
        )
        running = await monitor.start(command, prison, environment={"PATH": host.SEARCH})
        try:
            await running.listens()
            said = versions.judge(await running.api.version())
            if said != self._version:
                raise JailFailed(f"Firecracker {said} was started in place of {self._version}")
        except BaseException:
            await running.stop()
            raise
        return running

    def _free_uid(self) -> int:
        ours = (box.monitor.jail.uid for box in self._boxes.values())
        return free_uid(ours, first=FIRST_UID, rng=random.SystemRandom())

    def _kernel(self, image: Image) -> Path:
        """The image's kernel as Firecracker boots it, unpacked once for each."""
        path = self._snapshots / f"vmlinux-{image.parts['kernel'].sha256[:32]}"
        if not path.exists():
            with work_folder(self._snapshots) as work:
                new = work / path.name
                new.write_bytes(vmlinux.extract(image.file("kernel").read_bytes()))
                new.replace(path)
        return path

    def _reap(self) -> int:
        left = [prison for prison in jail.left(self._jails, self._mark) if prison.id not in self._names]
        for prison in left:
            for pid in monitor.running(prison.id):
                monitor.kill(pid)
            prison.remove()
            self._leave_group(prison.id)
            _log.warning("ended a machine that an earlier daemon left", machine=prison.id)
        return len(left)

    def _leave_group(self, id: str) -> None:
        if self._cgroup is not None:
            try:
                Path("/sys/fs/cgroup", self._cgroup, id).rmdir()
            except OSError:
                pass

    async def _gone(self, id: str) -> None:
        """A machine's process and files are gone."""
        box = self._boxes.pop(id, None)
        self._names.discard(id)
        self._leave_group(id)
        image = box.image if box else ""
        try:
            with trio.move_on_after(5.0):
                await self._journal(MachineNote(id=id, driver=self.name, image=image, state="gone"))
        except Exception:
            _log.exception("the end of a machine could not be written down", machine=id)


def _disks_of(image: Image) -> dict[str, Path]:
    return {"agent": image.file("agent"), "image": image.file("rootfs")}


async def _ignored(stream: str, data: bytes) -> None:
    """What a template's programs print concerns nobody."""
