"""Recipes: what the presets have, and names that can be a folder's."""

from pathlib import Path

import pytest

from runnerd.machines.recipe import MORE_PACKAGES, PACKAGES, Recipe


@pytest.mark.parametrize("name", ["../x", "", "current", ".lock", "a/b", "x" * 65])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    """An image's name becomes a path: nothing else than a plain word does."""
    with pytest.raises(ValueError, match="cannot be the name of an image"):
        Recipe(name=name)


def test_the_default_has_all_of_the_minimal():
    """Each package is asked for once, in one order, with the operator's own."""
    minimal, default = Recipe(preset="minimal"), Recipe(preset="default", packages=("golang", "git"))
    assert minimal.all_packages == tuple(sorted(PACKAGES))
    assert default.all_packages == tuple(sorted({*PACKAGES, *MORE_PACKAGES, "golang"}))


def test_promises_are_of_what_is_installed():
    """The default promises all of the minimal and Node.js; a container image nothing but its shell."""
    minimal, default = Recipe(preset="minimal"), Recipe(preset="default")
    assert set(default.promises) > set(minimal.promises) > {"git", "bash"}
    assert "node" not in minimal.promises
    assert Recipe(preset="minimal", oci=Path("/x")).promises == ("sh",)
    assert Recipe(preset="default", oci=Path("/x")).promises == ("sh", "node")
