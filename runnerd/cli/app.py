"""The tree of commands; each command imports what it needs when it runs, so that all start fast."""

from __future__ import annotations

from typing import Annotated

import typer

from runnerd import __version__
from runnerd.cli import configuration, doctor, evaluate, image, lint, plan, run, send, serve, setup

app = typer.Typer(
    name="runnerd",
    help="Your own GitHub Actions workflows on your own machine, each job in a fresh, already warm microVM.",
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"runnerd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options of the program itself."""


for command in (serve.serve, run.run):
    app.command()(command)
app.command()(plan.plan)
app.command()(lint.lint)
app.command("eval")(evaluate.evaluate)
app.add_typer(image.commands, name="image")
app.add_typer(configuration.commands, name="config")
app.command()(doctor.doctor)
app.command()(send.send)
app.command(hidden=True)(setup.setup)
