"""Builds and finds images: what machines of one kind boot from, named by the digest of its content.

An image is a folder that is complete or absent, and never changes: `images/NAME/DIGEST/`, with a link
`images/NAME/current` to the newest. Only what changed since the newest is built again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from runnerd.machines import (
    agentroot,
    container,
    disks,
    distribution,
    generation_trial,
    initrd,
    kernel,
    layers,
    leftovers,
    nodejs,
    oci,
)
from runnerd.machines.distribution import BuildFailed, Packages
from runnerd.machines.driver import NoMachine
from runnerd.machines.generation_trial import Trial as GenerationTrial
from runnerd.machines.recipe import CLEANING, HOOKS, Recipe

Progress = Callable[[str], None]
"""Hears a sentence for a person at every stage of a build."""

Trial = Callable[["Image"], Awaitable[None]]
"""Tries a generation in a machine; raises `BuildFailed` when it must not take over."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
WORK = ".building-"
"""How the folder of a build begins that is not done: what nobody builds in is to be removed."""
FILES = ("rootfs", "agent", "kernel", "modules", "initrd")
"""The parts of an image: each a file of its folder, beside `manifest.json`."""
_KEPT = 2
"""Generations that stay on disk: the current one, and the one before it for a way back.

One that was on trial itself when the current one was built stays as well.
"""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an image."""

    sha256: str
    size: int
    inputs: str
    """Hash of what it was made from; the same inputs are not built again."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A built image. The files are `rootfs`, `agent`, `kernel`, `modules` and `initrd` in `path`."""

    name: str
    digest: str
    path: Path
    parts: dict[str, Part]

    @property
    def content_digest(self) -> str:
        """The digest that its parts have together: its name, when it is whole."""
        return _digest(self.parts)

    def file(self, part: str) -> Path:
        """Where one of its files lies."""
        return self.path / part


def current(images: Path, name: str = "default") -> Image | None:
    """Return the newest complete image of a name below the folder `images`, or None when there is none."""
    try:
        path = (images / name / "current").resolve(strict=True)
        return load(name, path)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def wanted(images: Path, name: str, digest: str = "") -> Image:
    """The same for who needs one, or the generation with this digest; raises NoMachine with the cure."""
    if digest:
        try:
            return load(name, images / name / digest)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise NoMachine(
                f"generation {digest[:12]} of image {name!r} is gone or damaged ({error}): "
                f"build it with `runnerd image build {name}`"
            ) from error
    image = current(images, name)
    if image is None:
        raise NoMachine(f"there is no image {name!r} in {images}: build it with `runnerd image build {name}`")
    return image


def _built(images: Path, name: str) -> tuple[Image, ...]:
    """The newest image of each name, this one's first: a kernel is the same in all."""
    names = [name, *sorted(path.name for path in images.iterdir() if path.name != name)]
    return tuple(found for each in names if (found := current(images, each)) is not None)


async def build(
    images: Path,
    recipe: Recipe,
    *,
    pack_agent: Callable[[Path], object],
    packages: Packages,
    progress: Progress = lambda sentence: None,
    fresh: bool = False,
    trial: Trial | None = None,
) -> Image:
    """Return the image of a recipe, building what has changed since it was last built.

    A new generation becomes current only once `trial` has found nothing wrong with it.

    `pack_agent` writes the agent's archive to a path. With `fresh` everything is fetched and built anew,
    which is how security updates come in. Raises `BuildFailed`; what was there before stays current.
    """
    home = images / recipe.name
    try:
        home.mkdir(parents=True, exist_ok=True)
        async with _alone(home, progress):
            for left in home.glob(f"{WORK}*"):  # of interrupted builds: nobody else is building
                await leftovers.remove(left)
            before = () if fresh else _built(images, recipe.name)
            work = Path(tempfile.mkdtemp(prefix=WORK, dir=home))
            try:
                parts = await _Builder(work, recipe, before, packages, progress).build(pack_agent)
                image = await _try_and_publish(home, recipe.name, work, parts, trial)
            finally:
                await leftovers.remove(work)
    except (OSError, ValueError) as error:
        raise BuildFailed(
            f"the image {recipe.name!r} could not be built in {home}: {_said(error)}"
        ) from error
    size = sum(part.size for part in image.parts.values()) / 2**20
    progress(f"Image {recipe.name} is ready: {size:.0f} MiB, digest {image.digest[:12]}.")
    return image


def _said(error: OSError | ValueError) -> str:
    """An error without the system's number for it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@asynccontextmanager
async def _alone(home: Path, progress: Progress) -> AsyncIterator[None]:
    """Wait until no other process builds this image."""
    descriptor = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        waited = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    progress(f"Another process is building the image in {home}; waiting for it.")
                waited = True
                await trio.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


class _Builder:
    """One build in its own folder; a part whose inputs are as before is linked instead of made."""

    def __init__(
        self, work: Path, recipe: Recipe, before: tuple[Image, ...], packages: Packages, progress: Progress
    ) -> None:
        self._work = work
        self._recipe = recipe
        self._before = before
        self._packages = packages
        self._progress = progress

    async def build(self, pack_agent: Callable[[Path], object]) -> dict[str, Part]:
        """Make every file of the image in the work folder."""
        await trio.to_thread.run_sync(pack_agent, self._work / "agent.pyz")
        agent = (self._work / "agent.pyz").read_bytes()
        init = initrd.INIT.read_bytes()
        # A part made by other code is another part: the text of its maker is one of its inputs.
        archive = msgspec.json.encode(self._recipe.archive)
        boot_inputs = _hash(archive, *map(_source, (distribution, kernel, initrd, agentroot)))
        root_inputs = await trio.to_thread.run_sync(self._root_inputs, archive)
        inputs = {
            "rootfs": root_inputs,
            "agent": boot_inputs,
            "kernel": boot_inputs,
            "modules": boot_inputs,
            "initrd": _hash(boot_inputs, init, agent),
        }
        if not self._take_over({name: inputs[name] for name in ("agent", "kernel", "modules")}):
            await self._make_boot()
        if not self._take_over({"rootfs": root_inputs}):
            await self._make_root()
        if not self._take_over({"initrd": inputs["initrd"]}):
            modules = (self._work / "modules").read_bytes()
            (self._work / "initrd").write_bytes(modules + initrd.overlay(init, agent))
        return await trio.to_thread.run_sync(self._describe, inputs)

    def _root_inputs(self, archive: bytes) -> str:
        """Hash of everything that the root file system is made of."""
        recipe = self._recipe
        more: list[str | bytes] = []
        if recipe.preset == "default":
            more += [nodejs.SHA256, _source(nodejs)]
        if recipe.provision:
            more += ["provision", recipe.provision]
        packages = msgspec.json.encode(recipe.all_packages)
        if recipe.oci is not None:
            more += [oci.identity(recipe.oci), *map(_source, (container, layers, oci))]
            return _hash("oci", packages, *more)
        return _hash(archive, packages, *HOOKS, *CLEANING, _source(distribution), *more)

    def _take_over(self, inputs: Mapping[str, str]) -> bool:
        """Link the named parts from an image that is built, when all were made from the same inputs."""
        for before in self._before:
            if all(before.parts[name].inputs == value for name, value in inputs.items()):
                for name in inputs:
                    os.link(before.file(name), self._work / name)
                return True
        return False

    async def _make_boot(self) -> None:
        suite = self._recipe.archive.suite
        self._progress(f"Fetching the kernel and the agent's Python from Debian {suite} (about 10 s).")
        tar, agent = self._work / "boot.tar", self._work / "agent.tar"
        await self._packages.unpack(self._recipe.archive, (*kernel.PACKAGES, *agentroot.PACKAGES), tar)
        boot = await trio.to_thread.run_sync(kernel.read, tar)
        (self._work / "kernel").write_bytes(boot.kernel)
        (self._work / "modules").write_bytes(initrd.base(boot))
        await trio.to_thread.run_sync(agentroot.compose, tar, agent)
        await self._packages.squash(agent, self._work / "agent")

    async def _make_root(self) -> None:
        recipe, tar = self._recipe, self._work / "rootfs.tar"
        node = await self._node() if recipe.preset == "default" else None
        if recipe.oci is not None:
            await self._convert(recipe.oci, node, tar)
        else:
            await self._install(node, tar)
        self._progress("Packing the image.")
        await self._packages.squash(tar, self._work / "rootfs")

    async def _node(self) -> Path:
        self._progress(f"Fetching Node.js {nodejs.VERSION} (about 60 MB).")
        wheel, node = await nodejs.fetch(self._work), self._work / "node.tar"
        await trio.to_thread.run_sync(nodejs.compose, wheel, node)
        return node

    async def _convert(self, source: Path, node: Path | None, tar: Path) -> None:
        recipe = self._recipe
        self._progress(f"Reading the container image {source}.")
        await trio.to_thread.run_sync(container.compose, source, node, self._work, tar)
        if recipe.all_packages or recipe.provision:
            self._progress("Installing packages and running the provision script in it.")
            sandbox = self._work / "sandbox"
            await container.alter(tar, recipe.all_packages, recipe.provision, sandbox, tar)

    async def _install(self, node: Path | None, tar: Path) -> None:
        recipe = self._recipe
        hooks = list(HOOKS)
        if node is not None:
            hooks.append(f"tar-in {shlex.quote(str(node))} /")
        if recipe.provision:
            script = self._work / "provision"
            script.write_bytes(recipe.provision)
            hooks.append(f"upload {shlex.quote(str(script))} /.provision")
            hooks.append('chroot "$1" /bin/sh -e /.provision && rm "$1/.provision"')
        names, about = recipe.all_packages, 70 if recipe.preset == "default" else 40
        self._progress(
            f"Installing {len(names)} packages of Debian {recipe.archive.suite} into the image "
            f"(about {about} s)."
        )
        await self._packages.install(recipe.archive, names, (*hooks, *CLEANING), tar)

    def _describe(self, inputs: Mapping[str, str]) -> dict[str, Part]:
        parts = {}
        for name in FILES:
            path = self._work / name
            # The machine's own user reads it, through a descriptor: the folders above may stay closed.
            path.chmod(0o644)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            parts[name] = Part(sha256=digest, size=path.stat().st_size, inputs=inputs[name])
        for path in self._work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in FILES:
                path.unlink()
        manifest = msgspec.json.format(msgspec.json.encode(parts), indent=2)
        (self._work / "manifest.json").write_bytes(manifest)
        return parts


async def _try_and_publish(
    home: Path, name: str, work: Path, parts: dict[str, Part], trial: Trial | None
) -> Image:
    """Try a finished build where it lies, and publish it; one that fails its trial is never seen."""
    digest = _digest(parts)
    newest = current(home.parent, name)
    if trial is not None and (newest is None or newest.digest != digest):
        await trial(Image(name=name, digest=digest, path=work, parts=parts))
    return await trio.to_thread.run_sync(_publish, home, name, work, parts)


def _publish(home: Path, name: str, work: Path, parts: dict[str, Part]) -> Image:
    """Move a finished build to its digest and point `current` at it; both appear whole or not at all."""
    for path in work.iterdir():
        disks.sync(path)
    work.chmod(0o755)
    digest = _digest(parts)
    final = home / digest
    newest = current(home.parent, name)
    try:
        load(name, final)
        # The same content from other inputs: the manifest says the newer ones.
        os.replace(work / "manifest.json", final / "manifest.json")
    except (OSError, ValueError, msgspec.DecodeError):
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
    before = _put_on_trial(home, digest, newest) if newest is not None else digest
    point(home, digest)
    # Whether what is followed has passed, only the pool may know yet: then it is what serves.
    _prune(home, keep={digest, before, newest.digest if newest is not None else digest})
    return load(name, final)


def _put_on_trial(home: Path, digest: str, newest: Image) -> str:
    """Write down that a generation has to prove itself; returns the one that serves until it has."""
    trial = generation_trial.read(home, newest.digest)
    open_ = trial is not None and not trial.ended and (home / trial.before).is_dir()
    before = trial.before if trial is not None and open_ else newest.digest
    if digest == before:  # back to what serves
        generation_trial.record(home, digest).unlink(missing_ok=True)
    elif digest != newest.digest:
        write_trial(home, GenerationTrial(digest=digest, before=before))
    return before


def write_trial(home: Path, trial: GenerationTrial) -> None:
    """Put a trial on record, whole or not at all, and for good."""
    path = generation_trial.record(home, trial.digest)
    new = home / f".trial-{os.getpid()}"
    new.write_bytes(msgspec.json.encode(trial))
    disks.sync(new)
    new.replace(path)
    disks.sync(home)


def point(home: Path, digest: str) -> None:
    """Make a generation in the folder of its name the current one, at once and for good."""
    link = home / f".current-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(digest)
    link.replace(home / "current")
    disks.sync(home)


def _prune(home: Path, *, keep: Collection[str]) -> None:
    """Remove old generations. Machines hold what they use open, so none is disturbed."""
    others = [path for path in home.iterdir() if _DIGEST.fullmatch(path.name) and path.name not in keep]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[max(0, _KEPT - len(keep)) :]:
        shutil.rmtree(path, ignore_errors=True)
        generation_trial.record(home, path.name).unlink(missing_ok=True)


def load(name: str, path: Path) -> Image:
    """Read the image in a folder; the contents of its files are not read, but their sizes must be right.

    Raises OSError, ValueError and msgspec.DecodeError for one that is not whole.
    """
    parts = msgspec.json.decode((path / "manifest.json").read_bytes(), type=dict[str, Part])
    for part in FILES:
        if part not in parts or parts[part].size != (path / part).stat().st_size:
            raise ValueError(f"the image in {path} is damaged: {part} is not as its manifest says")
    return Image(name=name, digest=path.name, path=path, parts=parts)


def _digest(parts: Mapping[str, Part]) -> str:
    return _hash(*(f"{part}={parts[part].sha256}" for part in FILES))


def _hash(*values: str | bytes) -> str:
    digest = hashlib.sha256()
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _source(module: object) -> bytes:
    return Path(str(getattr(module, "__file__", ""))).read_bytes()
