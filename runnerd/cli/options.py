"""Options that several commands share, and the configuration they lead to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerd.cli.output import Code, fail

if TYPE_CHECKING:
    from runnerd.config import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Instead of the usual config.toml."),
]
State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="State directory instead of $STATE_DIRECTORY.")
]
Socket = Annotated[
    Path | None,
    typer.Option("--socket", metavar="PATH", help="The daemon's socket ($RUNNERD_SOCKET)."),
]


def config_file(given: Path | None) -> Path | None:
    """Return the config file a command reads: the one given, else the first of the usual places or none."""
    from runnerd.config import paths

    return given.absolute() if given else paths.config_file(os.environ)


def load_config(given: Path | None, **flags: Any) -> Config:
    """Load the configuration, with flags by key (`server__port` is `server.port`).

    Every problem is printed and the command ends with exit status 2 if there is one.
    """
    from runnerd.config import ConfigErrors, load

    try:
        dotted = {name.replace("__", "."): value for name, value in flags.items()}
        return load(config_file(given), environ=os.environ, flags=dotted)
    except ConfigErrors as errors:
        typer.echo(str(errors), err=True)
        raise typer.Exit(Code.USAGE) from None


def start_logging(config: Config, *, quiet: bool = False) -> None:
    """Configure logs for a command that works in this process, with every secret hidden.

    A `quiet` command shows warnings and errors only, unless the level was set to something of its own, and
    as text: a person reads them.
    """
    from runnerd import log

    level = "warning" if quiet and config.log_level == "info" else config.log_level
    log.configure(level=level, json=False if quiet else None)
    log.redact(*config.secrets())


def pairs(option: str, given: Iterable[str], *, from_environment: bool = False) -> dict[str, str]:
    """Return `NAME=VALUE` options as a map; a bare `NAME` takes the variable of that name where allowed."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals and from_environment and name in os.environ:
            value = os.environ[name]
        elif not equals and from_environment:
            fail(f"{option} {name} has no value, and there is no environment variable of that name")
        elif not equals or not name:
            fail(f"{option} wants NAME=VALUE, not {text!r}")
        found[name] = value
    return found
