"""Which daemon a command talks to, and what its silence or refusal means."""

from pathlib import Path

import pytest
import typer

from runnerd.cli import control
from runnerd.web.client import Refusal, Unreachable


@pytest.mark.parametrize(
    ("error", "code"),
    [(Unreachable("nobody"), 3), (Refusal("no such run", 404), 4), (Refusal("run 1 has ended", 409), 1)],
)
def test_exit_codes(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """No daemon is status 3, an unknown id 4, any other refusal 1; each with its sentence."""
    with pytest.raises(typer.Exit) as caught, control.daemon(Path("/x")):
        raise error
    assert caught.value.exit_code == code
    assert capsys.readouterr().err == f"runnerd: {error}\n"


def test_socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket given wins, then the environment's, then the user's own daemon, then the system's."""
    system = tmp_path / "system.sock"
    monkeypatch.setattr(control, "SYSTEM_SOCKET", system)
    monkeypatch.delenv("RUNNERD_SOCKET", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "own"))
    own = tmp_path / "own" / "control.sock"
    assert control.socket_path(Path("/given")) == Path("/given")
    assert control.socket_path(None) == own
    system.touch()
    assert control.socket_path(None) == system
    own.parent.mkdir()
    own.touch()
    assert control.socket_path(None) == own
    own.unlink()
    monkeypatch.setenv("RUNNERD_SOCKET", "/elsewhere")
    assert control.socket_path(None) == Path("/elsewhere")
