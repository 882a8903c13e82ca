"""Sizes in labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnerd.config import load
from runnerd.config.loading import ConfigErrors
from runnerd.config.sections import Image
from runnerd.config.sizes import explained, kinds
from runnerd.machines.labels import image_for

IMAGES = {
    "first": Image(labels=("self-hosted", "debian-12"), sizes=("4cpu-8gb", "1cpu-1gb"), max_total=3),
    "other": Image(labels=("debian-12", "gpu"), uses="first"),
}


def claim(*labels: str) -> str | None:
    return image_for({name: kind.labels for name, kind in kinds(IMAGES).items()}, labels)


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (("debian-12",), "first"),
        (("self-hosted", "debian-12"), "first"),
        (("debian-12-4cpu-8gb",), "first-4cpu-8gb"),
        (("self-hosted", "Debian-12-4CPU-8GB"), "first-4cpu-8gb"),
        (("debian-12", "self-hosted-1cpu-1gb"), "first-1cpu-1gb"),
        (("gpu",), "other"),
        (("gpu-4cpu-8gb",), None),
        (("debian-12-2cpu-4gb",), None),
        (("debian-12-4cpu-8gb", "debian-12-1cpu-1gb"), None),
        (("4cpu-8gb",), None),
        (("debian-11-4cpu-8gb",), None),
    ],
)
def test_a_size_behind_a_label_is_claimed_where_it_is_listed(labels: tuple[str, ...], kind: str) -> None:
    """With plain labels beside it or not; what is not listed, and two sizes at once, are nobody's."""
    assert claim(*labels) == kind


@given(st.lists(st.sampled_from(["self-hosted", "debian-12", "gpu"]), min_size=1))
def test_plain_labels_mean_what_they_meant(labels: list[str]) -> None:
    """No job without a size in its labels gets another image because sizes are listed."""
    assert claim(*labels) == image_for({name: image.labels for name, image in IMAGES.items()}, labels)


def test_kinds_have_the_numbers_of_their_labels() -> None:
    """The rest is the table's own, but that none is kept idle."""
    sized = kinds(IMAGES)["first-4cpu-8gb"]
    assert (sized.vcpus, sized.memory, sized.uses, sized.min_idle) == (4, 8192, "first", 0)
    assert (sized.max_total, sized.sizes) == (3, ())
    assert list(kinds(IMAGES)) == ["first", "first-4cpu-8gb", "first-1cpu-1gb", "other"]


def test_explained() -> None:
    """One line for each size, with the label that asks for it."""
    assert explained(IMAGES)[0] == (
        "runs-on: self-hosted-4cpu-8gb (or another label of images.first with -4cpu-8gb): 4 vCPUs, 8192 MiB"
    )


@pytest.mark.parametrize(
    "size", ["4cpu", "0cpu-8gb", "4cpu-0gb", "257cpu-8gb", "4cpu-8", "4CPU-8GB", "x-4cpu-8gb"]
)
def test_what_is_no_size_is_refused(tmp_path: Path, size: str) -> None:
    """With an example of one."""
    (tmp_path / "c.toml").write_text(f'[images.default]\nsizes = ["{size}"]\n')
    with pytest.raises(ConfigErrors, match='a size such as "4cpu-8gb"'):
        load(tmp_path / "c.toml", environ={"HOME": str(tmp_path)})


def test_a_size_may_not_be_a_table_as_well(tmp_path: Path) -> None:
    """Both would be a kind of machine of that name."""
    (tmp_path / "c.toml").write_text(
        '[images.default]\nsizes = ["4cpu-8gb"]\n[images.default-4cpu-8gb]\nlabels = ["x"]\n'
    )
    with pytest.raises(ConfigErrors, match=r"there is a table images\.default-4cpu-8gb of its own"):
        load(tmp_path / "c.toml", environ={"HOME": str(tmp_path)})


def test_a_table_that_would_get_no_job_is_a_mistake(tmp_path: Path) -> None:
    """One before it, as "default" is of all, has all its labels; in a size of its own it would get some."""
    text = '[images.mine]\nlabels = ["Ubuntu-latest", "linux"]\n'
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(
        ConfigErrors, match=r"c.toml:1:2: error: image 'mine' would get no job: .*images\.default"
    ):
        load(tmp_path / "c.toml", environ={"HOME": str(tmp_path)})
    for more in ('sizes = ["4cpu-8gb"]\n', '[images.default]\nlabels = ["debian-12"]\n'):
        (tmp_path / "c.toml").write_text(text + more)
        load(tmp_path / "c.toml", environ={"HOME": str(tmp_path)})
