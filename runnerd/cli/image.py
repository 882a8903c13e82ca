"""`runnerd image`: builds the guest images that machines boot from, and lists them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runnerd.cli import options
from runnerd.cli.output import Code, fail, show_json, table

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.config.sections import Image as Wanted
    from runnerd.machines.images import Image, Progress
    from runnerd.machines.recipe import Preset, Recipe

commands = typer.Typer(help="Build and list guest images.", rich_markup_mode=None, no_args_is_help=True)


@commands.command("build")
def build(
    name: Annotated[str, typer.Argument(help="An image of the configuration.")] = "default",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Fetch every package anew; this is how security updates come in.")
    ] = False,
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Build an image, or what has changed of it. A running daemon takes it up with its next template."""
    settings = options.load_config(config, state_directory=state)
    started = time.monotonic()
    image = ensure(settings, name, fresh=fresh, progress=lambda sentence: typer.echo(sentence, err=True))
    if json:
        show_json({**_described(image), "seconds": round(time.monotonic() - started, 1)})
    else:
        typer.echo(f"{image.name} {image.digest[:12]} {image.path}")


@commands.command("list")
def list_(config: options.ConfigFile = None, state: options.State = None, json: options.Json = False) -> None:
    """List the configured images, and which of them are built."""
    from runnerd.machines import images

    settings = options.load_config(config, state_directory=state)
    built = {
        name: images.current(folder(settings), image.uses or name) for name, image in settings.images.items()
    }
    if json:
        show_json(
            [
                {
                    **(_described(image) if image else {"digest": None}),
                    "name": name,
                    "labels": list(settings.images[name].labels),
                }
                for name, image in built.items()
            ]
        )
        return
    rows = [
        (
            name,
            image.digest[:12] if image else "not built",
            _mebibytes(image),
            " ".join(settings.images[name].labels),
        )
        for name, image in built.items()
    ]
    typer.echo(table(("image", "digest", "MiB", "labels"), rows))


def folder(settings: Config) -> Path:
    """Return where images lie."""
    return settings.state_directory / "images"


def ensure(
    settings: Config, name: str, *, progress: Progress, fresh: bool = False, preset: Preset | None = None
) -> Image:
    """Build an image or find it built; ends the command with a sentence where that cannot be done.

    `preset` takes the place of the configured one.
    """
    import trio

    from runnerd.machines import images, pyz
    from runnerd.machines.distribution import BuildFailed, Debian

    if name not in settings.images:
        fail(f"no image {name!r} is configured; there is {', '.join(settings.images)}")
    name = settings.images[name].uses or name
    wanted = settings.images[name]
    recipe = recipe_for(name, wanted, preset)

    async def make() -> Image:
        return await images.build(
            folder(settings),
            recipe,
            pack_agent=pyz.pack,
            packages=Debian(environ=os.environ),
            progress=progress,
            fresh=fresh,
        )

    try:
        return trio.run(make)
    except BuildFailed as error:
        fail(str(error), Code.NOT_GREEN)


def recipe_for(name: str, wanted: Wanted, preset: Preset | None = None) -> Recipe:
    """What a table of `[images]` says; ends the command when a file that it names is not there."""
    from runnerd.machines.distribution import Archive
    from runnerd.machines.recipe import Recipe

    try:
        script = Path(wanted.provision).read_bytes() if wanted.provision else b""
    except OSError as error:
        fail(
            f"the script {wanted.provision} cannot be read ({error.strerror}): "
            f"correct `provision` in [images.{name}]"
        )
    try:
        return Recipe(
            name=name,
            preset=preset or wanted.preset,
            archive=Archive(suite=wanted.suite, mirror=wanted.mirror),
            packages=wanted.packages,
            oci=Path(wanted.oci) if wanted.oci else None,
            provision=script,
        )
    except ValueError as error:
        fail(f"{error}: correct [images.{name}]")


def _described(image: Image) -> dict[str, object]:
    return {
        "name": image.name,
        "digest": image.digest,
        "path": str(image.path),
        "bytes": sum(part.size for part in image.parts.values()),
    }


def _mebibytes(image: Image | None) -> str:
    return f"{sum(part.size for part in image.parts.values()) / 2**20:.0f}" if image else "-"
