"""Trying an image: what it lacks keeps it from taking over, said in a sentence."""

from functools import partial
from pathlib import Path

import pytest

from runnerd.cli.options import load_config
from runnerd.cli.trial import try_image
from runnerd.machines import images
from runnerd.machines.distribution import BuildFailed
from runnerd.machines.fake import Replies, Reply, open_fake_driver


@pytest.fixture
def trying(tmp_path: Path):
    """Tries a generation in a machine that says what it is told to."""
    work = tmp_path / "work"
    work.mkdir()
    image = images.Image(name="default", digest="d" * 64, path=work, parts={})
    seen = []

    async def trying(said: bytes, **options: str) -> None:
        def open_driver(config, journal, own):
            seen.append((config.state_directory / "images/default/current").resolve())
            return open_fake_driver(Replies([("command -v", Reply(stdout=said))]), **options)

        settings = load_config(None, state_directory=tmp_path)
        await try_image(settings, image, ("git",), open_driver=partial(open_driver))
        assert seen == [work]

    return trying


async def test_an_image_that_has_everything_passes(trying) -> None:
    """The driver finds the generation on trial as the current one, in a state directory of its own."""
    await trying(b"tried\n")


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"it lacks git\ntried\n", "it lacks git"),
        (b"", "its shell said nothing"),
        (b"node does not run\ntried\n", "node does not run"),
    ],
)
async def test_what_an_image_lacks_is_said(trying, said, problem) -> None:
    """The error names the generation, what is wrong, and how to have it all the same."""
    with pytest.raises(BuildFailed, match=f"(?s)dddddddddddd of default failed its trial.*{problem}"):
        await trying(said)


async def test_an_image_that_does_not_boot_fails(trying) -> None:
    """The driver's reason is the error's."""
    with pytest.raises(BuildFailed, match="the kernel panicked"):
        await trying(b"", no_machine="the kernel panicked")
