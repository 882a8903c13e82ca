"""KVM or emulation: decided by a machine that boots or does not, once."""

import os
import socket

import pytest
import trio

from runnerd.machines import accelerator
from runnerd.machines.launcher import LaunchFailed


class PlayedLauncher:
    """Starts a machine that says something on its console, or hangs, or cannot be started."""

    separate = True
    groups = None

    def __init__(self, said: bytes = b"", *, hangs: bool = False, fails: bool = False) -> None:
        self.said, self.hangs, self.fails = said, hangs, fails
        self.orders = []
        self.stopped = 0

    async def start(self, order):
        self.orders.append(order)
        if self.fails:
            raise LaunchFailed("qemu cannot be started")
        self._console = socket.socket(fileno=os.dup(order.descriptors["console"]))
        self._console.send(self.said)
        if not self.hangs:
            self._console.close()
        return self

    async def stop(self) -> None:
        self.stopped += 1
        self._console.close()


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """Asks for the verdict with a played launcher, on a host whose device looks fine."""
    monkeypatch.setattr(accelerator, "obvious", lambda: "")

    async def ask(launcher, key="qemu 7.2"):
        with trio.fail_after(30):
            return await accelerator.verdict(
                launcher,
                qemu="qemu",
                board="microvm",
                key=key,
                files={"kernel": 1, "initrd": 2, "image": 3},
                cache=tmp_path / "kvm.json",
                patience=0.1 if launcher.hangs else 30.0,
            )

    return ask


async def test_a_machine_that_comes_up_proves_kvm(ask):
    """The probe's own words count, among whatever the kernel says; the verdict is kept for its key."""
    launcher = PlayedLauncher(b"[ 0.1] quiet\r\nrunnerd-probe: alive\r\n")
    assert (await ask(launcher)).works
    assert (await ask(PlayedLauncher(fails=True))).works
    assert not (await ask(PlayedLauncher(fails=True), key="qemu 9.0")).works
    assert set(launcher.orders[0].descriptors) == {"kernel", "initrd", "console"}
    assert launcher.stopped == 1


async def test_a_machine_that_hangs_is_a_bounded_no(ask):
    """A device that opens and boots nothing costs the patience once, and the reason shows how far it came."""
    launcher = PlayedLauncher(b"Booting from ROM..", hangs=True)
    found = await ask(launcher)
    assert not found.works
    assert found.why == "a machine did not come up under KVM within 0.1 s (Booting from ROM..)"
    assert launcher.stopped == 1
    again = PlayedLauncher(hangs=True)
    assert await ask(again) == found
    assert again.orders == []


async def test_what_cannot_be_started_does_not_work(ask):
    """The launcher's words are the reason."""
    assert (await ask(PlayedLauncher(fails=True))).why == "qemu cannot be started"


async def test_a_spoilt_cache_is_asked_anew(ask, tmp_path):
    """A verdict that cannot be read is found again."""
    (tmp_path / "kvm.json").write_text("{")
    assert (await ask(PlayedLauncher(accelerator.ALIVE))).works


def test_some_hosts_need_no_probe(tmp_path):
    """No device is a reason of its own; an existing one proves nothing."""
    assert "has no" in accelerator.obvious(tmp_path / "kvm")
    (tmp_path / "kvm").touch()
    assert accelerator.obvious(tmp_path / "kvm") == ""
