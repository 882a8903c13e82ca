"""Sizes in labels: a table of [images] that lists sizes stands for one kind of machine in each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from runnerd.config.sections import Image

_SIZE = re.compile(r"(\d+)cpu-(\d+)gb")


def kinds(images: Mapping[str, Image]) -> dict[str, Image]:
    """Return every table, and behind it one named `TABLE-SIZE` for each size that it lists.

    Such a kind claims the table's labels with `-SIZE` behind them, and beside one of those the plain ones:
    a job with plain labels alone gets the table's own size, which comes first. It keeps no machine idle.
    """
    found: dict[str, Image] = {}
    for name, image in images.items():
        found[name] = image
        for size in image.sizes:
            found[f"{name}-{size}"] = _sized(name, image, size)
    return found


def _sized(name: str, image: Image, size: str) -> Image:
    match = _SIZE.fullmatch(size)
    assert match is not None, f"{size!r} was not checked"
    vcpus, gigabytes = map(int, match.groups())
    return msgspec.structs.replace(
        image,
        labels=(*(f"{label}-{size}" for label in image.labels), *image.labels),
        uses=image.uses or name,
        vcpus=vcpus,
        memory=gigabytes * 1024,
        min_idle=0,
        sizes=(),
    )


def explained(images: Mapping[str, Image]) -> list[str]:
    """Say for each kind that comes of a size what asks for it, and what it gets."""
    return [
        f"runs-on: {kind.labels[0]} (or another label of images.{image} with -{size}): "
        f"{kind.vcpus} vCPUs, {kind.memory} MiB"
        for image, table in images.items()
        for size in dict.fromkeys(table.sizes)
        for kind in (_sized(image, table, size),)
        if kind.labels
    ]


def clashes(images: Mapping[str, Image]) -> dict[str, str]:
    """Return what is wrong with the sizes of tables: table -> sentence."""
    problems = {}
    for name, image in images.items():
        for size in image.sizes:
            if f"{name}-{size}" in images:
                problems[name] = (
                    f"images.{name} comes in the size {size!r}, and there is a table images.{name}-{size} "
                    "of its own: remove one of the two"
                )
    return problems


def shadowed(images: Mapping[str, Image]) -> dict[str, str]:
    """Return why a table would never get a job, for each that another one before it takes all from."""
    problems = {}
    before: dict[str, set[str]] = {}
    for name, image in images.items():
        own = {label.casefold() for label in image.labels}
        first = next((each for each, labels in before.items() if own and own <= labels), None)
        if first is not None and not image.sizes:
            problems[name] = (
                f"image {name!r} would get no job: a job gets the first image that has all of its labels, "
                f"and images.{first} has all of these: give it a label of its own, or take them out there"
            )
        before[name] = own
    return problems
