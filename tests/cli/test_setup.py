"""`runnerd setup`: nothing where nothing is missing, apt-get where it may, else the one command to type."""

from collections.abc import Sequence

import pytest
import typer

from runnerd.cli import setup
from runnerd.machines import host


class Terminal:
    """Remembers what was run; the installation itself ends as told and may bring the programs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, status: int = 0, brings: bool = True) -> None:
        self.ran: list[list[str]] = []
        self.status = status
        self.brings = brings
        self.missing: tuple[str, ...] = ("mmdebstrap",)
        monkeypatch.setattr(host, "missing", lambda: self.missing)

    def __call__(self, command: Sequence[str]) -> int:
        self.ran.append(list(command))
        if "install" not in command:
            return 0
        if self.brings and not self.status:
            self.missing = ()
        return self.status


def test_nothing_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has everything is left alone."""
    terminal = Terminal(monkeypatch)
    terminal.missing = ()
    setup.install(run=terminal, may_sudo=True, root=False, apt=True)
    assert terminal.ran == []


@pytest.mark.parametrize("root", [True, False])
def test_installs(monkeypatch: pytest.MonkeyPatch, root: bool) -> None:
    """apt-get updates and installs without questions, with sudo where the user is not root."""
    terminal = Terminal(monkeypatch)
    setup.install(run=terminal, may_sudo=True, root=root, apt=True)
    sudo = [] if root else ["sudo"]
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--no-install-recommends", "-y"]
    assert terminal.ran == [[*sudo, "apt-get", "update", "-q"], [*sudo, *install, "mmdebstrap"]]


def test_may_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without root and sudo there is one message, with the exact command, and nothing is run."""
    terminal = Terminal(monkeypatch)
    with pytest.raises(typer.Exit) as caught:
        setup.install(run=terminal, may_sudo=False, root=False, apt=True)
    assert caught.value.exit_code == 2
    assert terminal.ran == []
    error = capsys.readouterr().err
    assert "sudo apt-get install --no-install-recommends -y mmdebstrap" in error
    assert error.count("runnerd:") == 1


def test_no_apt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Another distribution is told what is missing."""
    with pytest.raises(typer.Exit):
        setup.install(run=Terminal(monkeypatch), may_sudo=True, root=True, apt=False)
    assert "lacks mmdebstrap, and it has no apt-get" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "brings", "reason"),
    [(100, True, "ended with status 100"), (0, False, "left mmdebstrap missing")],
)
def test_installation_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    status: int,
    brings: bool,
    reason: str,
) -> None:
    """A failed installation, and one that did not bring the programs, end with the reason."""
    with pytest.raises(typer.Exit) as caught:
        setup.install(
            run=Terminal(monkeypatch, status=status, brings=brings), may_sudo=True, root=True, apt=True
        )
    assert caught.value.exit_code == 2
    assert reason in capsys.readouterr().err


def test_command(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself is silent where nothing is missing."""
    monkeypatch.setattr(host, "missing", lambda: ())
    result = invoke("setup")
    assert (result.exit_code, result.output) == (0, "")
