"""Machines of jobs as they were before steps, kept under one folder: STATE/kept/job-JOB/step-NN.

Each is what `Machine.snapshot` writes, with `standing` (how the job stood, in bytes that only it reads) and
`kept.json`. It appears whole or not at all; the folder's listing is the only record there is.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from runnerd.machines import disks, quota, sealed
from runnerd.machines.driver import NotKept
from runnerd.machines.quota import Limits
from runnerd.machines.sealed import Room, TooLarge, Unsealed

_STANDING = 256 << 20
"""Bytes that are read of how a job stood, at most."""
_FORMAT = 1
_JOB = re.compile(r"job-(\d{1,18})")
_STEP = re.compile(r"step-(\d{2,6})")
_NEW = re.compile(r"\.step-\d{2,6}")


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """`kept.json`: what a folder holds."""

    format: int = _FORMAT
    run: int
    job: int
    step: int
    """The number of the step that it was kept before."""
    name: str
    """That step's name."""
    repository: str = ""
    """Whose run it was."""
    at: float
    """When, in seconds since the epoch."""
    bytes: int
    encrypted: bool
    standing: str
    """The sha256 of the file of that name."""


class Kept(Note, frozen=True, kw_only=True):
    """One machine as it was before a step of a job."""

    folder: Path


def way_back(kept: Kept) -> str:
    """The line that tells people how to use it."""
    return (
        f"The machine as it was before step {kept.step} ({kept.name}) is kept: "
        f"`runnerd shell {kept.run} --job {kept.job} --at {kept.step}` opens a terminal in a copy of it, "
        f"`runnerd rerun {kept.run} --job {kept.job} --from {kept.step}` runs the job again from there."
    )


def before_failure(kept: Sequence[Kept], failed: int | None) -> Kept:
    """Choose of what is kept of a job, by its steps: best the machine as it was before the step that failed.

    What ran after that, such as a step with `if: failure()`, is not what is looked into.
    """
    return next((each for each in reversed(kept) if failed is None or each.step <= failed), kept[-1])


class KeptMachines:
    """All that is kept under a folder. Its methods block, but for `held` and `named`.

    `key_file` holds the key of what is kept encrypted; `seals` says that machines may be kept that were
    given secrets, which takes the key. `awaited` tells what jobs wait to go on from, as `JOB/STEP`, which no
    limit removes: it is asked each time, may block, and raises OSError where it cannot tell.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        *,
        clock: Callable[[], float],
        key_file: Path | None = None,
        seals: bool = False,
        awaited: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self.folder = folder
        self.limits = limits
        self._clock = clock
        self._key_file = key_file
        self.seals = seals
        self._awaited = awaited
        self._lock = threading.Lock()
        self._held: Counter[Path] = Counter()
        self._spared: list[set[Path]] = []
        """What was held at any time while each sweep has gone on."""

    def key(self) -> bytes | None:
        """Read the key; None where there is none. Raises OSError, also for one that is not ours alone."""
        if self._key_file is None:
            return None
        with self._key_file.open("rb") as file:
            about = os.fstat(file.fileno())
            if stat.S_IMODE(about.st_mode) & 0o077:
                raise OSError(f"{self._key_file} may be read by others than its owner: chmod 600 it")
            if about.st_uid not in (0, os.geteuid()):
                raise OSError(f"{self._key_file} belongs to another user than the daemon: chown it")
            key = file.read(sealed.KEY + 1)
        if len(key) != sealed.KEY:
            found = os.path.getsize(self._key_file)
            raise OSError(f"the key in {self._key_file} has {found} bytes instead of {sealed.KEY}")
        return key

    def all(self) -> tuple[Kept, ...]:
        """Everything that is kept whole, by job and step."""
        found = []
        for job in _folders(self.folder, _JOB):
            found += [kept for step in _folders(job, _STEP) if (kept := _read(step)) is not None]
        return tuple(sorted(found, key=lambda each: (each.job, each.step)))

    def of(self, job: int) -> tuple[Kept, ...]:
        """What is kept of a job, by step."""
        found = (_read(step) for step in _folders(self._job(job), _STEP))
        return tuple(sorted((kept for kept in found if kept is not None), key=lambda each: each.step))

    def find(self, job: int, step: int) -> Kept | None:
        """A job's machine as it was before a step, if it is kept."""
        return _read(self._step(job, step))

    def standing(self, kept: Kept) -> bytes:
        """How the job stood. Raises Unsealed, in a sentence, where it is gone or harmed or has no key."""
        out = bytearray()

        def take(data: bytes) -> None:
            out.extend(data)
            if len(out) > _STANDING:
                raise Unsealed("it is too large")

        try:
            sealed.read(kept.folder / "standing", self._key_of(kept.encrypted), kept.standing, take)
        except (OSError, Unsealed) as error:
            raise Unsealed(
                f"how job {kept.job} stood before step {kept.step} cannot be read: {error}"
            ) from error
        return bytes(out)

    def place(self, job: int, step: int) -> Path:
        """Where a machine is to be written, before `put` makes it known; nothing is there yet."""
        new = self._job(job) / f".step-{step:02}"
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return new

    def room(self, job: int, repository: str) -> int:
        """Return how many bytes a machine of this job may have now.

        Raises NotKept when there is no room: for what must not be removed, or on the disk; and OSError.
        """
        with self._lock:
            held = tuple(self._held)
        stays = self._awaited_folders().union(held)
        room = quota.room(self.all(), self.limits, job=job, repository=repository, stays=stays)
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self.folder).free - sealed.RESERVE
        if free <= 0:
            raise NotKept("the disk is nearly full")
        return min(room, free)

    def put(
        self,
        new: Path,
        standing: bytes,
        *,
        run: int,
        job: int,
        step: int,
        name: str,
        encrypted: bool,
        repository: str = "",
    ) -> Kept:
        """Make what was written at its `place` known, whole, with how the job stood; then keep the limits.

        Raises OSError and NotKept.
        """
        try:
            with sealed.Writer(new / "standing", self._key_of(encrypted), Room(_STANDING)) as writer:
                writer.write(standing)
        except (TooLarge, Unsealed) as error:
            raise NotKept(f"how the job stands cannot be kept: {error}") from error
        note = Note(
            run=run,
            job=job,
            step=step,
            name=name,
            repository=repository,
            at=self._clock(),
            bytes=sum(file.stat().st_size for file in new.iterdir()),
            encrypted=encrypted,
            standing=writer.digest,
        )
        (new / "kept.json").write_bytes(msgspec.json.encode(note))
        folder = self._step(job, step)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
        with self.held(folder), contextlib.suppress(OSError):
            self.sweep()  # where it cannot be told what may go, a later one will
        return _known(folder, note)

    def drop(self, job: int, *, but: Collection[int] = ()) -> None:
        """Remove what is kept of a job, but for these steps and what is held, and what never got known."""
        for kept in self.of(job):
            if kept.step not in but:
                self._remove(kept.folder, self._held)
        for new in _folders(self._job(job), _NEW):
            if new not in self._held:
                _clear(new)
        with contextlib.suppress(OSError):
            self._job(job).rmdir()

    def conceal(self, job: int) -> dict[Path, Path]:
        """Take from a job's machines that are not encrypted the name by which anybody finds them, durably.

        Returns where each lies from now on, by where it lay. The caller has to `discard` them; those of a
        daemon that was killed before it did go at the next start.
        """
        moved = {}
        for kept in self.of(job):
            if not kept.encrypted:
                hidden = kept.folder.with_name(f".plain-{kept.folder.name}")
                self.discard(hidden)
                try:
                    kept.folder.rename(hidden)
                except OSError:
                    self.discard(kept.folder)
                moved[kept.folder] = hidden
        if moved:
            with contextlib.suppress(OSError):
                disks.sync(self._job(job))
        return moved

    def discard(self, folder: Path) -> None:
        """Remove what `place` or `conceal` gave, if it is there."""
        shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> tuple[Kept, ...]:
        """Remove what is more than the limits allow, and return it. Raises OSError.

        What a job comes to wait for meanwhile stays, if it was held until that was written down.
        """
        spared: set[Path] = set()
        with self._lock:
            spared.update(tuple(self._held))
            self._spared.append(spared)
        try:
            awaited = self._awaited_folders()
            with self._lock:
                stays = awaited | spared
            gone = []
            for kept in quota.excess(self.all(), self._clock(), self.limits, stays):
                if self._remove(kept.folder, spared):
                    gone.append(kept)
                    with contextlib.suppress(OSError):
                        kept.folder.parent.rmdir()
            return tuple(gone)
        finally:
            with self._lock:
                self._spared = [each for each in self._spared if each is not spared]

    def tidy(self) -> None:
        """At the start, before anything is kept: remove what is not whole, then what is too much."""
        whole = {kept.folder for kept in self.all()}
        with contextlib.suppress(FileNotFoundError):
            for job in list(self.folder.iterdir()):
                if not _JOB.fullmatch(job.name) or not job.is_dir():
                    _clear(job)
                    continue
                for step in list(job.iterdir()):
                    if step not in whole:
                        _clear(step)
                if not any(job.iterdir()):
                    _clear(job)
        self.sweep()

    @contextlib.contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Nothing removes this one meanwhile, whether it is there or not."""
        with self._lock:
            self._held[folder] += 1
            for spared in self._spared:
                spared.add(folder)
        try:
            yield
        finally:
            with self._lock:
                self._held[folder] -= 1
                if not self._held[folder]:
                    del self._held[folder]

    def named(self, name: str) -> Path:
        """The folder of what `JobRecord.resumes` calls `JOB/STEP`, whether it is there or not."""
        job, _, step = name.partition("/")
        return self._step(int(job), int(step))

    def _awaited_folders(self) -> frozenset[Path]:
        return frozenset(self.named(each) for each in self._awaited())

    def _key_of(self, encrypted: bool) -> bytes | None:
        key = self.key() if encrypted else None
        if encrypted and key is None:
            raise Unsealed("it is encrypted, and [snapshots] names no key")
        return key

    def _remove(self, folder: Path, spared: Collection[Path]) -> bool:
        """First its name goes, so that nobody finds it half gone; not where it is spared."""
        leaving = folder.with_name(f".gone-{folder.name}")
        with self._lock:
            if folder in spared:
                return False
            try:
                folder.rename(leaving)
            except OSError:
                leaving = folder
        shutil.rmtree(leaving, ignore_errors=True)
        return True

    def _job(self, job: int) -> Path:
        return self.folder / f"job-{job}"

    def _step(self, job: int, step: int) -> Path:
        return self._job(job) / f"step-{step:02}"


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _folders(folder: Path, named: re.Pattern[str]) -> list[Path]:
    try:
        return [each for each in folder.iterdir() if named.fullmatch(each.name)]
    except OSError:
        return []


def _read(folder: Path) -> Kept | None:
    """What is kept in a folder; None where it is not whole, or of another version."""
    try:
        note = msgspec.json.decode((folder / "kept.json").read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return None
    named = (f"job-{note.job}", f"step-{note.step:02}")
    if note.format != _FORMAT or (folder.parent.name, folder.name) != named:
        return None
    return _known(folder, note)


def _known(folder: Path, note: Note) -> Kept:
    return Kept(folder=folder, **msgspec.structs.asdict(note))


def make_key(path: Path) -> None:
    """Make the file of a key where there is none, for its owner alone. Blocks. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(sealed.KEY))
        file.flush()
        os.fsync(descriptor)
