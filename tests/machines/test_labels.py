"""A job gets the first image that claims all of its labels."""

from runnerd.machines.labels import image_for

IMAGES = {"small": ("self-hosted", "linux"), "large": ("self-hosted", "linux", "Large", "ubuntu-latest")}


def test_every_label_must_be_claimed():
    """An image that claims only some of the labels is not chosen."""
    assert image_for(IMAGES, ["self-hosted", "large"]) == "large"
    assert image_for(IMAGES, ["self-hosted", "gpu"]) is None


def test_the_first_image_wins():
    """Where several images claim the labels, the order of the configuration decides."""
    assert image_for(IMAGES, ["linux"]) == "small"


def test_labels_are_compared_without_case():
    """`runs-on` is case-insensitive at GitHub and here."""
    assert image_for(IMAGES, ["Ubuntu-Latest", "LARGE"]) == "large"


def test_no_labels_mean_no_image():
    """An empty `runs-on` is nobody's."""
    assert image_for(IMAGES, []) is None
