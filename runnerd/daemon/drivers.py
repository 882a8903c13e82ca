"""Which machine driver the configuration means, and how much memory its machines may take."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from runnerd.config import Config, sizes
from runnerd.config.sections import Image
from runnerd.machines.driver import Driver, NoMachine, OpenDriver, Size
from runnerd.machines.generations import Records
from runnerd.machines.journal import Journal, MachineNote
from runnerd.machines.kinds import Kind
from runnerd.messages import DescribePool, ImagesChanged, LeaseMachine, PausePool, RestoreMachine
from runnerd.store.ledger import Ledger
from runnerd.store.records import MachineNews, Stage

BOOT_TIMEOUT = 300.0
"""Seconds in which the pool must have its templates."""

LAUNCHER = Path("/run/runnerd-launcher.sock")
"""Where the launcher's unit listens."""

REAPED = "it was left behind, and reaped when the machine pool started anew"
"""Why a machine is gone whose daemon, or whose pool, could not end it."""

PoolMessage = LeaseMachine | RestoreMachine | DescribePool | PausePool | ImagesChanged
"""What the pool's mailbox carries."""

Open = Callable[[Config, Journal, Path], AbstractAsyncContextManager[Driver]]
"""How a driver is had: configuration, journal, and a folder that no other driver uses at the same time."""


def open_driver(config: Config, journal: Journal, own: Path) -> AbstractAsyncContextManager[Driver]:
    """The configured driver. Raises `NoMachine` for one that this version does not have.

    Machines are made in the folder `own`, and what an earlier driver left there is reaped; images and
    templates lie in the state directory, which several may read.
    """
    name = config.machines.driver_name
    if name == "qemu":
        from runnerd.machines.qemu.driver import open_qemu_driver

        return open_qemu_driver(
            state=own,
            images=config.state_directory / "images",
            snapshots=config.state_directory / "snapshots",
            accelerator=config.machines.accelerator,
            board=config.machines.board,
            launcher_socket=launcher_socket(config.machines.launcher),
            cgroup=config.machines.cgroup,
            journal=journal,
            ready_timeout=config.pool.ready_timeout,
            build_timeout=config.pool.build_timeout,
        )
    if name == "firecracker":
        from runnerd.machines import cgroups
        from runnerd.machines.firecracker.driver import open_firecracker_driver

        try:
            groups = cgroups.usable(config.machines.cgroup)
        except OSError as error:
            raise NoMachine(f"[machines] cgroup cannot be used: {error}") from error
        folder = config.machines.firecracker_folder
        return open_firecracker_driver(
            state=own,
            images=config.state_directory / "images",
            snapshots=config.state_directory / "snapshots",
            programs=(f"{folder}/firecracker", f"{folder}/jailer") if folder else ("firecracker", "jailer"),
            cgroup=groups.path if groups is not None and groups.version == 2 else None,
            journal=journal,
            ready_timeout=config.pool.ready_timeout,
            build_timeout=config.pool.build_timeout,
        )
    if name == "process":
        from runnerd.machines.process import open_process_driver

        return open_process_driver(root=own / "machines", journal=journal)
    if name == "fcctl":
        machines = config.machines
        if not machines.firecracker_api_url:
            raise NoMachine(
                "the fcctl driver needs the address of its service: set FIRECRACKER_API_URL, "
                "or firecracker_api_url under [machines]"
            )
        from runnerd.machines.fcctl.driver import open_fcctl_driver

        token = machines.firecracker_auth_token
        return open_fcctl_driver(
            machines.firecracker_api_url,
            token.reveal() if token is not None else None,
            state=own,
            vm_type=machines.firecracker_vm_type,
            journal=journal,
        )
    raise NoMachine(f"this version has no machine driver {name!r}: set [machines] driver to qemu")


def launcher_socket(wanted: str, *, default: Path = LAUNCHER, root: bool | None = None) -> Path | None:
    """Where the launcher listens that this daemon uses; None when it starts machines itself.

    "auto": that of the unit, where there is one and the daemon could not give machines users of their own.
    """
    if wanted != "auto":
        return Path(wanted) if wanted else None
    is_root = os.geteuid() == 0 if root is None else root
    return default if not is_root and default.exists() else None


def opener(config: Config, ledger: Ledger, open_: Open) -> OpenDriver:
    """The same as a function without arguments, with the ledger as the machines' journal (I5).

    Machines of an earlier daemon are ended, and the journal says so, before the driver is handed out.
    """

    async def journal(note: MachineNote) -> None:
        await ledger.note_machine(
            MachineNews(
                id=note.id,
                driver=note.driver,
                image=note.image,
                stage=Stage.GONE if note.state == "gone" else Stage.BUILDING,
                pid=note.pid,
                uid=note.uid,
                started=note.started or None,
                why=note.why,
            )
        )

    @asynccontextmanager
    async def opened() -> AsyncIterator[Driver]:
        async with open_(config, journal, config.state_directory) as driver:
            earlier = await ledger.machines()
            await driver.adopt_or_reap()
            for row in earlier:  # its daemon, which would have said so, was killed
                why = "; ".join(filter(None, (row.why, REAPED)))
                gone = MachineNews(id=row.id, driver=row.driver, image=row.image, stage=Stage.GONE, why=why)
                await ledger.note_machine(gone)
            yield driver

    return opened


def records(config: Config) -> Records | None:
    """Where the generations of images stand; None for a driver whose machines boot from no image of ours."""
    if config.machines.driver_name not in ("qemu", "firecracker"):
        return None
    return Records(config.state_directory / "images")


def machine_kinds(config: Config) -> dict[str, Kind]:
    """What can be asked of the pool: one kind of machine per table of [images] and size that it lists."""
    return {
        name: Kind(
            size=machine_size(config, image),
            image=image.uses,
            min_idle=None if image.min_idle < 0 else image.min_idle,
            max_total=image.max_total,
            max_idle_age=image.max_idle_age or None,
        )
        for name, image in sizes.kinds(config.images).items()
    }


def machine_size(config: Config, image: Image | None = None) -> Size:
    """The size of an image's machines: its own numbers, and those of [machines] where it has none."""
    machines, own = config.machines, image or Image()
    return Size(
        vcpus=own.vcpus or machines.vcpus,
        memory=own.memory or machines.memory,
        disk=own.disk or machines.disk,
    )


def pool_memory(config: Config, *, proc: Path = Path("/proc")) -> int:
    """MiB that all machines together may take: what the host has, less the reserve."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    total = int(fields["MemTotal"].split()[0]) // 1024
    return max(0, total - config.pool.memory_reserve)


def pool_vcpus(config: Config) -> int:
    """vCPUs that may be promised to all machines together: so many for each core we may use, at least one."""
    return max(1, int(config.pool.cpu_ratio * len(os.sched_getaffinity(0))))


def builders() -> int:
    """How many machines are made at once: one for each core we may use."""
    return len(os.sched_getaffinity(0))
