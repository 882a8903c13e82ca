"""`runnerd image`: builds the guest images that machines boot from, lists, checks and removes them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runnerd.cli import options
from runnerd.cli.output import Code, fail, show_json, table

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.config.sections import Image as Wanted
    from runnerd.machines.generations import Generation
    from runnerd.machines.images import Image, Progress
    from runnerd.machines.recipe import Preset, Recipe

commands = typer.Typer(
    help="Build, check and remove guest images.", rich_markup_mode=None, no_args_is_help=True
)


@commands.command("build")
def build(
    name: Annotated[str, typer.Argument(help="An image of the configuration.")] = "default",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Fetch every package anew; this is how security updates come in.")
    ] = False,
    untried: Annotated[
        bool, typer.Option("--untried", help="Let it take over without trying it in a machine first.")
    ] = False,
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Build an image, or what has changed of it. A running daemon takes it up beside the one before.

    What is new is tried in a machine first: one that does not boot, or lacks what it should have, does not
    take the place of the one before.
    """
    settings = options.load_config(config, state_directory=state)
    started = time.monotonic()
    image = ensure(
        settings,
        name,
        fresh=fresh,
        tried=not untried,
        progress=lambda sentence: typer.echo(sentence, err=True),
    )
    _tell_daemon(settings)
    if json:
        show_json({**_described(image), "seconds": round(time.monotonic() - started, 1)})
    else:
        typer.echo(f"{image.name} {image.digest[:12]} {image.path}")


@commands.command("list")
def list_(config: options.ConfigFile = None, state: options.State = None, json: options.Json = False) -> None:
    """List the configured images with their generations: which is current, on trial, or kept."""
    from runnerd.machines import generations, images

    settings = options.load_config(config, state_directory=state)
    built = {
        name: images.current(folder(settings), image.uses or name) for name, image in settings.images.items()
    }
    kept = {
        name: generations.all_of(folder(settings), image.uses or name)
        for name, image in settings.images.items()
    }
    if json:
        show_json(
            [
                {
                    **(_described(image) if image else {"digest": None}),
                    "name": name,
                    "labels": list(settings.images[name].labels),
                    "generations": [_generation(each) for each in kept[name]],
                }
                for name, image in built.items()
            ]
        )
        return
    rows = []
    for name, image in built.items():
        labels = " ".join(settings.images[name].labels)
        if image is None:
            rows.append((name, "not built", "-", "-", labels))
        for each in kept[name]:
            size = f"{each.size / 2**20:.0f}"
            rows.append((name, each.digest[:12], each.standing, size, labels if each.current else ""))
    typer.echo(table(("image", "digest", "generation", "MiB", "labels"), rows))


@commands.command("verify")
def verify(
    name: Annotated[str, typer.Argument(help="A built image; without it all of them.")] = "",
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Read every file of every generation and compare it with the manifest. Exits 1 when one is damaged."""
    from runnerd.machines import generations

    images = folder(options.load_config(config, state_directory=state))
    found = [each for one in _names(images, name) for each in generations.all_of(images, one)]
    if name and not found:
        fail(f"no image {name!r} is built: runnerd image build {name}")
    judged = [(each, generations.faults(each)) for each in found]
    if json:
        show_json([{**_generation(each), "faults": list(faults)} for each, faults in judged])
    elif not judged:
        typer.echo("no image is built: `runnerd image build` makes the default one")
    else:
        rows = [
            (
                each.name,
                each.digest[:12],
                each.standing,
                "; ".join(faults) or "whole",
            )
            for each, faults in judged
        ]
        typer.echo(table(("image", "digest", "generation", "found"), rows))
    if damaged := [each for each, faults in judged if faults]:
        cure = f"runnerd image build {damaged[0].name} --fresh"
        fail(
            f"{len(damaged)} of {len(judged)} generations are damaged; the cure: {cure}",
            Code.NOT_GREEN,
        )


@commands.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="A built image.")],
    digest: Annotated[str, typer.Argument(help="The beginning of one generation's digest.")] = "",
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Remove an image, or one generation of it. What is in use is refused."""
    from runnerd.machines import generations

    settings = options.load_config(config, state_directory=state)
    used = {image.uses or one for one, image in settings.images.items()}
    if "/" in name or name.startswith("."):
        fail(f"{name!r} cannot be the name of an image")
    try:
        gone = generations.remove(folder(settings), name, digest or None, configured=name in used)
    except generations.InUse as error:
        fail(str(error), Code.NOT_GREEN)
    except LookupError:
        fail(f"there is no such generation of {name!r}, or not only one: see `runnerd image list`")
    if json:
        show_json([_generation(each) for each in gone])
    else:
        typer.echo(_removed(gone))


@commands.command("rollback")
def rollback(
    name: Annotated[str, typer.Argument(help="A built image.")] = "default",
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Have machines boot from the generation before the current one again, of a running daemon as well."""
    from runnerd.machines import generations

    if "/" in name or name.startswith("."):
        fail(f"{name!r} cannot be the name of an image")
    try:
        settings = options.load_config(config, state_directory=state)
        back = generations.go_back(folder(settings), name)
    except generations.InUse as error:
        fail(str(error), Code.NOT_GREEN)
    except LookupError:
        fail(f"there is no other whole generation of {name!r} to go back to: see `runnerd image list`")
    _tell_daemon(settings)
    if json:
        show_json(_generation(msgspec.structs.replace(back, current=True, standing="current")))
    else:
        typer.echo(f"{back.name} {back.digest[:12]} {back.path}")


@commands.command("prune")
def prune(
    keep: Annotated[int, typer.Option("--keep", min=0, max=100, help="Older generations that stay.")] = 1,
    config: options.ConfigFile = None,
    state: options.State = None,
    json: options.Json = False,
) -> None:
    """Remove old generations of every image: the current one stays, and what a machine has open.

    What a build left that was killed goes as well.
    """
    from runnerd.machines import generations

    images = folder(options.load_config(config, state_directory=state))
    gone: list[Generation] = []
    for name in generations.names(images):
        try:
            if left := generations.clear(images, name):
                typer.echo(f"removed what {left} interrupted builds of {name} left", err=True)
            gone += generations.prune(images, name, keep=keep)
        except LookupError:  # a folder that no build made
            continue
        except generations.InUse as error:
            typer.echo(str(error), err=True)
    if json:
        show_json([_generation(each) for each in gone])
    else:
        typer.echo(_removed(gone))


def folder(settings: Config) -> Path:
    """Return where images lie."""
    return settings.state_directory / "images"


def ensure(
    settings: Config,
    name: str,
    *,
    progress: Progress,
    fresh: bool = False,
    preset: Preset | None = None,
    tried: bool = False,
) -> Image:
    """Build an image or find it built; ends the command with a sentence where that cannot be done.

    `preset` takes the place of the configured one. What is `tried` passes its trial or is not taken.
    """
    import trio

    from runnerd.machines import images, pyz
    from runnerd.machines.distribution import BuildFailed, Debian

    if name not in settings.images:
        fail(f"no image {name!r} is configured; there is {', '.join(settings.images)}")
    name = settings.images[name].uses or name
    wanted = settings.images[name]
    recipe = recipe_for(name, wanted, preset)

    async def try_(image: Image) -> None:
        from runnerd.cli.trial import try_image

        progress("Trying it in a machine.")
        await try_image(settings, image, recipe.promises)

    async def make() -> Image:
        return await images.build(
            folder(settings),
            recipe,
            pack_agent=pyz.pack,
            packages=Debian(environ=os.environ),
            progress=progress,
            fresh=fresh,
            trial=try_ if tried and settings.machines.driver_name in ("qemu", "firecracker") else None,
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
    if wanted.oci and not Path(wanted.oci).exists():
        fail(f"there is no container image {wanted.oci}: correct `oci` in [images.{name}]")
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


def _tell_daemon(settings: Config) -> None:
    """Have a daemon that runs look at once; it does within a minute anyway."""
    from runnerd.web.client import Client, Refusal, Unreachable

    with suppress(Unreachable, Refusal):
        Client(settings.control_socket).look_at_images()


def _names(images: Path, name: str) -> tuple[str, ...]:
    from runnerd.machines import generations

    return tuple(each for each in generations.names(images) if name in ("", each))


def _generation(one: Generation) -> dict[str, object]:
    return {
        "name": one.name,
        "digest": one.digest,
        "current": one.current,
        "standing": one.standing,
        "built": one.built,
        "bytes": one.size,
    }


def _removed(gone: Sequence[Generation]) -> str:
    size = sum(each.size for each in gone) / 2**20
    return f"removed {len(gone)} generations, at most {size:.0f} MiB" if gone else "nothing to remove"


def _described(image: Image) -> dict[str, object]:
    return {
        "name": image.name,
        "digest": image.digest,
        "path": str(image.path),
        "bytes": sum(part.size for part in image.parts.values()),
    }
