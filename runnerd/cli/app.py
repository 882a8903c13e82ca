"""The tree of commands. Only what the arguments name is imported, so that a command starts at once."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from runnerd import __version__

COMMANDS = {
    "serve": "serve.serve",
    "run": "run.run",
    "plan": "plan.plan",
    "lint": "lint.lint",
    "eval": "evaluate.evaluate",
    "connect": "connect.connect",
    "send": "send.send",
    "secret": "secret.commands",
    "image": "image.commands",
    "config": "configuration.commands",
    "doctor": "doctor.doctor",
    "status": "runs.status",
    "runs": "runs.runs",
    "show": "runs.show",
    "explain": "explain.explain",
    "logs": "runs.logs",
    "cancel": "runs.cancel",
    "approve": "runs.approve",
    "rerun": "runs.rerun",
    "pause": "runs.pause",
    "resume": "runs.resume",
    "drain": "runs.drain",
    "pool": "runs.pool",
    "shell": "shell.shell",
    "launcher": "launcher.launcher",
    "setup": "setup.setup",
    "demo": "demo.demo",
}
"""Each command and where its function, or its group of commands, is below `runnerd.cli`."""

HIDDEN = ("launcher", "setup", "demo")
"""What a unit or `make` calls and nobody types."""


def build(arguments: Sequence[str] = ()) -> typer.Typer:
    """Return the program, with the one command alone that the arguments begin with, if they do."""
    named = [argument for argument in arguments[:1] if argument in COMMANDS]
    app = typer.Typer(
        name="runnerd",
        help="Your own GitHub Actions workflows on your own machine, each job in a fresh, warm microVM.",
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    for name in named or COMMANDS:
        module, _, attribute = COMMANDS[name].partition(".")
        command = getattr(import_module(f"runnerd.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"runnerd {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options of the program itself."""
