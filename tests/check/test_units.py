"""The systemd units: what the tools of systemd say to them, and that they fit the daemon's own names."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from runnerd.config.loading import ORIGINAL
from runnerd.daemon.drivers import LAUNCHER
from runnerd.machines.cgroups import CONTROLLERS

UNITS = Path(__file__).parents[2] / "systemd"
SERVICE = UNITS / "runnerd.service"


def values(unit: Path, key: str) -> list[str]:
    return [
        line.partition("=")[2] for line in unit.read_text("utf-8").splitlines() if line.startswith(f"{key}=")
    ]


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units with a program that exists on every host in place of an installed runnerd."""
    copies = []
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        copy = tmp_path / unit.name
        copy.write_text(unit.read_text("utf-8").replace("/usr/bin/runnerd", "/bin/true"), "utf-8")
        copies.append(copy)
    return copies


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_them(units: list[Path]) -> None:
    """systemd has nothing to say against any unit."""
    assert len(units) == 5
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, units)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(("name", "most"), [(SERVICE.name, 25), ("runnerd-launcher.service", 30)])
def test_they_are_locked_in(units: list[Path], name: str, most: int) -> None:
    """The exposure, as systemd rates it, stays at 2.5 of 10 for the daemon, and at 3 for the launcher."""
    service = next(unit for unit in units if unit.name == name)
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", str(service)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-300:]


def test_every_unit_can_be_read() -> None:
    """Each unit has its sections and nothing before the first."""
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.socket")):
        parser = configparser.RawConfigParser(strict=False)
        parser.optionxform = str  # type: ignore[method-assign, assignment]
        parser.read_string(unit.read_text("utf-8"))
        assert {"Unit", "Install"} < set(parser.sections())


def test_sockets_have_the_names_the_daemon_looks_for() -> None:
    """The webhook's and the control socket are handed over under the names the daemon knows."""
    assert values(UNITS / "runnerd-webhook.socket", "FileDescriptorName") == ["webhook"]
    assert values(UNITS / "runnerd.socket", "FileDescriptorName") == ["control"]
    assert values(UNITS / "runnerd.socket", "SocketMode") == ["0660"]


def test_launcher_is_for_the_daemon_alone() -> None:
    """It serves the daemon's own user, on the socket and in the form that both sides know."""
    user = values(SERVICE, "User")[0]
    assert values(UNITS / "runnerd-launcher.socket", "ListenSequentialPacket") == [str(LAUNCHER)]
    assert values(UNITS / "runnerd-launcher.socket", "SocketGroup") == values(SERVICE, "Group")
    assert values(UNITS / "runnerd-launcher.service", "ExecStart") == [
        f"/usr/bin/runnerd launcher --user {user}"
    ]


@pytest.mark.parametrize("name", [SERVICE.name, "runnerd-launcher.service"])
def test_control_groups_are_handed_over(name: str) -> None:
    """Whoever starts machines gets all controllers that bound them, and may make groups."""
    (handed,) = values(UNITS / name, "Delegate")
    assert set(handed.split()) == set(CONTROLLERS)
    assert values(UNITS / name, "ProtectControlGroups") == []


def test_credentials_have_the_names_the_configuration_looks_for() -> None:
    """Each credential is the lower-case name of a secret's variable."""
    named = {value.partition(":")[0] for value in values(SERVICE, "LoadCredential")}
    named |= {value.partition(":")[0] for value in values(SERVICE, "#LoadCredential")}
    assert named == {"github_webhook_secret", "github_token"}
    assert {name.upper() for name in named} <= set(ORIGINAL.values())


def test_no_secret_in_the_environment() -> None:
    """Secrets never come by Environment=, which everybody can read."""
    assert values(SERVICE, "Environment") == []
