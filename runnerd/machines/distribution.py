"""Gets packages from a Debian archive as tar files and turns tar files into read-only file systems.

Nothing is installed on the host: packages are unpacked in a private tree, by mmdebstrap, as root or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from runnerd.machines import host, leftovers, lifeline

EPOCH = 1_700_000_000
"""Every time stamp in what is built is at most this, so that the same packages give the same bytes."""

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_MIRROR = re.compile(r"(?:https?|file|copy)://?[!-~]+")

_WITHOUT_ROOT = (
    "; build the image as root, or install the package uidmap and give this user a range of subordinate ids"
    " in /etc/subuid and /etc/subgid"
)

_PROGRESS = re.compile(
    r"(I: |Ign:|Hit:|Get:|Fetched |Reading |\(Reading |Building |Selecting |Preparing |Unpacking |Setting up "
    r"|E: (setup failed: E: |run_chroot failed: E: )?(env -i |apt-get ).* failed$"
    r"|E: mmdebstrap failed to run)"
)
"""Lines of mmdebstrap and apt that do not say what went wrong, where others do."""

_KEPT_OUT = ("man", "locale", "info", "lintian", "doc")


class BuildFailed(Exception):
    """A program that builds an image failed; says which, and the end of what it said."""


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """Where packages come from. An empty mirror is mmdebstrap's own choice, with updates and security."""

    suite: str = "bookworm"
    mirror: str = ""

    def __post_init__(self) -> None:
        if not _SUITE.fullmatch(self.suite):
            raise ValueError(f"{self.suite!r} is not the name of a Debian suite, such as 'bookworm'")
        if self.mirror and not _MIRROR.fullmatch(self.mirror):
            raise ValueError(f"{self.mirror!r} is not the address of a Debian mirror")


class Packages(Protocol):
    """The two things an image needs from a distribution."""

    async def unpack(self, archive: Archive, packages: Sequence[str], out: Path) -> None:
        """Write a tar of the named packages and all they need, unpacked but never configured."""
        ...

    async def install(
        self, archive: Archive, packages: Sequence[str], hooks: Sequence[str], out: Path
    ) -> None:
        """Write a tar of a small system with the packages installed; `hooks` are shell, `$1` its root."""
        ...

    async def squash(self, tar: Path, out: Path) -> None:
        """Turn a tar into a read-only file system image, the same bytes for the same tar."""
        ...


class Debian:
    """`Packages` by mmdebstrap and squashfs-tools. Every call raises `BuildFailed`."""

    def __init__(self, *, environ: Mapping[str, str], timeout: float = 900.0) -> None:
        self._environ = {**environ, "SOURCE_DATE_EPOCH": str(EPOCH), "LC_ALL": "C.UTF-8"}
        self._timeout = timeout

    async def unpack(self, archive: Archive, packages: Sequence[str], out: Path) -> None:
        """See `Packages.unpack`."""
        await self._bootstrap("extract", archive, packages, (), out)

    async def install(
        self, archive: Archive, packages: Sequence[str], hooks: Sequence[str], out: Path
    ) -> None:
        """See `Packages.install`."""
        options = [
            '--aptopt=APT::Install-Recommends "false"',
            *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _KEPT_OUT),
            "--dpkgopt=path-include=/usr/share/doc/*/copyright",
            *(f"--customize-hook={hook}" for hook in hooks),
        ]
        await self._bootstrap("minbase", archive, packages, options, out)

    async def squash(self, tar: Path, out: Path) -> None:
        """See `Packages.squash`. LZ4, because what reads it is often an emulated processor."""
        (sqfstar,) = self._require("sqfstar")
        with tar.open("rb") as source:
            await self._run(
                (sqfstar, "-comp", "lz4", "-quiet", "-no-progress", str(out)), stdin=source.fileno()
            )

    async def _bootstrap(
        self, variant: str, archive: Archive, packages: Sequence[str], options: Sequence[str], out: Path
    ) -> None:
        for package in packages:
            if not _PACKAGE.fullmatch(package):
                raise BuildFailed(f"{package!r} is not the name of a Debian package")
        mmdebstrap, _ = self._require("mmdebstrap", "/usr/share/keyrings/debian-archive-keyring.gpg")
        argv = [mmdebstrap, f"--variant={variant}", "--mode=" + ("root" if os.geteuid() == 0 else "auto")]
        argv += ["--format=tar", "--include=" + ",".join(packages)]
        argv += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"', *options]
        argv += [archive.suite, str(out), *([archive.mirror] if archive.mirror else [])]
        # Not in the folder of `out`: apt gives up its rights, and may have none there.
        tree = leftovers.elsewhere(out.parent, self._environ.get("TMPDIR"))
        try:
            await self._run(argv, TMPDIR=str(tree))
        finally:
            await leftovers.discard(tree, of=out.parent)

    def _require(self, *names: str) -> tuple[str, ...]:
        try:
            return host.require(*names, environ=self._environ)
        except FileNotFoundError as error:
            raise BuildFailed(str(error)) from error

    async def _run(self, argv: Sequence[str], *, stdin: int | None = None, **more: str) -> None:
        name = Path(argv[0]).name
        done = await lifeline.run(
            argv,
            environ={**self._environ, **more},
            timeout=self._timeout,
            stdin=stdin if stdin is not None else b"",
        )
        if done is None:
            raise BuildFailed(f"{name} was still running after {self._timeout:.0f} s and was stopped")
        if done.returncode != 0:
            text = (done.stderr or done.stdout).decode("utf-8", "replace")
            raise BuildFailed(f"{name} ended with status {done.returncode}: {what_failed(text)}{_cure(text)}")


def what_failed(text: str) -> str:
    """The end of what a program said, without its progress where it says anything else."""
    lines = text.strip().splitlines()
    telling = [line for line in lines if not _PROGRESS.match(line)]
    return "\n".join(dict.fromkeys(telling or lines))[-2000:] or "it said nothing"


def _cure(text: str) -> str:
    """What to do about it, where that can be told."""
    if os.geteuid() != 0 and "chroot mode" in text:
        return _WITHOUT_ROOT
    if "Unable to locate package" in text or "has no installation candidate" in text:
        return "; correct `packages` in the image's table: this suite has no such package"
    if "Failed to fetch" in text or "Could not resolve" in text or "Could not connect" in text:
        return (
            "; the mirror must be reached, through http_proxy where that is needed: see `mirror` in [images]"
        )
    return ""
