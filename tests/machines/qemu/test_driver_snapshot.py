"""Used machines that are kept and gone back to, for real."""

from __future__ import annotations

import os
import time

import pytest
import trio

from runnerd.machines.driver import Command, Exit, NoMachine, NotKept, Window
from runnerd.machines.qemu.driver import QemuDriver
from runnerd.machines.remote import AgentMachine

pytestmark = pytest.mark.vm

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/runner"}
KEY = bytes(range(32))
ROOM = 2 << 30


async def run(machine: AgentMachine, script: str, user: int = 1001) -> tuple[Exit, str]:
    said = bytearray()

    async def keep(stream: str, data: bytes) -> None:
        said.extend(data)

    command = Command(argv=("/bin/bash", "-c", script), env=ENVIRONMENT, user=user)
    with trio.fail_after(300):
        return await machine.exec(command, keep), said.decode()


async def used(driver: QemuDriver, template) -> AgentMachine:
    """A leased machine in the middle of its work: files, and a process in the background."""
    machine = await driver.clone(template)
    await machine.thaw()
    await machine.lease()
    script = """
        echo first >~/work/note; head -c 3000000 /dev/urandom >~/work/data; sha256sum <~/work/data
        (while :; do date +%s.%N >~/work/b && mv ~/work/b ~/work/beat; sleep 0.1; done) >/dev/null 2>&1 &
        cat /proc/sys/kernel/random/boot_id
    """
    ended, said = await run(machine, script)
    assert ended.success
    machine.told = said.split()  # type: ignore[attr-defined]
    return machine


async def test_a_used_machine_is_gone_back_to(vm_driver, vm_template, tmp_path):
    """The copy has the files and the running processes of that moment, and an identity of its own."""
    machine = await used(vm_driver, vm_template)
    digest, _, boot_id = machine.told
    shared = vm_driver._molds[vm_template.key].frozen.memory
    before = os.fstat(shared).st_blocks
    await machine.snapshot(tmp_path / "kept/step-2", key=None, limit=ROOM)
    # Only what the machine changed was looked at: nothing was filled that all clones share.
    # What it touches itself while it runs, a few pages, is not the snapshot's doing.
    assert os.fstat(shared).st_blocks - before < (1 << 20) // 512
    assert (tmp_path / "kept/step-2/memory").stat().st_size < 100 << 20
    # It goes on as if nothing had been, with its clock right.
    asked = time.time()
    ended, said = await run(machine, "echo second >~/work/note; date +%s")
    assert ended.success
    assert asked - 5 < int(said) < time.time() + 5
    await machine.snapshot(tmp_path / "kept/step-3", key=None, limit=ROOM)
    await machine.destroy()

    assert sorted(os.listdir(tmp_path / "kept")) == ["step-2", "step-3"]
    copies = []
    for step, note in (("step-2", "first"), ("step-3", "second"), ("step-2", "first")):
        copy = await vm_driver.restore(tmp_path / "kept" / step, key=None)
        identity = await copy.thaw()
        await copy.lease()
        asked = time.time()
        ended, said = await run(
            copy,
            "cat ~/work/note; sha256sum <~/work/data; cat /proc/sys/kernel/random/boot_id; hostname;"
            "date +%s;"
            "one=$(cat ~/work/beat); while test $one = $(cat ~/work/beat); do sleep 0.1; done; echo beats",
        )
        assert (ended.success, said) == (True, said)
        assert not [line for line in copy.console_end() if "qemu" in line]  # nor does it miss anything
        words = said.split()
        assert words[:2] == [note, digest]
        assert words[3:5] == [identity.boot_id, identity.hostname]
        assert identity.boot_id != boot_id
        assert asked - 5 < int(words[5]) < time.time() + 5
        assert words[6] == "beats"
        copies.append(copy)
    await run(copies[0], "echo changed >~/work/note")
    assert (await run(copies[2], "cat ~/work/note"))[1] == "first\n"
    # What jobs do next works in a copy as anywhere.
    await copies[0].snapshot(tmp_path / "kept/step-4", key=None, limit=ROOM)
    again = await vm_driver.restore(tmp_path / "kept/step-4", key=None)
    assert (await run(again, "cat ~/work/note; sha256sum <~/work/data"))[1].split()[:2] == ["changed", digest]
    await again.destroy()
    await copies[0].put("/home/runner/work/more", b"x" * 100_000)
    assert len(await copies[0].get("/home/runner/work/more", limit=100_000)) == 100_000
    for copy in copies:
        await copy.destroy()


async def test_a_kept_machine_is_unreadable_without_its_key(vm_driver, vm_template, tmp_path):
    """Encrypted, neither memory nor disk shows a word of what the job wrote, and the key opens them."""
    word = "not-for-other-eyes-3f9c27"
    machine = await vm_driver.clone(vm_template)
    await machine.thaw()
    await machine.lease()
    await run(machine, f"echo {word} >~/work/note; sync")
    await machine.snapshot(tmp_path / "plain", key=None, limit=ROOM)
    await machine.snapshot(tmp_path / "sealed", key=KEY, limit=ROOM)
    await machine.destroy()

    def shows(name: str) -> list[bool]:
        return [word.encode() in (tmp_path / name / part).read_bytes() for part in ("memory", "disk")]

    assert True in shows("plain")
    assert shows("sealed") == [False, False]
    for key, reason in ((None, "its key is not there"), (bytes(32), "another key")):
        with pytest.raises(NoMachine, match=reason):
            await vm_driver.restore(tmp_path / "sealed", key=key)
    copy = await vm_driver.restore(tmp_path / "sealed", key=KEY)
    await copy.thaw()
    assert (await run(copy, "cat ~/work/note"))[1] == f"{word}\n"
    await copy.destroy()


async def test_what_is_not_kept_costs_nothing(vm_driver, vm_template, tmp_path):
    """Too large, or something under way: the machine goes on and no folder is left."""
    machine = await used(vm_driver, vm_template)
    with pytest.raises(NotKept, match="larger than there is room for"):
        await machine.snapshot(tmp_path / "kept/1", key=None, limit=1 << 20)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, machine, "echo up >~/up; until test -e ~/go; do sleep 0.1; done")
        while True:
            try:
                await machine.get("/home/runner/up", limit=10)
                break
            except FileNotFoundError:
                await trio.sleep(0.05)
        with pytest.raises(NotKept, match="still under way"):
            await machine.snapshot(tmp_path / "kept/2", key=None, limit=ROOM)
        await machine.put("/home/runner/go", b"")
    assert not (tmp_path / "kept").exists() or os.listdir(tmp_path / "kept") == []
    await machine.snapshot(tmp_path / "kept/3", key=None, limit=ROOM)
    assert (await run(machine, "cat ~/work/note"))[1] == "first\n"
    (tmp_path / "kept/3/memory").write_bytes(b"harmed")
    with pytest.raises(NoMachine, match="memory is not what was written"):
        await vm_driver.restore(tmp_path / "kept/3", key=None)
    with pytest.raises(NoMachine, match="there is no snapshot in 4"):
        await vm_driver.restore(tmp_path / "kept/4", key=None)
    await machine.destroy()


class Person:
    """Types one line when the prompt is there."""

    window = Window(rows=31, columns=99)

    def __init__(self) -> None:
        self.screen = b""
        self.typed = False
        self.ready = trio.Event()

    async def keys(self) -> bytes:
        await self.ready.wait()
        if self.typed:
            await trio.sleep_forever()
        self.typed = True
        return b"stty size; tty; id -un; exit 5\n"

    async def show(self, data: bytes) -> None:
        self.screen += data
        if b"go> " in self.screen:
            self.ready.set()


async def test_a_person_has_a_terminal(vm_driver, vm_template):
    """A shell in the machine belongs to the job's user and has the person's window."""
    machine = await vm_driver.clone(vm_template)
    await machine.thaw()
    await machine.lease()
    person = Person()
    command = Command(
        argv=("/bin/bash", "--norc"), env={**ENVIRONMENT, "PS1": "go> ", "TERM": "xterm"}, cwd="/home/runner"
    )
    with trio.fail_after(300):
        assert await machine.shell(command, person) == Exit(code=5)
    said = person.screen.replace(b"\r", b"")
    assert b"31 99\n" in said
    assert b"/dev/pts/" in said
    assert b"\nrunner\n" in said
    await machine.destroy()
