"""What several rooms' tests share: new ledgers, the cache directory, and the image that real machines boot.

The image is built once and kept between runs, in `$RUNNERD_STATE` or `.state` in the checkout.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
import trio

from runnerd.machines import host, images
from runnerd.machines.distribution import Debian
from runnerd.machines.driver import Size, Template
from runnerd.machines.pyz import pack
from runnerd.machines.qemu.driver import QemuDriver, open_qemu_driver
from runnerd.machines.recipe import Recipe
from runnerd.store import engine, ledger, schema

# Who is started in the background of a script ignores Ctrl-C, and so would all that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples everywhere, each for as long as the machine takes: what fails once fails for everybody.
hypothesis.settings.register_profile(
    "runnerd",
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("runnerd")

_STATE = os.environ.pop("RUNNERD_STATE", "")
"""Nobody under test finds it: what begins like this is a setting to runnerd, and this one is unknown."""

VM_SIZE = Size(vcpus=1, memory=256, disk=512)
"""The size of machines in tests."""

PATIENT = {"ready_timeout": 60.0, "build_timeout": 240.0}
"""What a driver of tests allows a clone and a template on a host that emulates and is busy, in seconds."""


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Waits, at most `seconds`, for something outside trio to come true."""

    async def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - no event tells of it
                await trio.sleep(0.005)

    return wait


@pytest.fixture(scope="session", autouse=True)
def migrate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[sa.Engine], None]]:
    """Makes a ledger as `schema.migrate` does; a new one begins as a copy of one that was migrated.

    So do those of `open_ledger`: hundreds of tests have a ledger, and one takes as long as they do.
    """
    first = tmp_path_factory.mktemp("ledger") / "ledger.db"
    made = engine.writing(first)
    schema.migrate(made)
    made.dispose()  # now all of it is in the one file
    content = first.read_bytes()

    def migrate(opened: sa.Engine) -> None:
        try:
            with Path(str(opened.url.database)).open("xb") as file:
                file.write(content)
        except OSError:
            pass  # there is one, or there can be none
        schema.migrate(opened)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "migrate", migrate)
        yield migrate


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: those of sockets are bounded."""
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def state_directory() -> Path:
    """A directory that outlives the test run, for what is dear to build: images and frozen templates.

    Daemons and drivers under test have state directories of their own; `images/` and `snapshots/` are shared.
    """
    path = Path(_STATE or Path(__file__).parent.parent / ".state").resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def vm_image(state_directory: Path) -> images.Image:
    """The default image, built at most once. Without the programs it needs, the test fails in CI."""
    if absent := host.missing():
        cure = host.install_command(absent, root=os.geteuid() == 0)
        message = f"real machines need {', '.join(absent)}; install with: {cure}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    build = partial(
        images.build,
        state_directory / "images",
        Recipe(),
        pack_agent=pack,
        packages=Debian(environ=os.environ),
        progress=print,
    )
    return trio.run(build)


@pytest.fixture
async def vm_driver(
    vm_image: images.Image, state_directory: Path, tmp_path: Path
) -> AsyncIterator[QemuDriver]:
    """A driver for real machines with a state directory of its own."""
    folders = {"images": state_directory / "images", "snapshots": state_directory / "snapshots"}
    async with open_qemu_driver(state=tmp_path, **folders, **PATIENT) as driver:
        yield driver


@pytest.fixture
async def vm_template(vm_driver: QemuDriver) -> Template:
    """A template of the default image in the size of tests."""
    return await vm_driver.build_template("default", VM_SIZE)


@pytest.fixture
async def own_template(vm_driver: QemuDriver, vm_template: Template, tmp_path: Path) -> Path:
    """A copy of that template, saved in a folder of a test's own: what the test does to it harms no other."""
    assert vm_template.path is not None
    folder = tmp_path / "own"
    folder.mkdir()
    for saved in (vm_template.path, *vm_template.path.parent.glob("kvm.json")):
        await trio.run_process(["cp", "-r", "--sparse=always", str(saved), str(folder)])
    return folder / vm_template.path.name


def with_a_note(path: Path) -> None:
    """Pack the agent with a file that changes its digest, and so the image's."""
    pack(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note.txt", "another generation")


class Generations:
    """A folder of a test's own with the default image, to which generations may be added."""

    def __init__(self, folder: Path, first: images.Image) -> None:
        self.folder = folder
        here = folder / "default" / first.digest
        here.mkdir(parents=True)
        (folder / "default/.lock").touch()
        for file in first.path.iterdir():
            try:
                os.link(file, here / file.name)
            except OSError:  # on another file system, or somebody else's
                shutil.copyfile(file, here / file.name)
        images.point(folder / "default", first.digest)

    async def build(self, pack_agent: Callable[[Path], object]) -> str:
        """Build one with another agent and make it current; only the initial ramdisk differs.

        Nothing is fetched for that. Returns its digest.
        """
        packages = Debian(environ=os.environ)
        image = await images.build(
            self.folder, Recipe(), pack_agent=pack_agent, packages=packages, progress=print
        )
        return image.digest


@pytest.fixture
def generations(vm_image: images.Image, tmp_path: Path) -> Generations:
    """Generations of the default image, the first so far."""
    return Generations(tmp_path / "images", vm_image)
