"""Images: built whole or not at all, named by their content, and built again only where something changed."""

import fcntl
import io
import tarfile

import pytest
import trio

from runnerd.machines import generation_trial, images, nodejs
from runnerd.machines.distribution import Archive, BuildFailed
from runnerd.machines.driver import NoMachine
from runnerd.machines.generation_trial import Trial
from runnerd.machines.recipe import Recipe

MODULES = "./lib/modules/6.1.0/kernel"
UNPACKED = {
    "./boot/vmlinuz-6.1.0": b"kernel",
    "./bin/busybox": b"busybox",
    "./lib/modules/6.1.0/modules.builtin": b"",
    "./usr/bin/python3": b"python",
    **{
        f"{MODULES}/{name}.ko": b"\0depends=\0"
        for name in (
            *("virtio_mmio", "virtio_pci", "virtio_blk", "virtio_console", "overlay", "squashfs"),
            *("pvpanic-mmio", "pvpanic-pci", "vmw_vsock_virtio_transport"),
        )
    },
}


class Shelf:
    """Packages from memory: counts what is asked, and gives another system for every `release`."""

    def __init__(self):
        self.asked = []
        self.release = 1
        self.broken = False

    async def unpack(self, archive, packages, out):
        """The boot packages."""
        self.asked.append("unpack")
        with tarfile.open(out, "w") as tar:
            for name, data in UNPACKED.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    async def install(self, archive, packages, hooks, out):
        """A system that is nothing but what was asked for."""
        self.asked.append("install")
        self.hooks = hooks
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise BuildFailed("mmdebstrap ended with status 25: no network")
        out.write_bytes(f"{archive.suite} {sorted(packages)} {self.release}".encode())

    async def squash(self, tar, out):
        """A file system that is its tar."""
        out.write_bytes(tar.read_bytes())


@pytest.fixture
def shelf():
    """A distribution."""
    return Shelf()


@pytest.fixture
def build(shelf, tmp_path):
    """Builds an image below `tmp_path/images`."""

    async def build(agent=b"agent", progress=lambda sentence: None, fresh=False, trial=None, **recipe):
        return await images.build(
            tmp_path / "images",
            Recipe(**recipe),
            pack_agent=lambda path: path.write_bytes(agent),
            packages=shelf,
            progress=progress,
            fresh=fresh,
            trial=trial,
        )

    return build


async def test_a_built_image_is_found(build, tmp_path):
    """What build returns is what current finds, with every file as its manifest says."""
    said = []
    image = await build(progress=said.append)
    assert images.current(tmp_path / "images") == image
    assert image.path.name == image.digest
    assert image.file("kernel").read_bytes() == b"kernel"
    assert image.file("initrd").read_bytes().startswith(image.file("modules").read_bytes())
    assert b"agent" in image.file("initrd").read_bytes()
    assert {path.name for path in image.path.iterdir()} == {*image.parts, "manifest.json"}
    assert len(said) == 4
    assert said[-1].startswith("Image default is ready:")


async def test_nothing_is_built_twice(build, shelf):
    """The same inputs ask the distribution for nothing; another agent changes the initrd alone."""
    first = await build()
    shelf.asked.clear()
    assert await build() == first
    second = await build(agent=b"a newer agent")
    assert shelf.asked == []
    assert {name for name in first.parts if first.parts[name] != second.parts[name]} == {"initrd"}
    assert second.digest != first.digest
    await build(agent=b"a newer agent", packages=("golang",))
    assert shelf.asked == ["install"]


async def test_fresh_fetches_everything_again(build, shelf):
    """What the distribution has newer comes in only with `fresh`, and then it is another image."""
    first = await build()
    shelf.release = 2
    assert (await build()).digest == first.digest
    assert (await build(fresh=True)).digest != first.digest
    assert shelf.asked == ["unpack", "install"] * 2


async def test_a_failed_build_changes_nothing(build, shelf, tmp_path):
    """After a failure the older image is still current, and nothing of the attempt is left."""
    before = await build()
    shelf.broken = True
    with pytest.raises(BuildFailed, match="no network"):
        await build(archive=Archive(suite="trixie"))
    assert images.current(tmp_path / "images") == before
    assert not list((tmp_path / "images/default").glob(".building-*"))


async def test_a_damaged_image_is_none_and_is_built_again(build, tmp_path):
    """An image with a missing or short file is not used, and the next build replaces it."""
    image = await build()
    image.file("rootfs").write_bytes(b"")
    assert images.current(tmp_path / "images") is None
    assert await build() == image
    image.file("kernel").unlink()
    assert images.current(tmp_path / "images") is None
    assert await build() == image


async def test_old_generations_are_removed(build, tmp_path):
    """The current one stays, the one on trial that it followed, and who serves; abandoned work goes."""
    built = [await build(agent=b"%d" % number) for number in range(2)]
    (tmp_path / "images/default/.building-crashed").mkdir()
    built += [await build(agent=b"%d" % number) for number in (2, 3)]
    here = {path.name for path in (tmp_path / "images/default").iterdir()}
    on_trial = {built[number].digest for number in (2, 3)}
    records = {f"{digest}.trial" for digest in on_trial}
    assert here == {built[0].digest, *on_trial, *records, "current", ".lock"}


async def test_a_generation_that_follows_another_is_on_trial(build, tmp_path):
    """The first of an image serves at once; each later one has the last that proved itself before it.

    Whom it followed stays as well: that one may have passed, and nobody could write it down.
    """
    home = tmp_path / "images/default"
    first = await build()
    assert generation_trial.read(home, first.digest) is None
    second, third = await build(agent=b"2"), await build(agent=b"3")
    assert generation_trial.read(home, third.digest) == Trial(digest=third.digest, before=first.digest)
    assert second.path.exists()
    images.write_trial(home, Trial(digest=third.digest, before=first.digest, good=3, ended="passed"))
    fourth = await build(agent=b"4")
    assert generation_trial.read(home, fourth.digest) == Trial(digest=fourth.digest, before=third.digest)
    assert not second.path.exists()


async def test_building_what_is_there_begins_no_other_trial(build, tmp_path):
    """The same content goes on with the trial it has, and what serves anyway is on none."""
    home = tmp_path / "images/default"
    first, second = await build(), await build(agent=b"2")
    counted = Trial(digest=second.digest, before=first.digest, good=1)
    images.write_trial(home, counted)
    assert await build(agent=b"2") == second
    assert generation_trial.read(home, second.digest) == counted
    assert (await build()).digest == first.digest
    assert generation_trial.read(home, first.digest) is None


async def test_a_generation_that_went_back_is_tried_again_when_it_is_built_again(build, tmp_path):
    """Somebody wants it, and knows why it failed."""
    home = tmp_path / "images/default"
    first, second = await build(), await build(agent=b"2")
    images.point(home, first.digest)
    failed = Trial(digest=second.digest, before=first.digest, bad=2, ended="failed")
    images.write_trial(home, failed)
    await build(agent=b"2")
    assert generation_trial.read(home, second.digest) == Trial(digest=second.digest, before=first.digest)


async def test_a_generation_is_found_by_its_digest(build, tmp_path):
    """One that is gone or damaged cannot be had, and that is said with the cure."""
    first, second = await build(), await build(agent=b"2")
    assert images.wanted(tmp_path / "images", "default") == second
    assert images.wanted(tmp_path / "images", "default", first.digest) == first
    first.file("kernel").unlink()
    with pytest.raises(NoMachine, match=f"{first.digest[:12]} of image 'default' is gone or damaged"):
        images.wanted(tmp_path / "images", "default", first.digest)


async def test_builds_of_one_image_wait_for_each_other(build, tmp_path):
    """While another process builds the image a build waits, says so, and then finds it done."""
    said = []
    await build()
    with (tmp_path / "images/default/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: build(progress=said.append))
            await trio.sleep(0.3)
            assert said == [
                f"Another process is building the image in {tmp_path}/images/default; waiting for it."
            ]
            fcntl.flock(lock, fcntl.LOCK_UN)
    assert len(said) == 2


async def test_images_have_names_of_their_own(build, tmp_path):
    """Two images live side by side, and a name that is no file's name is refused."""
    default, other = await build(), await build(name="builder", packages=("gcc",))
    assert images.current(tmp_path / "images") == default
    assert images.current(tmp_path / "images", "builder") == other
    assert images.current(tmp_path / "images", "absent") is None


async def test_a_script_of_the_operators_is_another_image(build, shelf):
    """The script runs after the job's user is made and before cleaning; other bytes are built anew."""
    await build(provision=b"echo 1\n")
    at = next(at for at, hook in enumerate(shelf.hooks) if ".provision && rm" in hook)
    assert any("useradd" in hook for hook in shelf.hooks[:at])
    assert any("/var/lib/apt/lists" in hook for hook in shelf.hooks[at:])
    shelf.asked.clear()
    await build(provision=b"echo 1\n")
    assert shelf.asked == []
    await build(provision=b"echo 2\n")
    assert shelf.asked == ["install"]


async def test_the_default_preset_brings_node(build, shelf, monkeypatch, tmp_path):
    """Node.js is fetched, put together and unpacked into the tree; the minimal preset has none."""

    async def fetch(folder):
        return tmp_path / "wheel"

    monkeypatch.setattr(nodejs, "fetch", fetch)
    monkeypatch.setattr(nodejs, "compose", lambda wheel, out: out.write_bytes(wheel.name.encode()))
    await build(preset="minimal")
    assert not any(hook.startswith("tar-in ") for hook in shelf.hooks)
    said = []
    await build(preset="default", progress=said.append)
    assert any(hook.startswith("tar-in ") and hook.endswith("node.tar /") for hook in shelf.hooks)
    assert any("Node.js" in sentence for sentence in said)


async def test_what_fails_its_trial_does_not_take_over(build, tmp_path):
    """The generation on trial is whole and not yet current; after a failure nothing of it is left."""
    tried = []

    async def refuse(image):
        assert images.load(image.name, image.path).parts == image.parts
        assert images.current(tmp_path / "images") == (before if tried else None)
        tried.append(image.digest)
        if len(tried) > 1:
            raise BuildFailed("it lacks git")

    before = await build(trial=refuse)
    assert await build(trial=refuse) == before
    assert tried == [before.digest]
    with pytest.raises(BuildFailed, match="lacks git"):
        await build(agent=b"another", trial=refuse)
    assert images.current(tmp_path / "images") == before
    assert [path.name for path in before.path.parent.glob("?" * 64)] == [before.digest]


async def test_who_needs_an_image_is_told_how_it_is_built(build, tmp_path):
    """The newest one, or an error that names it, the folder and the command."""
    with pytest.raises(NoMachine, match=r"no image 'default' in .*: build it with `runnerd image build def"):
        images.wanted(tmp_path / "images", "default")
    image = await build()
    assert images.wanted(tmp_path / "images", "default") == image
