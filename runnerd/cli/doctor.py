"""`runnerd doctor`: what this host can do, and the cure for what it cannot."""

from __future__ import annotations

import json as plain_json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from runnerd.cli import options
from runnerd.cli.output import Code, show_json
from runnerd.model import Finding

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.machines.cgroups import Attribute
    from runnerd.machines.driver import Size

DISK_WANTED = 5 << 30
DISK_NEEDED = 256 << 20
"""Bytes without which hardly a delivery can be stored and no machine be made."""


def doctor(
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Also make a machine, use it, go back in it, and end it.")
    ] = False,
) -> None:
    """Look at everything machines and the daemon need; exit 1 if there is a problem."""
    settings = options.load_config(config, state_directory=state)
    findings = tuple(examine(settings))
    if selftest:
        from runnerd.cli import selftest as tried

        findings += tuple(tried.selftest(settings))
    if json:
        show_json([msgspec.structs.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:<8} {finding.about}: {finding.found}")
            if finding.cure:
                typer.echo(f"         → {finding.cure}")
    problem = any(finding.verdict == "problem" for finding in findings)
    raise typer.Exit(Code.NOT_GREEN if problem else Code.GREEN)


def examine(settings: Config) -> Iterable[Finding]:
    """Look at this host; nothing is changed."""
    from runnerd.daemon import drivers
    from runnerd.machines import accelerator, host, images

    yield programs(host.missing(), host.install_command(host.missing(), root=os.geteuid() == 0))
    yield git(shutil.which("git"))
    if settings.machines.driver_name == "qemu" and (program := host.find("qemu-system-x86_64")):
        yield qemu(program, settings.machines.board)
    if settings.machines.driver_name == "fcctl":
        yield remote_service(settings, now=time.time())
    if settings.machines.driver_name == "firecracker":
        folder = settings.machines.firecracker_folder
        found = {name: _version(name, folder) for name in ("firecracker", "jailer")}
        yield firecracker(found, root=os.geteuid() == 0, why_no_kvm=accelerator.obvious())
        if settings.snapshots.secrets:
            yield firecracker_secrets(settings.state_directory / "jails")
    probed = settings.state_directory / "snapshots" / "kvm.json"
    yield kvm(accelerator.obvious(), _kept(probed), settings.machines.accelerator)
    yield from deliveries(settings.state_directory / "ledger.db")
    yield privilege(os.geteuid() == 0, drivers.launcher_socket(settings.machines.launcher))
    if settings.machines.driver_name == "fcctl":
        yield remote_room(settings.pool.max_total)
    else:
        meminfo = Path("/proc/meminfo").read_text()
        yield memory(meminfo, each=settings.machines.memory, reserve=settings.pool.memory_reserve)
        kinds = {name: kind.size for name, kind in drivers.machine_kinds(settings).items()}
        room = drivers.pool_memory(settings), drivers.pool_vcpus(settings)
        yield from too_large(kinds, memory=room[0], vcpus=room[1])
    yield disk(settings.state_directory)
    yield cgroup(settings.machines.cgroup, launcher=drivers.launcher_socket(settings.machines.launcher))
    for name in {wanted.uses or name: None for name, wanted in settings.images.items()}:
        yield image(name, images.current(settings.state_directory / "images", name) is not None)
    reason = settings.why_not_serve()
    yield Finding("webhook secret", "warning", reason) if reason else Finding("webhook secret", "good", "set")
    yield identity(named=settings.forge.named, app=settings.forge.as_app, kind=settings.forge.kind)


def identity(*, named: bool, app: bool, kind: str) -> Finding:
    """Judge in whose name results are told; `runnerd connect` asks the forge what it may."""
    if not named:
        return Finding(
            "forge",
            "warning",
            "nobody to speak as: reports are written to files",
            "set [forge] app_id and app_private_key, or GITHUB_TOKEN, then `runnerd connect OWNER/REPO`",
        )
    if app:
        return Finding("forge", "good", "a GitHub App")
    if kind == "github":
        return Finding(
            "forge",
            "good",
            "a personal token: commit statuses, and jobs without a token; an App does more",
        )
    return Finding("forge", "good", f"a token of {kind}")


def programs(missing: tuple[str, ...], command: str) -> Finding:
    """Judge whether the programs that build and run machines are there."""
    if missing:
        return Finding("programs", "problem", f"missing: {', '.join(missing)}", command)
    return Finding("programs", "good", "all that machines need is installed")


def git(path: str | None) -> Finding:
    """Judge whether commits can be read."""
    return Finding("git", "good", path) if path else Finding("git", "problem", "missing", "install git")


def qemu(program: str, board: str) -> Finding:
    """Ask QEMU what it can do, and judge whether machines can be made with it."""
    import trio

    from runnerd.machines.qemu import abilities

    try:
        able = trio.run(abilities.probe, program)
        found = f"{able.version}: machines are of type {able.board(board)}"
    except abilities.Unusable as error:
        return Finding("QEMU", "problem", str(error), "install another version, or mend [machines] board")
    if able.snapshots:
        return Finding("QEMU", "good", found)
    return Finding("QEMU", "warning", f"{found}; no job can go back to a step", "install another version")


def remote_service(settings: Config, *, now: float) -> Finding:
    """Ask the remote Firecracker service whether it would give a machine, and judge its token's time."""
    import trio

    from runnerd.machines.fcctl.service import Machines, ServiceTrouble, open_service, token_trouble

    about, address = "Firecracker service", settings.machines.firecracker_api_url
    if not address:
        return Finding(about, "problem", "its address is not known", "set FIRECRACKER_API_URL")
    secret = settings.machines.firecracker_auth_token
    token = secret.reveal() if secret is not None else None
    if token_trouble(token, now, ahead=0.0):
        return Finding(about, "problem", token_trouble(token, now))

    async def ask() -> Machines:
        async with open_service(address, token) as service:
            await service.health()
            return await service.machines()

    try:
        there = trio.run(ask)
    except ServiceTrouble as trouble:
        return Finding(
            about, "problem", str(trouble), "start the service, or set FIRECRACKER_AUTH_TOKEN anew"
        )
    if soon := token_trouble(token, now):
        return Finding(about, "warning", soon)
    if there.usage.at_capacity:
        found = f"{address} has no room: {len(there.vms)} machines"
        return Finding(about, "warning", found, "release machines there, or raise the account's quota")
    return Finding(about, "good", f"{address} is well and takes the token; {len(there.vms)} machines")


def firecracker(said: Mapping[str, str | None], *, root: bool, why_no_kvm: str) -> Finding:
    """Judge whether the firecracker driver can be used: by what its two programs say they are, or None."""
    from runnerd.machines.firecracker import versions

    about = "Firecracker"
    if absent := [name for name, words in said.items() if words is None]:
        return Finding(
            about, "problem", f"{' and '.join(absent)} cannot be run",
            "install Firecracker 1.16.1 with its jailer, or set [machines] firecracker_folder",
        )  # fmt: skip
    try:
        version = versions.judge(said["firecracker"] or "")
        jailer = versions.judge((said["jailer"] or "").replace("Jailer", "", 1))
    except versions.Refused as refused:
        return Finding(about, "problem", str(refused), "install Firecracker 1.16.1 with its jailer")
    if version != jailer:
        found = f"Firecracker is {version} and its jailer {jailer}"
        return Finding(about, "problem", found, "install both from one release")
    if not root:
        found = f"{version}; its jailer has to be started by root"
        return Finding(about, "problem", found, "run the daemon as root, or use the qemu driver")
    if why_no_kvm:
        return Finding(about, "problem", f"{version}; it needs KVM: {why_no_kvm}", "use the qemu driver")
    return Finding(about, "good", f"{version}; `runnerd doctor --selftest` makes a machine with it")


def firecracker_secrets(jails: Path) -> Finding:
    """Judge whether machines of jobs that were given secrets can be kept, as [snapshots] secrets wants it."""
    from runnerd.machines.firecracker import keeping

    about = "machines with secrets"
    if why := keeping.why_plain(jails):
        cure = f"mount a tmpfs at {jails}, with room for the disks and twice the memory of each machine"
        return Finding(about, "warning", f"they are not kept: {why}", cure)
    return Finding(about, "good", f"they can be kept: {jails} is in memory")


def _version(program: str, folder: str) -> str | None:
    """The first line of what a program says with --version; None when it cannot be run."""
    path = f"{folder}/{program}" if folder else shutil.which(program)
    try:
        done = subprocess.run([path or program, "--version"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").partition("\n")[0]


def kvm(why_not: str, tried: tuple[bool, str] | None, accelerator: str) -> Finding:
    """Judge what machines run on.

    `why_not` is what shows without trying; `tried` is the verdict of the last probe, which booted a machine.
    """
    wrong: Literal["warning", "problem"] = "problem" if accelerator == "kvm" else "warning"
    emulated = "machines run under software emulation, slower and for trusted code only"
    if accelerator == "tcg":
        return Finding("KVM", "warning", f"not used, as configured: {emulated}")
    if why_not:
        return Finding(
            "KVM", wrong, f"{why_not}: {emulated}", "use a host, or a virtual machine, that offers KVM"
        )
    if tried is None:
        return Finding("KVM", "good", "its device can be opened; the first template shows whether it works")
    works, why = tried
    return Finding("KVM", "good", "works") if works else Finding("KVM", wrong, f"{why}: {emulated}")


def deliveries(ledger: Path) -> Iterable[Finding]:
    """Say what the daemon learnt when it asked the forge what it delivered; nothing where it never did."""
    from runnerd.store import intake
    from runnerd.store.errors import LedgerUnavailable

    try:
        marks = intake.look(ledger)
    except LedgerUnavailable as error:
        yield Finding("deliveries", "warning", str(error))
        return
    for mark in marks:
        about = f"deliveries of {mark.source}"
        if mark.problem:
            yield Finding(
                about, "warning", f"what was missed is not recovered: {mark.problem}",
                "let the token read webhooks (Webhooks: read), or be a GitHub App",
            )  # fmt: skip
        if mark.gap_from is not None and mark.gap_to is not None:
            yield Finding(
                about, "warning",
                f"the daemon was away for longer than the forge remembers: from {_moment(mark.gap_from)} to "
                f"{_moment(mark.gap_to)} deliveries may be missing",
                "push again, or start by hand, what should have run then",
            )  # fmt: skip
        elif not mark.problem:
            yield Finding(about, "good", f"none is missing up to {_moment(mark.read_to)}")


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _kept(path: Path) -> tuple[bool, str] | None:
    """Read the verdict that the driver keeps."""
    try:
        verdict = plain_json.loads(path.read_bytes())
        return bool(verdict["works"]), str(verdict.get("why", ""))
    except (OSError, ValueError, LookupError):
        return None


def privilege(root: bool, launcher: Path | None) -> Finding:
    """Judge whether machines get users of their own: from a root daemon, or from the launcher at a socket."""
    if launcher is not None and not launcher.is_socket():
        return Finding(
            "privilege", "problem", f"no launcher listens at {launcher}", "start runnerd-launcher.socket"
        )
    if launcher is not None:
        return Finding("privilege", "good", f"{launcher} starts every machine under a user of its own")
    if root:
        return Finding("privilege", "good", "root: every machine runs under a user of its own")
    return Finding(
        "privilege",
        "warning",
        "not root: machines share this user, so that who escapes from one reaches the daemon's files",
        "enable runnerd-launcher.socket, or run only code that you trust",
    )


def memory(meminfo: str, *, each: int, reserve: int) -> Finding:
    """Judge how many machines fit into the memory that is free now; sizes in MiB."""
    fields = dict(line.split(":", 1) for line in meminfo.splitlines() if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) // 1024
    fit = max(0, (available - reserve) // each)
    found = (
        f"{available} MiB are free, room for {fit} machines of {each} MiB beside a reserve of {reserve} MiB"
    )
    if fit:
        return Finding("memory", "good", found)
    return Finding("memory", "problem", found, "make [machines] memory or [pool] memory_reserve smaller")


def too_large(kinds: Mapping[str, Size], *, memory: int, vcpus: int) -> Iterable[Finding]:
    """Name each kind of machine that never fits into an empty pool: a job that wants one waits for ever."""
    for name, size in kinds.items():
        if size.memory > memory or size.vcpus > vcpus:
            yield Finding(
                f"machines of {name}",
                "problem",
                f"{size.vcpus} vCPUs and {size.memory} MiB never fit: all machines together have "
                f"{vcpus} vCPUs and {memory} MiB",
                f"make images.{name} smaller or take the size out of [images], "
                "or change [pool] cpu_ratio or memory_reserve",
            )


def remote_room(max_total: int) -> Finding:
    """Judge what limits machines of another host, whose memory and processors are not ours."""
    if max_total:
        return Finding(
            "machines", "good", f"{max_total} on the other host at most; none take memory of this one"
        )
    return Finding(
        "machines",
        "warning",
        "nothing here limits how many the other host is asked for: its memory is not known",
        "set [pool] max_total",
    )


def disk(state: Path) -> Finding:
    """Judge the space where the state is, or will be."""
    existing = next(folder for folder in (state, *state.parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        what = "cannot be written" if existing.is_dir() else "is no folder"
        return Finding(
            "disk", "problem", f"{existing} {what}", "set STATE_DIRECTORY to a folder that can be written"
        )
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.1f} GiB are free at {existing}"
    if free < DISK_WANTED:
        verdict: Literal["warning", "problem"] = "problem" if free < DISK_NEEDED else "warning"
        cure = f"an image, its template and logs want {DISK_WANTED >> 30} GiB"
        return Finding("disk", verdict, found, cure)
    return Finding("disk", "good", found)


def cgroup(
    wanted: str = "auto",
    *,
    launcher: Path | None = None,
    own: Path = Path("/proc/self/cgroup"),
    root: Path = Path("/sys/fs/cgroup"),
    attribute: Attribute = os.getxattr,
) -> Finding:
    """Judge which of a machine's bounds the kernel can hold: memory, processes, processors.

    What is handed over is judged where it is: in this process's group, or in that of the unit that runs.
    """
    from runnerd.machines import cgroups

    about, without = (
        "cgroup",
        "only limits of their process bound machines, and nothing the processors they use",
    )
    option = "give its unit's `runnerd launcher` --cgroup" if launcher else "name one in [machines] cgroup"
    if launcher is None and wanted != "auto":
        return (
            _named(wanted, root) if wanted else Finding(about, "warning", f"none, as configured: {without}")
        )
    if not (root / "cgroup.controllers").exists():
        kind = "version 1 beside an idle version 2" if (root / "unified").exists() else "version 1"
        found = f"this host has {kind}, of which systemd hands nothing over: {without}"
        return Finding(
            about, "warning", found, f"{option}, such as memory/runnerd, or boot with version 2 alone"
        )
    unit = "runnerd-launcher.service" if launcher else "runnerd.service"
    running = root / "system.slice" / unit
    group = cgroups.delegated(own=own, root=root, attribute=attribute) if launcher is None else None
    if group is None and cgroups.marked(running, attribute):
        group = running
    if group is not None:
        return _bounds(group, root)
    found = f"none is handed over, here or to a running {unit}: {without}"
    return Finding(about, "warning", found, f"start it by systemd/{unit}, which has Delegate=, or {option}")


def _named(wanted: str, root: Path) -> Finding:
    """Judge the group that an operator named."""
    folder = root / wanted.removeprefix(f"{root}/").strip("/")
    if os.access(folder if folder.exists() else folder.parent, os.W_OK):
        return _bounds(folder, root)
    return Finding(
        "cgroup", "problem", f"{folder} is not ours", "make it for the daemon, or mend [machines] cgroup"
    )


def _bounds(folder: Path, root: Path) -> Finding:
    """Say what the groups below a folder of ours bound, or would if it were made."""
    from runnerd.machines import cgroups

    kinds = {"memory": "memory", "pids": "processes", "cpu": "processors"}
    there = cgroups.controllers(folder, root=root)
    held = ", ".join(kind for name, kind in kinds.items() if name in there)
    absent = " and ".join(kind for name, kind in kinds.items() if name not in there)
    if "memory" not in there:
        cure = "delegate it (Delegate=, cgroup.subtree_control), or mend [machines] cgroup"
        return Finding("cgroup", "problem", f"{folder} has no memory controller", cure)
    found = f"below {folder} the kernel bounds each machine's {held}"
    if absent:
        return Finding("cgroup", "warning", f"{found}, but not {absent}", "delegate cpu and pids as well")
    return Finding("cgroup", "good", found)


def image(name: str, built: bool) -> Finding:
    """Judge whether machines of this image can start."""
    if built:
        return Finding(f"image {name}", "good", "built")
    return Finding(f"image {name}", "warning", "not built yet", f"runnerd image build {name}")
