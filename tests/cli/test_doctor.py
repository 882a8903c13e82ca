"""`runnerd doctor`: each judgement by itself, and the command on this host."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runnerd.cli import doctor
from runnerd.machines import launch_server
from runnerd.machines.driver import Size
from runnerd.machines.qemu import abilities, vmm
from runnerd.store import engine, intake
from runnerd.store.records import Intake
from runnerd.store.schema import migrate

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    9437184 kB\n"


def test_command(invoke) -> None:
    """Every finding of this host has a subject and a verdict, and problems alone make the status 1."""
    result = invoke("doctor", "--json")
    findings = json.loads(result.stdout)
    subjects = [finding["about"] for finding in findings]
    assert {"programs", "git", "KVM", "privilege", "memory", "disk", "cgroup", "image default"} <= set(
        subjects
    )
    assert result.exit_code == int(any(finding["verdict"] == "problem" for finding in findings))


def test_command_in_words(invoke) -> None:
    """For people, each cure stands under its finding."""
    lines = invoke("doctor").stdout.splitlines()
    number = next(number for number, line in enumerate(lines) if "image default" in line)
    assert lines[number].startswith("warning")
    assert lines[number + 1].strip() == "→ runnerd image build default"


@pytest.mark.parametrize(
    ("lacks", "board", "verdict", "said"),
    [
        ("", "auto", "good", "7.2.22: machines are of type microvm"),
        ("", "q35", "good", "7.2.22: machines are of type q35"),
        ("xen-save-devices-state", "auto", "warning", "no job can go back to a step"),
        ("cont", "auto", "problem", "QEMU 7.2.22 has no command cont"),
    ],
)
def test_qemu(monkeypatch, lacks: str, board: str, verdict: str, said: str) -> None:
    """What it says it can do is judged as the driver judges it."""

    async def probe(program: str) -> abilities.Abilities:
        return abilities.Abilities(
            version="7.2.22",
            number=(7, 2),
            boards=frozenset(vmm.BOARDS),
            devices=frozenset(device for each in vmm.DEVICES.values() for device in each),
            commands=frozenset({*abilities.COMMANDS, *abilities.SNAPSHOT_COMMANDS} - {lacks}),
            capabilities=frozenset(abilities.CAPABILITIES),
            channels=False,
        )

    monkeypatch.setattr(abilities, "probe", probe)
    finding = doctor.qemu("/usr/bin/qemu-system-x86_64", board)
    assert (finding.verdict, said in finding.found) == (verdict, True)


def test_programs() -> None:
    """Missing programs come with the command that installs them."""
    finding = doctor.programs(("mmdebstrap",), "sudo apt-get install -y mmdebstrap")
    assert (finding.verdict, finding.cure) == ("problem", "sudo apt-get install -y mmdebstrap")
    assert doctor.programs((), "").verdict == "good"


def test_git() -> None:
    """Without git no commit can be read."""
    assert doctor.git("/usr/bin/git").verdict == "good"
    assert doctor.git(None).verdict == "problem"


@pytest.mark.parametrize(
    ("said", "root", "why_no_kvm", "verdict", "words"),
    [
        (("Firecracker v1.16.1", "Jailer v1.16.1"), True, "", "good", "1.16.1; "),
        (("Firecracker v1.16.1", None), True, "", "problem", "jailer cannot be run"),
        ((None, None), True, "", "problem", "firecracker and jailer cannot be run"),
        (("Firecracker v1.10.1", "Jailer v1.10.1"), True, "", "problem", "CVE-2026-5747"),
        (("Firecracker v1.16.0", "Jailer v1.16.0"), True, "", "problem", "never answer"),
        (("Firecracker v1.16.1", "Jailer v1.14.4"), True, "", "problem", "its jailer 1.14.4"),
        (("Firecracker v1.16.1", "Jailer v1.16.1"), False, "", "problem", "started by root"),
        (("Firecracker v1.16.1", "Jailer v1.16.1"), True, "no device", "problem", "no device"),
        (("no", "no"), True, "", "problem", "is no version of Firecracker"),
    ],
)
def test_firecracker(said, root: bool, why_no_kvm: str, verdict: str, words: str) -> None:
    """Both programs of one release without known faults, root and KVM: what is missing is named."""
    named = dict(zip(("firecracker", "jailer"), said, strict=True))
    finding = doctor.firecracker(named, root=root, why_no_kvm=why_no_kvm)
    assert (finding.verdict, words in finding.found) == (verdict, True), finding.found
    assert bool(finding.cure) == (verdict == "problem")


def test_programs_of_a_folder_are_asked(invoke, tmp_path: Path) -> None:
    """They say their version; the finding is there when the driver is configured."""
    for name in ("firecracker", "jailer"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name.title()} v1.14.2\n")
        (tmp_path / name).chmod(0o755)
    variables = {
        "RUNNERD_MACHINES_DRIVER": "firecracker",
        "RUNNERD_MACHINES_FIRECRACKER_FOLDER": str(tmp_path),
    }
    found = {each["about"]: each for each in json.loads(invoke("doctor", "--json", **variables).stdout)}
    assert "Firecracker 1.14.2 is not used" in found["Firecracker"]["found"]
    assert "Firecracker" not in {each["about"] for each in json.loads(invoke("doctor", "--json").stdout)}


@pytest.mark.parametrize(
    ("why_not", "tried", "accelerator", "verdict"),
    [
        ("", None, "auto", "good"),
        ("", (True, ""), "auto", "good"),
        ("", (False, "it did not come up"), "auto", "warning"),
        ("", (False, "it did not come up"), "kvm", "problem"),
        ("no device", None, "auto", "warning"),
        ("no device", None, "kvm", "problem"),
        ("", (True, ""), "tcg", "warning"),
    ],
)
def test_kvm(why_not: str, tried: tuple[bool, str] | None, accelerator: str, verdict: str) -> None:
    """A machine that was booted decides; missing KVM is a problem only where the configuration insists."""
    finding = doctor.kvm(why_not, tried, accelerator)
    assert finding.verdict == verdict
    assert (tried or (True, ""))[1] in finding.found
    assert why_not in finding.found


def test_kept_verdict(invoke, home: Path) -> None:
    """What the driver found out when it probed is what doctor says; a damaged file counts as not tried."""
    snapshots = home / ".local/state/runnerd/snapshots"
    snapshots.mkdir(parents=True)
    for text, tried in (
        ('{"key": "x", "works": false, "why": "it crashed"}', (False, "it crashed")),
        ("{", None),
    ):
        (snapshots / "kvm.json").write_text(text)
        assert doctor._kept(snapshots / "kvm.json") == tried
    assert doctor._kept(snapshots / "absent") is None


def test_privilege() -> None:
    """Without root and without a launcher, what that costs is said."""
    assert doctor.privilege(True, None).verdict == "good"
    assert "share this user" in doctor.privilege(False, None).found


def test_privilege_with_a_launcher(tmp_path: Path) -> None:
    """A launcher that listens is as good as root; one that is configured and absent is a problem."""
    with launch_server.listen(tmp_path / "l.sock"):
        assert doctor.privilege(False, tmp_path / "l.sock").verdict == "good"
    assert doctor.privilege(False, tmp_path / "none").verdict == "problem"


def test_memory() -> None:
    """The number of machines is what the free memory holds beside the reserve."""
    finding = doctor.memory(MEMINFO, each=4096, reserve=1024)
    assert (finding.verdict, "room for 2 machines" in finding.found) == ("good", True)
    assert doctor.memory(MEMINFO, each=8193, reserve=1024).verdict == "problem"


def test_sizes_that_never_fit() -> None:
    """A kind larger than all there is would let its jobs wait for ever; one that just fits is fine."""
    kinds = {
        "fits": Size(vcpus=4, memory=7168),
        "default-8cpu-4gb": Size(vcpus=8, memory=4096),
        "default-2cpu-8gb": Size(vcpus=2, memory=8192),
    }
    found = list(doctor.too_large(kinds, memory=7168, vcpus=4))
    assert [(each.about, each.verdict) for each in found] == [
        ("machines of default-8cpu-4gb", "problem"),
        ("machines of default-2cpu-8gb", "problem"),
    ]
    assert "2 vCPUs and 8192 MiB never fit: all machines together have 4 vCPUs and 7168 MiB" in found[1].found


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state folder that does not exist yet is judged by the folder it will be made in."""
    monkeypatch.setattr(doctor, "DISK_WANTED", 1)
    finding = doctor.disk(tmp_path / "a" / "b")
    assert finding.verdict == "good"
    assert finding.found.endswith(str(tmp_path))
    monkeypatch.setattr(doctor, "DISK_WANTED", 1 << 60)
    assert doctor.disk(tmp_path).verdict == "warning"
    monkeypatch.setattr(doctor, "DISK_NEEDED", 1 << 59)
    assert doctor.disk(tmp_path).verdict == "problem"
    (tmp_path / "file").touch()
    assert doctor.disk(tmp_path / "file").found.endswith("file is no folder")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert doctor.disk(tmp_path).found.endswith("cannot be written")


def test_cgroup_that_systemd_handed_over(tmp_path: Path) -> None:
    """It counts, here or for the unit that runs, with what it bounds; to be writable is not enough."""
    unit = tmp_path / "system.slice" / "runnerd.service"
    session = tmp_path / "user.slice"
    for folder in (tmp_path, unit, session):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpu io memory pids")
    marked: list[Path] = []

    def attribute(group: Path, name: str) -> bytes:
        return b"1" if group in marked else b"0"

    def judged(path: str, launcher: Path | None = None) -> doctor.Finding:
        (tmp_path / "own").write_text(f"4:memory:/x\n0::{path}\n")
        return doctor.cgroup(own=tmp_path / "own", root=tmp_path, launcher=launcher, attribute=attribute)

    for path in ("/user.slice", "/system.slice/runnerd.service"):
        assert judged(path).verdict == "warning"
        assert "systemd/runnerd.service" in judged(path).cure
    marked.append(unit)
    for path in ("/user.slice", "/system.slice/runnerd.service"):
        for there, verdict, said in (
            ("cpu io memory pids", "good", "memory, processes, processors"),
            ("memory", "warning", "memory, but not processes and processors"),
            ("cpu pids", "problem", "no memory controller"),
        ):
            (unit / "cgroup.controllers").write_text(there)
            assert (judged(path).verdict, said in judged(path).found) == (verdict, True)
    alone = judged("/system.slice/runnerd.service", tmp_path / "l.sock")
    assert (alone.verdict, "systemd/runnerd-launcher.service" in alone.cure) == ("warning", True)
    launchers = tmp_path / "system.slice" / "runnerd-launcher.service"
    launchers.mkdir()
    (launchers / "cgroup.controllers").write_text("cpu memory pids")
    marked.append(launchers)
    assert judged("/user.slice", tmp_path / "l.sock").verdict == "good"


def test_cgroup_where_systemd_hands_none_over(tmp_path: Path) -> None:
    """Version 1, alone or beside an idle version 2, has none by itself; to want none has its price told."""
    plain = doctor.cgroup(root=tmp_path)
    (tmp_path / "unified").mkdir()
    hybrid = doctor.cgroup(root=tmp_path)
    assert {plain.verdict, hybrid.verdict} == {"warning"}
    assert ("idle version 2" in plain.found, "idle version 2" in hybrid.found) == (False, True)
    assert "memory/runnerd" in plain.cure
    assert "--cgroup" in doctor.cgroup(root=tmp_path, launcher=tmp_path / "l.sock").cure
    assert "as configured" in doctor.cgroup("", root=tmp_path).found


def test_cgroup_of_version_two_that_is_named(tmp_path: Path) -> None:
    """One that is still to be made gets what the group above hands down, not what that has."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    for handed, verdict in (("", "problem"), ("memory", "warning"), ("cpu memory pids", "good")):
        (tmp_path / "cgroup.subtree_control").write_text(handed)
        assert doctor.cgroup("machines.slice", root=tmp_path).verdict == verdict


def test_cgroup_of_version_one_that_is_named(tmp_path: Path) -> None:
    """It is judged by the hierarchies there are, also before it is made."""
    for name, file in (("memory", "memory.limit_in_bytes"), ("pids", "cgroup.procs")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    finding = doctor.cgroup("memory/runnerd", root=tmp_path)
    assert (finding.verdict, finding.found.partition("bounds ")[2]) == (
        "warning",
        "each machine's memory, processes, but not processors",
    )
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cgroup.procs").touch()
    assert doctor.cgroup("memory/runnerd", root=tmp_path).verdict == "good"
    assert doctor.cgroup("absent/runnerd", root=tmp_path).verdict == "problem"


def test_image() -> None:
    """An image that is not built comes with the command that builds it."""
    assert doctor.image("x", True).verdict == "good"
    assert doctor.image("x", False).cure == "runnerd image build x"


def test_deliveries(tmp_path: Path) -> None:
    """What the reconciler learnt is told: how far it read, what it may not read, what nobody remembers."""
    ledger = tmp_path / "ledger.db"
    assert list(doctor.deliveries(ledger)) == []
    database = engine.writing(ledger)
    migrate(database)
    marks = [
        Intake(source="a", begun=0.0, read_to=86400.0),
        Intake(source="b", begun=0.0, read_to=0.0, problem="403: the token lacks it"),
        Intake(source="c", begun=0.0, read_to=9e5, gap_from=0.0, gap_to=86400.0),
    ]
    with database.begin() as connection:
        for mark in marks:
            intake.write(connection, mark)
    database.dispose()
    good, refused, gap = doctor.deliveries(ledger)
    assert (good.verdict, good.found) == ("good", "none is missing up to 1970-01-02 00:00 UTC")
    assert (refused.verdict, "the token lacks it" in refused.found) == ("warning", True)
    assert "from 1970-01-01 00:00 UTC to 1970-01-02 00:00 UTC" in gap.found
    ledger.write_text("no database" * 1000)
    [broken] = doctor.deliveries(ledger)
    assert "cannot be read" in broken.found


@pytest.mark.parametrize(
    ("given", "verdict", "words"),
    [
        ({"named": False, "app": False, "kind": "github"}, "warning", "written to files"),
        ({"named": True, "app": True, "kind": "github"}, "good", "App"),
        ({"named": True, "app": False, "kind": "github"}, "good", "personal token"),
        ({"named": True, "app": False, "kind": "gitea"}, "good", "gitea"),
    ],
)
def test_in_whose_name_results_are_told(given: dict[str, Any], verdict: str, words: str) -> None:
    """Nobody, an App, a personal token, another forge's: each says what it comes to."""
    finding = doctor.identity(**given)
    assert finding.verdict == verdict
    assert words in finding.found


@pytest.mark.parametrize(
    ("here", "verdict", "said"), [(True, "good", "in memory"), (False, "warning", "plain")]
)
def test_machines_with_secrets_under_firecracker(monkeypatch, tmp_path, here, verdict, said) -> None:
    """They are kept only where nothing of them reaches a disk in plain; the cure says what that takes."""
    monkeypatch.setattr("runnerd.machines.disks.in_memory", lambda folder: here)
    finding = doctor.firecracker_secrets(tmp_path / "jails")
    assert (finding.verdict, said in finding.found) == (verdict, True)
    assert ("tmpfs" in finding.cure) is not here
