"""`runnerd config`: is the configuration good, and where did each value come from?"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from runnerd.cli import options
from runnerd.cli.output import Code, fail, show_json, table

commands = typer.Typer(help="Check and show the configuration.", rich_markup_mode=None, no_args_is_help=True)


@commands.command()
def check(
    config: options.ConfigFile = None,
    serve: Annotated[bool, typer.Option("--serve", help="Also want what the daemon needs.")] = False,
    json: options.Json = False,
) -> None:
    """Report every problem of the configuration at once, each with its place; exit 2 if there is one."""
    from runnerd.config import ConfigErrors, Problem, load, sizes

    file = options.config_file(config)
    problems: tuple[Problem, ...] = ()
    try:
        settings = load(file, environ=os.environ)
        if serve and (reason := settings.why_not_serve()):
            problems = (Problem(str(file or "environment"), reason),)
    except ConfigErrors as errors:
        problems = errors.problems
    if json:
        show_json(
            {
                "file": str(file) if file else None,
                "problems": [{"place": problem.place, "message": problem.message} for problem in problems],
            }
        )
    elif problems:
        for problem in problems:
            typer.echo(str(problem), err=True)
    else:
        typer.echo(f"{file or 'no config file, all defaults'}: good")
        for line in sizes.explained(settings.images):
            typer.echo(line)
    raise typer.Exit(Code.USAGE if problems else Code.GREEN)


@commands.command()
def show(
    config: options.ConfigFile = None,
    state: options.State = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    section: Annotated[str | None, typer.Argument(help="Only keys that begin with this.")] = None,
    json: options.Json = False,
) -> None:
    """Show the values in effect, secrets as ***."""
    settings = options.load_config(config, state_directory=state).origins()
    chosen = [setting for setting in settings if setting.key.startswith(section or "")]
    if not chosen:
        fail(f"no key begins with {section!r}; `runnerd config show` lists them all")
    if json:
        show_json({setting.key: {"value": setting.value, "origin": setting.origin} for setting in chosen})
    elif origin:
        typer.echo(table(("key", "value", "from"), [(s.key, s.value, s.origin) for s in chosen]))
    else:
        typer.echo("\n".join(f"{setting.key} = {setting.value}" for setting in chosen))
