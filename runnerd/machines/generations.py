"""The generations of built images on disk: what there is, whether it is whole, and removing what is not used.

A generation is in use while `current` leads to it, or while any process that this user may look at has a
file of it open, as every machine made from it has.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import msgspec
import trio

from runnerd.machines import generation_trial, leftovers
from runnerd.machines.generation_trial import Standing, Trial
from runnerd.machines.images import FILES, WORK, Image, current, load, point, write_trial

_DIGEST = re.compile(r"[0-9a-f]{64}")


class InUse(Exception):
    """A generation that may not go; says why, and what to do first."""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One folder `images/NAME/DIGEST`."""

    name: str
    digest: str
    path: Path
    current: bool
    standing: Literal["current", "on trial", "serving", "went back", "older"]
    """`serving` is the one that serves while the current one is on trial."""
    built: float
    """When, in seconds since 1970."""
    size: int
    """Bytes of its files; what generations share counts in each."""


def all_of(images: Path, name: str) -> tuple[Generation, ...]:
    """Return the generations of a name, the newest first, whole or not."""
    home = images / name
    newest = current(images, name)
    try:
        paths = [path for path in home.iterdir() if _DIGEST.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return ()
    trial = _open_trial(home, newest)

    def stands(digest: str) -> Literal["current", "on trial", "serving", "went back", "older"]:
        if newest is not None and newest.digest == digest:
            return "current" if trial is None else "on trial"
        if trial is not None and trial.before == digest:
            return "serving"
        last = generation_trial.read(home, digest)
        return "went back" if last is not None and last.ended == "failed" else "older"

    found = []
    for path in paths:
        with suppress(FileNotFoundError):  # a build or somebody is removing it just now
            found.append(
                Generation(
                    name=name,
                    digest=path.name,
                    path=path,
                    current=newest is not None and newest.digest == path.name,
                    standing=stands(path.name),
                    built=path.stat().st_mtime,
                    size=sum(file.stat().st_size for file in path.iterdir()),
                )
            )
    return tuple(sorted(found, key=lambda each: (each.current, each.built), reverse=True))


def _open_trial(home: Path, newest: Image | None) -> Trial | None:
    """The trial that the current generation has to pass yet; none where there is no way back."""
    trial = _unended(home, newest.digest) if newest is not None else None
    return trial if trial is not None and _is_whole(home, trial.before) else None


def _unended(home: Path, digest: str) -> Trial | None:
    trial = generation_trial.read(home, digest)
    return None if trial is None or trial.ended else trial


def _is_whole(home: Path, digest: str) -> bool:
    try:
        load(home.name, home / digest)
    except (OSError, ValueError, msgspec.DecodeError):
        return False
    return True


def standing(images: Path, name: str) -> Standing | None:
    """Return how an image stands; None when nothing is built. Reads some small files."""
    newest = current(images, name)
    if newest is None:
        return None
    home = images / name
    every = all_of(images, name)
    later = [each for each in every if each.built > newest.path.stat().st_mtime]
    failed = generation_trial.read(home, later[0].digest) if later else None
    if failed is not None and failed.ended != "failed":
        failed = None
    others = [_unended(home, each.digest) for each in every if each.digest != newest.digest]
    overtaken = tuple(trial for trial in others if trial is not None and _is_whole(home, trial.digest))
    return Standing(
        current=newest.digest, trial=_open_trial(home, newest), failed=failed, overtaken=overtaken
    )


def settle(images: Path, name: str, trial: Trial) -> None:
    """Put on record how a trial stands; one that failed goes back to the generation before, at once.

    Nothing happens when the trial has ended, or another generation is current by now, unless this one has
    passed: then the other follows it, and is to go back to it. Raises OSError when it cannot be written, and
    `InUse` while the image is being built, but for the current one when it has passed: what is built is to
    follow that one, which is to stay on disk.
    """
    home = images / name
    newest, passed = current(images, name), trial.ended == "passed"
    at_once = passed and newest is not None and newest.digest == trial.digest
    with nullcontext() if at_once else _alone(images, name):
        newest = current(images, name)
        if newest is not None and newest.digest != trial.digest:
            if passed and _unended(home, trial.digest) is not None and _is_whole(home, trial.digest):
                _pass_late(home, trial, newest)
            return
        if _open_trial(home, newest) is None:
            return
        if trial.ended == "failed":
            # Before the record: what is current without an open trial would serve at the next start.
            point(home, trial.before)
        write_trial(home, trial)


def _pass_late(home: Path, trial: Trial, newest: Image) -> None:
    """Put on record that a generation has passed which another followed before that could be written."""
    follows = _unended(home, newest.digest)
    if follows is not None and follows.before == trial.before:
        # Before the record, which would not be looked for again: who was built since knows nothing of it.
        write_trial(home, msgspec.structs.replace(follows, before=trial.digest))
    write_trial(home, trial)


def names(images: Path) -> tuple[str, ...]:
    """Return the names that anything was built for."""
    try:
        return tuple(sorted(path.name for path in images.iterdir() if path.is_dir()))
    except OSError:
        return ()


def faults(generation: Generation) -> tuple[str, ...]:
    """Read every file of a generation and say what is not as its manifest says; nothing when it is whole."""
    try:
        image: Image = load(generation.name, generation.path)
    except (OSError, ValueError, msgspec.DecodeError) as error:
        return (str(error),)
    found = []
    for part in FILES:
        with image.file(part).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != image.parts[part].sha256:
            found.append(f"{part} has the digest {digest[:12]}, not {image.parts[part].sha256[:12]}")
    if image.digest != image.content_digest:
        found.append(f"its manifest is of another image, {image.content_digest[:12]}")
    return tuple(found)


def remove(images: Path, name: str, digest: str | None = None, *, configured: bool) -> tuple[Generation, ...]:
    """Remove the generation whose digest begins so, or every one of a name; return what went.

    The current one of an image that is `configured` stays, as machines could not start without it. Raises
    `InUse`, and then nothing was removed; LookupError when there is none.
    """
    with _alone(images, name):
        wanted = [each for each in all_of(images, name) if digest is None or each.digest.startswith(digest)]
        if not wanted or (digest is not None and len(wanted) > 1):
            raise LookupError(digest or name)
        for each in wanted:
            if each.standing == "serving" and digest is not None:
                raise InUse(
                    f"machines of {name} boot from {each.digest[:12]} while the current generation is on "
                    f"trial: `runnerd image rollback {name}` ends that"
                )
            if each.current and configured:
                raise InUse(
                    f"{name} {each.digest[:12]} is what machines of {name} boot from: take [images.{name}] "
                    "out of the configuration first, or remove older generations with `runnerd image prune`"
                )
            _refuse_open(each)
        for each in wanted:
            _remove(images, each)
        if not all_of(images, name):
            shutil.rmtree(images / name, ignore_errors=True)
    return tuple(wanted)


def go_back(images: Path, name: str) -> Generation:
    """Make the generation before the current one current, and return it; the newer one stays on disk.

    While the current one is on trial, that is the one that serves; one whose trial never ended comes last.
    Raises LookupError when there is no other whole one, `InUse` while the image is being built.
    """
    with _alone(images, name):
        for each in sorted(_others(images, name), key=lambda each: each.standing != "serving"):
            if not faults(each):
                point(images / name, each.digest)
                return each
    raise LookupError(name)


def prune(images: Path, name: str, *, keep: int) -> tuple[Generation, ...]:
    """Remove all but the current generation and the `keep` newest of the others; return what went.

    One whose trial never ended goes before those that proved themselves. One that a process has open stays,
    and so does the one that serves while the current is on trial.
    """
    gone = []
    with _alone(images, name):
        others = _others(images, name)
        for each in [each for each in others[keep:] if each.standing != "serving"]:
            try:
                _refuse_open(each)
            except InUse:
                continue
            _remove(images, each)
            gone.append(each)
    return tuple(gone)


def clear(images: Path, name: str) -> int:
    """Remove what builds and removals that were killed left, here and elsewhere, and return of how many.

    Raises as `prune`. Blocks.
    """
    with _alone(images, name):
        left = list((images / name).glob(f"{WORK}*"))
        for folder in left:
            leftovers.remove_now(folder)
    return len(left)


def _others(images: Path, name: str) -> list[Generation]:
    """All but the current generation, the newest first; those whose trial never ended come last."""
    others = [each for each in all_of(images, name) if not each.current]
    return sorted(others, key=lambda each: _unended(images / name, each.digest) is not None)


def _remove(images: Path, generation: Generation) -> None:
    if generation.current:
        (images / generation.name / "current").unlink()
    # Out of the way at once, so that a removal that is interrupted leaves no half of a generation.
    leaving = generation.path.with_name(f"{WORK}{generation.digest}")
    generation.path.rename(leaving)
    shutil.rmtree(leaving)
    generation_trial.record(images / generation.name, generation.digest).unlink(missing_ok=True)


def _refuse_open(generation: Generation) -> None:
    pids = _users(generation.path)
    if pids:
        raise InUse(
            f"{generation.name} {generation.digest[:12]} is in use by process {pids[0]}: "
            "end the jobs on it, or the daemon, first"
        )


def _users(folder: Path) -> list[int]:
    """The processes that have a file of a folder open, by the file itself: it may have other names."""
    wanted = {(status.st_dev, status.st_ino) for status in (file.stat() for file in folder.iterdir())}
    shared = {(s.st_dev, s.st_ino) for s in (file.stat() for file in folder.iterdir()) if s.st_nlink > 1}
    # A file that generations share says nothing about which of them is used, unless all of it is shared.
    wanted = (wanted - shared) or wanted
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            links = list((process / "fd").iterdir())
        except OSError:  # it ended, or is another user's
            continue
        for link in links:
            try:
                status = link.stat()
            except OSError:
                continue
            if (status.st_dev, status.st_ino) in wanted:
                found.append(int(process.name))
                break
    return found


class Records:
    """The folder of images as the pool reads and writes it, in threads."""

    def __init__(self, images: Path) -> None:
        self._images = images

    async def standing(self, image: str) -> Standing | None:
        """See `standing`."""
        return await trio.to_thread.run_sync(standing, self._images, image)

    async def settle(self, image: str, trial: Trial) -> None:
        """See `settle`; raises OSError also while the image is being built."""
        try:
            await trio.to_thread.run_sync(settle, self._images, image, trial)
        except (InUse, LookupError) as error:
            raise OSError(str(error)) from error


@contextmanager
def _alone(images: Path, name: str) -> Iterator[None]:
    """Keep builds of this image out. Raises `InUse` while one runs, LookupError when nothing was built."""
    try:
        descriptor = os.open(images / name / ".lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise LookupError(name) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"the image {name} is being built: try again when that is done") from error
        yield
    finally:
        os.close(descriptor)
