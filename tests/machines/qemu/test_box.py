"""The body of a QEMU machine: its job disk, and an end that happens once."""

import os

import pytest
import trio

from runnerd.machines import disks
from runnerd.machines.driver import Capabilities, NotKept, Size
from runnerd.machines.qemu.box import QemuBox
from runnerd.machines.qemu.qmp import QmpError


class StoppedVm:
    """A machine that counts how often it was stopped."""

    stopped = 0

    def reason(self) -> str:
        return "it panicked"

    async def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def gone():
    """The ids of boxes that told their end."""
    return []


@pytest.fixture
async def box(tmp_path, gone):
    """A box around no machine."""

    async def tell(id: str) -> None:
        gone.append(id)

    job = disks.empty(tmp_path, disks.JOB_SLOT * disks.MIB)
    box = QemuBox(
        id="default-1",
        image="default",
        capabilities=Capabilities(isolated=True),
        vm=StoppedVm(),
        job=job,
        upper=disks.empty(tmp_path, disks.MIB),
        template="t",
        cast="c",
        size=Size(),
        memory=1,
        gone=tell,
    )
    yield box
    await box.destroy()


async def test_an_archive_is_put_on_the_job_disk(box, tmp_path):
    """The machine reads at its serial what the host put in the same file; too large an archive is refused."""
    archive = tmp_path / "work.tar"
    archive.write_bytes(b"a tar")
    assert await box.fill(archive) == "serial:job"
    assert os.pread(box._job, 5, 0) == b"a tar"
    os.truncate(archive, (disks.JOB_SLOT + 1) * disks.MIB)
    assert await box.fill(archive) is None


async def test_it_is_destroyed_once(box, gone):
    """Destroying twice stops the machine once and tells its end once."""
    assert box.postmortem() == "it panicked"
    await box.destroy()
    await box.destroy()
    assert box.vm.stopped == 1
    assert gone == ["default-1"]


async def test_a_machine_whose_stop_is_not_answered_goes_on(box, tmp_path, autojump_clock):
    """Nobody knows then whether it stands still: whether the answer is late or nobody waits for it."""
    told = []

    class Monitor:
        async def command(self, name):
            told.append(name)
            if name == "stop":
                await trio.sleep(5)
                raise QmpError("stop: no answer within 5 s")

    box.vm.qmp = Monitor()
    with pytest.raises(NotKept, match="no answer within 5 s"):
        await box.snapshot(tmp_path / "kept", key=None, limit=1)
    with trio.move_on_after(1):
        await box.snapshot(tmp_path / "kept", key=None, limit=1)
    assert told == ["stop", "cont"] * 2
