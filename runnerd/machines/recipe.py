"""What an image is made of: the packages of each preset, the job's user, and an operator's own words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from runnerd.machines.distribution import Archive

Preset = Literal["minimal", "default"]

PACKAGES = (
    *("bash", "ca-certificates", "coreutils", "curl", "findutils", "git", "grep", "gzip", "jq", "make"),
    *("mount", "procps", "python3", "python3-pip", "python3-venv", "sed", "sudo", "tar", "unzip"),
    *("util-linux", "xz-utils", "zip"),
)
"""What every image made from packages has; an operator adds to it."""

MORE_PACKAGES = (
    *("build-essential", "bzip2", "file", "gnupg", "iproute2", "less", "openssh-client", "patch"),
    *("pkg-config", "python-is-python3", "rsync", "tzdata", "wget", "zstd"),
)
"""What the preset `default` has beside them, as workflows written for GitHub's machines expect it."""

PROMISES = {
    "minimal": ("bash", "curl", "git", "jq", "python3", "sudo", "tar", "unzip", "xz", "zip"),
    "default": ("cc", "g++", "make", "node", "npm", "npx", "pip", "wget", "zstd"),
}
"""Programs that a job finds on its path; `default` promises those of `minimal` too."""

JOB_USER = 1001

HOOKS = (
    f'chroot "$1" useradd --uid {JOB_USER} --user-group --create-home --shell /bin/bash runner',
    'echo "runner ALL=(ALL) NOPASSWD: ALL" > "$1/etc/sudoers.d/runner"; chmod 0440 "$1/etc/sudoers.d/runner"',
    "for folder in opt/hostedtoolcache home/runner/work; do"
    f' mkdir -p "$1/$folder" && chown {JOB_USER}:{JOB_USER} "$1/$folder"; done',
)

CLEANING = (
    # What differs between two builds, or tells of the building host.
    'rm -f "$1/etc/resolv.conf" "$1"/var/cache/apt/*.bin "$1"/var/cache/debconf/*-old "$1"/etc/*-',
    'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/log/*.log "$1"/var/log/apt/*',
    ': > "$1/etc/machine-id"; : > "$1/etc/resolv.conf"',
    'echo runnerd > "$1/etc/hostname"; printf "127.0.0.1 localhost\\n::1 localhost\\n" > "$1/etc/hosts"',
)
"""Shell that is run in the building of a root file system, `$1` its path: before and after what is added."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is made of, as an operator says it."""

    name: str = "default"
    preset: Preset = "minimal"
    archive: Archive = Archive()
    packages: tuple[str, ...] = ()
    """Beside those of the preset."""
    oci: Path | None = None
    """An OCI layout, or a tar of one: the root file system comes from it and not from packages."""
    provision: bytes = b""
    """A shell script that root runs in the finished root file system."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "current":
            raise ValueError(
                f"{self.name!r} cannot be the name of an image: use letters, digits, '.', '_', '-'"
            )

    @property
    def all_packages(self) -> tuple[str, ...]:
        """Every package to install, sorted; with `oci` only those that the operator names."""
        if self.oci is not None:
            return tuple(sorted(set(self.packages)))
        more = MORE_PACKAGES if self.preset == "default" else ()
        return tuple(sorted({*PACKAGES, *more, *self.packages}))

    @property
    def promises(self) -> tuple[str, ...]:
        """The programs that a job finds; of a container image nothing but a shell is known."""
        if self.oci is not None:
            return ("sh", "node") if self.preset == "default" else ("sh",)
        return PROMISES["minimal"] + (PROMISES["default"] if self.preset == "default" else ())
