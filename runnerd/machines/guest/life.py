"""The stages of a machine's life as the agent sees them: boot, freeze, thaw, the job's root, the end."""

from __future__ import annotations

import gc
import hashlib
import os
import resource
import socket
from typing import Any

from . import system
from .agent import Agent, end_descendants
from .names import BOOT_ID, Names
from .tree import Tree

_STATE = "/run/runnerd"


def boot() -> None:
    """As the first process of a machine: mount what nobody mounted yet, and bring loopback up."""
    for kind, target, flags, options in (
        ("proc", "/proc", system.NO_SUID | system.NO_DEV | system.NO_EXEC, ""),
        ("sysfs", "/sys", system.NO_SUID | system.NO_DEV | system.NO_EXEC, ""),
        ("devtmpfs", "/dev", system.NO_SUID, "mode=755"),
        ("devpts", "/dev/pts", system.NO_SUID | system.NO_EXEC, "gid=5,mode=620,ptmxmode=666"),
        ("tmpfs", "/dev/shm", system.NO_SUID | system.NO_DEV, "mode=1777"),
        ("tmpfs", "/run", system.NO_SUID | system.NO_DEV, "mode=755"),
    ):
        if not os.path.ismount(target):
            os.makedirs(target, exist_ok=True)
            system.mount(kind, target, kind, flags, options)
    for name, target in (
        ("fd", "self/fd"),
        ("stdin", "self/fd/0"),
        ("stdout", "self/fd/1"),
        ("stderr", "self/fd/2"),
    ):
        if not os.path.lexists(f"/dev/{name}"):
            os.symlink(f"/proc/{target}", f"/dev/{name}")
    os.makedirs(_STATE, exist_ok=True)
    system.loopback_up()
    _claim_resources()


def thaw(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `thaw`: seed (hex), now, hostname, machine_id, boot_id, generation.

    Answers with a probe of the randomness that follows. An agent that shares its kernel with others
    changes nothing of it.
    """
    if agent.init:
        system.reseed(bytes.fromhex(request["seed"]))
        system.set_clock(float(request["now"]))
        socket.sethostname(str(request["hostname"]))
    agent.identity = {name: str(request[name]) for name in ("hostname", "machine_id", "boot_id")}
    agent.generation = int(request.get("generation", agent.generation + 1))
    if agent.names is not None:
        agent.names.write(agent.identity)
    return {"probe": hashlib.sha256(os.urandom(32)).hexdigest(), "generation": agent.generation}


def clock(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `clock`: now."""
    if agent.init:
        system.set_clock(float(request["now"]))
    return {}


def mount_root(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `mount_root`: lower, upper (a device or None), into, folders, user.

    The folders are made for the user. Mounting the same a second time changes nothing.
    """
    if not agent.init:
        raise ValueError("this agent has no machine of its own to mount anything in")
    into = str(request["into"])
    if agent.job_root is not None:
        if agent.job_root != into:
            raise ValueError(f"the job's root is {agent.job_root} already")
        return {}
    _overlay(str(request["lower"]), request.get("upper"), into)
    agent.files.close()
    agent.files = Tree(into)
    agent.names = Names(agent.files, _STATE)
    if agent.identity:
        agent.names.write(agent.identity)
    system.mount(f"{_STATE}/{BOOT_ID}", f"{into}/proc/sys/kernel/random/boot_id", flags=system.BIND)
    agent.job_root = into
    user = int(request["user"])
    for path in request["folders"]:
        folder = agent.files.folder(str(path), user)
        os.chown(f"/proc/self/fd/{folder}", user, user)
        os.close(folder)
    return {}


def quiesce(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `quiesce`: end everything, write everything out; after the answer only a HELLO is heard."""
    agent.drop()
    agent.leave_session()
    os.sync()
    gc.collect()
    gc.freeze()  # what exists now is not walked again, so that clones do not copy its memory
    return {}


def end(agent: Agent, stream: int, request: dict[str, Any]) -> dict[str, Any]:
    """Operation `end`: kill every process below the agent; answers whether none is left."""
    agent.drop()
    return {"ended": end_descendants(float(request["seconds"]))}


def _overlay(lower: str, upper: str | None, into: str) -> None:
    layer = f"{_STATE}/upper"
    os.makedirs(layer, exist_ok=True)
    os.makedirs(into, exist_ok=True)
    if upper is None:
        system.mount("upper", layer, "tmpfs", system.NO_ATIME, "mode=755,size=60%")
    else:
        system.mount(system.device(upper), layer, "ext4", system.NO_ATIME)
    for name in ("u", "w"):
        os.makedirs(f"{layer}/{name}", exist_ok=True)
    system.mount("job", into, "overlay", 0, f"lowerdir={lower},upperdir={layer}/u,workdir={layer}/w")
    for name in ("proc", "sys", "dev", "run", "tmp", "root"):
        os.makedirs(f"{into}/{name}", exist_ok=True)
    for name in ("proc", "sys", "dev"):
        system.mount(f"/{name}", f"{into}/{name}", flags=system.BIND | system.RECURSIVE)
    system.mount("run", f"{into}/run", "tmpfs", system.NO_SUID | system.NO_DEV, "mode=755,size=20%")
    os.chmod(f"{into}/tmp", 0o1777)


def _claim_resources() -> None:
    """Survive the job's lack of memory, and let it open as many files as builds expect.

    The kernel's first process has a limit of 1024 files. A job can live without either.
    """
    try:
        system.write("/proc/self/oom_score_adj", "-1000")
        resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 1048576))
    except (OSError, ValueError):  # in a container these are not ours to set
        pass
