"""`runnerd image`: what is configured, what is built, and building it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerd.cli import image
from runnerd.machines import images
from runnerd.machines.distribution import BuildFailed
from runnerd.machines.generation_trial import Trial
from runnerd.machines.recipe import Recipe
from runnerd.web.client import Client


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Images are not really built: the calls are remembered and answered."""
    calls: list[dict[str, Any]] = []

    async def build(
        folder: Path, recipe: Recipe, *, progress: Callable[[str], None], fresh: bool, **others: Any
    ) -> images.Image:
        if recipe.packages == ("nonesuch",):
            raise BuildFailed("no package nonesuch")
        calls.append({"folder": folder, "recipe": recipe, "fresh": fresh, **others})
        progress("building")
        part = images.Part(sha256="0", size=3 << 20, inputs="x")
        return images.Image(name=recipe.name, digest="d" * 64, path=tmp_path, parts={"rootfs": part})

    monkeypatch.setattr(images, "build", build)
    return calls


def test_list(invoke) -> None:
    """A configured image that is not built says so."""
    result = invoke("image", "list")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].startswith("default  not built")
    (entry,) = json.loads(invoke("image", "list", "--json").stdout)
    assert (entry["name"], entry["digest"]) == ("default", None)
    assert "ubuntu-latest" in entry["labels"]


def test_build(invoke, home: Path, built: list[dict[str, Any]]) -> None:
    """An image is built as configured, in the state directory, with progress apart from the result."""
    Path("c.toml").write_text('[images.default]\npackages = ["jq"]\nsuite = "trixie"\n')
    result = invoke("image", "build", "-c", "c.toml", "--fresh")
    assert (result.exit_code, result.stderr) == (0, "building\n")
    assert result.stdout.startswith("default dddddddddddd ")
    (call,) = built
    assert call["folder"] == home / ".local/state/runnerd/images"
    assert (call["recipe"].packages, call["recipe"].archive.suite, call["fresh"]) == (("jq",), "trixie", True)


def test_build_is_tried(invoke, built: list[dict[str, Any]]) -> None:
    """What is new is tried in a machine unless that is not wanted, or the driver has no machines of ours."""
    invoke("image", "build")
    invoke("image", "build", "--untried")
    Path("c.toml").write_text('[machines]\ndriver = "process"\n')
    invoke("image", "build", "-c", "c.toml")
    assert [call["trial"] is not None for call in built] == [True, False, False]


def test_build_with_a_script(invoke, tmp_path: Path, built: list[dict[str, Any]]) -> None:
    """The preset and the script's bytes become part of the recipe; a script that is not there is named."""
    script = tmp_path / "provision.sh"
    Path("c.toml").write_text(f'[images.default]\nprovision = "{script}"\n')
    result = invoke("image", "build", "-c", "c.toml")
    assert result.exit_code == 2
    assert f"{script} cannot be read" in result.stderr
    assert "[images.default]" in result.stderr
    script.write_text("touch /etc/done\n")
    assert invoke("image", "build", "-c", "c.toml").exit_code == 0
    recipe = built[0]["recipe"]
    assert (recipe.preset, recipe.provision) == ("default", b"touch /etc/done\n")


def test_build_of_a_size(invoke, built: list[dict[str, Any]]) -> None:
    """A table that boots from another's image has that one built, and is listed under its own name."""
    Path("c.toml").write_text('[images.large]\nuses = "default"\nlabels = ["large"]\nmemory = 8192\n')
    assert invoke("image", "build", "large", "-c", "c.toml").exit_code == 0
    assert built[0]["recipe"].name == "default"
    listed = json.loads(invoke("image", "list", "-c", "c.toml", "--json").stdout)
    assert [entry["name"] for entry in listed] == ["default", "large"]


def test_build_json(invoke, built: list[dict[str, Any]]) -> None:
    """Programs get digest, path and size."""
    answer = json.loads(invoke("image", "build", "--json", "--state", "s").stdout)
    assert (answer["digest"], answer["bytes"]) == ("d" * 64, 3 << 20)
    assert built[0]["folder"] == Path("s/images").absolute()


def test_build_fails(invoke, built: list[dict[str, Any]]) -> None:
    """A build that fails says why and exits 1; an image that is not configured exits 2."""
    Path("c.toml").write_text('[images.default]\npackages = ["nonesuch"]\n')
    result = invoke("image", "build", "-c", "c.toml")
    assert (result.exit_code, result.stderr) == (1, "runnerd: no package nonesuch\n")
    result = invoke("image", "build", "other")
    assert result.exit_code == 2
    assert "there is default" in result.stderr


def test_folder(tmp_path: Path) -> None:
    """Images lie in the state directory."""
    from runnerd.cli.options import load_config

    assert image.folder(load_config(None, state_directory=tmp_path)) == tmp_path / "images"


@pytest.fixture
def generations_of(home: Path) -> Callable[..., Path]:
    """Puts generations of an image into the state directory, the last one current; returns its folder."""

    def make(name: str, *contents: bytes) -> Path:
        folder = home / ".local/state/runnerd/images" / name
        for content in contents:
            parts = {
                part: images.Part(sha256=hashlib.sha256(content).hexdigest(), size=len(content), inputs="x")
                for part in images.FILES
            }
            digest = images.Image(name=name, digest="", path=folder, parts=parts).content_digest
            (folder / digest).mkdir(parents=True)
            for part in parts:
                (folder / digest / part).write_bytes(content)
            (folder / digest / "manifest.json").write_bytes(msgspec.json.encode(parts))
            (folder / "current").unlink(missing_ok=True)
            (folder / "current").symlink_to(digest)
        (folder / ".lock").touch()
        return folder

    return make


def test_verify(invoke, generations_of: Callable[..., Path]) -> None:
    """A whole image is said to be whole; one changed byte is found, named, and exits 1 with the cure."""
    folder = generations_of("default", b"one", b"two")
    result = invoke("image", "verify")
    assert result.exit_code == 0
    assert result.stdout.count("whole") == 2
    (folder / "current" / "kernel").write_bytes(b"twO")
    result = invoke("image", "verify", "default")
    assert result.exit_code == 1
    assert "kernel has the digest" in result.stdout
    assert "runnerd image build default --fresh" in result.stderr
    answer = json.loads(invoke("image", "verify", "--json").stdout)
    assert [bool(entry["faults"]) for entry in answer] == [True, False]
    assert invoke("image", "verify", "absent").exit_code == 2


def test_remove(invoke, generations_of: Callable[..., Path]) -> None:
    """What machines boot from stays with a reason; another name's image goes whole."""
    folder = generations_of("default", b"one", b"two")
    generations_of("old", b"one")
    result = invoke("image", "remove", "default")
    assert result.exit_code == 1
    assert "take [images.default] out" in result.stderr
    assert invoke("image", "remove", "old").exit_code == 0
    assert not (folder.parent / "old").exists()
    assert invoke("image", "remove", "old").exit_code == 2
    assert invoke("image", "remove", "../x").exit_code == 2


def test_prune(invoke, generations_of: Callable[..., Path]) -> None:
    """The current generation stays whatever is asked."""
    folder = generations_of("default", b"one", b"two", b"three")
    assert invoke("image", "prune", "--keep", "1").stdout.startswith("removed 1 ")
    assert invoke("image", "prune", "--keep", "0").stdout.startswith("removed 1 ")
    assert invoke("image", "prune", "--keep", "0").stdout == "nothing to remove\n"
    assert (folder / "current" / "kernel").read_bytes() == b"three"


def test_rollback(invoke, generations_of: Callable[..., Path]) -> None:
    """Machines boot from the older generation again; without one the error says so."""
    folder = generations_of("default", b"one", b"two")
    assert invoke("image", "rollback").exit_code == 0
    assert (folder / "current" / "kernel").read_bytes() == b"one"
    assert invoke("image", "rollback", "absent").exit_code == 2
    assert invoke("image", "rollback", "../x").exit_code == 2


def test_what_went_and_what_came_back_as_data(invoke, generations_of: Callable[..., Path]) -> None:
    """Programs read the generations that a command was about."""
    folder = generations_of("default", b"one", b"two")
    back = json.loads(invoke("image", "rollback", "--json").stdout)
    assert (back["digest"], back["standing"]) == ((folder / "current").resolve().name, "current")
    [gone] = json.loads(invoke("image", "prune", "--keep", "0", "--json").stdout)
    assert gone["digest"] != back["digest"]
    generations_of("old", b"three")
    [removed] = json.loads(invoke("image", "remove", "old", "--json").stdout)
    assert removed["name"] == "old"


def test_a_container_image_that_is_not_there_is_no_image(invoke, built: list[dict[str, Any]]) -> None:
    """The key to correct is named, and nothing is begun."""
    Path("c.toml").write_text('[images.default]\noci = "/nowhere/x.tar"\n')
    result = invoke("image", "build", "-c", "c.toml")
    assert (result.exit_code, built) == (2, [])
    assert "there is no container image /nowhere/x.tar: correct `oci` in [images.default]" in result.stderr


def test_verify_without_an_image_says_so(invoke) -> None:
    """And how one is made."""
    assert invoke("image", "verify").stdout.startswith("no image is built: `runnerd image build`")


def test_list_says_how_each_generation_stands(invoke, generations_of: Callable[..., Path]) -> None:
    """The current one, the one that serves while it is on trial, and the older ones."""
    folder = generations_of("default", b"one", b"two")
    current = (folder / "current").resolve().name
    (before,) = (path.name for path in folder.iterdir() if len(path.name) == 64 and path.name != current)
    lines = [line.split()[1:3] for line in invoke("image", "list").stdout.splitlines()[1:]]
    assert lines == [[current[:12], "current"], [before[:12], "older"]]
    images.write_trial(folder, Trial(digest=current, before=before))
    (entry,) = json.loads(invoke("image", "list", "--json").stdout)
    assert [(each["digest"], each["standing"]) for each in entry["generations"]] == [
        (current, "on trial"),
        (before, "serving"),
    ]


def test_a_daemon_that_runs_is_told_what_was_built(
    invoke, built: list[dict[str, Any]], generations_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it takes it up at once; one that is not there is no trouble."""
    told = []
    monkeypatch.setattr(Client, "look_at_images", lambda client: told.append(client.path))
    generations_of("default", b"one", b"two")
    assert invoke("image", "build").exit_code == 0
    assert invoke("image", "rollback").exit_code == 0
    assert len(told) == 2
    assert told[0].endswith("control.sock")
