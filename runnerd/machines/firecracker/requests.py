"""What Firecracker is asked, in order: pure. Paths are those inside the jail.

The order and the fields are those of Firecracker's API files and its documents on snapshots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from runnerd.machines.driver import Size
from runnerd.machines.firecracker.versions import Version

DISKS = ("agent", "image", "upper", "job")
"""In the order in which the guest sees them: Firecracker gives disks no serial numbers."""
READ_ONLY = frozenset({"agent", "image", "job"})
VSOCK = "/v.sock"
VSOCK_PORT = 5005
SERIAL = "/serial"
SERIAL_BYTES = 65536
"""Bytes per second of a flooding console that are kept, where the version can bound it."""
MEMORY, STATE = "/memory", "/state"
"""What a machine is loaded from, and a template's own are written to."""
RAM, DEVICES = "/kept-memory", "/kept-state"
"""What a used machine's are written to: the others' names are taken in its jail."""


class Request(NamedTuple):
    """One request of the API."""

    method: str
    path: str
    body: dict[str, Any]


def kernel_command_line() -> str:
    """What the guest's kernel is told: where its console, its disks and its agent's port are."""
    words = ["console=ttyS0", "quiet", "panic=1", "reboot=k", "i8042.noaux", "i8042.nomux", "i8042.dumbkbd"]
    words += ["random.trust_cpu=on", "mitigations=off", "rcupdate.rcu_expedited=1"]
    words += [f"runnerd.disks={','.join(DISKS)}", f"runnerd.vsock={VSOCK_PORT}"]
    return " ".join(words)


def console(version: Version) -> Request:
    """Let the guest's console go to a file in the jail, at a bounded rate where that can be."""
    body: dict[str, Any] = {"serial_out_path": SERIAL}
    if version.serial_limit:
        bucket = {"size": SERIAL_BYTES, "refill_time": 1000, "one_time_burst": 1 << 20}
        body["rate_limiter"] = bucket
    return Request("PUT", "/serial", body)


def cold_boot(size: Size, version: Version) -> tuple[Request, ...]:
    """Boot a machine from kernel, initial ramdisk and disks."""
    return (
        console(version),
        Request(
            "PUT",
            "/machine-config",
            {
                "vcpu_count": vcpus(size),
                "mem_size_mib": size.memory,
                "smt": False,
                "track_dirty_pages": False,
            },
        ),
        Request(
            "PUT",
            "/boot-source",
            {
                "kernel_image_path": "/kernel",
                "initrd_path": "/initrd",
                "boot_args": kernel_command_line(),
            },
        ),
        *(
            Request(
                "PUT",
                f"/drives/{name}",
                {
                    "drive_id": name,
                    "path_on_host": f"/{name}",
                    "is_root_device": False,
                    "is_read_only": name in READ_ONLY,
                    # Nothing on these disks outlives the machine, so nothing is ever flushed.
                    "cache_type": "Unsafe",
                    "io_engine": "Sync",
                },
            )
            for name in DISKS
        ),
        Request("PUT", "/vsock", {"guest_cid": 3, "uds_path": VSOCK}),
        Request("PUT", "/entropy", {}),
        Request("PUT", "/actions", {"action_type": "InstanceStart"}),
    )


def freeze(memory: str = MEMORY, state: str = STATE) -> tuple[Request, ...]:
    """Stop a machine and write down its memory and its state.

    Its vsock connections end with that, for it too should it go on (`docs/snapshotting/snapshot-support.md`).
    """
    return (
        Request("PATCH", "/vm", {"state": "Paused"}),
        Request(
            "PUT",
            "/snapshot/create",
            {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory},
        ),
    )


def instance() -> Request:
    """Ask whether a machine runs or is paused."""
    return Request("GET", "/", {})


def go_on() -> tuple[Request, ...]:
    """Let a machine run that was stopped or loaded."""
    return (Request("PATCH", "/vm", {"state": "Resumed"}),)


def load(version: Version) -> tuple[Request, ...]:
    """Make a fresh Firecracker the machine that was frozen, and let it run.

    Its disks lie in its own jail at the places where the frozen one had them, and so does its socket, of
    which a version that can is told. It has no network card, so none is overridden. The clock is set by the
    agent: Firecracker's own way leaves it seconds off.
    """
    override = {"vsock_override": {"uds_path": VSOCK}} if version.vsock_override else {}
    return (
        console(version),
        Request(
            "PUT",
            "/snapshot/load",
            {
                "snapshot_path": STATE,
                "mem_backend": {"backend_type": "File", "backend_path": MEMORY},
                "track_dirty_pages": False,
                "resume_vm": False,
                **override,
            },
        ),
        *go_on(),
    )


def vcpus(size: Size) -> int:
    """One processor or an even number, at most 32: the nearest that is not less."""
    return min(32, size.vcpus if size.vcpus == 1 else size.vcpus + size.vcpus % 2)
