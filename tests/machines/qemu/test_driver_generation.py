"""Machines that were kept before their image, or its template, was made anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from runnerd.machines import images
from runnerd.machines.driver import Command, NoMachine
from runnerd.machines.qemu.driver import open_qemu_driver

from ...conftest import PATIENT, VM_SIZE, Generations, with_a_note

pytestmark = pytest.mark.vm


async def test_a_machine_is_gone_back_to_in_the_template_it_changed_or_not_at_all(
    vm_image: images.Image, generations: Generations, own_template: Path, tmp_path: Path
) -> None:
    """An earlier generation will do while its template is there; one that was made anew is another."""
    kept = tmp_path / "kept"
    folders = {"images": generations.folder, "snapshots": own_template.parent}

    def opened():
        return open_qemu_driver(state=tmp_path / "state", **folders, **PATIENT)

    async with opened() as driver:
        template = await driver.build_template("default", VM_SIZE)
        machine = await driver.clone(template)
        await machine.thaw()
        await machine.lease()  # or it may be rehearsing when it is kept
        await machine.put("/home/runner/note", b"as it was")
        await machine.snapshot(kept, key=None, limit=1 << 30)
    second = await generations.build(with_a_note)
    assert images.wanted(generations.folder, "default").digest == second != vm_image.digest

    async with opened() as driver:
        copy = await driver.restore(kept, key=None)
        await copy.thaw()
        assert await copy.get("/home/runner/note", limit=100) == b"as it was"

        async def ignore(_stream: str, _data: bytes) -> None:
            pass

        assert driver.shared == 0, "what was loaded to bring one machine back is held for nobody"
        assert (await copy.exec(Command(argv=("/bin/true",)), ignore)).success
        given = await driver.build_template("default", VM_SIZE, vm_image.digest)
        await (await driver.restore(kept, key=None)).destroy()
        assert driver.shared > 0
        await (await driver.clone(given)).destroy()
    assert template.path == own_template
    shutil.rmtree(own_template)
    async with opened() as driver:
        with pytest.raises(NoMachine, match="its template, QEMU or the host is not what"):
            await driver.restore(kept, key=None)
        again = await driver.build_template("default", VM_SIZE, vm_image.digest)
        assert again.key == template.key
        with pytest.raises(NoMachine, match="another was made since"):
            await driver.restore(kept, key=None)
