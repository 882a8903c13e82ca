"""Makes a root file system of a container image: what jobs need in it, then packages and a script.

These two are run in a sandbox: a root of its own with its own mounts and process numbers, without the right
to mount, to make devices or to load modules. It is for an operator's own images: what runs is root there.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from runnerd.machines import leftovers, lifeline, oci
from runnerd.machines.distribution import EPOCH, BuildFailed
from runnerd.machines.layers import Tree
from runnerd.machines.recipe import JOB_USER

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*")

_LOST_RIGHTS = "-sys_admin,-sys_module,-sys_rawio,-sys_ptrace,-sys_boot,-sys_time,-mknod,-net_admin"

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SANDBOX = f"""
set -eu
work=$1 root=$1/root
mkdir "$root"
tar --numeric-owner --xattrs --xattrs-include=security.capability -xpf "$work/in.tar" -C "$root"
mount -t tmpfs -o mode=755,nosuid dev "$root/dev"
for device in null zero full random urandom; do
    : > "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mount -t proc proc "$root/proc"
put() {{
    rm -rf "$root/$2"  # a link of the image's would lead out of it
    cp "$1" "$root/$2"
}}
test ! -e /etc/resolv.conf || put /etc/resolv.conf etc/resolv.conf
put "$work/script" .provision
inside() {{
    setpriv --bounding-set={_LOST_RIGHTS} chroot "$root" /bin/sh "$@" </dev/null
}}
inside -e /.provision
inside -c 'rm -f /.provision; : > /etc/resolv.conf; : > /etc/machine-id'
umount -R "$root/dev"
umount "$root/proc"
tar --sort=name --mtime=@{EPOCH} --clamp-mtime --numeric-owner --format=posix \\
    --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include=security.capability \\
    -cf "$work/out.tar" -C "$root" .
"""

_INSTALL = """
if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    apt-get install -q -y --no-install-recommends {names}
    apt-get clean
    rm -rf /var/lib/apt/lists/* /var/log/apt/* /var/cache/ldconfig/aux-cache
elif command -v apk >/dev/null; then
    apk add --no-cache {names}
else
    echo "this image has neither apt-get nor apk: install what it lacks in the provision script" >&2
    exit 1
fi
"""


def compose(source: Path, node: Path | None, work: Path, out: Path) -> None:
    """Write the tar of a container image's root with what jobs need, and Node.js where its tar is given.

    Raises ValueError and OSError as `oci.opened` does.
    """
    with oci.opened(source, work) as tree:
        furnish(tree)
        if node is not None:
            with tarfile.open(node) as layer:
                tree.apply(layer)
                tree.write(out)
        else:
            tree.write(out)


def furnish(tree: Tree) -> None:
    """Give a tree the job's user, its folders, and the places where a machine mounts its own."""
    for name in ("dev", "etc", "home", "opt", "proc", "root", "run", "sys", "usr", "usr/local", "var"):
        if not tree.is_folder(name):
            tree.folder(name)
    for name in ("tmp", "var/tmp"):
        tree.folder(name, mode=0o1777)
    for name in ("home/runner", "home/runner/work", "opt/hostedtoolcache"):
        tree.folder(name, owner=JOB_USER)
    users = (tree.read("etc/passwd") or b"root:x:0:0:root:/root:/bin/sh\n").decode("utf-8", "surrogateescape")
    groups = (tree.read("etc/group") or b"root:x:0:\n").decode("utf-8", "surrogateescape")
    shell = "/bin/bash" if tree.has("bin/bash") or tree.has("usr/bin/bash") else "/bin/sh"
    added = _with(users, f"runner:x:{JOB_USER}:{JOB_USER}::/home/runner:{shell}")
    tree.file("etc/passwd", added.encode("utf-8", "surrogateescape"))
    tree.file("etc/group", _with(groups, f"runner:x:{JOB_USER}:").encode("utf-8", "surrogateescape"))
    if tree.is_folder("etc/sudoers.d"):
        tree.file("etc/sudoers.d/runner", b"runner ALL=(ALL) NOPASSWD: ALL\n", mode=0o440)
    tree.file("etc/hostname", b"runnerd\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    for name in ("etc/resolv.conf", "etc/machine-id"):
        tree.file(name, b"")


async def alter(
    tar: Path,
    packages: Sequence[str],
    script: bytes,
    work: Path,
    out: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    timeout: float = 1800.0,
) -> None:
    """Install packages in the tree of a tar, run the script there as its root, and write it as another tar.

    `work` is a folder to make, removed by the caller; the tree in it is gone whatever happened. Raises
    `BuildFailed` with the end of what was said.
    """
    for package in packages:
        if not _PACKAGE.fullmatch(package):
            raise BuildFailed(f"{package!r} is not the name of a package")
    text = "umask 022\n" + (_INSTALL.format(names=" ".join(packages)) if packages else "")
    await trio.to_thread.run_sync(_lay_out, work, tar, text.encode() + script)
    rootless = leftovers.rootless()
    proxies = {name: environ[name] for name in environ if name.lower().endswith("_proxy")}
    argv = ["unshare", *rootless, "--mount", "--pid", "--fork", "--kill-child"]
    try:
        done = await lifeline.run(
            [*argv, "/bin/sh", "-c", _SANDBOX, "sandbox", str(work)],
            environ={**proxies, "PATH": _PATH, "HOME": "/"},
            timeout=timeout,
        )
    finally:
        await leftovers.remove(work / "root")
    if done is None:
        raise BuildFailed(
            f"packages or the provision script ran longer than {timeout:.0f} s and were stopped"
        )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()[-2000:]
        cure = (
            "; build the image as root, or install the package uidmap and give this user subordinate ids"
            if rootless and "unshare:" in said
            else ""
        )
        raise BuildFailed(
            f"packages or the provision script ended with status {done.returncode}: "
            f"{said or 'nothing was said'}{cure}"
        )
    await trio.to_thread.run_sync((work / "out.tar").rename, out)


def _lay_out(work: Path, tar: Path, script: bytes) -> None:
    work.mkdir(mode=0o755)
    (work / "script").write_bytes(script)
    os.link(tar, work / "in.tar")


def _with(lines: str, line: str) -> str:
    """A passwd or group file with one more line, where its number and its name are free."""
    rows = [row.split(":") for row in lines.splitlines()]
    if any(len(row) > 2 and (row[2] == str(JOB_USER) or row[0] == "runner") for row in rows):
        return lines
    return lines + ("" if lines.endswith("\n") or not lines else "\n") + line + "\n"
