"""The host's own secrets: one file each, apart from the ledger, that only their owner may read.

A forge gives its secrets to nobody, so that those for jobs here are kept here. `shared/NAME` is for every
repository, `repositories/OWNER/NAME/SECRET` for one, and `CREDENTIALS_DIRECTORY/secret.NAME` is a shared one
that systemd hands over. Everything here blocks.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import msgspec

LIMIT = 48 << 10
"""Bytes of one value: GitHub's limit."""
CREDENTIAL = "secret."
"""How the name of a systemd credential begins that is a secret for jobs."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_PART = re.compile(r"[A-Za-z0-9_.-]{1,100}")


class SecretError(Exception):
    """A secret that cannot be kept or had; the sentence never holds its value."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One secret as it is listed: never with its value."""

    name: str
    repository: str = ""
    """Empty where it is shared."""
    changed: float
    """Seconds since the epoch."""
    credential: bool = False
    """It is handed over by systemd and cannot be changed here."""


def checked_name(name: str) -> str:
    """Return a secret's name in upper case, for names differ in more than case; raises `SecretError`."""
    if not _NAME.fullmatch(name):
        raise SecretError(
            f"{name[:100]!r} is no name for a secret: letters, digits and _, at most 100, no digit first"
        )
    if name.upper().startswith("GITHUB_"):
        raise SecretError(f"{name} begins with GITHUB_, which is kept for what GitHub itself gives to jobs")
    return name.upper()


class Secrets:
    """The secrets below `folder`, and those of `credentials` where systemd gave any."""

    def __init__(self, folder: Path, credentials: Path | None = None) -> None:
        self._folder = folder
        self._credentials = credentials

    def set(self, name: str, value: str, repository: str = "") -> None:
        """Keep a value, in place of an older one: a reader sees one of them whole. Raises `SecretError`."""
        name = checked_name(name)
        data = value.encode("utf-8", "surrogateescape")
        if not data.strip():
            raise SecretError(f"the value of {name} is empty")
        if len(data) > LIMIT:
            raise SecretError(f"the value of {name} is larger than {LIMIT >> 10} KiB")
        if b"\0" in data:
            raise SecretError(f"the value of {name} holds a NUL byte, which no environment variable can")
        folder = self._place(repository)
        try:
            self._make(folder)
            fresh = folder / f".{name}.{os.getpid()}.new"
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(fresh, flags, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._give(fresh)
            fresh.replace(folder / name)
            _sync(folder)
        except OSError as error:
            raise SecretError(f"{name} cannot be kept in {folder}: {error.strerror}") from None

    def remove(self, name: str, repository: str = "") -> bool:
        """Forget a secret; False where there is none. Raises `SecretError`."""
        name, folder = checked_name(name), self._place(repository)
        try:
            (folder / name).unlink()
            _sync(folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SecretError(f"{name} cannot be removed from {folder}: {error.strerror}") from None
        return True

    def list(self) -> list[Entry]:
        """Every secret, by name, the shared ones first; raises `SecretError`."""
        places = [("", self._place(""))]
        try:
            for owner in _folders(self._folder / "repositories"):
                places += [(f"{owner.name}/{each.name}", each) for each in _folders(owner)]
            found = [
                Entry(name=path.name, repository=repository, changed=path.stat().st_mtime)
                for repository, folder in places
                for path in _files(folder)
            ]
            given = [
                Entry(name=name, changed=path.stat().st_mtime, credential=True)
                for name, path in self._given().items()
            ]
        except OSError as error:
            raise SecretError(f"the secrets cannot be listed: {error}") from None
        return sorted(found + given, key=lambda entry: (entry.repository, entry.name))

    def names(self, repository: str) -> frozenset[str]:
        """The names of all secrets there are for a repository; raises `SecretError`."""
        try:
            own = {path.name for path in _files(self._place(repository))}
            return frozenset(own | {path.name for path in _files(self._place(""))} | set(self._given()))
        except OSError as error:
            raise SecretError(f"the secrets cannot be listed: {error}") from None

    def values(self, repository: str, names: frozenset[str]) -> dict[str, str]:
        """The values of these secrets for a repository, its own before shared ones, as far as there are.

        Raises `SecretError` for one that others may read, that is another user's, or that is no text.
        """
        given = self._given()
        values: dict[str, str] = {}
        for name in sorted(names):
            for folder in (self._place(repository), self._place("")):
                if (folder / name).exists():
                    values[name] = _read(folder / name, strict=True)
                    break
            else:
                if name in given:
                    values[name] = _read(given[name], strict=False)
        return values

    def _given(self) -> dict[str, Path]:
        if self._credentials is None or not self._credentials.is_dir():
            return {}
        found = {}
        for path in self._credentials.glob(f"{CREDENTIAL}*"):
            name = path.name.removeprefix(CREDENTIAL)
            if _NAME.fullmatch(name) and not name.upper().startswith("GITHUB_"):
                found[name.upper()] = path
        return found

    def _place(self, repository: str) -> Path:
        """The folder of a repository's secrets, or of the shared ones; the forge's names have no case."""
        if not repository:
            return self._folder / "shared"
        parts = repository.casefold().split("/")
        if len(parts) != 2 or not all(_PART.fullmatch(part) and part.strip(".") for part in parts):
            raise SecretError(f"{repository[:200]!r} is not a repository's full name (owner/name)")
        return self._folder / "repositories" / parts[0] / parts[1]

    def _make(self, folder: Path) -> None:
        """Make a folder and those above it, open to their owner alone."""
        for each in reversed([folder, *folder.parents]):
            if not each.exists():
                each.mkdir(mode=0o700)
                self._give(each)
            elif each.is_relative_to(self._folder):
                each.chmod(0o700)

    def _give(self, path: Path) -> None:
        """Root writes for whoever runs the daemon: the owner of the state directory."""
        if os.geteuid() == 0:
            owner = self._folder.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _read(path: Path, *, strict: bool) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | (os.O_NOFOLLOW if strict else 0)), "rb") as file:
            about = os.fstat(file.fileno())
            if strict and stat.S_IMODE(about.st_mode) & 0o077:
                raise SecretError(f"{path} may be read by others than its owner: chmod 600 it, and change it")
            if strict and about.st_uid != os.geteuid():
                raise SecretError(f"{path} belongs to another user than the daemon: chown it")
            data = file.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise SecretError(f"{path} is larger than {LIMIT >> 10} KiB")
        return data.decode()
    except OSError as error:
        raise SecretError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError(f"{path} is not UTF-8 text") from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
