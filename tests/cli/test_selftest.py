"""`runnerd doctor --selftest` with every driver that can be had here, and with drivers that cannot."""

import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path

import pytest

from runnerd.cli import selftest
from runnerd.config import load
from runnerd.machines.driver import Capabilities, NotKept, Size
from runnerd.machines.fake import FakeDriver, Replies, Reply, open_fake_driver
from runnerd.machines.fcctl.driver import open_fcctl_driver
from runnerd.machines.fcctl.machine import ServiceMachine

PARTS = ("template", "clone", "thaw", "lease", "exec", "files", "snapshot", "restore", "destroy")


@pytest.fixture
def remote(tmp_path):
    """A remote service, and how the driver for its machines is opened."""
    path = Path(__file__).parents[1] / "machines/fcctl/fake_service.py"
    spec = importlib.util.spec_from_file_location("fcctl_fake_service", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.serving(tmp_path / "vms") as (service, address):

        def open_driver(settings, journal, own):
            options = {"vm_type": "focal", "journal": journal, "poll": 0.02, "ready": 5.0}
            return open_fcctl_driver(address, "token", state=own, **options)

        yield service, open_driver


def settings(tmp_path, **flags):
    named = {name.replace("__", "."): value for name, value in flags.items()}
    return load(None, environ={"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)}, flags=named)


def ticking():
    return partial(next, iter(map(float, range(100))))


def timed(*parts: str) -> str:
    return ", ".join(f"{part} 1.00 s" for part in parts)


def test_every_part_is_timed(tmp_path) -> None:
    """A driver that works is good, with how long each part took; what was not run is said."""
    good, missing, others = selftest.selftest(settings(tmp_path, machines__driver="process"), clock=ticking())
    can = [part for part in PARTS if part not in ("snapshot", "restore")]
    assert (good.verdict, good.found) == ("good", f"process: {timed(*can)}")
    assert (missing.verdict, missing.found) == (
        "warning",
        "process: not run: snapshot and restore, for the process driver keeps no machine",
    )
    assert others.found == "not run: the drivers that are not configured (qemu, firecracker, fcctl)"


def test_machine_is_kept_and_gone_back_to(tmp_path, remote) -> None:
    """With a remote service: its machine is kept, changed, gone back to, and given back."""
    service, open_driver = remote
    good, others = selftest.selftest(
        settings(tmp_path, machines__firecracker_api_url="http://service"),
        clock=ticking(),
        open_driver=open_driver,
    )
    assert (good.verdict, good.found) == ("good", f"fcctl: {timed(*PARTS)}")
    assert "qemu, firecracker, process" in others.found
    assert service.vms == {}


def test_copy_that_holds_what_came_later_is_a_problem(tmp_path, monkeypatch) -> None:
    """What came after the snapshot is looked for; the parts before it were run, and that is said."""

    def open_driver(settings, journal, own):
        says = Replies([], otherwise=Reply(stdout=selftest.SAID))
        return open_fake_driver(says, capabilities=Capabilities(isolated=True, snapshot=True))

    async def restore(self, snapshot, *, key, size=None):
        machine = await self.clone(await self.build_template("default", Size()))
        machine.files[f"{machine.paths.home}/selftest"] = b"second"
        return machine

    monkeypatch.setattr(FakeDriver, "restore", restore)
    problem, _ = selftest.selftest(settings(tmp_path), clock=ticking(), open_driver=open_driver)
    assert problem.verdict == "problem"
    assert "holds what came later: b'second'" in problem.found
    assert problem.found.endswith(f"(run until then: {timed(*PARTS[:-1])})")


def test_machine_that_did_not_go_back_is_a_problem(tmp_path, remote) -> None:
    """Its driver sees that by itself, and it is given back."""
    service, open_driver = remote
    service.forgets_rollbacks = True
    problem, _ = selftest.selftest(
        settings(tmp_path, machines__firecracker_api_url="http://service"),
        clock=ticking(),
        open_driver=open_driver,
    )
    assert problem.verdict == "problem"
    assert "did not go back, which the service said it did, within 5 s" in problem.found
    assert problem.found.endswith(f"(run until then: {timed(*PARTS[:-2])})")
    assert service.vms == {}


@pytest.mark.parametrize("secrets", [True, False])
def test_machine_that_is_kept_only_in_plain_is_said_to_be(tmp_path, remote, monkeypatch, secrets) -> None:
    """To who wants those with secrets kept; all the rest was tried."""
    service, open_driver = remote
    real = ServiceMachine.snapshot

    async def plain(self, into, *, key, limit):
        if key is not None:
            raise NotKept("it would lie on a disk in plain")
        await real(self, into, key=key, limit=limit)

    monkeypatch.setattr(ServiceMachine, "snapshot", plain)
    wanted = {"snapshots__secrets": True, "snapshots__key": "/key"} if secrets else {}
    good, *left_out, _ = selftest.selftest(
        settings(tmp_path, machines__firecracker_api_url="http://service", **wanted),
        clock=ticking(),
        open_driver=open_driver,
    )
    assert (good.verdict, good.found) == ("good", f"fcctl: {timed(*PARTS)}")
    said = "fcctl: not run: an encrypted snapshot: it would lie on a disk in plain"
    assert [each.found for each in left_out] == [said] * secrets
    assert service.vms == {}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (
            {"machines__firecracker_api_url": "http://127.0.0.1:1"},
            "fcctl: the remote Firecracker service cannot be used: GET /health",
        ),
        (
            {"machines__driver": "firecracker", "machines__firecracker_folder": "/nonesuch"},
            "firecracker: ",
        ),
    ],
)
def test_what_cannot_be_is_a_problem_with_its_reason(tmp_path, flags, reason) -> None:
    """The sentence is the driver's own, in no group, and says that nothing was run."""
    problem, _ = selftest.selftest(settings(tmp_path, **flags))
    assert problem.verdict == "problem"
    assert problem.found.startswith(reason)
    assert problem.found.endswith("(run until then: nothing)")


def test_option(invoke) -> None:
    """The option adds its findings to the others."""
    result = invoke("doctor", "--selftest", "--json", RUNNERD_MACHINES_DRIVER="process")
    tried = [each for each in json.loads(result.stdout) if each["about"] == "self-test"]
    assert [each["verdict"] for each in tried] == ["good", "warning", "good"]


@pytest.mark.vm
def test_qemu_for_real(tmp_path, vm_image, state_directory) -> None:
    """A real machine is made, used, kept, gone back to and ended."""
    for name in ("images", "snapshots"):
        (state_directory / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(state_directory / name)
    sizes = {"machines__vcpus": 1, "machines__memory": 256, "machines__disk": 512}
    patient = settings(tmp_path, machines__driver="qemu", pool__ready_timeout=60.0, **sizes)
    good, _ = selftest.selftest(patient)
    assert good.verdict == "good", good.found
    assert [part.split()[0] for part in good.found.removeprefix("qemu: ").split(", ")] == list(PARTS)


@pytest.mark.firecracker
def test_firecracker_for_real(tmp_path, vm_image, state_directory) -> None:
    """The real Firecracker, where this host has one, KVM and root; elsewhere it says that it did not run."""
    from runnerd.machines.firecracker.driver import _obstacles

    lacks = [name for name in ("firecracker", "jailer") if shutil.which(name) is None]
    if why := _obstacles(tmp_path) or (f"{' and '.join(lacks)} are not on the search path" if lacks else ""):
        pytest.skip(f"the firecracker driver did NOT meet a real Firecracker: {why}")
    (tmp_path / "images").symlink_to(state_directory / "images")
    sizes = {"machines__vcpus": 1, "machines__memory": 256, "machines__disk": 512}
    good, _ = selftest.selftest(settings(tmp_path, machines__driver="firecracker", **sizes))
    assert good.verdict == "good", good.found
    assert [part.split()[0] for part in good.found.removeprefix("firecracker: ").split(", ")] == list(PARTS)
