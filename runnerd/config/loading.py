"""From flags, environment and file to one checked `Config`; every problem is found in one go.

Precedence, for every key alike: flag, environment, file, default. In the environment a variable of
runnerd's own (`RUNNERD_SECTION_KEY`) comes before the original server's name for the same thing.
"""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from runnerd.config import paths, places, sizes, words
from runnerd.config.sections import NAME, REPOSITORY, Config, Image, Repository, Secret, SecretRule, Setting

FILE_LIMIT = 1 << 20
SECRET_LIMIT = 1 << 16

ORIGINAL = {
    "server.port": "PORT",
    "server.host": "HOST",
    "webhook.secret": "GITHUB_WEBHOOK_SECRET",
    "forge.token": "GITHUB_TOKEN",
    "machines.firecracker_api_url": "FIRECRACKER_API_URL",
    "machines.firecracker_auth_token": "FIRECRACKER_AUTH_TOKEN",
    "llm.use": "USE_LLM_PARSER",
    "llm.ollama_base_url": "OLLAMA_BASE_URL",
    "llm.ollama_model": "OLLAMA_MODEL",
    "llm.openrouter_api_key": "OPENROUTER_API_KEY",
    "llm.openrouter_model": "OPENROUTER_MODEL",
}
"""The original server's variables, which keep working."""

_DIRECTORIES = ("state_directory", "runtime_directory", "control_socket")
_OTHER_VARIABLES = {"RUNNERD_LOG", "RUNNERD_SOCKET", "RUNNERD_CONFIG"}
_SYNTAX = re.compile(r"\(at line (\d+), column (\d+)\)")

T = typing.TypeVar("T", bound=msgspec.Struct)


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with the configuration: where (`file:line:column` or a variable) and what."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: error: {self.message}"


class ConfigErrors(Exception):
    """All problems of a configuration, in the order they were met."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(path: Path | None, *, environ: Mapping[str, str], flags: Mapping[str, Any] | None = None) -> Config:
    """Read and check everything that configures the daemon.

    `path` is the config file or None for none; `flags` maps dotted keys (`server.port`,
    `state_directory`) to values, None meaning not given. Raises ConfigErrors with every problem.
    """
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return _Loading(path, environ, given).config()


def check(path: Path | None, *, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Return every problem of a configuration; empty when it is good."""
    try:
        load(path, environ=environ)
    except ConfigErrors as errors:
        return errors.problems
    return ()


class _Source(msgspec.Struct, frozen=True):
    """What decides one key: the value, where an error in it stands, and its origin for people."""

    value: object
    place: str
    origin: str
    text: bool = False


class _Loading:
    """One `load`: gathers problems and origins while it builds the sections."""

    def __init__(self, path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> None:
        self.environ = environ
        self.flags = flags
        self.path = path
        self.problems: list[Problem] = []
        self.settings: list[Setting] = []
        self.variables = set(_OTHER_VARIABLES)
        self.places: dict[places.Path, places.Place] = {}
        self.table: dict[str, Any] = self._read(path) if path else {}

    def config(self) -> Config:
        sections: dict[str, Any] = {}
        known: list[str] = []
        for field in msgspec.structs.fields(Config):
            if field.name == "variables":
                sections[field.name] = self._variables(field.name)
            elif typing.get_origin(field.type) is Mapping:
                item = typing.get_args(field.type)[1]
                sections[field.name] = self._named(field.encode_name, item, field.default_factory())
            elif isinstance(field.default, msgspec.Struct):
                sections[field.name] = self._section((field.name,), field.default, self._table((field.name,)))
            else:
                continue
            known.append(field.encode_name)
        self._unknown((), self.table, known)
        self._unknown_variables()
        from runnerd.log import LEVELS  # brings structlog, which a client's command does without

        level = self.environ.get("RUNNERD_LOG", "info").lower()
        if level not in LEVELS:
            self._problem("RUNNERD_LOG", f"unknown level {level!r}: use one of {', '.join(LEVELS)}")
        sections |= {name: self._directory(name) for name in _DIRECTORIES}
        if self.problems:
            raise ConfigErrors(tuple(self.problems))
        return Config(**sections, log_level=level, settings=tuple(self.settings))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with path.open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
            if len(data) > FILE_LIMIT:
                raise ValueError(f"larger than {FILE_LIMIT} bytes")
            text = data.decode()
            table = tomllib.loads(text)
        except OSError as error:
            self._problem(str(path), f"cannot be read: {error.strerror}")
        except tomllib.TOMLDecodeError as error:
            line, column = found.groups() if (found := _SYNTAX.search(str(error))) else ("1", "1")
            self._problem(f"{path}:{line}:{column}", _SYNTAX.sub("", str(error)).strip())
        except ValueError as error:
            self._problem(f"{path}:1:1", str(error))
        else:
            self.places = places.find(text)
            return table
        return {}

    def _named(self, name: str, item: type[T], defaults: Mapping[str, T]) -> dict[str, T]:
        """Build the sections of one kind that carry names of their own."""
        tables = self._table((name,))
        built: dict[str, T] = {}
        for key in {**defaults, **tables}:
            path = (name, key)
            if item is Repository and not REPOSITORY.fullmatch(key):
                self._problem(self._place(path), f"{key!r} is not a repository's full name (owner/name)")
            if item is SecretRule and (not NAME.fullmatch(key) or key.upper().startswith("GITHUB_")):
                self._problem(self._place(path), f"{key!r} cannot be a secret's name: see `runnerd secret`")
            built[key] = self._section(path, defaults.get(key) or item(), self._table(path))
            if isinstance(built[key], Image) and not cast(Image, built[key]).labels:
                self._problem(self._place(path), f"image {key!r} claims no labels, so no job would get it")
        for key, value in built.items():
            if isinstance(value, Image) and (0 < value.memory < 128 or 0 < value.disk < 64):
                self._problem(
                    self._place((name, key)), f"image {key!r} needs at least 128 MiB of memory and 64 of disk"
                )
            if isinstance(value, Image) and value.uses and value.uses not in built:
                self._problem(
                    self._place((name, key)),
                    f"image {key!r} uses {value.uses!r}, and there is no images.{value.uses}",
                )
            elif isinstance(value, Image) and value.uses:
                base = built.get(value.uses)
                own = value.packages or value.provision or value.oci or value.preset != Image().preset
                if not isinstance(base, Image) or base.uses or own:
                    self._problem(
                        self._place((name, key)),
                        f"image {key!r} uses {value.uses!r}, which must have its own build and packages",
                    )
        if item is Image:
            images = cast(dict[str, Image], built)
            for key, problem in (sizes.clashes(images) | sizes.shadowed(images)).items():
                self._problem(self._place((name, key)), problem)
        return built

    def _variables(self, section: str) -> dict[str, str]:
        """Read the section whose keys are anybody's: the variables of jobs."""
        found: dict[str, str] = {}
        for key, value in self._table((section,)).items():
            path = (section, key)
            if not NAME.fullmatch(key) or key.upper().startswith("GITHUB_"):
                self._problem(self._place(path), f"{key!r} cannot be a variable's name: letters, digits, _")
            elif not isinstance(value, str):
                self._problem(self._place(path), f"{section}.{key} must be a string, not {value!r}")
            else:
                found[key] = value
                line, _ = places.nearest(self.places, path)
                self.settings.append(
                    Setting(f"{section}.{key}", words.shown(value), f"file {self.path}:{line}")
                )
        return found

    def _section(self, path: places.Path, default: T, table: Mapping[str, Any]) -> T:
        fields = msgspec.structs.fields(type(default))
        self._unknown(path, table, [field.name for field in fields])
        values: dict[str, Any] = {}
        for field in fields:
            key = ".".join((*path, field.name))
            value, origin = getattr(default, field.name), "default"
            secret = words.is_secret(field.type)
            if source := self._source((*path, field.name), secret, table):
                origin = source.origin
                try:
                    value = _convert(source.value, field.type, text=source.text)
                except ValueError:
                    given = "" if secret else f", not {source.value!r}"
                    self._problem(source.place, f"{key} must be {words.expected(field.type)}{given}")
            values[field.name] = value
            self.settings.append(Setting(key, words.shown(value), origin))
        try:
            return type(default)(**values)
        except ValueError as error:
            self._problem(self._place(path), f"[{'.'.join(path)}]: {error}")
            return default

    def _source(self, path: places.Path, secret: bool, table: Mapping[str, Any]) -> _Source | None:
        """Find what decides one key: the first of flag, environment and file that names it."""
        key = ".".join(path)
        names = [] if path[0] in ("repositories", "secrets") else [_variable(path)]
        names += [ORIGINAL[key]] if key in ORIGINAL else []
        self.variables.update(names)
        if secret:
            self.variables.update(f"{name}_FILE" for name in names)
        if key in self.flags:
            return _Source(self.flags[key], f"flag for {key}", "flag")
        for name in names:
            file = self.environ.get(f"{name}_FILE") if secret else None
            if self.environ.get(name):
                if file:
                    self._problem(f"{name}_FILE", f"{name} is set as well: keep one of the two")
                return _Source(self.environ[name], name, f"environment {name}", text=True)
            if file:
                text = self._secret_text(Path(file), f"{name}_FILE")
                return _Source(text, f"{name}_FILE", f"file {file} ({name}_FILE)", text=True)
            credential = Path(self.environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / name.lower()
            if secret and credential.exists():
                text = self._secret_text(credential, str(credential))
                return _Source(text, str(credential), f"credential {name.lower()}", text=True)
        if path[-1] in table:
            line, _ = places.nearest(self.places, path)
            return _Source(table[path[-1]], self._place(path), f"file {self.path}:{line}")
        return None

    def _secret_text(self, path: Path, place: str) -> str:
        try:
            with path.open("rb") as file:
                data = file.read(SECRET_LIMIT + 1)
            text = data.decode().rstrip("\r\n")
        except OSError as error:
            self._problem(place, f"{path} cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            self._problem(place, f"{path} is not UTF-8 text")
        else:
            if text.strip() and len(data) <= SECRET_LIMIT:
                return text
            self._problem(place, f"{path} is empty" if len(data) <= SECRET_LIMIT else f"{path} is too large")
        return ""

    def _table(self, path: places.Path) -> dict[str, Any]:
        table: Any = self.table
        for part in path:
            table = table.get(part, {})
            if not isinstance(table, dict):
                self._problem(self._place(path), f"{'.'.join(path)} must be a table")
                return {}
        return cast(dict[str, Any], table)

    def _directory(self, name: str) -> Path:
        environ = dict(self.environ)
        if state := self.flags.get("state_directory"):
            # a state of its own on the command line brings a socket of its own
            environ["STATE_DIRECTORY"] = str(state)
            environ.setdefault("RUNTIME_DIRECTORY", str(Path(state) / "run"))
        path = Path(self.flags.get(name) or getattr(paths, name)(environ)).absolute()
        variable = "RUNNERD_SOCKET" if name == "control_socket" else name.upper()
        origin = f"environment {variable}" if self.environ.get(variable) else "default"
        origin = "flag" if name in self.flags else origin
        if name == "control_socket" and len(str(path).encode()) > 107:
            self._problem(
                str(path),
                "the control socket's path is longer than the kernel's 107 bytes: set RUNNERD_SOCKET",
            )
        self.settings.append(Setting(name, str(path), origin))
        return path

    def _unknown(self, path: places.Path, table: Mapping[str, Any], known: list[str]) -> None:
        for key in table:
            if key not in known:
                what = f"unknown key {key!r} in [{'.'.join(path)}]" if path else f"unknown section {key!r}"
                self._problem(self._place((*path, key)), what + words.nearest(key, known))

    def _unknown_variables(self) -> None:
        for name in sorted(self.environ):
            if name.startswith("RUNNERD_") and name not in self.variables:
                self._problem(name, "unknown variable" + words.nearest(name, sorted(self.variables)))
        for key in self.flags:
            if key not in _DIRECTORIES and key not in {setting.key for setting in self.settings}:
                raise ValueError(f"a flag for the unknown setting {key!r}")

    def _place(self, path: places.Path) -> str:
        line, column = places.nearest(self.places, path)
        return f"{self.path}:{line}:{column}"

    def _problem(self, place: str, message: str) -> None:
        problem = Problem(place, message)
        if problem not in self.problems:
            self.problems.append(problem)


def _variable(path: places.Path) -> str:
    return "RUNNERD_" + re.sub(r"[^A-Z0-9]+", "_", "_".join(path).upper())


def _convert(value: object, kind: Any, *, text: bool) -> object:
    """Turn a raw value into a field's type; text from the environment is read leniently."""
    if words.is_secret(kind):
        if not isinstance(value, str):
            raise ValueError("not text")
        return Secret(value) if value.strip() else None
    if text and typing.get_origin(kind) is tuple:
        value = [part.strip() for part in str(value).split(",") if part.strip()]
    return msgspec.convert(value, kind, strict=not text)
