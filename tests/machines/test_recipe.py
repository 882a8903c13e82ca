"""Recipes: what the presets have, and names that can be a folder's."""

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
