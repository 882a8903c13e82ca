"""Control groups of version 2 as the kernel has them, tried inside a machine, as root.

It plays systemd: it mounts the hierarchy, and for each scene makes a unit's group, hands it over and starts a
daemon in it, for one as another user. What the scenes found is printed as JSON.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from runnerd.machines.cgroups import ROOT, Bounds, Groups, usable
from runnerd.machines.launcher import Order, Vmm, born, open_launcher
from runnerd.machines.reaper import reap

USER = 1001
TIME = 100
"""Seconds in which a scene is over, or shows where it hangs."""
SLICE = ROOT / "system.slice"
MARK = "runnerd-0-"


def main() -> None:
    """Play systemd, and what it starts."""
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", ROOT], check=True)
    print(json.dumps({scene: started(scene) for scene in SCENES}))


def started(scene: str) -> Any:
    """What a daemon found that was started in a unit of its own."""
    reading, writing = os.pipe()
    if daemon := os.fork():
        os.close(writing)
        with open(reading) as file:
            said = file.read()
        os.waitpid(daemon, 0)
        return json.loads(said or '"it was killed"')
    os.close(reading)
    faulthandler.dump_traceback_later(TIME, exit=True)
    user = USER if scene == "unprivileged" else 0
    unit = hand_over(f"{scene}.service", user)
    # The unit's other process may not be left in the way.
    for pid in (sleeper().pid, os.getpid()):
        (unit / "cgroup.procs").write_text(str(pid))
    os.setgid(user)
    os.setuid(user)
    try:
        found: Any = SCENES[scene](unit)
    except BaseException:
        found = traceback.format_exc()
    with open(writing, "w") as file:
        file.write(json.dumps(found))
    os._exit(0)


def hand_over(unit: str, user: int = 0) -> Path:
    """A unit's group as systemd makes it for `Delegate=cpu memory pids`, with `User=`."""
    SLICE.mkdir(exist_ok=True)
    for folder in (ROOT, SLICE):
        for controller in ("cpu", "memory", "pids"):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    group = SLICE / unit
    group.mkdir(exist_ok=True)
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        os.chown(group / name, user, user)
    os.setxattr(group, "user.delegate", b"1")
    return group


def sleeper() -> subprocess.Popen[bytes]:
    """A process that stays, and holds nobody's output."""
    return subprocess.Popen(["/bin/sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def read(path: Path) -> str:
    """One of the kernel's files."""
    return path.read_text().strip()


def groups_in(parent: Path) -> list[str]:
    """The groups below one."""
    return sorted(path.name for path in parent.iterdir() if path.is_dir())


def group_of(pid: int | str) -> str:
    """Where a process is, below the root."""
    return read(Path(f"/proc/{pid}/cgroup")).removeprefix("0::/")


async def start(launcher: Any, name: str, *argv: str, output: int = -1, **bounds: int) -> Vmm:
    """Start something in place of a monitor."""
    order = Order(
        name=name,
        argv=argv,
        descriptors={"console": output} if output >= 0 else {},
        output="console" if output >= 0 else "",
        **{"memory": 64, **bounds},
    )
    return await launcher.start(order)


def ours() -> Groups:
    """The groups that systemd handed over."""
    groups = usable()
    assert groups is not None
    return groups


def handed_over(unit: Path) -> dict[str, Any]:
    """The daemon has left its unit's group for a leaf, with all that was there, and shares it out."""
    groups = ours()
    again = usable()
    return {
        "version": groups.version,
        "path": groups.path,
        "again": again.path if again else "",
        "controllers": groups.controllers,
        "shared": sorted(read(unit / "cgroup.subtree_control").split()),
        "left in it": read(unit / "cgroup.procs"),
        "daemon": group_of("self"),
        "in the leaf": len(read(unit / "daemon/cgroup.procs").split()),
    }


async def bounds(unit: Path) -> dict[str, Any]:
    """What one process finds around itself, and what becomes of those that want more."""
    groups = ours()
    found: dict[str, Any] = {}
    async with open_launcher(groups=groups, root=os.geteuid() == 0) as launcher:
        reading, writing = os.pipe()
        files = "memory.max memory.swap.max memory.oom.group pids.max cpu.max cpu.weight"
        script = f"cat /proc/self/cgroup; cd {unit}/first; cat {files}"
        first = await start(
            launcher, "first", "/bin/sh", "-c", script, output=writing, processors=2, shared=8, threads=20
        )
        found["status"] = await first.wait()
        found["said"] = os.read(reading, 4096).decode().splitlines()
        await first.stop()

        eats = "import os\nos.wait() if os.fork() else bytearray(b'x') * (128 << 20)"
        hungry = await start(launcher, "hungry", sys.executable, "-c", eats)
        found["hungry"] = await hungry.wait()
        found["outgrown"] = groups.outgrown("hungry"), groups.outgrown("first")
        await hungry.stop()

        forks = "for each in 1 2 3 4 5 6 7 8; do sleep 60 & done; wait"
        many = await start(launcher, "many", "/bin/bash", "-c", forks, output=writing, threads=4)
        found["refused"] = (await trio.to_thread.run_sync(os.read, reading, 4096)).decode()
        found["many"] = int(read(unit / "many/pids.current"))
        # It ends, and its children that nobody waits for end with its group.
        children = [int(pid) for pid in read(unit / "many/cgroup.procs").split()]
        await many.stop()
        found["children"] = [pid for pid in children if born(pid)]
    found["left"] = groups_in(unit)
    return found


def crash(unit: Path) -> dict[str, Any]:
    """A daemon was killed: its machines' groups go, with what lives in them and below, and no other's."""
    groups = ours()
    beside = groups_with_a_process(groups, "other-1")
    busy = groups_with_a_process(groups, f"{MARK}busy")
    # As if code that broke out had made itself groups.
    (unit / f"{MARK}busy/a/b").mkdir(parents=True)
    (unit / f"{MARK}busy/a/b/cgroup.procs").write_text(str(busy.pid))
    (unit / f"{MARK}empty").mkdir()
    spared = groups_with_a_process(groups, f"{MARK}spared")
    before = groups.left(MARK)
    daemon = os.fork()
    if not daemon:
        trio.run(dying)
    status = os.waitstatus_to_exitcode(os.waitpid(daemon, 0)[1])
    left = [name for name in groups.left(MARK) if name not in before]
    found = reap(MARK, groups=groups, spare=f"{MARK}spared".__eq__)
    return {
        "daemon": status,
        "it left": left,
        "reaped": found,
        "groups": groups_in(unit),
        "busy": busy.wait(),
        "spared": (spared.poll(), beside.poll()),
        "again": reap(MARK, groups=groups, spare=f"{MARK}spared".__eq__),
    }


async def dying() -> None:
    """A daemon with a machine, which is killed; what its monitor had started outlives both."""
    async with open_launcher(groups=ours()) as launcher:
        reading, writing = os.pipe()
        script = "setsid sleep 600 & echo; wait"
        await start(launcher, f"{MARK}1", "/bin/bash", "-c", script, output=writing)
        await trio.to_thread.run_sync(os.read, reading, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def groups_with_a_process(groups: Groups, name: str) -> subprocess.Popen[bytes]:
    """A machine's group with a process that no `-name` tells of."""
    process = sleeper()
    groups.enter(name, process.pid, Bounds(memory=64 << 20))
    return process


def named(unit: Path) -> dict[str, Any]:
    """An operator's group: for the machines alone, with its controllers, or refused and left as it was."""
    assert unit.exists()
    found: dict[str, Any] = {}
    (ROOT / "outer.slice").mkdir()

    def tried(path: str) -> str:
        try:
            groups = usable(path)
        except OSError as error:
            return str(error)
        assert groups is not None
        return ", ".join(groups.controllers)

    found["not handed down"] = tried("outer.slice/inner")
    other = sleeper()
    (ROOT / "busy.slice").mkdir()
    (ROOT / "busy.slice/cgroup.procs").write_text(str(other.pid))
    found["busy"] = tried("busy.slice").replace(str(other.pid), "PID")
    found["other"] = group_of(other.pid)
    found["machines"] = tried("machines.slice")
    found["made"] = groups_in(ROOT / "machines.slice")
    found["daemon"] = group_of("self")
    (ROOT / "mine.slice").mkdir()
    (ROOT / "mine.slice/cgroup.procs").write_text(str(os.getpid()))
    found["mine"] = tried("mine.slice")
    found["moved"] = group_of("self")
    return found


SCENES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "handed_over": handed_over,
    "bounds": partial(trio.run, bounds),
    "unprivileged": partial(trio.run, bounds),
    "crash": crash,
    "named": named,
}

if __name__ == "__main__":
    main()
