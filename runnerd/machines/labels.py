"""Which image a job's `runs-on` labels mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def image_for(images: Mapping[str, Collection[str]], labels: Collection[str]) -> str | None:
    """The first image that claims every one of the labels, compared without case; None if none does.

    No labels at all are claimed by nobody.
    """
    wanted = {label.casefold() for label in labels}
    if not wanted:
        return None
    for name, claimed in images.items():
        if wanted <= {label.casefold() for label in claimed}:
            return name
    return None
